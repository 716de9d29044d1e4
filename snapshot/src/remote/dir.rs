//! A bucket in a directory: a disk of its own, or a file system that machines share.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::bucket::{Bucket, Object};
use crate::format::hashing::hash_hex;
use crate::fs::options;

const LOCK_NAME: &str = ".lock";
const TMP_NAME: &str = ".new";

/// Objects as files below a directory, which must exist. The tag of an object is the hash of its content.
#[derive(Clone, Debug)]
pub(super) struct DirBucket {
    root: PathBuf,
}

impl DirBucket {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Writes a file under another name, then renames it. The lock makes the other name free.
    fn replace(&self, key: &str, bytes: &[u8], _lock: &File) -> io::Result<()> {
        let (path, tmp) = (self.root.join(key), self.root.join(TMP_NAME));
        let parent = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent)?;
        let mut file = options().write(true).create(true).truncate(true).open(&tmp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&tmp, &path)?;
        File::open(parent)?.sync_all()
    }

    /// Waits for the lock of all writers, which the end of a process releases.
    fn lock(&self) -> io::Result<File> {
        let file = options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.root.join(LOCK_NAME))?;
        file.lock()?;
        Ok(file)
    }

    fn list_below(&self, key: &str, found: &mut Vec<String>) -> io::Result<()> {
        let entries = match fs::read_dir(self.root.join(key)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = format!("{key}{}", entry.file_name().to_string_lossy());
            match entry.file_type()?.is_dir() {
                true => self.list_below(&format!("{name}/"), found)?,
                false => found.push(name),
            }
        }
        Ok(())
    }
}

impl Bucket for DirBucket {
    fn get(&self, key: &str) -> io::Result<Option<Object>> {
        match fs::read(self.root.join(key)) {
            Ok(bytes) => Ok(Some(Object {
                tag: hash_hex(&bytes),
                bytes,
            })),
            // A directory that is not mounted is not an empty one.
            Err(error) if error.kind() == ErrorKind::NotFound && self.root.is_dir() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn put(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        let lock = self.lock()?;
        self.replace(key, bytes, &lock)
    }

    fn put_if(&self, key: &str, bytes: &[u8], expected: Option<&str>) -> io::Result<Option<String>> {
        let lock = self.lock()?;
        let found = self.get(key)?.map(|object| object.tag);
        if found.as_deref() != expected {
            return Ok(None);
        }
        self.replace(key, bytes, &lock)?;
        Ok(Some(hash_hex(bytes)))
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        self.list_below(prefix, &mut found)?;
        found.sort_unstable();
        Ok(found)
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        match fs::remove_file(self.root.join(key)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
