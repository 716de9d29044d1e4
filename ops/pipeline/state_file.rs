//! Small JSON files of a state directory, each replaced in one step, by its writer only.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use ouzel_snapshot::Store;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a file; `None` if it does not exist.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let value = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} does not hold what was written to it", path.display()))?;
    Ok(Some(value))
}

/// Replaces a file and makes it durable.
pub(crate) fn replace(store: &Store, path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec_pretty(value)?;
    write(&aside(store)?, path, &bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Removes a file, if it exists, and makes that durable.
pub(crate) fn remove(store: &Store, path: &Path) -> anyhow::Result<()> {
    let aside = aside(store)?;
    let remove = || match fs::rename(path, &aside) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        renamed => renamed
            .and_then(|()| fs::remove_file(&aside))
            .and_then(|()| sync_dir(path)),
    };
    remove().with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(store.check_writer()?)
}

/// A name in the working directory of the writer: see [`Store::work_dir`].
fn aside(store: &Store) -> anyhow::Result<PathBuf> {
    store.check_writer()?;
    Ok(store.work_dir()?.join("state-file"))
}

fn write(new: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, path)?;
    sync_dir(path)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
