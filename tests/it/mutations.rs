//! Damage to the join store on disk changes neither samples nor weights and needs no repair by hand.
//! `ingest/tests/join_disk.rs` tests that damage is detected while a larger store is read.
//!
//! `OUZEL_SLED_MUTATIONS` sets how often the files are damaged, of the state machine and of a daemon (default 50 and 10;
//! `make verify-long` takes 200).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ouzel::config::Config;
use ouzel_ingest::join::{AnyStore, StoreConfig};
use ouzel_ingest::{Stage, StageCheckpoint, StageError};
use ouzel_learner::Trainer;
use ouzel_sample::{Batch, FeatureState, PartitionId, Stream};

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::world::{Rng, World};
use super::{print_figures, wait_until};

/// A way to damage the files of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    FlipBit,
    ZeroRange,
    Truncate,
    Delete,
    PlantPartialSnapshot,
}

const DAMAGES: [Damage; 5] = [
    Damage::FlipBit,
    Damage::ZeroRange,
    Damage::Truncate,
    Damage::Delete,
    Damage::PlantPartialSnapshot,
];

/// Almost nothing stays in memory, and no page of the files is cached.
const ON_DISK: &str = "join.store = \"sled\"\n\
                       join.sled = { requests_in_memory = 2, page_cache = \"256B\", compaction_threshold = \"4MiB\" }\n";
/// A window so long that much of the world is open at once.
const BATCHES: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\norder.max_reorder_delay = \"500ms\"\n\
                       join.tasks = [{ name = \"click\", window = \"3h\" }]\n";

fn n_mutations(few: usize) -> usize {
    std::env::var("OUZEL_SLED_MUTATIONS").map_or(few, |n| n.parse().expect("a number"))
}

/// Every file below `dir`, sorted.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Damages a file of the store in `dir`, most often the database.
fn damage(dir: &Path, damage: Damage, rng: &mut Rng) {
    let mut files = files(dir);
    files.retain(|path| fs::metadata(path).is_ok_and(|found| found.len() > 0));
    assert!(!files.is_empty(), "there is a store in {}", dir.display());
    let below = |rng: &mut Rng, n: u64| rng.below(n.max(1));
    let db = files.iter().position(|path| path.ends_with("db"));
    let at = match db {
        Some(db) if rng.below(4) > 0 => db,
        _ => usize::try_from(below(rng, files.len() as u64)).unwrap(),
    };
    let path = &files[at];
    match damage {
        Damage::Delete => fs::remove_file(path).unwrap(),
        Damage::Truncate => {
            let file = fs::File::options().write(true).open(path).unwrap();
            let len = file.metadata().unwrap().len();
            file.set_len(below(rng, len)).unwrap();
        }
        Damage::PlantPartialSnapshot => {
            let name = format!("snap.{:016X}.generating", rng.below(1 << 30));
            fs::write(path.with_file_name(name), [7; 100]).unwrap();
        }
        Damage::FlipBit | Damage::ZeroRange => {
            let mut bytes = fs::read(path).unwrap();
            // The data is at the front of a segment.
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
            let at = usize::try_from(rng.below(used as u64)).unwrap();
            if damage == Damage::FlipBit {
                bytes[at] ^= 1 << rng.below(8);
            } else {
                let end = (at + 4096).min(bytes.len());
                bytes[at..end].fill(0);
            }
            // In place, so that the process that has the file open reads it.
            use std::os::unix::fs::FileExt;
            let file = fs::File::options().write(true).open(path).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
        }
    }
}

fn config(text: &str) -> Config {
    Config::parse(text, "x").unwrap()
}

fn stage(
    config: &Config,
    store: &StoreConfig,
    checkpoint: Option<&StageCheckpoint>,
) -> Result<Stage, StageError> {
    let join = config.join.clone();
    match checkpoint {
        Some(checkpoint) => Stage::restore(store, &join, config.feature_config(), &checkpoint.bytes),
        None => {
            let timed = [Stream::Impressions, Stream::Actions].map(|stream| PartitionId::new(stream, 0));
            let features = Arc::new(FeatureState::new(config.feature_config()));
            Stage::new(store, &join, timed, features, 32)
        }
    }
}

/// The hash of the weights learned from these batches.
fn learned(config: &Config, batches: &[Batch]) -> String {
    let mut trainer = Trainer::new(config.model_config(), config.learner_config()).unwrap();
    for batch in batches {
        trainer.step(batch).unwrap();
    }
    trainer.hash().unwrap()
}

#[test]
fn a_damaged_store_changes_no_sample_and_no_weight() {
    let n_mutations = n_mutations(50);
    let home = tempfile::tempdir().unwrap();
    let world = World::generate(4 * n_mutations as u64 + 400, &home.path().join("world"));
    let config = config(&format!("{ON_DISK}{BATCHES}"));
    let records = world.decoded(&config);

    let mut undisturbed = stage(&config, &StoreConfig::Memory, None).unwrap();
    let mut expected = Vec::new();
    for recorded in &records {
        undisturbed.take(recorded, &mut expected).unwrap();
    }
    undisturbed.finish(&mut expected).unwrap();

    let dir = home.path().join("join");
    let store = config.join_store(&dir);
    let mut rng = Rng::new(7);
    let mut found = BTreeMap::<u64, Batch>::new();
    let mut collect = |batches: Vec<Batch>| {
        for batch in batches {
            let again = found.entry(batch.seq).or_insert_with(|| batch.clone());
            assert_eq!(
                again.samples, batch.samples,
                "batch {} is repeated exactly",
                batch.seq
            );
        }
    };
    let mut damaged = stage(&config, &store, None).unwrap();
    let mut checkpoint = damaged.checkpoint().unwrap();
    let (mut n_between, mut n_while_open, mut n_noticed, mut n_cold) = (0, 0, 0, 0);
    let every = records.len() / (n_mutations + 1);
    let mut at = 0;
    let mut n_done = 0;
    while at < records.len() {
        let mut batches = Vec::new();
        let taken = damaged.take(&records[at], &mut batches);
        collect(batches);
        if let Err(error) = taken {
            assert!(error.is_store_failure(), "{error}");
            n_noticed += 1;
            drop(damaged);
            damaged = stage(&config, &store, Some(&checkpoint)).unwrap();
            // The log is read again from the positions of the checkpoint.
            at = 0;
            continue;
        }
        at += 1;
        if at < (n_done + 1) * every || n_done == n_mutations {
            continue;
        }
        // A checkpoint from a damaged store must fail, not be used.
        checkpoint = match damaged.checkpoint() {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                assert!(error.is_store_failure(), "{error}");
                n_noticed += 1;
                // The store locks the directory.
                drop(damaged);
                damaged = stage(&config, &store, Some(&checkpoint)).unwrap();
                at = 0;
                continue;
            }
        };
        if let Some(AnyStore::Sled(store)) = damaged.store() {
            n_cold += store.n_cold();
        } else {
            panic!("the store is on disk");
        }
        let kind = DAMAGES[n_done % DAMAGES.len()];
        if (n_done / DAMAGES.len()).is_multiple_of(2) {
            n_between += 1;
            drop(damaged);
            damage(&dir, kind, &mut rng);
            damaged = stage(&config, &store, Some(&checkpoint)).unwrap();
        } else {
            n_while_open += 1;
            damage(&dir, kind, &mut rng);
        }
        n_done += 1;
    }
    let mut batches = Vec::new();
    if damaged.finish(&mut batches).is_err() {
        n_noticed += 1;
        drop(damaged);
        damaged = stage(&config, &store, Some(&checkpoint)).unwrap();
        batches.clear();
        for recorded in &records {
            damaged.take(recorded, &mut batches).unwrap();
        }
        damaged.finish(&mut batches).unwrap();
    }
    collect(batches);

    assert_eq!(damaged.ledger(), undisturbed.ledger());
    let found: Vec<Batch> = found.into_values().collect();
    let samples = |batches: &[Batch]| batches.iter().map(|b| b.samples.clone()).collect::<Vec<_>>();
    assert_eq!(samples(&found), samples(&expected));
    assert_eq!(learned(&config, &found), learned(&config, &expected));
    assert_eq!(n_between + n_while_open, n_mutations);
    assert!(n_cold > 10 * n_mutations, "the disk held little: {n_cold}");
    print_figures(&format!(
        "{n_between} mutations between two runs and {n_while_open} while the store was open, {n_noticed} noticed and rebuilt"
    ));
}

#[test]
fn a_store_that_cannot_be_opened_is_replaced_by_memory() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("join");
    fs::write(&dir, "a file where a directory should be").unwrap();
    let config = config(ON_DISK);
    let stage = stage(&config, &config.join_store(&dir), None).unwrap();
    assert!(matches!(stage.store(), Some(AnyStore::Memory(_))));
}

/// Restarts a daemon that stopped because of its store.
fn restart(home: &mut Home, daemon: Daemon) -> Daemon {
    let mut daemon = daemon;
    assert_eq!(daemon.wait_exit(), Some(1), "it stopped cleanly");
    let line = daemon.logged("task failed").expect("it logged the error");
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("the join store cannot"), "{error}");
    home.start()
}

#[test]
fn a_daemon_with_a_damaged_store_ends_with_the_same_result() {
    let n_mutations = n_mutations(10);
    let broker = Broker::embedded(1);
    let mut home = Home::new(
        &broker,
        &format!(
            "{ON_DISK}{BATCHES}snapshot.every = \"0s\"\nsnapshot.every_batches = 4\nsnapshot.keep = 3\nsnapshot.keep_hourly = 0\nsnapshot.keep_daily = 0"
        ),
    );
    // Every piece has requests whose windows are open, and actions on requests of earlier pieces.
    let world = World::generate(6 * n_mutations as u64 + 600, &home.path().join("world"));
    let pieces: Vec<_> = world.events.chunks(world.events.len() / n_mutations).collect();
    let mut rng = Rng::new(11);
    let mut daemon = home.start();
    let mut n_stopped = 0;
    let mut resumed = 0;
    for (n, piece) in pieces.iter().enumerate() {
        broker.feed(piece);
        let all = broker.n_records();
        if !daemon.wait_joined_or_ended(all - resumed) {
            n_stopped += 1;
            resumed = home.n_resumed();
            daemon = restart(&mut home, daemon);
            daemon.wait_joined(all - resumed);
        }
        let dir = home.state().join("join");
        let kind = DAMAGES[n % DAMAGES.len()];
        if (n / DAMAGES.len()).is_multiple_of(2) {
            daemon.kill();
            damage(&dir, kind, &mut rng);
            resumed = home.n_resumed();
            daemon = home.start();
        } else {
            damage(&dir, kind, &mut rng);
        }
    }
    let n_beats = broker.heartbeat(world.end_ms + 36_000_000);
    let all = broker.n_records();
    // The last checkpoint reads the whole store. If that fails, the daemon must be started again.
    loop {
        if daemon.wait_joined_or_ended(all - resumed) {
            daemon.signal("TERM");
            if daemon.wait_exit() == Some(0) {
                break;
            }
        }
        n_stopped += 1;
        resumed = home.n_resumed();
        daemon = restart(&mut home, daemon);
    }
    let damaged = home.manifest();

    let undisturbed = Home::new(&broker, BATCHES).run_to_end(all);
    assert_eq!(damaged.checkpoint.ledger_hash, undisturbed.checkpoint.ledger_hash);
    assert_eq!(
        damaged.checkpoint.weights_hash,
        undisturbed.checkpoint.weights_hash
    );
    assert_eq!(damaged.checkpoint.counters, undisturbed.checkpoint.counters);
    assert_eq!(
        damaged.checkpoint.sample_seq,
        n_samples(&world, &damaged.checkpoint.counters)
    );
    assert_eq!(damaged.checkpoint.counters["pending_items"], n_beats);
    print_figures(&format!(
        "{} mutations of the store of a daemon, {n_stopped} of which stopped the daemon",
        pieces.len()
    ));
}

#[test]
fn a_daemon_that_reads_damaged_data_stops_and_the_next_one_rebuilds() {
    let broker = Broker::embedded(1);
    // A state larger than several of the 512 KiB segments that sled writes, and a window in which all of it is open.
    let settings = BATCHES.replace("3h", "10d");
    let mut home = Home::new(
        &broker,
        &format!("{ON_DISK}{settings}snapshot.every = \"0s\"\nsnapshot.every_batches = 4"),
    );
    let world = World::generate(3_000, &home.path().join("world"));
    let mut daemon = home.start();
    broker.feed(&world.events);
    daemon.wait_joined(broker.n_records());
    let files = files(&home.state().join("join"));
    let db = files.iter().find(|path| path.ends_with("db")).unwrap();
    let len = fs::metadata(db).unwrap().len();
    assert!(len > 1 << 20, "the file is small: {len} bytes");
    fs::File::options()
        .write(true)
        .open(db)
        .unwrap()
        .set_len(0)
        .unwrap();
    // Every window closes, so the whole store is read.
    broker.heartbeat(world.end_ms + 30 * 86_400_000);
    wait_until("the daemon has stopped", || daemon.has_ended().then_some(()));
    let resumed = home.n_resumed();
    let daemon = restart(&mut home, daemon);
    daemon.wait_joined(broker.n_records() - resumed);
    daemon.stop();
    let damaged = home.manifest().checkpoint;

    let undisturbed = Home::new(&broker, &settings)
        .run_to_end(broker.n_records())
        .checkpoint;
    assert_eq!(damaged.ledger_hash, undisturbed.ledger_hash);
    assert_eq!(damaged.weights_hash, undisturbed.weights_hash);
    assert_eq!(damaged.sample_seq, n_samples(&world, &damaged.counters));
}

/// Number of samples: each shown item, and each positive once more. The windows are longer than those of the world.
fn n_samples(world: &World, counters: &BTreeMap<String, u64>) -> u64 {
    world.expected.shown + counters["click.positive"]
}
