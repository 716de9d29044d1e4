//! Timing must not change a model: the pipeline gives the same bits on one core or all, with fetches of any size, with
//! delays between its stages, and with a wall clock that jumps by weeks.
//!
//! `OUZEL_SCHEDULES` sets the number of runs (default 6).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ouzel::config::Config;
use ouzel::pipeline::spec::PipelineSpec;
use ouzel::pipeline::threads;
use ouzel::supervisor::{Shutdown, Task, Waited};
use ouzel::telemetry::Metrics;
use ouzel::telemetry::clock::Clock;
use ouzel_ingest::{DeadLetters, Decoder, Error, PartitionState, Polled, Source};
use ouzel_sample::{PartitionId, Record, Stream};
use ouzel_snapshot::Store;
use ouzel_verify::StateDigest;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::TIMEOUT;
use super::world::{Rng, START_MS, World};

/// Partitions of each stream.
const N_PARTITIONS: u64 = 2;
/// Largest jump of the clock.
const JUMP_MS: u64 = 60 * 86_400_000;
/// Most records of a poll.
const MAX_RECORDS: usize = 12;
/// One call in this many is delayed.
const DELAYED: u64 = 2;
/// Longest delay, microseconds.
const MAX_DELAY_US: u64 = 5000;

/// The disturbances of one run.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    seed: u64,
    is_on_one_core: bool,
    is_delayed: bool,
    is_clock_jumping: bool,
}

impl Schedule {
    /// Schedule `n`: the first has no disturbance, the others every combination.
    fn number(n: u64) -> Self {
        Self {
            seed: n,
            is_on_one_core: n & 2 != 0,
            is_delayed: n & 1 != 0,
            is_clock_jumping: n & 4 != 0 || n == 3,
        }
    }

    fn maybe_delay(self, rng: &mut Rng) {
        if self.is_delayed && rng.below(DELAYED) == 0 {
            std::thread::sleep(Duration::from_micros(rng.below(MAX_DELAY_US)));
        }
    }
}

/// A clock that jumps. A read may be delayed, which delays the learner after each batch and the snapshot writer before
/// and after it removes old snapshots.
struct JumpingClock {
    schedule: Schedule,
    rng: Mutex<Rng>,
}

impl Clock for JumpingClock {
    fn now_ms(&self) -> i64 {
        let mut rng = self.rng.lock().unwrap();
        self.schedule.maybe_delay(&mut rng);
        let jump = if self.schedule.is_clock_jumping {
            rng.below(JUMP_MS)
        } else {
            0
        };
        START_MS + i64::try_from(jump).unwrap()
    }
}

/// A source that returns records of a random partition, in random numbers, with delays. The catalog comes first.
struct RandomSource {
    schedule: Schedule,
    records: BTreeMap<PartitionId, VecDeque<Record>>,
    /// Partitions whose end was not reported.
    open: Vec<PartitionId>,
    paused: BTreeSet<PartitionId>,
    rng: Rng,
}

impl RandomSource {
    fn new(records: &[Record], schedule: Schedule) -> Self {
        let mut by_partition = BTreeMap::<_, VecDeque<_>>::new();
        for record in records {
            let queue = by_partition.entry(record.position.partition).or_default();
            queue.push_back(record.clone());
        }
        Self {
            schedule,
            open: by_partition.keys().copied().collect(),
            records: by_partition,
            paused: BTreeSet::new(),
            rng: Rng::new(schedule.seed),
        }
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.rng.below(n as u64)).unwrap()
    }
}

impl Source for RandomSource {
    fn poll(&mut self, _: Duration) -> Result<Polled, Error> {
        self.schedule.maybe_delay(&mut self.rng);
        if self.open.is_empty() {
            return Ok(Polled::Finished);
        }
        let select = |is_wanted: &dyn Fn(&PartitionId) -> bool| -> Vec<PartitionId> {
            self.open.iter().copied().filter(is_wanted).collect()
        };
        let mut readable = select(&|id| id.stream == Stream::Items);
        if readable.is_empty() {
            readable = select(&|id| !self.paused.contains(id));
        }
        if readable.is_empty() {
            return Ok(Polled::Idle);
        }
        let id = readable[self.below(readable.len())];
        let n = 1 + self.below(MAX_RECORDS);
        let queue = self.records.get_mut(&id).unwrap();
        let records: Vec<Record> = queue.drain(..n.min(queue.len())).collect();
        if records.is_empty() {
            self.open.retain(|open| *open != id);
            return Ok(Polled::AtEnd(id));
        }
        Ok(Polled::Records(records))
    }

    fn pause(&mut self, partitions: &[PartitionId]) -> Result<(), Error> {
        self.paused.extend(partitions);
        Ok(())
    }

    fn resume(&mut self, partitions: &[PartitionId]) -> Result<(), Error> {
        self.paused.retain(|id| !partitions.contains(id));
        Ok(())
    }

    fn partitions(&self) -> Vec<PartitionState> {
        let state = |id: &PartitionId| PartitionState {
            id: *id,
            name: id.to_string(),
            low: 0,
            high: None,
            next: 0,
        };
        self.records.keys().map(state).collect()
    }
}

/// The world's records, those of a key in one partition.
fn records(world: &World) -> Vec<Record> {
    world.records(|event| {
        let sum: u64 = event.key.bytes().map(u64::from).sum();
        i32::try_from(sum % N_PARTITIONS).unwrap()
    })
}

/// Runs the pipeline on the records. Returns the digest of the last snapshot.
fn run(dir: &Path, records: &[Record], schedule: Schedule) -> StateDigest {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    let metrics = METRICS.get_or_init(|| Metrics::install().unwrap()).clone();
    let state = dir.join(format!("state-{}", schedule.seed));
    // Almost no reordering delay: a record is joined as soon as the order allows.
    let text = format!(
        "snapshot.dir = {state:?}\nserving.listen = \"127.0.0.1:0\"\nlearner.batch_min_samples = 32\n\
         learner.flush_after_idle = \"0s\"\norder.max_reorder_delay = \"1ms\"\nsnapshot.every = \"0s\"\nsnapshot.every_batches = 5\nmodel.dim = 4\nmodel.hidden = [16]"
    );
    let config = Config::parse(&text, "schedules.toml").unwrap();
    if schedule.is_on_one_core {
        // Threads started from here on inherit the affinity.
        let allowed = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap();
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None, &one).unwrap();
    }
    let spec = PipelineSpec {
        config: &config,
        open_source: Box::new(|_| Ok(Box::new(RandomSource::new(records, schedule)))),
        decoder: Decoder::new(config.id_space(), config.task_names(), config.events.clone()).unwrap(),
        dead_letters: DeadLetters::discard(),
        late: None,
        seed: Box::new(|_| {}),
        accept_loss: None,
        scores: None,
    };
    let clock = Arc::new(JumpingClock {
        schedule,
        rng: Mutex::new(Rng::new(!schedule.seed)),
    });
    let shutdown = Shutdown::new();
    let opened = threads::open_store(&config, false).unwrap();
    let mut running = threads::start(spec, opened, None, clock, metrics, &shutdown).unwrap();
    let pipeline = [Task::Poll, Task::Join, Task::Learner, Task::Snapshot];
    let waited = running.process.supervisor.wait_for(&pipeline, TIMEOUT);
    assert_eq!(waited, Waited::Ended);
    shutdown.trigger();
    running.process.wait().unwrap();
    let newest = Store::inspect(&state).newest_valid().unwrap().snapshot.unwrap();
    StateDigest::new(newest.manifest()).unwrap()
}

#[test]
fn neither_cores_nor_delays_nor_the_wall_clock_change_a_bit() {
    let n_runs = std::env::var("OUZEL_SCHEDULES").map_or(6, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let world = World::generate(400, &dir.path().join("world"));
    let records = records(&world);
    for stream in [Stream::Items, Stream::Impressions, Stream::Actions] {
        let ids = records.iter().map(|record| record.position.partition);
        let ids: BTreeSet<PartitionId> = ids.filter(|id| id.stream == stream).collect();
        assert_eq!(ids.len() as u64, N_PARTITIONS);
    }
    // Each run has its own thread, because the affinity belongs to the thread.
    let run = |schedule| {
        let (dir, records) = (dir.path(), records.as_slice());
        std::thread::scope(|scope| scope.spawn(move || run(dir, records, schedule)).join().unwrap())
    };
    let undisturbed = run(Schedule::number(0));
    assert_eq!(undisturbed.n_samples, world.expected.samples());
    assert!(undisturbed.n_batches > 20);
    for n in 1..n_runs {
        let schedule = Schedule::number(n);
        let found = run(schedule);
        if let Err(error) = found.must_equal(&undisturbed, "the undisturbed run") {
            panic!("{schedule:?}: {error:#}");
        }
    }
}
