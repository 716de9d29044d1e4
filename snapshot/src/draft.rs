//! The draft: a snapshot that is not on disk yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::format::{check_file_name, codec};
use crate::{Arrays, CheckpointMeta, Error, FileKind, Fingerprint, GateResult, SnapshotId};

/// The content of a future snapshot, collected at a batch boundary and written by another thread.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The snapshot that training continued from.
    pub parent: Option<SnapshotId>,
    /// An event of the lineage worth a sentence, see [`Manifest::note`](crate::Manifest::note).
    pub note: Option<String>,
    /// Time of the checkpoint by the caller's clock, ms since the epoch.
    pub created_ms: i64,
    /// The program and the machine.
    pub created_by: Fingerprint,
    /// The point of the log that the state belongs to.
    pub checkpoint: CheckpointMeta,
    /// The checks that it went through, see [`Manifest::gates`](crate::Manifest::gates).
    pub gates: BTreeMap<String, GateResult>,
    files: BTreeMap<String, FileContent>,
}

#[derive(Clone, Debug)]
pub(crate) enum FileContent {
    Arrays(Arrays),
    Blob(Arc<[u8]>),
}

impl FileContent {
    pub(crate) fn kind(&self) -> FileKind {
        match self {
            FileContent::Arrays(_) => FileKind::Arrays,
            FileContent::Blob(_) => FileKind::Blob,
        }
    }
}

impl Draft {
    /// Makes a draft without files.
    pub fn new(
        parent: Option<SnapshotId>,
        created_ms: i64,
        created_by: Fingerprint,
        checkpoint: CheckpointMeta,
    ) -> Self {
        Self {
            parent,
            note: None,
            created_ms,
            created_by,
            checkpoint,
            gates: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    /// Adds a file of arrays, whose name ends in `.safetensors`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the name is not `[a-z0-9][a-z0-9._-]{0,63}`, or is taken.
    pub fn add_arrays(&mut self, name: &str, arrays: Arrays) -> Result<(), Error> {
        self.add(name, FileContent::Arrays(arrays))
    }

    /// Adds a file of bytes, whose name does not end in `.safetensors`.
    ///
    /// # Errors
    /// As for [`Draft::add_arrays`].
    pub fn add_blob(&mut self, name: &str, bytes: impl Into<Arc<[u8]>>) -> Result<(), Error> {
        self.add(name, FileContent::Blob(bytes.into()))
    }

    fn add(&mut self, name: &str, content: FileContent) -> Result<(), Error> {
        check_file_name(name, content.kind()).map_err(|why| Error::invalid(name, why))?;
        if self.files.contains_key(name) {
            return Err(Error::invalid(name, "the draft has a file of that name already"));
        }
        self.files.insert(name.to_owned(), content);
        Ok(())
    }

    /// True when there is a file called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The arrays of the file called `name`, if there is such a file.
    pub fn arrays(&self, name: &str) -> Option<&Arrays> {
        match self.files.get(name) {
            Some(FileContent::Arrays(arrays)) => Some(arrays),
            _ => None,
        }
    }

    /// Hashes the named files in the given order; missing ones count by name.
    ///
    /// Equal hashes mean equal names, types, shapes and bits.
    pub fn hash_files(&self, names: &[&str]) -> String {
        let mut hasher = blake3::Hasher::new();
        for name in names {
            hash_name(name, &mut hasher);
            match self.files.get(*name) {
                Some(FileContent::Arrays(arrays)) => {
                    let written = codec::write(arrays, &mut hasher);
                    debug_assert!(
                        written.is_ok(),
                        "a hasher takes all bytes; a draft's shapes are consistent"
                    );
                }
                Some(FileContent::Blob(bytes)) => {
                    hasher.update(&(bytes.len() as u64).to_le_bytes());
                    hasher.update(bytes);
                }
                None => {}
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &FileContent)> {
        self.files.iter().map(|(name, content)| (name.as_str(), content))
    }

    /// Approximate size on disk, bytes.
    pub fn n_bytes(&self) -> usize {
        let sizes = self.files.values().map(|content| match content {
            FileContent::Arrays(arrays) => arrays.iter().map(|(_, array)| array.n_bytes()).sum(),
            FileContent::Blob(bytes) => bytes.len(),
        });
        sizes.sum()
    }
}

/// Adds the name of a file to the hash over several files.
pub(crate) fn hash_name(name: &str, hasher: &mut blake3::Hasher) {
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_can_move_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<Draft>();
    }

    #[test]
    fn the_hash_covers_names_types_shapes_and_bits() {
        let draft = |name: &str, array: crate::Array| {
            let mut arrays = Arrays::new();
            arrays.insert(name, array).unwrap();
            let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
            draft.add_arrays("a.safetensors", arrays).unwrap();
            draft.add_blob("b.bin", vec![1, 2]).unwrap();
            draft
        };
        let hash = |draft: &Draft| draft.hash_files(&["a.safetensors", "b.bin"]);
        let array = |values: Vec<f32>, shape: &[usize]| crate::Array::new(shape, values).unwrap();
        let base = draft("x", array(vec![1.0, 2.0], &[2]));
        assert_eq!(hash(&base), hash(&draft("x", array(vec![1.0, 2.0], &[2]))));
        for other in [
            draft("y", array(vec![1.0, 2.0], &[2])),
            draft("x", array(vec![1.0, 2.0], &[1, 2])),
            draft("x", array(vec![1.0, -2.0], &[2])),
            draft("x", crate::Array::new(&[2], vec![1u32, 2]).unwrap()),
        ] {
            assert_ne!(hash(&base), hash(&other));
        }
        assert_ne!(hash(&base), base.hash_files(&["a.safetensors"]));
    }

    #[test]
    fn invalid_file_names_are_refused() {
        let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
        draft.add_blob("join.bin", vec![1]).unwrap();
        for name in [
            "join.bin",
            "",
            "../x",
            "a/b",
            "Manifest.json",
            "manifest.json",
            ".tmp",
            "x.safetensors",
        ] {
            assert!(draft.add_blob(name, vec![1]).is_err(), "{name}");
        }
        assert!(draft.add_arrays("rows.bin", Arrays::new()).is_err());
        assert!(draft.add_arrays("rows.safetensors", Arrays::new()).is_ok());
        assert_eq!(draft.files().count(), 2);
    }
}
