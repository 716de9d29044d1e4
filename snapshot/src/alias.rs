//! Aliases: small files that name a snapshot and the hash of its manifest, replaced as a whole.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Attempt;
use crate::lineage::Rollback;
use crate::seal::LINE;
use crate::snapshot::read_small;
use crate::{Error, Fs, SnapshotId};

/// Start of the name of everything unfinished.
pub(crate) const TMP_PREFIX: &str = ".tmp-";

/// What a snapshot can be called besides its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alias {
    /// Where a start resumes.
    Latest,
    /// What the scorer last published.
    Serving,
    /// What the scorer stays on until it is unpinned.
    Pinned,
}

impl Alias {
    /// Every alias.
    pub const ALL: [Alias; 3] = [Alias::Latest, Alias::Serving, Alias::Pinned];

    /// Its name, which is its file's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Alias::Latest => "latest",
            Alias::Serving => "serving",
            Alias::Pinned => "pinned",
        }
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an alias file says, one sealed line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pointer {
    /// The snapshot.
    pub(crate) id: SnapshotId,
    /// The blake3 of its manifest file.
    pub(crate) manifest: String,
    /// For `latest`, the rollbacks that happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rollbacks: Vec<Rollback>,
}

/// Some 10,000 rollbacks; only those are kept that say something about a snapshot on disk.
const MAX_POINTER_BYTES: u64 = 1 << 20;

impl Pointer {
    /// The pointer in the file at `path`, if there is one.
    pub(crate) fn read(fs: &dyn Fs, path: &Path) -> Result<Option<Self>, Error> {
        let bytes = match read_small(fs, path, MAX_POINTER_BYTES) {
            Ok(bytes) => bytes,
            Err(Error::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let line = bytes
            .strip_suffix(b"\n")
            .ok_or("it is cut short")
            .and_then(|line| LINE.open(line));
        let (json, _) = line.map_err(|why| Error::damaged(path, why))?;
        let pointer = serde_json::from_str(&json).map_err(|error| Error::damaged(path, error.to_string()))?;
        Ok(Some(pointer))
    }

    /// Replaces the file at `root/name`.
    pub(crate) fn write(&self, fs: &dyn Fs, root: &Path, name: &str) -> Result<(), Error> {
        let path = root.join(name);
        let tmp = root.join(format!("{TMP_PREFIX}{name}"));
        // Left by an earlier failure whose removal failed too.
        match fs.remove_file(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).attempt("remove", &tmp);
            }
            _ => {}
        }
        let json = serde_json::to_string(self).map_err(|error| Error::invalid(name, error.to_string()))?;
        let text = format!("{}\n", LINE.close(&json));
        if text.len() as u64 > MAX_POINTER_BYTES {
            return Err(Error::invalid(name, "too many rollbacks; collect old snapshots"));
        }
        let write = || {
            let mut file = fs.create_file(&tmp)?;
            file.write_all(text.as_bytes())?;
            file.sync()?;
            drop(file);
            fs.rename(&tmp, &path)
        };
        if let Err(error) = write() {
            // The first error is the one to report; what stays behind goes at the next attempt or open.
            fs.remove_file(&tmp).ok();
            return Err(error).attempt("replace", &path);
        }
        fs.sync_dir(root).attempt("sync", root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RealFs;

    #[test]
    fn what_was_not_written_as_a_pointer_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("latest");
        assert_eq!(Pointer::read(&RealFs, &path).unwrap(), None);
        let rollback = Rollback {
            to: SnapshotId::new(3),
            newest: SnapshotId::new(6),
        };
        for rollbacks in [vec![], vec![rollback, rollback]] {
            let pointer = Pointer {
                id: SnapshotId::new(7),
                manifest: "ab".repeat(32),
                rollbacks,
            };
            pointer.write(&RealFs, dir.path(), "latest").unwrap();
            assert_eq!(Pointer::read(&RealFs, &path).unwrap(), Some(pointer));
        }
        let good = std::fs::read(&path).unwrap();
        let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|n| good[..n].to_vec()).collect();
        bad.push([good.as_slice(), b"\n"].concat());
        bad.push(good.to_ascii_uppercase());
        bad.push(vec![b'0'; 4096]);
        bad.push(vec![0xff; 86]);
        bad.push(format!("{}\n", LINE.close(r#"{"id":"7","manifest":""}"#)).into_bytes());
        bad.push(format!("{}\n", LINE.close(r#"{"id":"00000000000000000007"}"#)).into_bytes());
        for bytes in bad {
            std::fs::write(&path, &bytes).unwrap();
            assert!(
                matches!(Pointer::read(&RealFs, &path), Err(Error::Damaged { .. })),
                "{bytes:?}"
            );
        }
    }
}
