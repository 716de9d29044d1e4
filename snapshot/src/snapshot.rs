//! Reads one snapshot, with every check made before its content is trusted.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::draft::hash_name;
use crate::error::IoResultExt;
use crate::format::codec::{self, CodecError};
use crate::format::delta;
use crate::format::hashing::{HashingInput, hash_hex};
use crate::fs::read_small;
use crate::{
    Arrays, Error, FileEntry, FileKind, Fs, FsKind, MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, SnapshotId,
};

/// Longest chain of files that each have the changed rows of the next.
pub(crate) const MAX_LINKS: usize = 100;

/// A snapshot on disk with a trusted manifest. Files are read on demand, and their hashes checked each time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    manifest: Manifest,
    manifest_hash: String,
}

/// The result of verifying every byte of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerificationReport {
    /// The snapshot.
    pub id: SnapshotId,
    /// The files that its manifest lists.
    pub files: Vec<FileReport>,
    /// What is wrong with the directory or the manifest, beyond single files.
    pub fault: Option<String>,
}

/// One file of a [`VerificationReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Its name.
    pub name: String,
    /// Its size by the manifest, bytes.
    pub bytes: u64,
    /// What is wrong with it.
    pub fault: Option<String>,
}

impl VerificationReport {
    /// True when nothing is wrong.
    pub fn is_valid(&self) -> bool {
        self.fault.is_none() && self.files.iter().all(|file| file.fault.is_none())
    }
}

impl Snapshot {
    /// Opens the directory: checks the manifest and the kind and size of all entries, reads no other content.
    pub(crate) fn peek(fs: &Arc<dyn Fs>, dir: PathBuf, id: SnapshotId) -> Result<Self, Error> {
        let snapshot = Self::peek_folder(fs, dir)?;
        if snapshot.id() != id {
            let why = format!("it is the manifest of snapshot {}", snapshot.id());
            return Err(Error::damaged(&snapshot.dir.join(MANIFEST_NAME), why));
        }
        Ok(snapshot)
    }

    /// Opens a directory of any name, with the checks of [`Snapshot::peek`].
    pub(crate) fn peek_folder(fs: &Arc<dyn Fs>, dir: PathBuf) -> Result<Self, Error> {
        if fs.stat(&dir).attempt("examine", &dir)?.kind != FsKind::Dir {
            return Err(Error::damaged(&dir, "it is not a directory"));
        }
        let path = dir.join(MANIFEST_NAME);
        let bytes = read_small(&**fs, &path, MAX_MANIFEST_BYTES)?;
        let manifest = Manifest::decode(&bytes, &path)?;
        let snapshot = Self {
            fs: Arc::clone(fs),
            dir,
            manifest,
            manifest_hash: hash_hex(&bytes),
        };
        snapshot.check_entries()?;
        Ok(snapshot)
    }

    /// Checks that the directory holds the manifest and the files it lists, at their sizes, and nothing else.
    fn check_entries(&self) -> Result<(), Error> {
        let listed = self.manifest.files.iter();
        let mut expected: BTreeMap<&str, u64> =
            listed.map(|entry| (entry.name.as_str(), entry.bytes)).collect();
        for found in self.fs.list(&self.dir).attempt("list", &self.dir)? {
            let path = self.dir.join(&found.name);
            if found.kind != FsKind::File {
                return Err(Error::damaged(&path, "it is not a regular file"));
            }
            match expected.remove(found.name.as_str()) {
                Some(n_bytes) => check_size(&path, found.n_bytes, n_bytes)?,
                None if found.name == MANIFEST_NAME => {}
                None => return Err(Error::damaged(&path, "the manifest does not list it")),
            }
        }
        match expected.into_keys().next() {
            Some(name) => Err(Error::damaged(&self.dir.join(name), "it is missing")),
            None => Ok(()),
        }
    }

    pub(crate) fn check_hashes(&self) -> Result<(), Error> {
        self.manifest
            .files
            .iter()
            .try_for_each(|entry| self.check_hash(entry))
    }

    /// Checks the hash of a file and of those that it needs of older snapshots.
    fn check_hash(&self, entry: &FileEntry) -> Result<(), Error> {
        self.check_chain(entry, 0)
    }

    fn check_chain(&self, entry: &FileEntry, n_links: usize) -> Result<(), Error> {
        self.read_file(entry, |_, _| Ok(()))?;
        match entry.base {
            Some(base) if n_links < MAX_LINKS => {
                let base = self.sibling(base)?;
                base.check_chain(base.entry(&entry.name, FileKind::Arrays)?, n_links + 1)
            }
            Some(_) => {
                let why = format!("it has more than {MAX_LINKS} bases");
                Err(Error::damaged(&self.dir.join(&entry.name), why))
            }
            None => Ok(()),
        }
    }

    /// The snapshot's id.
    pub fn id(&self) -> SnapshotId {
        self.manifest.id
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The bytes of the manifest file, as they are on disk now.
    pub(crate) fn manifest_bytes(&self) -> Result<Vec<u8>, Error> {
        read_small(&*self.fs, &self.dir.join(MANIFEST_NAME), MAX_MANIFEST_BYTES)
    }

    /// The blake3 of the manifest file, which covers all other files.
    pub fn manifest_hash(&self) -> &str {
        &self.manifest_hash
    }

    /// The snapshot's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads the arrays of the file called `name`.
    ///
    /// # Errors
    /// [`Error::NoFile`] when there is none, [`Error::Damaged`] when its bytes are not those written, [`Error::Io`] when
    /// it cannot be read.
    pub fn arrays(&self, name: &str) -> Result<Arrays, Error> {
        self.arrays_at(name, 0)
    }

    /// Reads the arrays of a file, `n_links` files of a chain after the one that was asked for.
    fn arrays_at(&self, name: &str, n_links: usize) -> Result<Arrays, Error> {
        let entry = self.entry(name, FileKind::Arrays)?;
        let label = format!("{name} of snapshot {}", self.id());
        let stored = self.read_arrays(entry, label.clone())?;
        let Some(base) = entry.base else {
            return Ok(stored);
        };
        let path = self.dir.join(name);
        if n_links >= MAX_LINKS {
            return Err(Error::damaged(
                &path,
                format!("it has more than {MAX_LINKS} bases"),
            ));
        }
        let whole = self.sibling(base)?.arrays_at(name, n_links + 1)?;
        let arrays = delta::apply(whole, stored, label).map_err(|why| Error::damaged(&path, why))?;
        let hash = hash_arrays(&arrays);
        if hash != entry.content_hash() {
            let why = format!(
                "with its bases its hash is {hash}, the manifest says {}",
                entry.content_hash()
            );
            return Err(Error::damaged(&path, why));
        }
        Ok(arrays)
    }

    /// Opens another snapshot of the same store.
    fn sibling(&self, id: SnapshotId) -> Result<Self, Error> {
        Self::peek(&self.fs, self.dir.with_file_name(id.to_string()), id)
    }

    fn read_arrays(&self, entry: &FileEntry, label: String) -> Result<Arrays, Error> {
        self.read_file(entry, |input, path| {
            codec::read(input, entry.bytes, label).map_err(|error| match error {
                CodecError::Io(error) => Error::Io {
                    action: "read",
                    path: path.to_owned(),
                    error,
                },
                CodecError::Malformed(why) => Error::damaged(path, why),
            })
        })
    }

    /// Reads the bytes of the file called `name`.
    ///
    /// # Errors
    /// As for [`Snapshot::arrays`].
    pub fn blob(&self, name: &str) -> Result<Vec<u8>, Error> {
        self.read_file(self.entry(name, FileKind::Blob)?, |input, path| {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes).attempt("read", path)?;
            Ok(bytes)
        })
    }

    /// Hashes the named files in the given order, as [`Draft::hash_files`](crate::Draft::hash_files) does.
    ///
    /// # Errors
    /// As for [`Snapshot::arrays`].
    pub fn hash_files(&self, names: &[&str]) -> Result<String, Error> {
        let mut hasher = blake3::Hasher::new();
        for name in names {
            hash_name(name, &mut hasher);
            let Some(entry) = self.manifest.file(name) else {
                continue;
            };
            if entry.kind == FileKind::Blob {
                hasher.update(&entry.bytes.to_le_bytes());
            }
            if entry.base.is_some() {
                write_arrays(&self.arrays(name)?, &mut hasher);
                continue;
            }
            self.read_file(entry, |input, path| {
                hasher.update_reader(input).attempt("read", path)?;
                Ok(())
            })?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn entry(&self, name: &str, kind: FileKind) -> Result<&FileEntry, Error> {
        let entry = self.manifest.file(name).filter(|entry| entry.kind == kind);
        entry.ok_or_else(|| Error::NoFile {
            id: self.id(),
            file: name.chars().take(64).collect(),
            kind: kind.name(),
        })
    }

    /// Decodes a listed file, at most its listed size of it, and checks its hash.
    fn read_file<T>(
        &self,
        entry: &FileEntry,
        decode: impl FnOnce(&mut dyn Read, &Path) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let path = self.dir.join(&entry.name);
        let (input, n_bytes) = self.fs.open_file(&path).attempt("open", &path)?;
        check_size(&path, n_bytes, entry.bytes)?;
        let mut input = HashingInput::new(input.take(entry.bytes));
        let decoded = decode(&mut input, &path)?;
        let hash = input.finish().attempt("read", &path)?;
        if hash != entry.blake3 {
            let why = format!("its hash is {hash}, the manifest says {}", entry.blake3);
            return Err(Error::damaged(&path, why));
        }
        Ok(decoded)
    }

    /// Checks the hash of every file and reports each result.
    pub(crate) fn report(&self) -> VerificationReport {
        let files = self.manifest.files.iter().map(|entry| FileReport {
            name: entry.name.clone(),
            bytes: entry.bytes,
            fault: self.check_hash(entry).err().map(|error| error.to_string()),
        });
        VerificationReport {
            id: self.id(),
            files: files.collect(),
            fault: None,
        }
    }
}

/// Hashes arrays as [`Snapshot::arrays`] reads them from a whole file.
pub(crate) fn hash_arrays(arrays: &Arrays) -> String {
    let mut hasher = blake3::Hasher::new();
    write_arrays(arrays, &mut hasher);
    hasher.finalize().to_hex().to_string()
}

fn write_arrays(arrays: &Arrays, hasher: &mut blake3::Hasher) {
    let written = codec::write(arrays, hasher);
    debug_assert!(
        written.is_ok(),
        "a hasher takes all bytes; arrays that were read have names and shapes"
    );
}

fn check_size(path: &Path, n_bytes: u64, expected: u64) -> Result<(), Error> {
    if n_bytes == expected {
        return Ok(());
    }
    let why = format!("it has {n_bytes} bytes, the manifest says {expected}");
    Err(Error::damaged(path, why))
}
