//! The loop of one process of the join tier.
//!
//! The consumer group assigns pairs of partitions to this process. A source reads them, a joiner joins each pair, and the
//! join records go to the samples topic. Periodically the loop waits until every record is acknowledged, and commits. A
//! joiner whose pair is revoked is dropped at once: its next owner does not need its state.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Context;
use metrics::{counter, gauge};

use ouzel_ingest::tier::{Group, OutgoingRecord, PartitionJoiner, ReportProgress, Writer};
use ouzel_ingest::{DeadLetters, Decoder, Error as SourceError, KafkaConfig, KafkaSource, Polled, Source};
use ouzel_sample::{PartitionId, Positions};

use crate::config::Config;
use crate::pipeline::stages::backlog::Backlog;
use crate::pipeline::stages::idle::Idleness;
use crate::pipeline::stages::time_jumps::TimeJumpLog;
use crate::supervisor::Shutdown;
use crate::telemetry::float;
use crate::telemetry::metrics::{TIER_RELEASED_TOTAL, TIER_UNITS};

/// Longest wait for a record.
const WAIT: Duration = Duration::from_millis(10);
/// Longest wait for acknowledgements of the broker, during which the group is not polled.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two attempts to start joining.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Time between two searches for idle partitions.
const CHECK_IDLE_EVERY: Duration = Duration::from_millis(200);

/// The inputs and outputs of the worker.
pub(crate) struct KafkaLinks {
    pub(crate) kafka: KafkaConfig,
    pub(crate) decoder: Decoder,
    pub(crate) letters: DeadLetters,
    /// Writes join records.
    pub(crate) writer: Writer,
}

/// The loop and its state.
pub(crate) struct JoinWorker {
    group: Group,
    config: Config,
    links: KafkaLinks,
    joiners: BTreeMap<i32, Running>,
    source: Option<KafkaSource>,
    /// Assigned partitions that are not joined yet, and when to try again.
    assigned: Option<(BTreeSet<i32>, Instant)>,
    backlog: Backlog,
    idleness: Idleness,
    time_jumps: TimeJumpLog,
    idle: BTreeSet<PartitionId>,
    checked_idle: Instant,
    committed: Instant,
    /// A joined record was not written, so progress must not be committed any more.
    is_incomplete: bool,
}

/// A joiner with its times.
struct Running {
    joiner: PartitionJoiner,
    /// Since when a record waits for the other partition.
    held: Option<Instant>,
    committed: Option<ReportProgress>,
}

impl JoinWorker {
    /// A worker that joins what `group` assigns to it.
    pub(crate) fn new(group: Group, config: Config, links: KafkaLinks) -> Self {
        let now = Instant::now();
        Self {
            group,
            links,
            joiners: BTreeMap::new(),
            source: None,
            assigned: None,
            backlog: Backlog::default(),
            idleness: Idleness::with_timeout(config.tier.idle_timeout.duration(), [], now),
            time_jumps: TimeJumpLog::default(),
            idle: BTreeSet::new(),
            checked_idle: now,
            committed: now,
            is_incomplete: false,
            config,
        }
    }

    /// Joins until the shutdown, then waits for acknowledgements, commits and leaves the group.
    pub(crate) fn run(mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        while !shutdown.is_triggered() {
            let wait = self.source.as_ref().map_or(WAIT, |_| Duration::ZERO);
            if let Some(owned) = self.group.poll(wait)? {
                self.assigned = Some((owned, Instant::now()));
            }
            self.rebalance()?;
            self.read()?;
            self.release(shutdown)?;
            self.skip_idle(shutdown)?;
            let joiners = &mut self.joiners;
            self.time_jumps.log(|| {
                joiners
                    .values_mut()
                    .find_map(|running| running.joiner.take_time_jump())
            });
            self.links.writer.poll();
            self.links.letters.poll();
            if self.committed.elapsed() >= self.config.tier.commit_interval.duration() {
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
                gauge!(TIER_UNITS).set(float(self.joiners.len() as u64));
                Ok(())
            }
            // Retention may have deleted records since the look-up, and a broker that has just started may not know
            // its topics yet: try again.
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
            let start = self.group.start_point(*partition, &self.config.join)?;
            let joiner = PartitionJoiner::new(self.config.join.clone(), *partition, &start);
            let joiner = joiner.expect("the configuration was checked at the start");
            from.extend(joiner.wanted().iter());
            new.insert(*partition, joiner);
        }
        if from.is_empty() {
            return Ok(());
        }
        let from: Positions = from.into_iter().collect();
        self.source = Some(KafkaSource::open_only(&self.links.kafka, &from)?);
        // A new source has no paused partition.
        let now = Instant::now();
        self.backlog = Backlog::default();
        for (id, _) in from.iter() {
            if let Some(running) = self.joiners.get(&id.partition) {
                self.backlog.sent(id, running.joiner.n_queued(id));
            }
        }
        self.idleness = Idleness::with_timeout(
            self.config.tier.idle_timeout.duration(),
            from.iter().map(|(id, _)| id),
            now,
        );
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
                self.idleness.record(id, Instant::now());
                self.idle.remove(&id);
                for record in &records {
                    let recorded = self.links.decoder.decode(record);
                    if let Err(reject) = &recorded.event
                        && !reject.reason.is_unneeded()
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
                .is_some_and(|held| held.elapsed() >= self.config.order.max_reorder_delay.duration());
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

    /// Advances the watermark past idle partitions.
    fn skip_idle(&mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
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
        let idle = self.idleness.take_idle(Instant::now(), is_drained, Vec::new);
        self.idle.extend(idle);
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

    /// Waits for acknowledgements, then commits the progress. Without a commit, a new owner repeats some reports.
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

/// Writes join records. Returns false if the shutdown came first; the remaining records are then not written.
fn write(writer: &Writer, records: &mut Vec<OutgoingRecord>, shutdown: &Shutdown) -> anyhow::Result<bool> {
    for outgoing in records.drain(..) {
        if !writer.write(&outgoing, || shutdown.is_triggered())? {
            return Ok(false);
        }
    }
    Ok(true)
}
