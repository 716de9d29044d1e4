//! The few file system operations a store needs, as a seam for fault injection.
//!
//! Every operation that a crash, a full disk or a bad sector can interrupt goes through [`Fs`]. Nothing here
//! knows what the files mean.

use std::any::Any;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Held for as long as the value lives.
pub type Lock = Box<dyn Any + Send + Sync>;

/// What a directory entry is, links not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A link, fifo, socket or device.
    Other,
}

/// A directory entry, links not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsEntry {
    /// Its name within the directory, unprintable bytes replaced.
    pub name: String,
    /// What it is.
    pub kind: FsKind,
    /// Size of a regular file.
    pub n_bytes: u64,
}

/// A file being written.
pub trait Output: Write + Send {
    /// Returns once everything written is on the disk. After an error the file must be abandoned: the kernel
    /// may have dropped the pages and would report success the next time.
    ///
    /// # Errors
    /// Those of `fsync`.
    fn sync(&mut self) -> io::Result<()>;
}

/// File system operations. Names of methods are those of the system calls they stand for.
///
/// # Errors
/// Every method returns what the system call did.
#[allow(clippy::missing_errors_doc, reason = "said once for the whole trait")]
pub trait Fs: Send + Sync + fmt::Debug {
    /// Creates a directory for the owner alone; parents as needed; an existing one is no error.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory for the owner alone; an existing one is an error.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Creates a file for the owner alone; an existing one is an error.
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn Output>>;
    /// Opens a file to add to its end, creating it for the owner alone.
    fn append_file(&self, path: &Path) -> io::Result<Box<dyn Output>>;
    /// Opens a regular file, links not followed, with its size.
    fn open_file(&self, path: &Path) -> io::Result<(Box<dyn Read + Send>, u64)>;
    /// What `path` is, links not followed.
    fn stat(&self, path: &Path) -> io::Result<FsEntry>;
    /// The entries of a directory, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<FsEntry>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Renames, replacing a file that has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file or link.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all it holds, following no link.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock on a file, or fails with `WouldBlock`. A process that dies gives it back.
    fn lock(&self, path: &Path) -> io::Result<Lock>;
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

impl Output for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Fs for RealFs {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(DIR_MODE).recursive(true).create(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(DIR_MODE).create(path)
    }

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)?;
        Ok(Box::new(file))
    }

    fn append_file(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(FILE_MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        Ok(Box::new(file))
    }

    fn open_file(&self, path: &Path) -> io::Result<(Box<dyn Read + Send>, u64)> {
        // O_NONBLOCK: opening a fifo must not wait for its writer. It changes nothing for a regular file.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        Ok((Box::new(file), metadata.len()))
    }

    fn stat(&self, path: &Path) -> io::Result<FsEntry> {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        Ok(entry(name, &fs::symlink_metadata(path)?))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<FsEntry>> {
        let mut entries = Vec::new();
        for item in fs::read_dir(path)? {
            let item = item?;
            let name = item.file_name().to_string_lossy().into_owned();
            match item.metadata() {
                Ok(metadata) => entries.push(entry(name, &metadata)),
                // Removed between the two calls, by a collection in another process.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn entry(name: String, metadata: &fs::Metadata) -> FsEntry {
    let kind = if metadata.is_file() {
        FsKind::File
    } else if metadata.is_dir() {
        FsKind::Dir
    } else {
        FsKind::Other
    };
    FsEntry {
        name,
        kind,
        n_bytes: if kind == FsKind::File { metadata.len() } else { 0 },
    }
}
