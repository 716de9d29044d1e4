//! A join state larger than memory: what stays in memory, and that nothing is lost on disk.
//!
//! `OUZEL_JOIN_PENDING` sets the number of pending impressions (default 150,000; the long run takes 5,000,000),
//! `OUZEL_SLED_MUTATIONS` how often the files are damaged while they are read (default 15; the long run takes 200).

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails while setting a test up fails the test"
)]

#[path = "../../tests/support/counting_allocator.rs"]
mod counting_allocator;
#[path = "support/pending.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod pending;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::{env, fs};

use counting_allocator::bytes_in_use;
use ouzel_ingest::join::{JoinError, JoinStore, Joiner, MemStore, Outcome, SledLimits, SledStore};
use ouzel_sample::settings::ByteSize;
use ouzel_sample::{Action, EventTime, Ledger, Position, Sample};
use pending::{ACTED, SHOWN, fill, id, joiner};

/// Serialises the tests: memory is counted for the whole process.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_state_larger_than_memory_is_joined_from_disk() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let n: u64 = env::var("OUZEL_JOIN_PENDING").map_or(150_000, |n| n.parse().expect("a number"));
    let dir = tempfile::tempdir().unwrap();
    let limits = SledLimits {
        requests_in_memory: 5_000,
        page_cache: ByteSize::from_bytes(4 << 20),
        ..SledLimits::default()
    };
    let before = bytes_in_use();
    let mut joiner = joiner(SledStore::open(dir.path(), limits).unwrap());
    // 50 past actions and one candidate: more than a kilobyte of features each.
    fill(&mut joiner, n, 1, 50);
    let taken = bytes_in_use() - before;
    // Ids and due times per impression, and a constant for sled and the impressions in memory.
    let cap = usize::try_from(n).unwrap() * 130 + (128 << 20);
    assert!(
        taken <= cap,
        "{taken} bytes for {n} pending impressions, {cap} are allowed"
    );

    assert!(joiner.store().n_cold() + limits.requests_in_memory >= usize::try_from(n).unwrap());

    let mut out: Vec<Vec<Sample>> = Vec::new();
    for n in (0..n).step_by(1_000) {
        let action = Action {
            request: Some(id(n)),
            item: id(0),
            user: id(n % 1_000),
            ts: EventTime(i64::try_from(n).unwrap()),
            task: 0,
            value: None,
        };
        let effects = joiner.action(acted_at(n), None, &action).unwrap();
        assert_eq!(effects.outcome, Outcome::Matched);
        out.append(&mut effects.groups);
    }
    // Closed in steps, so that few samples are in memory at once.
    let (mut n_positive, mut n_negative) = (0, 0);
    let window = joiner.config().tasks[0].window.ms() + joiner.config().allowed_lateness.ms();
    for upto in (0..=n + 1_000).step_by(1_000) {
        for partition in [SHOWN, ACTED] {
            let ts = EventTime(i64::try_from(upto).unwrap() + window);
            out.append(&mut joiner.advance(partition, ts).unwrap().groups);
        }
        for sample in out.drain(..).flatten() {
            match sample.labels.get(0).expect("one task, and its label is certain") {
                true => n_positive += 1,
                false => n_negative += 1,
            }
        }
    }
    assert_eq!(n_positive, n.div_ceil(1_000));
    assert_eq!(n_positive + n_negative, n);
    joiner.audit().unwrap();
    assert_eq!(joiner.counters().pending_items, 0);
}

fn acted_at(n: u64) -> Position {
    Position {
        partition: ACTED,
        offset: i64::try_from(n).unwrap(),
    }
}

/// Pending impressions of one damaged store: several of the half megabytes that sled writes at once.
const N_DAMAGED: u64 = 4_000;

/// Acts on a third of the impressions, then closes all. Returns the ledger of their samples.
fn close<S: JoinStore>(joiner: &mut Joiner<S>) -> Result<Ledger, JoinError> {
    let (mut out, mut ledger, mut n_samples) = (Vec::new(), Ledger::default(), 0);
    for n in (0..N_DAMAGED).step_by(3) {
        let action = Action {
            request: Some(id(n)),
            item: id(0),
            user: id(n % 1_000),
            ts: EventTime(i64::try_from(n).unwrap()),
            task: 0,
            value: None,
        };
        out.append(&mut joiner.action(acted_at(n), None, &action)?.groups);
    }
    let window = joiner.config().tasks[0].window.ms() + joiner.config().allowed_lateness.ms();
    for partition in [SHOWN, ACTED] {
        let ts = EventTime(i64::try_from(2 * N_DAMAGED).unwrap() + window);
        out.append(&mut joiner.advance(partition, ts)?.groups);
    }
    for sample in out.drain(..).flatten() {
        ledger.add(&sample);
        n_samples += 1;
    }
    assert_eq!(n_samples, N_DAMAGED);
    Ok(ledger)
}

/// Damages the database in `dir`; `n` selects how.
fn damage(dir: &Path, n: u64) {
    let path = dir.join("join-0").join("db");
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    assert!(len > 1 << 20, "little of it is in the file: {len} bytes");
    let at = id(n).0 % len;
    match n % 5 {
        // A bit in every other page, so that one of them is read.
        0 => {
            for at in (at % 8192..len).step_by(8192) {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ (1 << (n % 8))], at).unwrap();
            }
        }
        1 => file.write_all_at(&[0; 1 << 19], at / 2).unwrap(),
        2 => file.set_len(at / 2).unwrap(),
        // A deleted file stays readable to the process that has it open; an emptied one does not.
        3 => file.set_len(0).unwrap(),
        _ => file.write_all_at(&id(n).0.to_le_bytes(), at).unwrap(),
    }
}

#[test]
fn damage_during_reading_is_an_error_and_never_a_wrong_sample() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let n_trials: u64 = env::var("OUZEL_SLED_MUTATIONS").map_or(15, |n| n.parse().expect("a number"));
    let mut undisturbed = joiner(MemStore::default());
    fill(&mut undisturbed, N_DAMAGED, 1, 50);
    let expected = close(&mut undisturbed).unwrap();
    let limits = SledLimits {
        requests_in_memory: 50,
        page_cache: ByteSize::from_bytes(256),
        ..SledLimits::default()
    };
    let mut n_noticed = 0;
    for n in 0..n_trials {
        let dir = tempfile::tempdir().unwrap();
        let mut joiner = joiner(SledStore::open(dir.path(), limits).unwrap());
        fill(&mut joiner, N_DAMAGED, 1, 50);
        damage(dir.path(), n);
        match close(&mut joiner) {
            Ok(ledger) => assert_eq!(ledger, expected, "damage {n} made a wrong sample"),
            Err(error) => {
                assert!(matches!(error, JoinError::Store(_)), "{error}");
                n_noticed += 1;
            }
        }
    }
    assert!(
        n_noticed >= n_trials / 5,
        "{n_noticed} of {n_trials} were noticed"
    );
    print_figures(&format!(
        "{n_noticed} of {n_trials} mutations were noticed while the store was read"
    ));
}

#[allow(clippy::print_stderr, reason = "a figure, for whoever asks the runner for it")]
fn print_figures(figures: &str) {
    eprintln!("{figures}");
}
