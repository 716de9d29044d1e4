//! JoinWorker: what one process of the join tier does, in one loop.
//!
//! The group says which units are this process's; a source reads their partitions, each unit joins its pair, and
//! what it tells goes to the samples topic. Now and then everything told is waited for and committed. A unit that
//! is given up is dropped as it stands: its next owner needs nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Context;
use metrics::{counter, gauge};

use ouzel_ingest::join::JoinConfig;
use ouzel_ingest::tier::{Group, PartitionJoiner, Progress, Tell, Writer};
use ouzel_ingest::{DeadLetters, Decoder, Error as SourceError, KafkaConfig, KafkaSource, Polled, Source};
use ouzel_sample::{PartitionId, Positions, RejectReason};

use crate::metrics::{TIER_RELEASED_TOTAL, TIER_UNITS};
use crate::stages::backlog::Backlog;
use crate::stages::idle::Idleness;
use crate::supervisor::Shutdown;

/// Longest wait for a record.
const WAIT: Duration = Duration::from_millis(10);
/// Longest wait for the broker to acknowledge what was told, before it is asked again; the group is not served
/// meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);
/// From one try to take units up to the next, where the broker does not answer.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How often silent partitions are looked for, and time let go on without them.
const LOOK: Duration = Duration::from_millis(200);

/// Times that shape the loop without changing what a given order means.
#[derive(Clone, Copy, Debug)]
pub struct UnitSettings {
    /// How long a record may be held for earlier ones of the other partition.
    pub hold: Duration,
    /// From one commit to the next.
    pub commit: Duration,
    /// How long a partition is silent before time goes on without it.
    pub idle: Duration,
}

/// The stage.
pub struct JoinWorker {
    group: Group,
    kafka: KafkaConfig,
    join: JoinConfig,
    decoder: Decoder,
    letters: DeadLetters,
    writer: Writer,
    settings: UnitSettings,
    units: BTreeMap<i32, Running>,
    source: Option<KafkaSource>,
    /// JoinWorker to be run, when that has failed so far.
    wanted: Option<(BTreeSet<i32>, Instant)>,
    backlog: Backlog,
    idleness: Idleness,
    idle: BTreeSet<PartitionId>,
    looked: Instant,
    committed: Instant,
    /// Something was joined and not told: how far the units are must not be committed any more.
    is_cut_short: bool,
}

/// A unit with what the wall clock says of it.
struct Running {
    unit: PartitionJoiner,
    /// Since when a record waits for a silent partition only.
    held: Option<Instant>,
    committed: Option<Progress>,
}

impl JoinWorker {
    /// A process that is to be a member of `group`.
    #[must_use]
    pub fn new(
        group: Group,
        kafka: KafkaConfig,
        join: JoinConfig,
        decoder: Decoder,
        letters: DeadLetters,
        writer: Writer,
        settings: UnitSettings,
    ) -> Self {
        let now = Instant::now();
        Self {
            group,
            kafka,
            join,
            decoder,
            letters,
            writer,
            settings,
            units: BTreeMap::new(),
            source: None,
            wanted: None,
            backlog: Backlog::default(),
            idleness: Idleness::after(settings.idle, [], now),
            idle: BTreeSet::new(),
            looked: now,
            committed: now,
            is_cut_short: false,
        }
    }

    /// Joins until the shutdown, then waits for what was told, commits and leaves.
    pub fn run(mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        while !shutdown.is_triggered() {
            let wait = if self.source.is_some() {
                Duration::ZERO
            } else {
                WAIT
            };
            if let Some(owned) = self.group.poll(wait)? {
                self.wanted = Some((owned, Instant::now()));
            }
            self.rebalance()?;
            self.read()?;
            self.release(shutdown)?;
            self.pass_over_silent(shutdown)?;
            self.writer.poll();
            self.letters.poll();
            if self.committed.elapsed() >= self.settings.commit {
                self.commit()?;
            }
        }
        self.commit()?;
        if let Err(error) = self.letters.flush(PATIENCE) {
            tracing::warn!(%error, "some dead letters may not have been delivered");
        }
        Ok(())
    }

    /// Gives up what is no longer wanted, takes up what is new, and reads what both leave.
    fn rebalance(&mut self) -> anyhow::Result<()> {
        let Some((owned, at)) = self.wanted.take() else {
            return Ok(());
        };
        if at > Instant::now() {
            self.wanted = Some((owned, at));
            return Ok(());
        }
        self.source = None;
        self.units.retain(|partition, _| owned.contains(partition));
        match self.take_up(&owned) {
            Ok(()) => {
                #[expect(clippy::cast_precision_loss, reason = "a gauge is an f64")]
                gauge!(TIER_UNITS).set(self.units.len() as f64);
                Ok(())
            }
            // Retention may have gone on between the question and the reading, and a broker that has just started
            // may not know yet what was there before: ask again.
            Err(error)
                if error.is_transient()
                    || matches!(
                        error,
                        SourceError::RetentionPassed { .. }
                            | SourceError::MissingTopic { .. }
                            | SourceError::MissingPartition { .. }
                    ) =>
            {
                tracing::warn!(%error, "cannot take up units yet");
                self.wanted = Some((owned, Instant::now() + TRY_AGAIN));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn take_up(&mut self, owned: &BTreeSet<i32>) -> Result<(), SourceError> {
        let mut new = BTreeMap::new();
        let mut from: Vec<(PartitionId, i64)> = self
            .units
            .values()
            .flat_map(|running| running.unit.wanted().iter())
            .collect();
        for partition in owned {
            if self.units.contains_key(partition) {
                continue;
            }
            let begin = self.group.begin(*partition, &self.join)?;
            let unit = PartitionJoiner::new(self.join.clone(), *partition, &begin);
            let unit = unit.expect("the configuration was checked at the start");
            from.extend(unit.wanted().iter());
            new.insert(*partition, unit);
        }
        if from.is_empty() {
            return Ok(());
        }
        let from: Positions = from.into_iter().collect();
        self.source = Some(KafkaSource::open_only(&self.kafka, &from)?);
        // What it had paused it reads again.
        let now = Instant::now();
        self.backlog = Backlog::default();
        for (id, _) in from.iter() {
            if let Some(running) = self.units.get(&id.partition) {
                self.backlog.sent(id, running.unit.n_queued(id));
            }
        }
        self.idleness = Idleness::after(self.settings.idle, from.iter().map(|(id, _)| id), now);
        self.idle.clear();
        self.units.extend(new.into_iter().map(|(partition, unit)| {
            let running = Running {
                unit,
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
        let balance = self.backlog.balance();
        if !balance.pause.is_empty() {
            source.pause(&balance.pause).context("cannot pause partitions")?;
        }
        if !balance.resume.is_empty() {
            source
                .resume(&balance.resume)
                .context("cannot resume partitions")?;
        }
        match source.poll(WAIT)? {
            Polled::Records(records) => {
                let Some(id) = records.first().map(|record| record.position.partition) else {
                    return Ok(());
                };
                let Some(running) = self.units.get_mut(&id.partition) else {
                    return Ok(());
                };
                self.backlog.sent(id, records.len());
                self.idleness.saw(id, Instant::now());
                self.idle.remove(&id);
                for record in &records {
                    let recorded = self.decoder.decode(record);
                    if let Err(reject) = &recorded.event
                        && reject.reason != RejectReason::UnknownAction
                        && !running.unit.is_told(record.position)
                    {
                        self.letters.send(record, reject);
                    }
                    running.unit.push(recorded)?;
                }
                self.decoder.report();
            }
            Polled::AtEnd(id) => {
                if let Some(running) = self.units.get_mut(&id.partition) {
                    running.unit.at_end(id);
                }
            }
            Polled::Added(_) | Polled::Idle | Polled::Finished => {}
        }
        Ok(())
    }

    /// Joins every record whose turn has come.
    fn release(&mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let mut tells = Vec::new();
        for (partition, running) in &mut self.units {
            let is_long = running
                .held
                .is_some_and(|held| held.elapsed() >= self.settings.hold);
            let mut n_joined = 0u64;
            while let Some(id) = running
                .unit
                .step(is_long, &mut tells)
                .with_context(|| format!("cannot join unit {partition}"))?
            {
                self.backlog.released(id, 1);
                n_joined += 1;
                if !tell(&self.writer, &mut tells, shutdown)? {
                    self.is_cut_short = true;
                    return Ok(());
                }
            }
            if n_joined > 0 {
                counter!(TIER_RELEASED_TOTAL).increment(n_joined);
            }
            running.held = match running.held {
                _ if !running.unit.is_holding() => None,
                Some(held) if n_joined == 0 => Some(held),
                _ => Some(Instant::now()),
            };
        }
        Ok(())
    }

    /// Lets time go on without partitions that are silent while others of their topic are not.
    fn pass_over_silent(&mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        let units = &self.units;
        let is_drained = |id: PartitionId| units.get(&id.partition).is_some_and(|r| r.unit.n_queued(id) == 0);
        for id in self.idleness.take_idle(is_drained) {
            tracing::info!(partition = %id, "idle: it holds event time back no longer");
            self.idle.insert(id);
        }
        let mut tells = Vec::new();
        for id in &self.idle {
            if let Some(running) = self.units.get_mut(&id.partition) {
                running.unit.pass_over(*id, &mut tells)?;
                if !tell(&self.writer, &mut tells, shutdown)? {
                    self.is_cut_short = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Waits for what was told, then says how far that was. What cannot be committed now is told again by a new
    /// owner, and nothing else comes of it.
    fn commit(&mut self) -> anyhow::Result<()> {
        self.committed = Instant::now();
        let news: Vec<(i32, Progress)> = self
            .units
            .iter()
            .filter(|(_, running)| !running.unit.is_warming_up())
            .map(|(partition, running)| (*partition, running.unit.progress(), running.committed))
            .filter(|(_, progress, committed)| Some(*progress) != *committed)
            .map(|(partition, progress, _)| (partition, progress))
            .collect();
        if news.is_empty() || self.is_cut_short {
            return Ok(());
        }
        if !self
            .writer
            .flush(PATIENCE)
            .context("what was joined cannot be told")?
        {
            tracing::warn!("the broker has not taken what was joined yet: nothing is committed");
            return Ok(());
        }
        match self.group.commit(&news) {
            Ok(()) => {
                for (partition, progress) in news {
                    if let Some(running) = self.units.get_mut(&partition) {
                        running.committed = Some(progress);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "not committed; tried again with the next"),
        }
        Ok(())
    }
}

/// Writes what a unit tells. False when the shutdown came while the broker took nothing: the rest stays untold,
/// and uncommitted.
fn tell(writer: &Writer, tells: &mut Vec<Tell>, shutdown: &Shutdown) -> anyhow::Result<bool> {
    for tell in tells.drain(..) {
        if !writer.write(&tell, || shutdown.is_triggered())? {
            return Ok(false);
        }
    }
    Ok(true)
}
