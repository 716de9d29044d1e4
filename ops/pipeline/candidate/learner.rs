//! Starts and resumes a second learner as the candidate of a running one.

use std::sync::Arc;

use anyhow::{Context, anyhow};

use ouzel_learner::{SecondLearner, Trainer};
use ouzel_serving::Version;
use ouzel_snapshot::{Snapshot, Store};

use super::choice::CandidateChoice;
use super::requests::{load_candidate, withdraw};
use super::{CandidateReport, RunningCandidate, Side};
use crate::config::Config;
use crate::error::ErrorExt;
use crate::pipeline::learner::Learner;
use crate::pipeline::provenance::fingerprint;
use crate::pipeline::schema::former_config;
use crate::pipeline::second::settings::settings_of;
use crate::pipeline::second::states::{comparison_of, find_state, remove_states};
use crate::pipeline::second::{CheckpointPoint, SecondStates};

impl Learner {
    /// Starts a second learner with the next batch. A start that fails changes nothing.
    pub(super) fn start_second(&mut self, choice: CandidateChoice, store: &Store) -> anyhow::Result<()> {
        if self.latest().is_none() {
            return Err(anyhow!("there is no snapshot yet"))
                .hint("repeat the command after the first one, or write it with `ouzel snapshot create`");
        }
        let config = self.second_config(&choice)?;
        let mut trainer = match choice.snapshot {
            None => Trainer::new(config.model_config(), config.learner_config())?,
            Some(id) => from_snapshot(&store.read(id)?, &config)?,
        };
        trainer.resume_at(self.trainer.next_batch());
        let learner = SecondLearner::new(trainer, choice.share, self.status.event_time());
        let states = self.second_states(&config, true)?;
        self.run_second(choice.clone(), learner, states)?;
        if let Err(error) = choice.begin(store) {
            self.end_candidate(None);
            return Err(error);
        }
        Ok(())
    }

    /// Goes on with the second learner of the state directory, if it has a state at the batch that is next. It is withdrawn
    /// otherwise: a learner that has missed batches could not be compared.
    pub(super) fn resume_second(
        &mut self,
        choice: CandidateChoice,
        store: &Store,
        now_ms: i64,
    ) -> anyhow::Result<()> {
        let restored = self.restore_second(&choice, store);
        let why = match restored {
            Ok(Ok((learner, states))) => match self.run_second(choice.clone(), learner, states) {
                Ok(()) => {
                    tracing::info!(variant = choice.variant.name(), "the second learner goes on");
                    return Ok(());
                }
                Err(error) => format!("{error:#}"),
            },
            Ok(Err(why)) => why,
            Err(error) => format!("{error:#}"),
        };
        self.status
            .set_candidate(Some(CandidateReport::withdrawn(&choice, &why)));
        self.remove_second_states();
        withdraw(store, &choice.subject(), &why, now_ms)
    }

    /// Removes the states of a second learner that has ended. What is left is replaced by the next one.
    pub(super) fn remove_second_states(&self) {
        let Some(outputs) = &self.outputs else { return };
        if let Err(error) = remove_states(&outputs.second.local_dir) {
            tracing::warn!(
                error = format!("{error:#}"),
                "the states of the second learner stay on disk"
            );
        }
    }

    /// Restores the state at the next batch. The inner error says why there is none.
    fn restore_second(
        &self,
        choice: &CandidateChoice,
        store: &Store,
    ) -> anyhow::Result<Result<(SecondLearner, SecondStates), String>> {
        let outputs = self.outputs.as_ref().context("this learner has no outputs")?;
        let next_batch = self.trainer.next_batch();
        let latest = self.latest().context("there is no snapshot")?;
        let point = CheckpointPoint::from(&store.manifest(latest)?.checkpoint);
        if point.batch_seq != next_batch {
            let at = point.batch_seq;
            return Ok(Err(format!(
                "this daemon has learned up to batch {next_batch} as a standby, and the newest snapshot is of batch {at}"
            )));
        }
        let state = match find_state(&outputs.second.local_dir, &point)? {
            Ok(state) => state,
            Err(why) => return Ok(Err(why)),
        };
        let config = self.second_config(choice)?;
        let trainer = load_candidate(&state, &config.model_config(), config.learner_config())?;
        let mut learner = SecondLearner::new(trainer, choice.share, self.status.event_time());
        learner
            .restore_comparison(&comparison_of(&state)?)
            .context("cannot read the figures of the second learner")?;
        let states = self.second_states(&config, false)?;
        Ok(Ok((learner, states)))
    }

    /// The configuration of a second learner.
    fn second_config(&self, choice: &CandidateChoice) -> anyhow::Result<Config> {
        let outputs = self.outputs.as_ref().context("this learner has no outputs")?;
        let changes = choice.learns.as_deref().context("the candidate does not learn")?;
        let used = &outputs.second.config;
        let config = used.with_changes(changes)?;
        settings_of(used, &config)?;
        Ok(config)
    }

    fn second_states(&self, config: &Config, is_new: bool) -> anyhow::Result<SecondStates> {
        let outputs = self.outputs.as_ref().context("this learner has no outputs")?;
        SecondStates::open(
            &outputs.second.local_dir,
            is_new,
            fingerprint(config),
            config.recorded(),
        )
    }

    /// Hands a learner to its thread and its version to the scorers.
    fn run_second(
        &mut self,
        choice: CandidateChoice,
        mut learner: SecondLearner,
        states: SecondStates,
    ) -> anyhow::Result<()> {
        let outputs = self.outputs.as_ref().context("this learner has no outputs")?;
        let tasks = learner.trainer().model().tasks.clone();
        let version = Version::new(ouzel_serving::CANDIDATE_NAME, learner.trainer().weights()?)?;
        let versions = outputs.candidates.start(choice.role(), Arc::new(version));
        match outputs.second.start(learner, states, versions) {
            Ok(handle) => {
                self.candidate = Some(RunningCandidate::new(choice, tasks, Side::Learner(handle, 0)));
                self.report_candidate(true);
                Ok(())
            }
            Err(error) => {
                outputs.candidates.stop();
                Err(error)
            }
        }
    }
}

/// A trainer under `config` that starts from the weights of a snapshot, with what of them fits.
fn from_snapshot(snapshot: &Snapshot, config: &Config) -> anyhow::Result<Trainer> {
    let id = snapshot.id();
    let former = former_config(snapshot).ok_or_else(|| {
        anyhow!("the configuration of snapshot {id} is not known: a second learner cannot start from it")
    })?;
    // The salt is not recorded; the daemon that wrote the snapshot has it.
    let former = Config {
        ids: config.ids.clone(),
        ..former
    };
    if former.feature_config().without_limits() != config.feature_config().without_limits()
        || former.task_names() != config.task_names()
    {
        return Err(anyhow!(
            "snapshot {id} was made with other features or tasks: its weights mean something else"
        ))
        .hint("start from a snapshot that was written since, or from nothing");
    }
    let (model, learner) = (config.model_config(), config.learner_config());
    if former.model_config() == model {
        return load_candidate(snapshot, &model, learner);
    }
    let (trainer, migrated) = Trainer::migrate(snapshot, &model, learner)?;
    for note in &migrated.notes {
        tracing::warn!(snapshot = %id, note, "the second learner starts from a part of the snapshot");
    }
    Ok(trainer)
}
