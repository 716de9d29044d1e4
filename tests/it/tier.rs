//! The join tier: joining processes start, stop and crash without an effect on the learner.

use std::time::Duration;

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::own_broker::OwnBroker;
use super::process::Process;
use super::world::{Expected, World};
use super::{ouzel, wait_until};

/// More than the default window and lateness.
const AFTER_MS: i64 = 700_000;

/// Time without a broker: longer than a session, so that partitions are reassigned.
const OUTAGE: Duration = Duration::from_secs(6);

/// Starts an `ouzel join` named `name`.
fn start_member(home: &Home, name: &str) -> Process {
    start_member_logged(home, name, &format!("join-{name}"))
}

/// Starts an `ouzel join` named `name` with its log in the file `log`.
fn start_member_logged(home: &Home, name: &str, log: &str) -> Process {
    let config = home.config();
    let args = ["join", "--config", config.to_str().unwrap(), "--instance", name];
    Process::start(&mut ouzel(args), &home.path().join(log))
}

/// Number of partitions that a joining process has started to join.
fn n_begun(member: &Process) -> usize {
    member.logged("joining a pair of partitions").len()
}

/// True if the process started to join a partition after the start of the log.
fn has_warmed_up(member: &Process) -> bool {
    let begun = member.logged("joining a pair of partitions");
    let is_warm = |from: i64| from > 0;
    begun
        .iter()
        .any(|line| line["how"] == "warm" && line["impressions"].as_i64().is_some_and(is_warm))
}

/// The folder of a learner behind the tier and of the joining processes.
fn home(broker: &Broker, group: &str) -> Home {
    let settings = format!(
        "learner.batch_min_samples = 32\nsnapshot.every = \"0s\"\nsnapshot.every_batches = 10\njoin.source = \"tier\"\n\
         tier = {{ group = {group:?}, session_timeout = \"3s\", commit_interval = \"100ms\" }}"
    );
    Home::new(broker, &settings)
}

/// Shown items that the learner has received.
fn n_shown(daemon: &Daemon) -> f64 {
    daemon.metric("ouzel_ops_join_outcomes_total", "{outcome=\"shown\"}")
}

/// Waits until the learner has every outcome, then compares the counters with the expected counts.
#[track_caller]
fn check(home: &mut Home, daemon: Daemon, expected: &Expected, n_beats: u64) {
    let n_outcomes = expected.shown as f64;
    wait_until("the learner has every outcome", || {
        let count = |outcome| {
            daemon.metric(
                "ouzel_ops_join_outcomes_total",
                &format!("{{outcome=\"{outcome}\"}}"),
            )
        };
        (count("positive") + count("negative") + count("shown_late") >= n_outcomes).then_some(())
    });
    daemon.stop();
    let counters = home.manifest().checkpoint.counters;
    let n = |name: &str| counters.get(name).copied().unwrap_or(0);
    let found = [
        n("items"),
        n("duplicate_items"),
        n("click.positive"),
        n("click.negative"),
        n("click.late"),
        n("click.pending"),
        n("matched"),
        n("late_actions"),
    ];
    let negatives = expected.shown - expected.positives;
    let wanted = [
        expected.shown + n_beats,
        0,
        expected.positives,
        negatives,
        0,
        n_beats,
        expected.positives,
        expected.late,
    ];
    assert_eq!(
        found, wanted,
        "shown, twice, positive, negative, late, pending, matched, late actions"
    );
    assert_eq!(
        home.manifest().checkpoint.sample_seq,
        expected.samples(),
        "one sample for each shown item, and for each positive one more"
    );
    // A restart continues from there.
    let again = home.start();
    again.wait_ready();
    again.stop();
    assert_eq!(home.manifest().checkpoint.sample_seq, expected.samples());
}

#[test]
fn a_learner_behind_one_joining_process_learns_every_outcome_once() {
    let broker = Broker::embedded(2);
    let mut home = home(&broker, "one");
    let world = World::generate(120, &home.path().join("world"));
    let member = start_member(&home, "a");
    let daemon = home.start();
    broker.feed(&world.events);
    let n_beats = broker.heartbeat(world.end_ms + AFTER_MS);
    wait_until("both pairs are joined", || (n_begun(&member) == 2).then_some(()));
    check(&mut home, daemon, &world.expected, n_beats);
    member.stop();
}

#[test]
fn of_two_joining_processes_with_one_name_one_continues() {
    let Some(broker) = Broker::real("name", 2) else {
        return;
    };
    let mut home = home(&broker, &format!("name-{}", std::process::id()));
    let world = World::generate(300, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = home.start();
    let first = start_member_logged(&home, "a", "first");
    broker.feed(early);
    wait_until("the learner has join records", || {
        (n_shown(&daemon) > 0.0).then_some(())
    });
    let second = start_member_logged(&home, "a", "second");
    // Each takes the name back once, and ends when it loses the name again.
    let mut members = [first, second];
    let ended = wait_until("one of them has ended", || {
        members.iter_mut().position(Process::has_ended)
    });
    let [first, second] = members;
    let (ended, running) = if ended == 0 {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(ended.logged("taking it back, once").len(), 1);
    assert!(ended.log_contains("FencedInstanceId"));
    broker.feed(late);
    let n_beats = broker.heartbeat(world.end_ms + AFTER_MS);
    check(&mut home, daemon, &world.expected, n_beats);
    running.stop();
}

#[test]
fn joining_processes_outlive_a_stopped_broker() {
    let Some(own) = OwnBroker::start("outage") else {
        return;
    };
    let broker = Broker::at(own.address.clone(), "outage", 2);
    let mut home = home(&broker, "outage");
    let world = World::generate(600, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let members = ["a", "b"].map(|name| start_member(&home, name));
    let daemon = home.start();
    broker.feed(early);
    wait_until("the learner has join records", || {
        (n_shown(&daemon) > 0.0).then_some(())
    });
    own.kafka(&["stop"]);
    std::thread::sleep(OUTAGE);
    assert_eq!(own.kafka(&["start", "again"]), own.address);
    broker.feed(late);
    let n_beats = broker.heartbeat(world.end_ms + AFTER_MS);
    check(&mut home, daemon, &world.expected, n_beats);
    members.into_iter().for_each(Process::stop);
}

#[test]
fn joining_processes_and_their_learner_may_die_at_any_time() {
    const N_PAIRS: usize = 6;
    let Some(broker) = Broker::real("tier", 6) else {
        return;
    };
    let mut home = home(&broker, &format!("tier-{}", std::process::id()));
    let world = World::generate(3000, &home.path().join("world"));
    let expected = &world.expected;
    let n_begun_of = |members: &[&Process]| members.iter().map(|member| n_begun(member)).sum::<usize>();
    let mut events = world.events.chunks(world.events.len().div_ceil(12));
    let mut feed = || broker.feed(events.next().unwrap());

    feed();
    let [a, b, c] = ["a", "b", "c"].map(|name| start_member(&home, name));
    let mut daemon = home.start();
    wait_until("every pair is joined, and every process has one", || {
        let has = |member: &Process| n_begun(member) > 0;
        (n_begun_of(&[&a, &b, &c]) >= N_PAIRS && has(&a) && has(&b) && has(&c)).then_some(())
    });
    feed();
    wait_until("the learner has join records", || {
        (n_shown(&daemon) > 0.0).then_some(())
    });

    // One is killed while it joins, and the others take over its pairs.
    feed();
    let before = n_begun_of(&[&b, &c]);
    a.kill();
    feed();
    feed();
    wait_until("the pairs of the killed process have moved", || {
        (n_begun_of(&[&b, &c]) > before).then_some(())
    });
    // One more starts, and the learner is killed.
    feed();
    let d = start_member(&home, "d");
    feed();
    daemon.kill();
    feed();
    daemon = home.start();
    wait_until("the new process has pairs", || (n_begun(&d) > 0).then_some(()));
    // One stops cleanly and starts again.
    feed();
    c.stop();
    feed();
    let c = start_member(&home, "c");
    feed();
    daemon.kill();
    feed();
    daemon = home.start();
    let n_beats = broker.heartbeat(world.end_ms + AFTER_MS);
    wait_until("the restarted process has pairs", || {
        (n_begun(&c) > 0).then_some(())
    });
    assert!([&b, &c, &d].iter().any(|member| has_warmed_up(member)));
    check(&mut home, daemon, expected, n_beats);
    for member in [b, c, d] {
        member.stop();
    }
}
