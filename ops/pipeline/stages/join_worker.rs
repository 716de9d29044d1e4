//! The loop of one process of the join tier.
//!
//! The consumer group assigns pairs of partitions to this process; a source reads them, a joiner joins each pair, and
//! the join records go to the samples topic. Periodically the loop waits until every record is acknowledged, and
//! commits. A joiner whose pair is revoked is dropped at once: its next owner needs nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Context;
use metrics::{counter, gauge};

use ouzel_ingest::join::JoinConfig;
use ouzel_ingest::tier::{Group, OutgoingRecord, PartitionJoiner, ReportProgress, Writer};
use ouzel_ingest::{DeadLetters, Decoder, Error as SourceError, KafkaConfig, KafkaSource, Polled, Source};
use ouzel_sample::{PartitionId, Positions, RejectReason};

use crate::metrics::{TIER_RELEASED_TOTAL, TIER_UNITS};
use crate::stages::backlog::Backlog;
use crate::stages::idle::Idleness;
use crate::supervisor::Shutdown;

/// Longest wait for a record.
const WAIT: Duration = Duration::from_millis(10);
/// Longest wait for the broker to acknowledge records before it is tried again; the group is not served meanwhile.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two tries to start joining, where the broker does not answer.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How often silent partitions are searched, so that event time goes on without them.
const CHECK_IDLE_EVERY: Duration = Duration::from_millis(200);

/// Times that shape the loop without changing what a given order means.
#[derive(Clone, Copy, Debug)]
pub struct JoinWorkerSettings {
    /// How long a record may be held for earlier ones of the other partition.
    pub max_reorder_delay: Duration,
    /// Time between two commits.
    pub commit_every: Duration,
    /// How long a partition is silent before event time goes on without it.
    pub idle_after: Duration,
}

/// What the worker reads from and writes to.
pub struct KafkaLinks {
    /// The broker and topics.
    pub kafka: KafkaConfig,
    /// Decodes events.
    pub decoder: Decoder,
    /// Where unusable records go.
    pub letters: DeadLetters,
    /// Where join records go.
    pub writer: Writer,
}

/// The loop and its state.
pub struct JoinWorker {
    group: Group,
    join: JoinConfig,
    links: KafkaLinks,
    settings: JoinWorkerSettings,
    joiners: BTreeMap<i32, Running>,
    source: Option<KafkaSource>,
    /// Partitions to join that are not joined yet, and when to try again.
    assigned: Option<(BTreeSet<i32>, Instant)>,
    backlog: Backlog,
    idleness: Idleness,
    idle: BTreeSet<PartitionId>,
    checked_idle: Instant,
    committed: Instant,
    /// A record was joined and not reported: the progress must not be committed any more.
    is_incomplete: bool,
}

/// A joiner with its times.
struct Running {
    joiner: PartitionJoiner,
    /// Since when a record waits only for a silent partition.
    held: Option<Instant>,
    committed: Option<ReportProgress>,
}

impl JoinWorker {
    /// A worker that joins what `group` assigns to it.
    #[must_use]
    pub fn new(group: Group, join: JoinConfig, links: KafkaLinks, settings: JoinWorkerSettings) -> Self {
        let now = Instant::now();
        Self {
            group,
            join,
            links,
            settings,
            joiners: BTreeMap::new(),
            source: None,
            assigned: None,
            backlog: Backlog::default(),
            idleness: Idleness::after(settings.idle_after, [], now),
            idle: BTreeSet::new(),
            checked_idle: now,
            committed: now,
            is_incomplete: false,
        }
    }

    /// Joins until the shutdown, then waits for acknowledgements, commits and leaves the group.
    pub fn run(mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        while !shutdown.is_triggered() {
            let wait = if self.source.is_some() {
                Duration::ZERO
            } else {
                WAIT
            };
            if let Some(owned) = self.group.poll(wait)? {
                self.assigned = Some((owned, Instant::now()));
            }
            self.rebalance()?;
            self.read()?;
            self.release(shutdown)?;
            self.skip_silent(shutdown)?;
            self.links.writer.poll();
            self.links.letters.poll();
            if self.committed.elapsed() >= self.settings.commit_every {
                self.commit()?;
            }
        }
        self.commit()?;
        if let Err(error) = self.links.letters.flush(ACK_TIMEOUT) {
            tracing::warn!(%error, "some dead letters may not have been delivered");
        }
        Ok(())
    }

    /// Drops joiners whose pair was revoked, starts joiners for new pairs, and reads the partitions of all.
    fn rebalance(&mut self) -> anyhow::Result<()> {
        let Some((owned, at)) = self.assigned.take() else {
            return Ok(());
        };
        if at > Instant::now() {
            self.assigned = Some((owned, at));
            return Ok(());
        }
        self.source = None;
        self.joiners.retain(|partition, _| owned.contains(partition));
        match self.start_joiners(&owned) {
            Ok(()) => {
                #[expect(clippy::cast_precision_loss, reason = "a gauge is an f64")]
                gauge!(TIER_UNITS).set(self.joiners.len() as f64);
                Ok(())
            }
            // Retention may have deleted records between the look-up and the read, and a broker that has just
            // started may not know its topics yet: try again.
            Err(error)
                if error.is_transient()
                    || matches!(
                        error,
                        SourceError::RetentionPassed { .. }
                            | SourceError::MissingTopic { .. }
                            | SourceError::MissingPartition { .. }
                    ) =>
            {
                tracing::warn!(%error, "cannot join the assigned partitions yet");
                self.assigned = Some((owned, Instant::now() + RETRY_EVERY));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn start_joiners(&mut self, owned: &BTreeSet<i32>) -> Result<(), SourceError> {
        let mut new = BTreeMap::new();
        let mut from: Vec<(PartitionId, i64)> = self
            .joiners
            .values()
            .flat_map(|running| running.joiner.wanted().iter())
            .collect();
        for partition in owned {
            if self.joiners.contains_key(partition) {
                continue;
            }
            let start = self.group.start_point(*partition, &self.join)?;
            let joiner = PartitionJoiner::new(self.join.clone(), *partition, &start);
            let joiner = joiner.expect("the configuration was checked at the start");
            from.extend(joiner.wanted().iter());
            new.insert(*partition, joiner);
        }
        if from.is_empty() {
            return Ok(());
        }
        let from: Positions = from.into_iter().collect();
        self.source = Some(KafkaSource::open_only(&self.links.kafka, &from)?);
        // A new source reads the partitions that the old one had paused.
        let now = Instant::now();
        self.backlog = Backlog::default();
        for (id, _) in from.iter() {
            if let Some(running) = self.joiners.get(&id.partition) {
                self.backlog.sent(id, running.joiner.n_queued(id));
            }
        }
        self.idleness = Idleness::after(self.settings.idle_after, from.iter().map(|(id, _)| id), now);
        self.idle.clear();
        self.joiners.extend(new.into_iter().map(|(partition, joiner)| {
            let running = Running {
                joiner,
                held: None,
                committed: None,
            };
            (partition, running)
        }));
        Ok(())
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let Some(source) = &mut self.source else {
            return Ok(());
        };
        self.backlog.apply(source)?;
        match source.poll(WAIT)? {
            Polled::Records(records) => {
                let Some(id) = records.first().map(|record| record.position.partition) else {
                    return Ok(());
                };
                let Some(running) = self.joiners.get_mut(&id.partition) else {
                    return Ok(());
                };
                self.backlog.sent(id, records.len());
                self.idleness.note(id, Instant::now());
                self.idle.remove(&id);
                for record in &records {
                    let recorded = self.links.decoder.decode(record);
                    if let Err(reject) = &recorded.event
                        && reject.reason != RejectReason::UnknownAction
                        && !running.joiner.was_reported(record.position)
                    {
                        self.links.letters.send(record, reject);
                    }
                    running.joiner.push(recorded)?;
                }
                self.links.decoder.report();
            }
            Polled::AtEnd(id) => {
                if let Some(running) = self.joiners.get_mut(&id.partition) {
                    running.joiner.at_end(id);
                }
            }
            Polled::Added(_) | Polled::Idle | Polled::Finished => {}
        }
        Ok(())
    }

    /// Joins every record that the order can release.
    fn release(&mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let mut records = Vec::new();
        for (partition, running) in &mut self.joiners {
            let is_long = running
                .held
                .is_some_and(|held| held.elapsed() >= self.settings.max_reorder_delay);
            let mut n_joined = 0u64;
            while let Some(id) = running
                .joiner
                .step(is_long, &mut records)
                .with_context(|| format!("cannot join partition {partition}"))?
            {
                self.backlog.released(id, 1);
                n_joined += 1;
                if !write(&self.links.writer, &mut records, shutdown)? {
                    self.is_incomplete = true;
                    return Ok(());
                }
            }
            if n_joined > 0 {
                counter!(TIER_RELEASED_TOTAL).increment(n_joined);
            }
            running.held = match running.held {
                _ if !running.joiner.is_holding() => None,
                Some(held) if n_joined == 0 => Some(held),
                _ => Some(Instant::now()),
            };
        }
        Ok(())
    }

    /// Lets event time go on without partitions that are silent while others of their topic are not.
    fn skip_silent(&mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        if self.checked_idle.elapsed() < CHECK_IDLE_EVERY {
            return Ok(());
        }
        self.checked_idle = Instant::now();
        let joiners = &self.joiners;
        let is_drained = |id: PartitionId| {
            joiners
                .get(&id.partition)
                .is_some_and(|r| r.joiner.n_queued(id) == 0)
        };
        self.idle.extend(self.idleness.take_idle(is_drained));
        let mut records = Vec::new();
        for id in &self.idle {
            if let Some(running) = self.joiners.get_mut(&id.partition) {
                running.joiner.skip_silent(*id, &mut records)?;
                if !write(&self.links.writer, &mut records, shutdown)? {
                    self.is_incomplete = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Waits for acknowledgements, then commits the progress. ReportProgress that is not committed costs a new owner some
    /// repeated reports.
    fn commit(&mut self) -> anyhow::Result<()> {
        self.committed = Instant::now();
        let progress: Vec<(i32, ReportProgress)> = self
            .joiners
            .iter()
            .filter(|(_, running)| !running.joiner.is_warming_up())
            .map(|(partition, running)| (*partition, running.joiner.progress(), running.committed))
            .filter(|(_, progress, committed)| Some(*progress) != *committed)
            .map(|(partition, progress, _)| (partition, progress))
            .collect();
        if progress.is_empty() || self.is_incomplete {
            return Ok(());
        }
        if !self
            .links
            .writer
            .flush(ACK_TIMEOUT)
            .context("cannot deliver join records")?
        {
            tracing::warn!("the broker has not acknowledged all join records yet: nothing is committed");
            return Ok(());
        }
        match self.group.commit(&progress) {
            Ok(()) => {
                for (partition, committed) in progress {
                    if let Some(running) = self.joiners.get_mut(&partition) {
                        running.committed = Some(committed);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the progress was not committed; the next commit includes it")
            }
        }
        Ok(())
    }
}

/// Writes join records. False when the shutdown came while the broker took none: the rest is neither written nor
/// committed.
fn write(writer: &Writer, records: &mut Vec<OutgoingRecord>, shutdown: &Shutdown) -> anyhow::Result<bool> {
    for outgoing in records.drain(..) {
        if !writer.write(&outgoing, || shutdown.is_triggered())? {
            return Ok(false);
        }
    }
    Ok(true)
}
