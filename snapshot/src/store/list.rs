//! Lists and verifies the snapshots of a store.

use serde::Serialize;

use super::{Alias, Store};
use crate::store::lineage::Lineage;
use crate::{Error, Manifest, SnapshotId, VerificationReport};

/// One snapshot in the result of [`Store::list`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SnapshotEntry {
    /// Its id.
    pub id: SnapshotId,
    /// Size on disk, bytes.
    pub bytes: u64,
    /// The aliases that name it.
    pub aliases: Vec<Alias>,
    /// The tags that name it.
    pub tags: Vec<String>,
    /// True when a rollback abandoned it or an ancestor.
    pub is_rolled_back: bool,
    /// Its manifest, if that can be trusted.
    pub manifest: Option<Manifest>,
    /// What is wrong with names, kinds and sizes. Content is not read, see [`Store::verify`].
    pub fault: Option<String>,
}

impl Store {
    /// Lists every snapshot, oldest first. Reads manifests and directory entries only.
    ///
    /// # Errors
    /// [`Error::Io`] when the store itself cannot be read; a bad snapshot is an entry with a fault.
    pub fn list(&self) -> Result<Vec<SnapshotEntry>, Error> {
        let mut aliases = Vec::new();
        for alias in Alias::ALL {
            // Reporting a damaged alias is up to `alias`; the list must work to find the way out.
            aliases.push((alias, self.undamaged_alias(alias)?));
        }
        let tags = self.undamaged_tags()?;
        let mut listed = Vec::new();
        for id in self.ids()? {
            let peeked = self.peek(id);
            let entries = self.fs.list(&self.snapshot_dir(id)).unwrap_or_default();
            let names_it = aliases.iter().filter(|(_, target)| *target == Some(id));
            listed.push(SnapshotEntry {
                id,
                bytes: entries.iter().map(|entry| entry.n_bytes).sum(),
                aliases: names_it.map(|(alias, _)| *alias).collect(),
                tags: tags
                    .iter()
                    .filter(|(_, target)| **target == id)
                    .map(|(tag, _)| tag.clone())
                    .collect(),
                is_rolled_back: false,
                manifest: peeked.as_ref().ok().map(|snapshot| snapshot.manifest().clone()),
                fault: peeked.err().map(|error| error.to_string()),
            });
        }
        let parents = listed.iter().map(|entry| {
            (
                entry.id,
                entry.manifest.as_ref().and_then(|manifest| manifest.parent),
            )
        });
        let abandoned = Lineage {
            rollbacks: self.rollbacks()?,
            parents: parents.collect(),
        }
        .abandoned();
        for entry in &mut listed {
            entry.is_rolled_back = abandoned.contains_key(&entry.id);
        }
        Ok(listed)
    }

    /// Checks the hash of every file of a snapshot and reports each result.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`] when there is none; every other problem is in the report.
    pub fn verify(&self, id: SnapshotId) -> Result<VerificationReport, Error> {
        match self.peek(id) {
            Ok(snapshot) => Ok(snapshot.report()),
            Err(error @ Error::NoSnapshot { .. }) => Err(error),
            Err(error) => Ok(VerificationReport {
                id,
                files: Vec::new(),
                fault: Some(error.to_string()),
            }),
        }
    }
}
