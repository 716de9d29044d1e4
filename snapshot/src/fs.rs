//! The file system operations of a store, behind a trait for fault injection.
//!
//! Every operation that a crash, a full disk or a bad sector can interrupt goes through [`Fs`]. The meaning of files is
//! unknown here.

use std::any::Any;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::Error;
use crate::error::IoResultExt;

/// An exclusive lock, held until dropped.
pub type FileLock = Box<dyn Any + Send + Sync>;

/// Kind of a directory entry; links are not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A link, fifo, socket or device.
    Other,
}

/// A directory entry; links are not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsEntry {
    /// Its name in the directory, invalid UTF-8 replaced.
    pub name: String,
    /// Its kind.
    pub kind: FsKind,
    /// Size of a regular file, 0 for others.
    pub n_bytes: u64,
}

/// A file being written.
pub trait OutputFile: Write + Send {
    /// Returns once all written bytes are on disk.
    ///
    /// After an error the file must be abandoned: the kernel may have dropped the pages and would report success the
    /// next time.
    ///
    /// # Errors
    /// The errors of `fsync`.
    fn sync(&mut self) -> io::Result<()>;
}

/// File system operations, named after the system calls.
///
/// # Errors
/// Every method returns the error of its system call.
pub trait Fs: Send + Sync + fmt::Debug {
    /// Creates a directory, and its parents, for the owner only; an existing one is no error.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory for the owner only; an existing one is an error.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Creates a file for the owner only; an existing one is an error.
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn OutputFile>>;
    /// Opens a file for appending; creates it for the owner only.
    fn append_file(&self, path: &Path) -> io::Result<Box<dyn OutputFile>>;
    /// Opens a regular file and returns its size; links are not followed.
    fn open_file(&self, path: &Path) -> io::Result<(Box<dyn Read + Send>, u64)>;
    /// Describes `path`; links are not followed.
    fn stat(&self, path: &Path) -> io::Result<FsEntry>;
    /// Lists a directory, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<FsEntry>>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Renames; a file with the new name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file or link.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and its content; links are not followed.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Takes an exclusive lock, or fails with `WouldBlock`. The death of the process releases it.
    fn lock(&self, path: &Path) -> io::Result<FileLock>;
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

impl OutputFile for File {
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

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn OutputFile>> {
        Ok(Box::new(options().write(true).create_new(true).open(path)?))
    }

    fn append_file(&self, path: &Path) -> io::Result<Box<dyn OutputFile>> {
        Ok(Box::new(options().append(true).create(true).open(path)?))
    }

    fn open_file(&self, path: &Path) -> io::Result<(Box<dyn Read + Send>, u64)> {
        // O_NONBLOCK: opening a fifo must not wait for its writer. Regular files are not affected.
        let file = options()
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
                // Removed between the two calls by a garbage collection in another process.
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

    fn lock(&self, path: &Path) -> io::Result<FileLock> {
        let file = options().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Options that follow no link and create files for the owner only.
pub(crate) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE_MODE).custom_flags(libc::O_NOFOLLOW);
    options
}

pub(crate) fn lock(fs: &dyn Fs, path: &Path) -> Result<FileLock, Error> {
    match fs.lock(path) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::Locked {
            path: path.to_owned(),
        }),
        lock => lock.attempt("lock", path),
    }
}

pub(crate) fn read_small(fs: &dyn Fs, path: &Path, max_bytes: u64) -> Result<Vec<u8>, Error> {
    let (input, n_bytes) = fs.open_file(path).attempt("open", path)?;
    if n_bytes > max_bytes {
        let why = format!("it has {n_bytes} bytes, at most {max_bytes} are read");
        return Err(Error::damaged(path, why));
    }
    let mut bytes = Vec::new();
    input
        .take(max_bytes)
        .read_to_end(&mut bytes)
        .attempt("read", path)?;
    Ok(bytes)
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
