//! Tags: names that operators give to snapshots, one small file each. A tagged snapshot is never removed.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::alias::AliasTarget;
use super::{Alias, AuditVerb, Store, TMP_PREFIX};
use crate::error::IoResultExt;
use crate::{Error, FsKind, SnapshotId};

const TAGS_DIR: &str = "tags";
const MAX_NAME_BYTES: usize = 64;

/// Checks a tag: `[a-z0-9][a-z0-9._-]{0,63}`, no alias, and not digits alone, which are an id.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_valid = name.len() <= MAX_NAME_BYTES
        && name.bytes().next().is_some_and(is_alphanumeric)
        && name
            .bytes()
            .all(|byte| is_alphanumeric(byte) || matches!(byte, b'.' | b'_' | b'-'));
    let why = if !is_valid {
        "a tag has at most 64 letters a to z, digits, points, hyphens and underscores, and starts with a letter or digit"
    } else if name.bytes().all(|byte| byte.is_ascii_digit()) {
        "digits alone are the id of a snapshot"
    } else if Alias::ALL.iter().any(|alias| alias.name() == name) {
        "ouzel itself moves the alias of that name"
    } else {
        return Ok(());
    };
    Err(Error::Tag {
        name: name.chars().take(MAX_NAME_BYTES).collect(),
        why: why.to_owned(),
    })
}

impl Store {
    /// Gives a snapshot a tag, which keeps it from being removed.
    ///
    /// # Errors
    /// [`Error::Tag`] for an invalid name or one that another snapshot has; otherwise as for [`Store::read`], and
    /// [`Error::ReadOnly`].
    pub fn tag(&self, id: SnapshotId, name: &str, note: &str, now_ms: i64) -> Result<(), Error> {
        check_name(name)?;
        let _admin = self.lock_admin()?;
        match self.tag_target(name)? {
            Some(target) if target.id == id => return Ok(()),
            Some(target) => {
                return Err(Error::Tag {
                    name: name.to_owned(),
                    why: format!("snapshot {} has it; remove it there first", target.id),
                });
            }
            None => {}
        }
        let snapshot = self.read(id)?;
        self.record(AuditVerb::Tag, Some(id), &[], &with_reason(name, note), now_ms)?;
        let dir = self.tags_dir();
        self.fs.create_dir_all(&dir).attempt("create", &dir)?;
        self.sync_dir(&self.root)?;
        let target = AliasTarget {
            id,
            manifest: snapshot.manifest_hash().to_owned(),
            rollbacks: Vec::new(),
        };
        target.write(&*self.fs, &self.work_dir()?, &dir, name)
    }

    /// Removes a tag and returns the snapshot that had it, if its file could be read.
    ///
    /// # Errors
    /// [`Error::Tag`] when there is no such tag; [`Error::Io`], [`Error::ReadOnly`].
    pub fn untag(&self, name: &str, note: &str, now_ms: i64) -> Result<Option<SnapshotId>, Error> {
        check_name(name)?;
        let _admin = self.lock_admin()?;
        let id = match self.tag_target(name) {
            Ok(Some(target)) => Some(target.id),
            Ok(None) => {
                return Err(Error::Tag {
                    name: name.to_owned(),
                    why: "no snapshot has it".to_owned(),
                });
            }
            // Removing a damaged tag is the way out of it.
            Err(Error::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        self.record(AuditVerb::Untag, id, &[], &with_reason(name, note), now_ms)?;
        self.remove_name(&self.tags_dir().join(name))?;
        self.sync_dir(&self.tags_dir())?;
        Ok(id)
    }

    /// The tags with their snapshots, by name.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the file of a tag is not as written, [`Error::Io`].
    pub fn tags(&self) -> Result<BTreeMap<String, SnapshotId>, Error> {
        let mut tags = BTreeMap::new();
        for name in self.tag_names()? {
            if let Some(target) = self.tag_target(&name)? {
                tags.insert(name, target.id);
            }
        }
        Ok(tags)
    }

    /// The tags whose files can be read.
    pub(super) fn undamaged_tags(&self) -> Result<BTreeMap<String, SnapshotId>, Error> {
        let mut tags = BTreeMap::new();
        for name in self.tag_names()? {
            match self.tag_target(&name) {
                Ok(target) => tags.extend(target.map(|target| (name, target.id))),
                Err(Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(tags)
    }

    pub(super) fn tags_dir(&self) -> PathBuf {
        self.root.join(TAGS_DIR)
    }

    fn tag_target(&self, name: &str) -> Result<Option<AliasTarget>, Error> {
        AliasTarget::read(&*self.fs, &self.tags_dir().join(name))
    }

    fn tag_names(&self) -> Result<Vec<String>, Error> {
        let dir = self.tags_dir();
        let entries = match self.fs.list(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.attempt("list", &dir)?,
        };
        let files = entries.into_iter().filter(|entry| entry.kind == FsKind::File);
        let names = files.map(|entry| entry.name);
        Ok(names.filter(|name| !name.starts_with(TMP_PREFIX)).collect())
    }
}

fn with_reason(name: &str, note: &str) -> String {
    match note {
        "" => name.to_owned(),
        note => format!("{name}: {note}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_name_and_neither_an_id_nor_an_alias() {
        for name in ["before-launch", "v1.2", "a", &"x".repeat(64)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "7",
            "007",
            "latest",
            "pinned",
            "../x",
            "a/b",
            ".tmp-x",
            "-x",
            "Ü",
            "A",
            &"x".repeat(65),
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
