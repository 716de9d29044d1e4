//! A snapshot that is not on disk yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::manifest::check_file_name;
use crate::{Arrays, CheckpointMeta, Error, FileKind, Fingerprint, SnapshotId};

/// Everything a snapshot will hold, gathered at a batch boundary and written by another thread.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The snapshot this state grew from.
    pub parent: Option<SnapshotId>,
    /// Why the lineage is what it is, if there is something to say.
    pub note: Option<String>,
    /// Now, ms since the epoch, by the caller's clock.
    pub created_ms: i64,
    /// By what, and on what machine.
    pub created_by: Fingerprint,
    /// The point of the log.
    pub cut: CheckpointMeta,
    files: BTreeMap<String, Content>,
}

/// What goes into one file.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Arrays(Arrays),
    Blob(Arc<[u8]>),
}

impl Content {
    pub(crate) fn kind(&self) -> FileKind {
        match self {
            Content::Arrays(_) => FileKind::Arrays,
            Content::Blob(_) => FileKind::Blob,
        }
    }
}

impl Draft {
    /// A draft without files.
    #[must_use]
    pub fn new(
        parent: Option<SnapshotId>,
        created_ms: i64,
        created_by: Fingerprint,
        cut: CheckpointMeta,
    ) -> Self {
        Self {
            parent,
            note: None,
            created_ms,
            created_by,
            cut,
            files: BTreeMap::new(),
        }
    }

    /// Adds a file of arrays; its name ends in `.safetensors`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the name is not `[a-z0-9][a-z0-9._-]{0,63}`, or is taken.
    pub fn add_arrays(&mut self, name: &str, arrays: Arrays) -> Result<(), Error> {
        self.add(name, Content::Arrays(arrays))
    }

    /// Adds a file of bytes; its name does not end in `.safetensors`.
    ///
    /// # Errors
    /// As for [`Draft::add_arrays`].
    pub fn add_blob(&mut self, name: &str, bytes: impl Into<Arc<[u8]>>) -> Result<(), Error> {
        self.add(name, Content::Blob(bytes.into()))
    }

    fn add(&mut self, name: &str, content: Content) -> Result<(), Error> {
        check_file_name(name, content.kind()).map_err(|why| Error::invalid(name, why))?;
        if self.files.contains_key(name) {
            return Err(Error::invalid(name, "the draft has a file of that name already"));
        }
        self.files.insert(name.to_owned(), content);
        Ok(())
    }

    /// Whether it has a file of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Hash of the named files as they would be written, those that are there, in the order given. Equal hashes
    /// mean equal names, types, shapes and bits.
    #[must_use]
    pub fn hash_of(&self, names: &[&str]) -> String {
        let mut hasher = blake3::Hasher::new();
        for name in names {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            match self.files.get(*name) {
                Some(Content::Arrays(arrays)) => {
                    // A hasher never refuses bytes.
                    let written = crate::codec::write(arrays, &mut hasher);
                    debug_assert!(written.is_ok(), "arrays of a draft have consistent shapes");
                }
                Some(Content::Blob(bytes)) => {
                    hasher.update(&(bytes.len() as u64).to_le_bytes());
                    hasher.update(bytes);
                }
                None => {}
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &Content)> {
        self.files.iter().map(|(name, content)| (name.as_str(), content))
    }

    /// About how many bytes it will take on disk.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        let sizes = self.files.values().map(|content| match content {
            Content::Arrays(arrays) => arrays.iter().map(|(_, array)| array.n_bytes()).sum(),
            Content::Blob(bytes) => bytes.len(),
        });
        sizes.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_can_be_written_by_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<Draft>();
    }

    #[test]
    fn the_hash_knows_names_types_shapes_and_bits() {
        let draft = |name: &str, array: crate::Array| {
            let mut arrays = Arrays::new();
            arrays.insert(name, array).unwrap();
            let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
            draft.add_arrays("a.safetensors", arrays).unwrap();
            draft.add_blob("b.bin", vec![1, 2]).unwrap();
            draft
        };
        let of = |draft: &Draft| draft.hash_of(&["a.safetensors", "b.bin"]);
        let array = |values: Vec<f32>, shape: &[usize]| crate::Array::new(shape, values).unwrap();
        let base = draft("x", array(vec![1.0, 2.0], &[2]));
        assert_eq!(of(&base), of(&draft("x", array(vec![1.0, 2.0], &[2]))));
        for other in [
            draft("y", array(vec![1.0, 2.0], &[2])),
            draft("x", array(vec![1.0, 2.0], &[1, 2])),
            draft("x", array(vec![1.0, -2.0], &[2])),
            draft("x", crate::Array::new(&[2], vec![1u32, 2]).unwrap()),
        ] {
            assert_ne!(of(&base), of(&other));
        }
        assert_ne!(of(&base), base.hash_of(&["a.safetensors"]));
    }

    #[test]
    fn names_that_are_no_file_of_a_snapshot_are_refused() {
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
