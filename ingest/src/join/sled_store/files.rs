//! One sled database behind a guard: a panic of sled becomes an error of the store.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::join::store::StoreError;

/// One sled database. sled panics on some damage; here that is an error.
#[derive(Debug)]
pub(super) struct Files {
    /// `None` only while it is dropped.
    db: Option<sled::Db>,
}

impl Files {
    /// An empty database at `path`, whatever was there.
    pub(super) fn create(path: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        remove(path)?;
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None);
        let db = guarded("open its files", || config.open())?;
        Ok(Self { db: Some(db) })
    }

    pub(super) fn db(&self) -> &sled::Db {
        self.db
            .as_ref()
            .expect("the database is there until it is dropped")
    }

    pub(super) fn run<T>(
        &self,
        attempted: &'static str,
        operation: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        guarded(attempted, || operation(self.db()))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let db = self.db.take();
        // The content is not needed any more, so a failure does not matter.
        let _is_closed = guarded("close its files", || {
            drop(db);
            Ok(())
        })
        .is_ok();
    }
}

/// Runs an operation of sled. After an error the database is not used again.
fn guarded<T>(attempted: &'static str, work: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(StoreError::new(attempted, &error)),
        Err(_) => Err(StoreError::new(attempted, &"sled panicked")),
    }
}

/// Removes the file or directory at `path`, if there is one.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::new("empty its directory", &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_sled_is_an_error_of_the_store() {
        let error = guarded::<()>("do anything", || panic!("as sled does")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the join store cannot do anything: sled panicked"
        );
    }
}
