//! Makes an empty state directory that of a remote copy.

use super::claim::LocalClaim;
use super::copy::TAGS;
use super::index::StateFile;
use super::pieces::copy_file;
use super::replica::Replica;
use super::state::{PLAIN, first_of};
use crate::store::check_tag;
use crate::{Alias, Error, SnapshotId};

/// What a start has taken from a remote copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteRestore {
    /// The snapshot that the start resumes from.
    pub snapshot: Option<SnapshotId>,
    /// Every snapshot that was fetched.
    pub fetched: Vec<SnapshotId>,
    /// Snapshots that were passed over because they are damaged, with what is wrong.
    pub skipped: Vec<(SnapshotId, String)>,
    /// Aliases and tags that were left out because their snapshots are damaged.
    pub lost_names: Vec<String>,
    /// True if the recorded order of reading goes on from the snapshot; otherwise it is new from there on.
    pub has_plan: bool,
    /// When the copy was written last, ms since the epoch.
    pub written_ms: i64,
}

impl Replica {
    /// Fills a state directory that has no snapshots from the copy, if that has some: the newest good snapshot and those with
    /// an alias or a tag, each with what it needs; the plan log; the operators' files. `None` if there is nothing to do.
    ///
    /// Every hash is checked. After an error the next call begins again with what is missing.
    ///
    /// # Errors
    /// [`Error::Damaged`] when no snapshot of the copy can be used; [`Error::Remote`], [`Error::Io`].
    pub fn restore(&mut self) -> Result<Option<RemoteRestore>, Error> {
        if !self.is_to_restore {
            return Ok(None);
        }
        let mut done = RemoteRestore {
            written_ms: self.copy.index.written_ms,
            skipped: self.copy.damaged.clone(),
            ..RemoteRestore::default()
        };
        for id in self.copy.candidates() {
            if self.fetch(id, &mut done)? {
                done.snapshot = Some(id);
                break;
            }
        }
        let Some(snapshot) = done.snapshot else {
            let why = done.skipped.iter().map(|(id, why)| format!("{id}: {why}"));
            let why = why.collect::<Vec<_>>().join("; ");
            return Err(self
                .remote
                .damaged("", format!("no snapshot of it can be used ({why})")));
        };
        for (name, file) in self.copy.index.files.clone() {
            if !is_file_of_state(&name) || name == Alias::Latest.name() || first_of(&name).is_some() {
                continue;
            }
            match file.target {
                Some(id) if !self.fetch(id, &mut done)? => done.lost_names.push(name),
                _ => self.place(&name, &file)?,
            }
        }
        done.has_plan = self.place_plan(snapshot)?;
        self.store.reserve_ids(self.copy.index.next_id)?;
        // Last, so that a start after a crash begins again. If its snapshot is damaged, the next older one is found without.
        let latest = self.copy.index.files.get(Alias::Latest.name()).cloned();
        if let Some(latest) = latest.filter(|latest| latest.target == Some(snapshot)) {
            self.place(Alias::Latest.name(), &latest)?;
        }
        let claim = LocalClaim::read(&self.store)?.unwrap_or_default();
        LocalClaim {
            is_restoring: false,
            ..claim
        }
        .write(&self.store)?;
        self.is_to_restore = false;
        Ok(Some(done))
    }

    /// Fetches a snapshot. False if it is damaged.
    fn fetch(&self, id: SnapshotId, done: &mut RemoteRestore) -> Result<bool, Error> {
        match self.copy.fetch(&self.store, id) {
            Ok(fetched) => {
                done.fetched.extend(fetched);
                Ok(true)
            }
            Err(error) if error.is_damage() => {
                if !done.skipped.iter().any(|(skipped, _)| *skipped == id) {
                    done.skipped.push((id, error.to_string()));
                }
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn place(&self, name: &str, file: &StateFile) -> Result<(), Error> {
        let fill = |output: &mut dyn std::io::Write| copy_file(&self.remote, &file.stored, output);
        self.store.place_file(name, fill)
    }

    /// Places the segments of the plan log from the snapshot's position on. False if they do not reach back to it: then
    /// there is none.
    fn place_plan(&self, snapshot: SnapshotId) -> Result<bool, Error> {
        let found = self.copy.snapshots.get(&snapshot);
        let needed = found.map_or(0, |found| found.manifest.checkpoint.plan_position);
        let segments = self.copy.index.files.iter();
        let segments: Vec<(u64, &str, &StateFile)> = segments
            .filter_map(|(name, file)| Some((first_of(name)?, name.as_str(), file)))
            .collect();
        let Some(start) = segments.iter().rposition(|(first, ..)| *first <= needed) else {
            return Ok(false);
        };
        for (_, name, file) in &segments[start..] {
            self.place(name, file)?;
        }
        Ok(true)
    }
}

/// True for the names that a copy may have files of: nothing else is written to the state directory.
fn is_file_of_state(name: &str) -> bool {
    let is_tag = name.strip_prefix(TAGS).is_some_and(|tag| check_tag(tag).is_ok());
    let is_alias = Alias::ALL.iter().any(|alias| alias.name() == name);
    is_tag || is_alias || PLAIN.contains(&name) || first_of(name).is_some()
}
