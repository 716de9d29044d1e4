//! The specification of a pipeline, and its parts built from a resume point.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use metrics::counter;
use ouzel_ingest::join::JoinSource;
use ouzel_ingest::plan::{PlanEntry, PlanLog};

use ouzel_ingest::{
    DeadLetters, Decoder, EventConfig, KafkaConfig, KafkaSource, LateRecords, Sequencer, Stage,
};
use ouzel_sample::{FeatureState, PartitionId, Positions};
use ouzel_snapshot::{IntervalStart, SnapshotId, Store};

use super::contents::Contents;
use super::intake::{AnySource, Intake};
use super::learner::{Learner, SharedScores};
use super::promoted::UsedConfig;
use super::quarantine::QuarantineFile;
use super::resume::ResumePoint;
use super::stages::join::plan_lease;
use super::standby::OperatorState;
use super::standby::comparison::Point;
use super::status::PipelineStatus;
use crate::config::Config;
use crate::error::ErrorExt;
use crate::telemetry::metrics::LOST_RECORDS;

/// Opens a source at the positions given; they are empty at the beginning of the log.
pub(crate) type OpenSource<'a> = dyn FnOnce(&Positions) -> anyhow::Result<AnySource> + 'a;

/// The differences between the pipelines of a daemon, a demo and a replay.
pub struct PipelineSpec<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Opens the source.
    pub open_source: Box<OpenSource<'a>>,
    /// Decodes the records of the source.
    pub decoder: Decoder,
    /// Receives rejected records.
    pub dead_letters: DeadLetters,
    /// Receives copies of late records, if they are wanted.
    pub late: Option<Arc<LateRecords>>,
    /// Prepares the feature state at the beginning of the log, for example with histories.
    pub seed: Box<dyn FnOnce(&FeatureState) + 'a>,
    /// Skips records that the log of these topics no longer holds, instead of refusing to start.
    pub accept_loss: Option<KafkaConfig>,
    /// Keeps every score, for exact figures at the end.
    pub scores: Option<SharedScores>,
}

/// The parts of a pipeline at its resume point.
pub(crate) struct Parts {
    /// The configuration in use.
    pub(crate) used: UsedConfig,
    pub(crate) intake: Intake,
    pub(crate) sequencer: Sequencer,
    /// None without a state directory, and while another daemon writes to it.
    pub(crate) plan: Option<PlanLog>,
    /// The state of the snapshot resumed from, for a comparison.
    pub(crate) resumed_point: Option<Point>,
    /// What operators had done when the state was read.
    pub(crate) operator: OperatorState,
    /// Has no outputs yet.
    pub(crate) learner: Learner,
    /// None if the configuration names no encoder.
    pub(crate) contents: Option<Contents>,
    pub(crate) status: Arc<PipelineStatus>,
    pub(crate) resumed_from: Option<SnapshotId>,
    /// Records that the log lost before they were read, by partition.
    pub(crate) lost: Vec<LostRange>,
    /// Where the first interval of figures begins.
    pub(crate) interval_start: Option<IntervalStart>,
    // Last, so that it is removed after the join store in it is closed.
    _scratch: Option<ScratchDir>,
}

impl PipelineSpec<'_> {
    /// Builds the parts at the newest snapshot of `store`; without a store, at the beginning of the log.
    pub(crate) fn build(self, store: Option<&Arc<Store>>) -> anyhow::Result<Parts> {
        let config = self.config;
        let operator = store.map(|store| OperatorState::read(store)).transpose()?;
        let contents = match (Contents::open(config), store) {
            (contents, Some(_)) => contents?,
            (contents, None) => contents.hint(
                "a daemon holds the vectors of its state directory: name another folder with content.vector_dir",
            )?,
        };
        let scratch = store.is_none().then(ScratchDir::new);
        let join_dir = scratch
            .as_ref()
            .map_or_else(|| config.local_dir().join("join"), |dir| dir.0.clone());
        let join_store = config.join_store(&join_dir);
        let resume = match store {
            Some(store) => ResumePoint::newest(store, config, contents.as_ref(), &join_store)?,
            None => ResumePoint::default(),
        };
        let used = resume.used_config(config);
        if let Some(notice) = used.notice() {
            tracing::warn!("{notice}");
        }
        let mut positions = resume.positions()?;
        let lost = match &self.accept_loss {
            Some(kafka) => skip_lost(&mut positions, &KafkaSource::starts(kafka)?),
            None => Vec::new(),
        };
        let source = (self.open_source)(&positions)?;
        let partitions = source.partitions();
        let start: Positions = partitions
            .iter()
            .map(|partition| (partition.id, partition.next))
            .collect();
        let partitions: Vec<PartitionId> = start.iter().map(|(id, _)| id).collect();
        let (resumed_from, mut plan_position) = (resume.id(), resume.plan_position());
        let resumed_point = resume.point();
        let is_standby = store.is_some_and(|store| store.epoch().is_none());
        let (interval_start, note) = (resume.interval_start(), resume.note.clone());
        let (mut stage, trainer, progressive, gates) =
            resume.into_state(config, contents.as_ref(), &partitions, &join_store)?;
        // The entries of another daemon are read as it writes them.
        let own_plan = store.filter(|_| !is_standby);
        let opened = own_plan
            .map(|store| open_plan(store, plan_position))
            .transpose()?;
        let (plan, mut recorded) =
            opened.map_or_else(Default::default, |(plan, recorded)| (Some(plan), recorded));
        let status = Arc::new(PipelineStatus::default());
        let learner = Learner::new(trainer, progressive, self.scores, Arc::clone(&status));
        let mut learner = learner.with_gates(gates).with_catalog(stage.features());
        if let Some(note) = note {
            learner.add_note(note);
        }
        if !lost.is_empty() {
            // The entries name records that are gone, so the order is new from here on.
            recorded.clear();
            plan_position = plan.as_ref().map_or(plan_position, PlanLog::position);
            accept_lost(&lost, &mut stage, &mut learner);
        }
        let decoder = match store {
            Some(store) => with_quarantine(self.decoder, store, config)?,
            None => self.decoder,
        };
        match resumed_from {
            None => (self.seed)(stage.features()),
            Some(id) => {
                count_learned(&status, &stage, learner.trainer.next_batch());
                tracing::info!(snapshot = %id, plan_entries = recorded.len(), "resuming");
            }
        }
        status.joined(&stage);
        let every = config.snapshot.every_batches;
        let sequencer = Sequencer::new(stage, &start, plan_position, recorded, every);
        Ok(Parts {
            used,
            intake: Intake {
                source,
                decoder,
                dead_letters: self.dead_letters,
                late: self.late,
                store: store.cloned(),
            },
            sequencer: match is_standby {
                true => sequencer.as_standby(),
                false => sequencer,
            },
            plan,
            resumed_point,
            operator: operator.unwrap_or_default(),
            learner,
            contents,
            status,
            resumed_from,
            interval_start,
            lost,
            _scratch: scratch,
        })
    }
}

/// Sets the counts of what was learned before the start.
fn count_learned(status: &PipelineStatus, stage: &Stage, next_batch: u64) {
    let n_learned = stage.ledger().n_samples() - stage.n_open() as u64;
    status.samples.store(n_learned, Ordering::Relaxed);
    for batches in [&status.batches, &status.joined_batches] {
        batches.store(next_batch, Ordering::Relaxed);
    }
}

/// Continues behind records that the log no longer holds: they are counted, logged and noted in the next snapshot.
fn accept_lost(lost: &[LostRange], stage: &mut Stage, learner: &mut Learner) {
    for lost in lost {
        stage.skip_lost(lost.partition, lost.to);
        counter!(LOST_RECORDS, "stream" => lost.partition.stream.name()).increment(lost.n());
        tracing::warn!(lost = %lost, "the log no longer held these records: they are not learned");
        learner.add_note(format!("lost and accepted: {lost}"));
    }
}

/// The decoder with the quarantine of a store.
fn with_quarantine(decoder: Decoder, store: &Store, config: &Config) -> anyhow::Result<Decoder> {
    let quarantine = QuarantineFile::read(store.root())?;
    for rule in quarantine.texts() {
        tracing::warn!(rule, "events in quarantine are not learned");
    }
    if config.join.source == JoinSource::Tier {
        quarantine.check_behind_tier()?;
    }
    Ok(decoder.with_quarantine(quarantine.compile(config.id_space())?))
}

/// Records of a partition that the log lost: from offset `from` up to and excluding `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LostRange {
    pub(crate) partition: PartitionId,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

impl LostRange {
    /// Number of records.
    pub(crate) fn n(&self) -> u64 {
        self.to.abs_diff(self.from)
    }
}

impl fmt::Display for LostRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, from, to } = self;
        write!(f, "{partition} offsets {from} to {}", to - 1)
    }
}

/// Moves each position to the start of its log if that is later. Returns what is skipped.
fn skip_lost(positions: &mut Positions, starts: &Positions) -> Vec<LostRange> {
    let lost = positions.iter().filter_map(|(partition, from)| {
        let to = starts.next(partition).filter(|start| *start > from)?;
        Some(LostRange { partition, from, to })
    });
    let lost: Vec<LostRange> = lost.collect();
    for range in &lost {
        positions.set(range.partition, range.to);
    }
    lost
}

/// The decoder of a configuration, for records as producers write them.
pub(crate) fn decoder(config: &Config) -> anyhow::Result<Decoder> {
    new_decoder(config, config.events.clone())
}

/// The decoder of events that were mapped already, as those of a data folder.
pub(crate) fn contract_decoder(config: &Config) -> anyhow::Result<Decoder> {
    new_decoder(config, config.events.contract())
}

fn new_decoder(config: &Config, events: EventConfig) -> anyhow::Result<Decoder> {
    let decoder = Decoder::new(config.id_space(), config.task_names(), events);
    let decoder = decoder.map_err(|error| error.within("events"))?;
    let widths = config.model_config().content.vector_widths;
    Ok(decoder.with_vector_widths(widths).with_topics(config.topics()))
}

/// The dead letters of a configuration: topics, or discarded.
pub(crate) fn dead_letters(config: &Config, kafka: &KafkaConfig) -> anyhow::Result<DeadLetters> {
    if config.kafka.dlq {
        Ok(DeadLetters::kafka(kafka)?)
    } else {
        Ok(DeadLetters::discard())
    }
}

/// The copies of late records, if the configuration asks for them.
pub(crate) fn late_records(config: &Config, kafka: &KafkaConfig) -> anyhow::Result<Option<Arc<LateRecords>>> {
    let late = config.kafka.late_records.then(|| LateRecords::kafka(kafka));
    Ok(late.transpose()?.map(Arc::new))
}

/// Opens the plan log and reads the entries from `position` on.
fn open_plan(store: &Store, position: u64) -> anyhow::Result<(PlanLog, VecDeque<PlanEntry>)> {
    let lease = plan_lease(store)?.context("the state directory is open for reading only")?;
    let (log, recovery) = PlanLog::open_leased(lease, &store.root().join("plan"), position)?;
    if recovery.dropped_bytes > 0 {
        tracing::warn!(
            bytes = recovery.dropped_bytes,
            "the plan log ended in an incomplete entry, which was removed; its records are read again"
        );
    }
    let entries = log.read_from(position)?;
    Ok((log, entries))
}

/// A temporary folder for the join store of a replay, apart from the store of a daemon.
struct ScratchDir(PathBuf);

impl ScratchDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ouzel-replay-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // The folder exists only if the join store is on disk.
        let _is_removed = std::fs::remove_dir_all(&self.0).is_ok();
    }
}
