//! The operator's choice of a candidate, which outlives the process: `candidate.json` in the state directory.
//!
//! The alias `candidate` keeps its snapshot from being removed. The file decides: an alias without it is removed at the
//! next start. A second learner has no snapshot, and so no alias.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::anyhow;
use serde::{Deserialize, Serialize};

use ouzel_sample::UserShare;
use ouzel_serving::{CandidateRole, Variant};
use ouzel_snapshot::{Alias, AuditVerb, Manifest, SnapshotId, Store};

use crate::config::SettingChange;
use crate::error::ErrorExt;
use crate::pipeline::promoted::list;
use crate::pipeline::state_file;

/// A snapshot, or a second learner, that scores a share of the traffic beside the served version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CandidateChoice {
    /// The snapshot whose weights it has, or started from; absent for a second learner that started from nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<SnapshotId>,
    /// The settings in which a second learner differs from the serving one; absent for a snapshot, whose weights stay as
    /// they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) learns: Option<Vec<SettingChange>>,
    /// Whether it answers.
    pub(crate) variant: Variant,
    /// The users whose requests it scores.
    pub(crate) share: UserShare,
    /// Why, as the operator said.
    pub(crate) note: String,
    /// Since when, ms since the epoch.
    pub(crate) at_ms: i64,
}

impl CandidateChoice {
    /// The candidate of a state directory; `None` if there is none.
    pub(crate) fn read(store: &Store) -> anyhow::Result<Option<Self>> {
        state_file::read(&path(store))
    }

    /// The candidate that a start goes on with. Completes what a crash has interrupted: a start, an end, a promotion.
    pub(crate) fn resume(store: &Store, now_ms: i64) -> anyhow::Result<Option<Self>> {
        let Some(choice) = Self::read(store)? else {
            store.remove_candidate("it had ended before a crash", now_ms)?;
            return Ok(None);
        };
        if choice.is_promoted(store)? {
            Self::end(store, "promoted before a crash", now_ms)?;
            return Ok(None);
        }
        if let Some(snapshot) = choice.fixed()
            && store.alias(Alias::Candidate).ok().flatten() != Some(snapshot)
        {
            store.set_candidate(snapshot, &choice.description(), now_ms)?;
        }
        Ok(Some(choice))
    }

    /// Makes every start on this state directory go on with this candidate.
    pub(crate) fn begin(&self, store: &Store) -> anyhow::Result<()> {
        match self.fixed() {
            Some(snapshot) => store.set_candidate(snapshot, &self.description(), self.at_ms)?,
            None => record(store, AuditVerb::CandidateStart, &self.description(), self.at_ms)?,
        }
        state_file::replace(store, &path(store), self)
    }

    /// The snapshot whose weights it has; `None` for a second learner.
    pub(crate) fn fixed(&self) -> Option<SnapshotId> {
        self.snapshot.filter(|_| self.learns.is_none())
    }

    /// What takes part, as the subject of a sentence.
    pub(crate) fn subject(&self) -> String {
        match (&self.learns, self.snapshot) {
            (None, Some(snapshot)) => format!("snapshot {snapshot}"),
            _ => "the second learner".to_owned(),
        }
    }

    /// Ends the candidate of a state directory, if there is one, for the reason `note`.
    pub(crate) fn end(store: &Store, note: &str, now_ms: i64) -> anyhow::Result<()> {
        let is_learner = Self::read(store)?.is_some_and(|choice| choice.learns.is_some());
        state_file::remove(store, &path(store))?;
        match is_learner {
            true => record(store, AuditVerb::CandidateStop, note, now_ms),
            false => Ok(store.remove_candidate(note, now_ms)?),
        }
    }

    /// Refuses a second candidate.
    pub(crate) fn refuse_second(store: &Store) -> anyhow::Result<()> {
        let Some(choice) = Self::read(store)? else {
            return Ok(());
        };
        Err(anyhow!("{} is the candidate already", choice.subject()))
            .hint("`ouzel candidate stop` ends it; `ouzel candidate show` says how it does")
    }

    /// How it takes part in serving.
    pub(crate) fn role(&self) -> CandidateRole {
        CandidateRole {
            variant: self.variant,
            share: self.share,
        }
    }

    /// What it is, for the audit log.
    fn description(&self) -> String {
        let colon = if self.note.is_empty() { "" } else { ": " };
        let learner = match &self.learns {
            None => String::new(),
            Some(changes) if changes.is_empty() => ", a second learner with the same settings".to_owned(),
            Some(changes) => format!(", a second learner with {}", list(changes)),
        };
        format!(
            "{} for {} of the users{learner}{colon}{}",
            self.variant.name(),
            self.share,
            self.note
        )
    }

    /// Whether `latest` has a promotion of this candidate among its ancestors.
    fn is_promoted(&self, store: &Store) -> anyhow::Result<bool> {
        let listed = store.list()?.into_iter();
        let manifests: BTreeMap<SnapshotId, Manifest> = listed
            .filter_map(|entry| Some((entry.id, entry.manifest?)))
            .collect();
        let mut next = store.alias(Alias::Latest).ok().flatten();
        while let Some(manifest) = next.and_then(|id| manifests.get(&id)) {
            let over = manifest.checkpoint.promoted_over;
            // The promoted state of a second learner continues the snapshot that it replaces.
            let parent = match self.learns {
                None => self.snapshot,
                Some(_) => over,
            };
            if over.is_some() && manifest.parent == parent && manifest.created_ms >= self.at_ms {
                return Ok(true);
            }
            // A parent is older, so this ends.
            next = manifest.parent.filter(|parent| *parent < manifest.id);
        }
        Ok(false)
    }
}

/// Records an action of a second learner, which has no snapshot, on the newest one.
fn record(store: &Store, verb: AuditVerb, note: &str, now_ms: i64) -> anyhow::Result<()> {
    match store.alias(Alias::Latest)? {
        Some(latest) => Ok(store.record_action(verb, latest, note, now_ms)?),
        None => Ok(()),
    }
}

fn path(store: &Store) -> PathBuf {
    store.root().join("candidate.json")
}

#[cfg(test)]
mod tests {
    use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint};

    use super::*;

    fn write(store: &Store, parent: Option<SnapshotId>, promoted_over: Option<SnapshotId>) -> SnapshotId {
        let checkpoint = CheckpointMeta {
            promoted_over,
            ..CheckpointMeta::default()
        };
        let id = store
            .write(&Draft::new(parent, 50, Fingerprint::default(), checkpoint))
            .unwrap();
        store.set_alias(Alias::Latest, id).unwrap();
        id
    }

    #[test]
    fn a_start_completes_what_a_crash_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = write(&store, None, None);
        let second = write(&store, Some(first), None);
        let choice = CandidateChoice {
            snapshot: Some(first),
            learns: None,
            variant: Variant::Canary,
            share: "5%".parse().unwrap(),
            note: "calmer".to_owned(),
            at_ms: 7,
        };
        let resume = || CandidateChoice::resume(&store, 100).unwrap();
        assert_eq!(resume(), None);
        choice.begin(&store).unwrap();
        assert_eq!(store.alias(Alias::Candidate).unwrap(), Some(first));
        assert!(CandidateChoice::refuse_second(&store).is_err());
        assert_eq!(resume(), Some(choice.clone()));
        // The file is written last and removed first.
        store.remove_candidate("as by a crash", 8).unwrap();
        assert_eq!(resume(), Some(choice.clone()));
        assert_eq!(store.alias(Alias::Candidate).unwrap(), Some(first));
        std::fs::remove_file(path(&store)).unwrap();
        assert_eq!(resume(), None);
        assert_eq!(store.alias(Alias::Candidate).unwrap(), None);

        choice.begin(&store).unwrap();
        let promoted = write(&store, Some(first), Some(second));
        write(&store, Some(promoted), None);
        assert_eq!(resume(), None, "the promotion is in the lineage");
        assert_eq!(CandidateChoice::read(&store).unwrap(), None);
        let later = CandidateChoice {
            at_ms: 51,
            ..choice.clone()
        };
        later.begin(&store).unwrap();
        assert_eq!(resume(), Some(later), "started after an earlier promotion");
        CandidateChoice::end(&store, "enough", 52).unwrap();

        let learner = CandidateChoice {
            snapshot: None,
            learns: Some(Vec::new()),
            at_ms: 50,
            ..choice
        };
        learner.begin(&store).unwrap();
        assert_eq!(store.alias(Alias::Candidate).unwrap(), None, "it has no snapshot");
        assert_eq!(resume(), Some(learner));
        let newest = store.alias(Alias::Latest).unwrap();
        write(&store, newest, newest);
        assert_eq!(
            resume(),
            None,
            "the promotion continues the snapshot that it replaces"
        );
        let notes: Vec<String> = store
            .audit()
            .unwrap()
            .lines
            .into_iter()
            .map(|line| line.note)
            .collect();
        assert_eq!(notes[0], "canary for 5% of the users: calmer");
    }
}
