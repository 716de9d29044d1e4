//! Starts, stops, withdraws and promotes the candidate of a running learner, between two batches.

use anyhow::{Context, anyhow, bail};
use metrics::counter;

use ouzel_learner::gates::check_restored;
use ouzel_learner::model::ModelConfig;
use ouzel_learner::validation::Comparison;
use ouzel_learner::{FixedModel, LearnerConfig, Trainer};
use ouzel_serving::Version;
use ouzel_snapshot::{AuditVerb, Snapshot, SnapshotId, Store};

use super::{CandidateChoice, FixedSide, RunningCandidate, Side};
use crate::error::ErrorExt;
use crate::pipeline::control::Rollback;
use crate::pipeline::learner::Learner;
use crate::telemetry::metrics::CANDIDATES_WITHDRAWN;

/// A request of an operator about the candidate.
#[derive(Debug)]
pub(crate) enum CandidateRequest {
    /// Let this snapshot, or this second learner, take part.
    Start(CandidateChoice),
    /// End the candidate, for this reason.
    Stop(String),
    /// Serve the candidate and learn on from its weights, for this reason.
    Promote(String),
}

/// Loads the snapshot of a candidate. Refuses weights that do not pass the gates.
pub(crate) fn load_candidate(
    snapshot: &Snapshot,
    model: &ModelConfig,
    config: LearnerConfig,
) -> anyhow::Result<Trainer> {
    let mut trainer = Trainer::load(snapshot, model, config)?;
    match check_restored(snapshot, &mut trainer)? {
        Ok(_) => Ok(trainer),
        Err(breach) => bail!(
            "the weights of snapshot {} do not pass the gates: {breach}",
            snapshot.id()
        ),
    }
}

impl Learner {
    /// Carries out a request. One that fails changes nothing.
    pub(in crate::pipeline) fn apply_to_candidate(
        &mut self,
        request: CandidateRequest,
        store: &Store,
        now_ms: i64,
    ) -> anyhow::Result<()> {
        match request {
            CandidateRequest::Start(choice) => {
                CandidateChoice::refuse_second(store)?;
                if choice.learns.is_some() {
                    return self.start_second(choice, store);
                }
                let (candidate, version) = self.make_candidate(choice, store)?;
                candidate.choice.begin(store)?;
                self.start_candidate(candidate, version);
                Ok(())
            }
            CandidateRequest::Stop(note) => {
                if self.candidate.is_none() && CandidateChoice::read(store)?.is_none() {
                    return no_candidate();
                }
                CandidateChoice::end(store, &note, now_ms)?;
                self.end_candidate(None);
                self.remove_second_states();
                Ok(())
            }
            CandidateRequest::Promote(note) => self.promote(store, &note, now_ms),
        }
    }

    /// Goes on with the candidate of the state directory, with the figures of the snapshot that the learner started from.
    ///
    /// A candidate that cannot be loaded any more is withdrawn.
    pub(in crate::pipeline) fn resume_candidate(&mut self, store: &Store, now_ms: i64) -> anyhow::Result<()> {
        // Stages that start again have none yet; that of the stages before still takes part.
        if let Some(slot) = self.candidate_slot() {
            slot.stop();
        }
        let Some(choice) = CandidateChoice::resume(store, now_ms)? else {
            return Ok(());
        };
        if choice.learns.is_some() {
            return self.resume_second(choice, store, now_ms);
        }
        let subject = choice.subject();
        match self.make_candidate(choice, store) {
            Ok((mut candidate, version)) => {
                if let Some(latest) = self.latest()
                    && let Err(error) = candidate.restore(&store.read(latest)?)
                {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the figures of the candidate start from 0"
                    );
                }
                tracing::info!(
                    subject,
                    variant = candidate.choice.variant.name(),
                    "a candidate takes part"
                );
                self.start_candidate(candidate, version);
                Ok(())
            }
            Err(error) => withdraw(store, &subject, &format!("{error:#}"), now_ms),
        }
    }

    /// Ends a candidate whose scores are not finite, or that cannot score.
    pub(in crate::pipeline) fn watch_candidate(&mut self, store: &Store, now_ms: i64) -> anyhow::Result<()> {
        let Some(candidate) = &self.candidate else {
            return Ok(());
        };
        let is_suspended = self.candidate_slot().is_some_and(|slot| slot.is_suspended());
        let suspended = || is_suspended.then(|| "a score of a request is not finite".to_owned());
        let Some(why) = candidate.fault().or_else(suspended) else {
            return Ok(());
        };
        let subject = candidate.choice.subject();
        self.end_candidate(Some(why.clone()));
        self.remove_second_states();
        withdraw(store, &subject, &why, now_ms)
    }

    fn make_candidate(
        &self,
        choice: CandidateChoice,
        store: &Store,
    ) -> anyhow::Result<(RunningCandidate, Version)> {
        let id = choice.fixed().context("the candidate names no snapshot")?;
        let snapshot = store.read(id)?;
        if let Some(latest) = self.latest() {
            check_meaning(&snapshot, &store.read(latest)?)?;
        }
        let (model, config) = (self.trainer.model(), self.trainer.config());
        let mut trainer = load_candidate(&snapshot, model, config.clone())?;
        let weights = trainer.weights()?;
        let version = Version::new(&id.to_string(), weights.clone())?;
        let tasks = weights.config.tasks.clone();
        let model = FixedModel::new(weights, config.device()?)?;
        let comparison = Comparison::new(choice.share, self.status.event_time(), tasks.len());
        let side = Side::Snapshot(Box::new(FixedSide { model, comparison }));
        Ok((RunningCandidate::new(choice, tasks, side), version))
    }

    /// Learns on from the weights of the candidate and serves them. The snapshot that follows makes it durable, in one
    /// step; before it, a crash leaves the candidate a candidate.
    fn promote(&mut self, store: &Store, note: &str, now_ms: i64) -> anyhow::Result<()> {
        let (Some(candidate), Some(over)) = (&self.candidate, self.latest()) else {
            return no_candidate();
        };
        let id = candidate
            .choice
            .fixed()
            .context("a second learner is promoted between two runs of the stages")?;
        let (model, config) = (self.trainer.model(), self.trainer.config());
        let trainer = load_candidate(&store.read(id)?, model, config.clone())?;
        let colon = if note.is_empty() { "" } else { ": " };
        let reason = format!(
            "promoted {id} over {over}, {}{colon}{note}",
            candidate.report().summary
        );
        store.record_action(AuditVerb::Promote, id, &reason, now_ms)?;
        self.add_note(reason.clone());
        let rollback = Rollback {
            promoted_over: Some(over),
            ..Rollback::new(id, reason)
        };
        self.continue_from(trainer, rollback)?;
        // Its users are served by the same weights from here on.
        self.end_candidate(None);
        Ok(())
    }

    /// The newest snapshot of the lineage.
    pub(super) fn latest(&self) -> Option<SnapshotId> {
        let outputs = self.outputs.as_ref()?;
        outputs.control.state().latest()
    }
}

/// Refuses a command that needs a candidate.
pub(crate) fn no_candidate<T>() -> anyhow::Result<T> {
    Err(anyhow!("there is no candidate"))
        .hint("`ouzel candidate start SNAPSHOT --shadow` lets one score a share of the traffic")
}

/// Refuses a snapshot whose weights mean something else than those of `latest`.
fn check_meaning(snapshot: &Snapshot, latest: &Snapshot) -> anyhow::Result<()> {
    let [was, is] = [snapshot, latest].map(|snapshot| &snapshot.manifest().checkpoint);
    if was.schema_fingerprint != is.schema_fingerprint || was.encoders != is.encoders {
        bail!(
            "snapshot {} was made under another schema or other encoders than snapshot {}: their scores cannot be \
             compared",
            snapshot.id(),
            latest.id()
        );
    }
    Ok(())
}

/// Ends a candidate that cannot go on, and says so.
pub(super) fn withdraw(store: &Store, subject: &str, why: &str, now_ms: i64) -> anyhow::Result<()> {
    tracing::error!(
        subject,
        why,
        "the candidate is withdrawn; the served version answers"
    );
    counter!(CANDIDATES_WITHDRAWN).increment(1);
    CandidateChoice::end(store, &format!("withdrawn: {why}"), now_ms)
}
