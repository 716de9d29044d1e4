//! A standby: it follows, serves, takes over from a primary that is killed or suspended, and only one of them writes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ouzel_serving::client::RankClient;
use ouzel_snapshot::{AuditVerb, Manifest, Store};

use super::broker::Broker;
use super::daemon::{Daemon, Home, rank_request};
use super::world::{Rng, World};
use super::{print_figures, run_here, wait_until};

/// Small batches. The clock closes none, so two runs have the same ones.
const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\nsnapshot.every = \"0s\"\n\
                        snapshot.every_batches = 7\norder.max_reorder_delay = \"500ms\"\nsnapshot.keep = 1000";
/// Longest time without a learner that the long run accepts.
const MAX_WITHOUT_LEARNER: Duration = Duration::from_secs(5);

/// Exit code of a daemon that another one has taken over from.
const TAKEN_OVER: Option<i32> = Some(4);

/// Waits until the daemon is the writer and has written a snapshot. Returns its epoch.
#[track_caller]
fn wait_primary(daemon: &Daemon, home: &Home, before: Option<u64>) -> u64 {
    wait_until("the standby is the primary, with a snapshot of its own", || {
        let status = daemon.try_status()?;
        let epoch = status.epoch.filter(|_| status.role == "primary")?;
        let latest = home.latest()?.number();
        (before.is_none_or(|before| before < latest)).then_some(epoch)
    })
}

/// Waits until the standby has compared its state with the newest snapshot of the primary.
#[track_caller]
fn wait_equal(standby: &Daemon, home: &Home) {
    wait_until("the standby has the state of the newest snapshot", || {
        let status = standby.try_status()?;
        assert_eq!(status.role, "standby");
        (status.behind == 0 && status.latest == home.latest().map(|id| id.to_string())).then_some(())
    });
}

/// Waits until a snapshot has everything that the broker has.
#[track_caller]
fn wait_saved(primary: &Daemon, home: &Home, broker: &Broker) -> Manifest {
    wait_until("a snapshot has every record", || {
        primary.snapshot();
        // Not hundreds of them.
        thread::sleep(Duration::from_millis(100));
        let manifest = home.manifest();
        let n: i64 = manifest.checkpoint.positions.values().sum();
        (u64::try_from(n) == Ok(broker.n_records())).then_some(manifest)
    })
}

/// Ranks by the daemon until told to stop. Returns the number of answers; every one must be right.
fn keep_ranking(daemon: &Daemon, is_over: &AtomicBool) -> u64 {
    let mut n = 0;
    let mut client = RankClient::connect(daemon.address).unwrap();
    while !is_over.load(Ordering::Acquire) {
        let ranked = client
            .rank(&rank_request("user-1", 4))
            .expect("every request is answered");
        assert_eq!((ranked.items.len(), ranked.model), (4, None), "by a model");
        n += 1;
        thread::sleep(Duration::from_millis(2));
    }
    n
}

/// The writer of each segment of the plan log, by first entry.
fn plan_epochs(state: &Path) -> BTreeMap<u64, u64> {
    let mut epochs = BTreeMap::new();
    for entry in fs::read_dir(state.join("plan")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert!(bytes.starts_with(b"ouzelplan2"));
        epochs.insert(number(10), number(18));
    }
    epochs
}

/// Checks that the writers followed each other: in the plan log, in the audit log, by the snapshots' lineage.
fn check_one_writer(home: &Home, n_take_overs: usize) {
    let epochs: Vec<u64> = plan_epochs(&home.state()).into_values().collect();
    assert!(epochs.is_sorted(), "{epochs:?}");
    let audit = home.store().audit().unwrap();
    assert_eq!(audit.broken_at, None);
    let lines = audit.lines.iter();
    let taken: Vec<u64> = lines
        .filter(|line| line.verb == AuditVerb::TakeOver)
        .map(|line| line.epoch)
        .collect();
    assert!(taken.is_sorted_by(|a, b| a < b), "{taken:?}");
    assert!(taken.len() >= n_take_overs, "{taken:?}");
    let listed = home.store().list().unwrap();
    for pair in listed.windows(2) {
        let parent = pair[1].manifest.as_ref().and_then(|manifest| manifest.parent);
        assert_eq!(parent, Some(pair[0].id), "each snapshot continues the one before");
        assert!(home.store().verify(pair[1].id).unwrap().is_valid());
    }
}

/// Kills the primary `n_kills` times at random instants while events arrive; the standby takes over each time.
fn take_over(n_kills: u64, seed: u64) -> Vec<Duration> {
    let broker = Broker::embedded(1);
    let first = Home::new(&broker, SETTINGS);
    let second = Home::beside(&first, &broker, SETTINGS);
    let mut homes = [first, second];
    let world = World::generate(150 * (n_kills + 1), &homes[0].path().join("world"));
    let mut pieces = world
        .events
        .chunks(world.events.len().div_ceil(usize::try_from(n_kills).unwrap() + 1));
    let mut rng = Rng::new(seed);
    let mut primary = homes[0].start_with(&["--standby"]);
    broker.feed(pieces.next().unwrap());
    wait_primary(&primary, &homes[0], None);
    let mut gaps = Vec::new();
    let (n_answers, n_fed) = (AtomicU64::new(0), AtomicU64::new(0));
    for kill in 0..n_kills {
        let place = usize::try_from(kill + 1).unwrap() % 2;
        let standby = homes[place].start_with(&["--standby"]);
        standby.wait_ready();
        assert_eq!(standby.status().role, "standby", "the primary lives");
        let is_over = AtomicBool::new(false);
        let events = pieces.next().unwrap();
        let kill_after = usize::try_from(rng.below(events.len() as u64)).unwrap();
        let (home, standby_ref, is_over) = (&homes[place], &standby, &is_over);
        thread::scope(|scope| {
            let client = scope.spawn(move || keep_ranking(standby_ref, is_over));
            // Piece by piece, so that the kill finds the primary at work.
            let (early, late) = events.split_at(kill_after);
            for few in early.chunks(20) {
                broker.feed(few);
                n_fed.fetch_add(few.len() as u64, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_micros(rng.below(300_000)));
            primary.kill();
            let killed = Instant::now();
            let newest = home.latest().map(|id| id.number());
            broker.feed(late);
            wait_primary(standby_ref, home, newest);
            gaps.push(killed.elapsed());
            is_over.store(true, Ordering::Release);
            n_answers.fetch_add(client.join().unwrap(), Ordering::Relaxed);
        });
        primary = standby;
    }
    for events in pieces {
        broker.feed(events);
    }
    broker.heartbeat(world.end_ms + 3_600_000);
    let found = wait_saved(&primary, &homes[0], &broker);
    check_one_writer(&homes[0], usize::try_from(n_kills).unwrap());
    primary.stop();

    let mut undisturbed = Home::new(&broker, SETTINGS);
    let expected = undisturbed.run_to_end(broker.n_records());
    let (found, expected) = (found.checkpoint, expected.checkpoint);
    assert_eq!(found.sample_seq, world.expected.samples());
    assert_eq!(found.ledger_hash, expected.ledger_hash);
    assert_eq!(found.counters, expected.counters);
    assert_eq!(found.positions, expected.positions);
    assert_eq!(found.weights_hash, expected.weights_hash);
    let n_answers = n_answers.into_inner();
    assert!(n_answers > 0);
    print_figures(&format!(
        "{n_kills} of {n_kills} take-overs, without a learner for {gaps:?}, {n_answers} answers without a failure"
    ));
    gaps
}

#[test]
fn a_standby_takes_over_from_a_primary_killed_at_any_instant() {
    match std::env::var("OUZEL_TAKE_OVERS") {
        Ok(n) => {
            let gaps = take_over(n.parse().unwrap(), 1);
            assert!(gaps.iter().all(|gap| *gap <= MAX_WITHOUT_LEARNER), "{gaps:?}");
        }
        Err(_) => drop(take_over(3, 1)),
    }
}

/// Every file that the writer of a state directory may change, with its bytes.
fn written(state: &Path, first_of_successor: u64) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![state.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(state).unwrap().display().to_string();
            // Claims and sockets are of living processes. What a former writer appends to its open segment is not read.
            if name.starts_with("lease") || name.ends_with(".sock") {
                continue;
            }
            let first = name.strip_prefix("plan/plan-").and_then(|name| name.get(..20));
            let is_former = first.is_some_and(|first| first.parse::<u64>().unwrap() < first_of_successor);
            if path.is_dir() {
                dirs.push(path);
            } else if !is_former {
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_primary_that_was_suspended_stops_without_writing() {
    let broker = Broker::embedded(1);
    let mut first = Home::new(&broker, SETTINGS);
    let mut second = Home::beside(&first, &broker, SETTINGS);
    let world = World::generate(300, &first.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let mut primary = first.start();
    broker.feed(early);
    wait_saved(&primary, &first, &broker);
    let standby = second.start_with(&["--standby"]);
    standby.wait_ready();
    wait_equal(&standby, &second);

    primary.signal("STOP");
    let newest = second.latest().map(|id| id.number());
    // What the former primary would read and write as soon as it goes on.
    broker.feed(late);
    let epoch = wait_primary(&standby, &second, newest);
    broker.heartbeat(world.end_ms + 3_600_000);
    let saved = wait_saved(&standby, &second, &broker);
    let begun = plan_epochs(&second.state())
        .into_iter()
        .find(|(_, by)| *by == epoch);
    let (begun, _) = begun.expect("the standby has begun a segment");
    let before = written(&second.state(), begun);
    primary.signal("CONT");
    assert_eq!(primary.wait_exit(), TAKEN_OVER);
    assert!(primary.logged("another daemon has taken over").is_some());
    assert_eq!(written(&second.state(), begun), before);
    standby.check_serves();
    check_one_writer(&second, 1);
    assert_eq!(saved.checkpoint.sample_seq, world.expected.samples());
    standby.stop();
}

#[test]
fn a_standby_follows_the_operator_too_and_a_stop_hands_over_at_once() {
    let broker = Broker::embedded(1);
    let settings = format!("{SETTINGS}\nsnapshot.lease = \"1h\"");
    let mut first = Home::new(&broker, &settings);
    let mut second = Home::beside(&first, &broker, &settings);
    let world = World::generate(300, &first.path().join("world"));
    let mut pieces = world.events.chunks(world.events.len().div_ceil(3));
    let primary = first.start();
    broker.feed(pieces.next().unwrap());
    let oldest = wait_saved(&primary, &first, &broker).id;
    let standby = second.start_with(&["--standby"]);
    wait_equal(&standby, &second);
    standby.wait_ready();
    standby.check_serves();
    let refused = second.snapshot(&["pin", "latest"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("this daemon is a standby"),
        "{}",
        refused.err
    );
    let config = second.config();
    let status = run_here(&["status", "--config", config.to_str().unwrap()]);
    assert_eq!(status.code, Some(0), "{}", status.err);
    assert!(status.out.contains("standby, 0 batches behind"), "{}", status.out);

    broker.feed(pieces.next().unwrap());
    wait_saved(&primary, &first, &broker);
    wait_equal(&standby, &second);
    // Weights that no entry of the plan log explains, and then a state from before.
    for from in [&["--skip-to", "now"][..], &["--rewind"]] {
        let id = oldest.to_string();
        let args = [&["rollback", id.as_str()], from].concat();
        let rolled_back = first.snapshot(&args);
        assert_eq!(rolled_back.code, Some(0), "{}", rolled_back.err);
        wait_saved(&primary, &first, &broker);
        wait_equal(&standby, &second);
    }
    assert!(standby.metric("ouzel_ops_standby_resyncs_total", "") >= 2.0);
    assert_eq!(standby.metric("ouzel_ops_primary", "").to_bits(), 0f64.to_bits());
    let newest = second.latest().map(|id| id.number());
    primary.stop();
    let epoch = wait_primary(&standby, &second, newest);
    assert!(epoch > 1);
    broker.feed(pieces.next().unwrap());
    broker.heartbeat(world.end_ms + 3_600_000);
    let saved = wait_saved(&standby, &second, &broker);
    assert_eq!(saved.checkpoint.sample_seq, world.expected.samples());
    assert!(Store::open(&second.state()).is_err(), "the standby writes now");
    standby.stop();
    assert!(Store::open(&second.state()).is_ok());
}
