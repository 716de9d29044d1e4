//! Aliases: small files that name a snapshot and the hash of its manifest, replaced atomically.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::IoResultExt;
use crate::format::seal::LINE;
use crate::fs::read_small;
use crate::{Error, Fs, SnapshotId};

/// Prefix of the names of unfinished files and directories of older versions.
pub(crate) const TMP_PREFIX: &str = ".tmp-";

/// A name for a snapshot besides its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alias {
    /// The snapshot that a start resumes from.
    Latest,
    /// The snapshot of the version that the scorer serves.
    Serving,
    /// The snapshot that the scorer keeps serving until it is unpinned.
    Pinned,
    /// The snapshot that scores a share of the traffic beside the served version.
    Candidate,
}

impl Alias {
    /// Every alias.
    pub const ALL: [Alias; 4] = [Alias::Latest, Alias::Serving, Alias::Pinned, Alias::Candidate];

    /// The alias's name, which is also its file name.
    pub fn name(self) -> &'static str {
        match self {
            Alias::Latest => "latest",
            Alias::Serving => "serving",
            Alias::Pinned => "pinned",
            Alias::Candidate => "candidate",
        }
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The content of an alias file: one sealed line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AliasTarget {
    /// The snapshot.
    pub(crate) id: SnapshotId,
    /// The blake3 of its manifest file.
    pub(crate) manifest: String,
    /// The rollbacks that happened; empty for other aliases than `latest`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rollbacks: Vec<Rollback>,
}

/// `latest` moved to `to` while `newest` was the highest id given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rollback {
    pub(crate) to: SnapshotId,
    pub(crate) newest: SnapshotId,
}

/// Enough for 10,000 rollbacks; rollbacks without effect on a snapshot on disk are dropped.
pub(crate) const MAX_ALIAS_BYTES: u64 = 1 << 20;

impl AliasTarget {
    /// Reads the alias file at `path`, if there is one.
    pub(crate) fn read(fs: &dyn Fs, path: &Path) -> Result<Option<Self>, Error> {
        let bytes = match read_small(fs, path, MAX_ALIAS_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        Self::parse(&bytes, path).map(Some)
    }

    /// Parses the content of an alias file, which messages call `path`.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let line = bytes
            .strip_suffix(b"\n")
            .ok_or("it is truncated")
            .and_then(|line| LINE.open(line));
        let (json, _) = line.map_err(|why| Error::damaged(path, why))?;
        serde_json::from_str(&json).map_err(|error| Error::damaged(path, error.to_string()))
    }

    /// Replaces the file at `root/name` by one that is made in the writer's directory `work`.
    pub(crate) fn write(&self, fs: &dyn Fs, work: &Path, root: &Path, name: &str) -> Result<(), Error> {
        let path = root.join(name);
        let tmp = work.join(name);
        // An earlier failure may have left one behind.
        match fs.remove_file(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).attempt("remove", &tmp);
            }
            _ => {}
        }
        let json = serde_json::to_string(self).map_err(|error| Error::invalid(name, error.to_string()))?;
        let text = format!("{}\n", LINE.close(&json));
        if text.len() as u64 > MAX_ALIAS_BYTES {
            return Err(Error::invalid(
                name,
                "it lists too many rollbacks; remove old snapshots with `snapshot gc`",
            ));
        }
        let write = || {
            let mut file = fs.create_file(&tmp)?;
            file.write_all(text.as_bytes())?;
            file.sync()?;
            drop(file);
            fs.rename(&tmp, &path)
        };
        if let Err(error) = write() {
            // A leftover is removed at the next attempt or open.
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
    fn a_damaged_alias_file_is_refused() {
        let (dir, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = dir.path().join("latest");
        assert_eq!(AliasTarget::read(&RealFs, &path).unwrap(), None);
        let rollback = Rollback {
            to: SnapshotId::new(3),
            newest: SnapshotId::new(6),
        };
        for rollbacks in [vec![], vec![rollback, rollback]] {
            let target = AliasTarget {
                id: SnapshotId::new(7),
                manifest: "ab".repeat(32),
                rollbacks,
            };
            target.write(&RealFs, work.path(), dir.path(), "latest").unwrap();
            assert_eq!(AliasTarget::read(&RealFs, &path).unwrap(), Some(target));
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
                matches!(AliasTarget::read(&RealFs, &path), Err(Error::Damaged { .. })),
                "{bytes:?}"
            );
        }
    }
}
