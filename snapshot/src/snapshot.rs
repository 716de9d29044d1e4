//! Reading one snapshot, and everything checked before its content is believed.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::codec::{self, Fault};
use crate::error::Attempt;
use crate::hashing::{HashingInput, hash_hex};
use crate::{
    Arrays, Error, FileEntry, FileKind, Fs, FsKind, MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, SnapshotId,
};

/// A snapshot on disk whose manifest was believed. Its files are read when asked for, and hashed again then.
#[derive(Clone, Debug)]
pub struct Snapshot {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    manifest: Manifest,
    manifest_hash: String,
}

/// The result of reading every byte of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which snapshot.
    pub id: SnapshotId,
    /// Each file its manifest lists.
    pub files: Vec<FileReport>,
    /// What is wrong with the directory or its manifest, beyond single files.
    pub fault: Option<String>,
}

/// One file of a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Its name.
    pub name: String,
    /// Its size by the manifest, bytes.
    pub bytes: u64,
    /// What is wrong with it.
    pub fault: Option<String>,
}

impl Report {
    /// True when nothing is wrong.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.fault.is_none() && self.files.iter().all(|file| file.fault.is_none())
    }
}

impl Snapshot {
    /// Opens the directory: kinds and sizes of all entries and the manifest are checked, no content is read.
    pub(crate) fn peek(fs: &Arc<dyn Fs>, dir: PathBuf, id: SnapshotId) -> Result<Self, Error> {
        if fs.stat(&dir).attempt("examine", &dir)?.kind != FsKind::Dir {
            return Err(Error::damaged(&dir, "it is not a directory"));
        }
        let path = dir.join(MANIFEST_NAME);
        let bytes = read_small(&**fs, &path, MAX_MANIFEST_BYTES)?;
        let manifest = Manifest::decode(&bytes, &path)?;
        if manifest.id != id {
            return Err(Error::damaged(
                &path,
                format!("it is the manifest of snapshot {}", manifest.id),
            ));
        }
        let snapshot = Self {
            fs: Arc::clone(fs),
            dir,
            manifest,
            manifest_hash: hash_hex(&bytes),
        };
        snapshot.check_entries()?;
        Ok(snapshot)
    }

    /// The directory holds the manifest and the files it lists, as regular files of their size, nothing else.
    fn check_entries(&self) -> Result<(), Error> {
        let mut expected: BTreeMap<&str, u64> = self
            .manifest
            .files
            .iter()
            .map(|entry| (entry.name.as_str(), entry.bytes))
            .collect();
        for found in self.fs.list(&self.dir).attempt("list", &self.dir)? {
            let path = self.dir.join(&found.name);
            if found.kind != FsKind::File {
                return Err(Error::damaged(&path, "it is not a regular file"));
            }
            match expected.remove(found.name.as_str()) {
                Some(n_bytes) if n_bytes == found.n_bytes => {}
                Some(n_bytes) => {
                    let why = format!("it has {} bytes, the manifest says {n_bytes}", found.n_bytes);
                    return Err(Error::damaged(&path, why));
                }
                None if found.name == MANIFEST_NAME => {}
                None => return Err(Error::damaged(&path, "the manifest does not list it")),
            }
        }
        match expected.into_keys().next() {
            Some(name) => Err(Error::damaged(&self.dir.join(name), "it is missing")),
            None => Ok(()),
        }
    }

    /// Hashes every file.
    pub(crate) fn check_hashes(&self) -> Result<(), Error> {
        self.manifest
            .files
            .iter()
            .try_for_each(|entry| self.check_hash(entry))
    }

    fn check_hash(&self, entry: &FileEntry) -> Result<(), Error> {
        let (input, path) = self.open(entry)?;
        finish(input, entry, &path)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.manifest.id
    }

    /// What it says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The blake3 of its manifest file, which covers everything else in it.
    #[must_use]
    pub fn manifest_hash(&self) -> &str {
        &self.manifest_hash
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads the arrays of the file called `name`.
    ///
    /// # Errors
    /// [`Error::NoFile`] when there is none, [`Error::Damaged`] when it is not what was written,
    /// [`Error::Io`] when it cannot be read.
    pub fn arrays(&self, name: &str) -> Result<Arrays, Error> {
        let entry = self.entry(name, FileKind::Arrays)?;
        let (mut input, path) = self.open(entry)?;
        let label = format!("{name} of snapshot {}", self.id());
        let arrays = codec::read(&mut input, entry.bytes, label).map_err(|fault| match fault {
            Fault::Io(error) => Error::Io {
                attempt: "read",
                path: path.clone(),
                error,
            },
            Fault::Malformed(why) => Error::damaged(&path, why),
        })?;
        finish(input, entry, &path)?;
        Ok(arrays)
    }

    /// Reads the bytes of the file called `name`.
    ///
    /// # Errors
    /// As for [`Snapshot::arrays`].
    pub fn blob(&self, name: &str) -> Result<Vec<u8>, Error> {
        let entry = self.entry(name, FileKind::Blob)?;
        let (mut input, path) = self.open(entry)?;
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes).attempt("read", &path)?;
        finish(input, entry, &path)?;
        Ok(bytes)
    }

    fn entry(&self, name: &str, kind: FileKind) -> Result<&FileEntry, Error> {
        self.manifest
            .file(name)
            .filter(|entry| entry.kind == kind)
            .ok_or_else(|| Error::NoFile {
                id: self.id(),
                file: name.chars().take(64).collect(),
                kind: kind.name(),
            })
    }

    /// Opens a listed file, at most the listed bytes of which can be read.
    fn open(&self, entry: &FileEntry) -> Result<(HashingInput<impl Read + use<>>, PathBuf), Error> {
        let path = self.dir.join(&entry.name);
        let (input, n_bytes) = self.fs.open_file(&path).attempt("open", &path)?;
        if n_bytes != entry.bytes {
            let why = format!("it has {n_bytes} bytes, the manifest says {}", entry.bytes);
            return Err(Error::damaged(&path, why));
        }
        Ok((HashingInput::new(input.take(entry.bytes)), path))
    }

    /// Reads everything and says what is wrong with each file.
    pub(crate) fn report(&self) -> Report {
        let files = self.manifest.files.iter().map(|entry| FileReport {
            name: entry.name.clone(),
            bytes: entry.bytes,
            fault: self.check_hash(entry).err().map(|error| error.to_string()),
        });
        Report {
            id: self.id(),
            files: files.collect(),
            fault: None,
        }
    }
}

/// Reads the rest of `input` and compares the hash of all of it.
fn finish(input: HashingInput<impl Read>, entry: &FileEntry, path: &Path) -> Result<(), Error> {
    let hash = input.finish().attempt("read", path)?;
    if hash == entry.blake3 {
        Ok(())
    } else {
        Err(Error::damaged(path, "its hash differs from the manifest's"))
    }
}

/// Reads a whole file that must not be larger than `max_bytes`.
pub(crate) fn read_small(fs: &dyn Fs, path: &Path, max_bytes: u64) -> Result<Vec<u8>, Error> {
    let (input, n_bytes) = fs.open_file(path).attempt("open", path)?;
    if n_bytes > max_bytes {
        return Err(Error::damaged(
            path,
            format!("it has {n_bytes} bytes, over {max_bytes}"),
        ));
    }
    let mut bytes = Vec::new();
    input
        .take(max_bytes)
        .read_to_end(&mut bytes)
        .attempt("read", path)?;
    Ok(bytes)
}
