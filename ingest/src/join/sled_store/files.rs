//! sled's files, and sled itself behind a guard: whatever it does to our thread is an error of the store.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::{SledLimits, failed};
use crate::join::store::StoreError;

/// One sled database. It answers some damage with a panic, which is made an error here.
#[derive(Debug)]
pub(super) struct Files {
    /// `None` only while it is dropped.
    db: Option<sled::Db>,
}

impl Files {
    /// An empty database at `path`, whatever was there.
    pub(super) fn create(path: &Path, limits: SledLimits) -> Result<Self, StoreError> {
        remove(path)?;
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(limits.cache_bytes)
            .flush_every_ms(None);
        let db = guarded("open its files", || config.open())?;
        Ok(Self { db: Some(db) })
    }

    /// sled's own.
    pub(super) fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("it is there until it is dropped")
    }

    /// Asks it something.
    pub(super) fn ask<T>(
        &self,
        attempted: &'static str,
        question: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, StoreError> {
        guarded(attempted, || question(self.db()))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let db = self.db.take();
        // Nothing in it is wanted any more, so nothing that goes wrong here matters.
        let _is_closed = guarded("close its files", || {
            drop(db);
            Ok(())
        })
        .is_ok();
    }
}

/// Runs something of sled's, after which sled is not used again if it fails.
fn guarded<T>(attempted: &'static str, work: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(attempted, &error)),
        Err(_) => Err(failed(attempted, &"sled panicked")),
    }
}

/// Removes whatever has this name.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("empty its directory", &error))
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
