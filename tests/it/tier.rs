//! The join tier: processes that join, come and go and die, and a learner that must not notice.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::own_broker::Own;
use super::world::{Expected, World};
use super::{ouzel, until};

/// Window and lateness as configured by default, and some.
const AFTER_MS: i64 = 700_000;

/// How long a broker stands still.
const OUTAGE: Duration = Duration::from_secs(6);

/// One `ouzel join`.
struct Member {
    child: Child,
    log: PathBuf,
}

impl Member {
    /// Starts one under a name of its own.
    fn start(home: &Home, name: &str) -> Self {
        Self::start_logged(home, name, &format!("join-{name}"))
    }

    /// The same, with its log elsewhere.
    fn start_logged(home: &Home, name: &str, log: &str) -> Self {
        let log = home.path().join(log);
        let config = home.config();
        let args = ["join", "--config", config.to_str().unwrap(), "--instance", name];
        let child = ouzel(args).stderr(File::create(&log).unwrap()).spawn().unwrap();
        Self { child, log }
    }

    /// Lines of its log with this message.
    fn n_said(&self, message: &str) -> usize {
        let text = fs::read_to_string(&self.log).unwrap();
        text.lines().filter(|line| line.contains(message)).count()
    }

    /// True when it began a unit behind the start of the log.
    fn has_warmed_up(&self) -> bool {
        let text = fs::read_to_string(&self.log).unwrap();
        let mut lines = text.lines().filter(|line| line.contains("unit begins"));
        lines.any(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["how"] == "warm" && line["impressions"].as_i64().is_some_and(|from| from > 0)
        })
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    #[track_caller]
    fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", "TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        let status = until("a joining process has ended", || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Member {
    #[allow(clippy::print_stderr, reason = "its log says why the test failed")]
    fn drop(&mut self) {
        let _killed = self.child.kill().is_ok() && self.child.wait().is_ok();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// A home of a learner behind the tier, and of its members.
fn home(broker: &Broker, group: &str) -> Home {
    let settings = format!(
        "learner.batch_min_samples = 32\nsnapshot.every_batches = 10\njoin.source = \"tier\"\n\
         tier = {{ group = {group:?}, session_timeout = \"3s\", commit_interval = \"100ms\" }}"
    );
    Home::new(broker, &settings)
}

/// Items that the learner was told of.
fn n_shown(daemon: &Daemon) -> f64 {
    daemon.metric("ouzel_ops_join_outcomes_total", "{outcome=\"shown\"}")
}

/// Waits until every outcome has been heard, then compares them all with what the world knows.
#[track_caller]
fn check(home: &mut Home, daemon: Daemon, expected: &Expected, n_beats: u64) {
    let decided = expected.shown as f64;
    until("every outcome is heard", || {
        let of = |outcome| {
            daemon.metric(
                "ouzel_ops_join_outcomes_total",
                &format!("{{outcome=\"{outcome}\"}}"),
            )
        };
        (of("positive") + of("negative") + of("shown_late") >= decided).then_some(())
    });
    daemon.stop();
    let counters = home.manifest().cut.counters;
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
        home.manifest().cut.sample_seq,
        expected.samples(),
        "one sample for each shown item, and for each positive one more"
    );
    // Another start goes on from there.
    let again = home.start();
    again.ready();
    again.stop();
    assert_eq!(home.manifest().cut.sample_seq, expected.samples());
}

#[test]
fn a_learner_behind_one_joining_process_learns_every_outcome_once() {
    let broker = Broker::embedded(2);
    let mut home = home(&broker, "one");
    let world = World::make(120, &home.path().join("world"));
    let member = Member::start(&home, "a");
    let daemon = home.start();
    broker.feed(&world.events);
    let n_beats = broker.heartbeat(world.end_ms + AFTER_MS);
    until("the units are taken up", || {
        (member.n_said("unit begins") == 2).then_some(())
    });
    check(&mut home, daemon, &world.expected, n_beats);
    member.stop();
}

#[test]
fn of_two_joining_processes_with_one_name_one_goes_on() {
    let Some(broker) = Broker::real("name", 2) else {
        return;
    };
    let mut home = home(&broker, &format!("name-{}", std::process::id()));
    let world = World::make(300, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = home.start();
    let first = Member::start_logged(&home, "a", "first");
    broker.feed(early);
    until("the learner is told", || (n_shown(&daemon) > 0.0).then_some(()));
    let second = Member::start_logged(&home, "a", "second");
    // Either takes the name back once, and whoever loses it again knows that it is not alone.
    let mut members = [first, second];
    let ended = until("one of them has given up", || {
        members
            .iter_mut()
            .position(|member| member.child.try_wait().unwrap().is_some())
    });
    let [first, second] = members;
    let (ended, lives) = if ended == 0 {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(ended.n_said("it is taken back, once"), 1);
    assert!(ended.n_said("FencedInstanceId") > 0);
    broker.feed(late);
    let n_beats = broker.heartbeat(world.end_ms + AFTER_MS);
    check(&mut home, daemon, &world.expected, n_beats);
    lives.stop();
}

#[test]
fn joining_processes_outlive_a_broker_that_stands_still() {
    let Some(own) = Own::start("outage") else {
        return;
    };
    let broker = Broker::at(own.address.clone(), "outage", 2);
    let mut home = home(&broker, "outage");
    let world = World::make(600, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let members = ["a", "b"].map(|name| Member::start(&home, name));
    let daemon = home.start();
    broker.feed(early);
    until("the learner is told", || (n_shown(&daemon) > 0.0).then_some(()));
    own.kafka(&["stop"]);
    // Longer than a session, so that the units are taken up anew.
    std::thread::sleep(OUTAGE);
    assert_eq!(own.kafka(&["start", "again"]), own.address);
    broker.feed(late);
    let n_beats = broker.heartbeat(world.end_ms + AFTER_MS);
    check(&mut home, daemon, &world.expected, n_beats);
    members.into_iter().for_each(Member::stop);
}

#[test]
fn joining_processes_and_their_learner_may_die_at_any_time() {
    const N_UNITS: usize = 6;
    let Some(broker) = Broker::real("tier", 6) else {
        return;
    };
    let mut home = home(&broker, &format!("tier-{}", std::process::id()));
    let world = World::make(3000, &home.path().join("world"));
    let expected = &world.expected;
    let n_begun = |members: &[&Member]| {
        members
            .iter()
            .map(|member| member.n_said("unit begins"))
            .sum::<usize>()
    };
    let mut events = world.events.chunks(world.events.len().div_ceil(12));
    let mut feed = || broker.feed(events.next().unwrap());

    feed();
    let [a, b, c] = ["a", "b", "c"].map(|name| Member::start(&home, name));
    let mut daemon = home.start();
    until(
        "every unit is taken up by somebody, and everybody has some",
        || {
            let has = |member: &Member| member.n_said("unit begins") > 0;
            (n_begun(&[&a, &b, &c]) >= N_UNITS && has(&a) && has(&b) && has(&c)).then_some(())
        },
    );
    feed();
    until("the learner is told", || (n_shown(&daemon) > 0.0).then_some(()));

    // One dies while it joins, the others go on and take its units up.
    feed();
    let before = n_begun(&[&b, &c]);
    a.kill();
    feed();
    feed();
    until("the units of the dead have moved", || {
        (n_begun(&[&b, &c]) > before).then_some(())
    });
    // One more comes, and the learner dies.
    feed();
    let d = Member::start(&home, "d");
    feed();
    daemon.kill();
    feed();
    daemon = home.start();
    until("the new one has units", || {
        (d.n_said("unit begins") > 0).then_some(())
    });
    // One leaves in peace and comes back.
    feed();
    c.stop();
    feed();
    let c = Member::start(&home, "c");
    feed();
    daemon.kill();
    feed();
    daemon = home.start();
    let n_beats = broker.heartbeat(world.end_ms + AFTER_MS);
    until("the one that came back has units", || {
        (c.n_said("unit begins") > 0).then_some(())
    });
    assert!([&b, &c, &d].iter().any(|member| member.has_warmed_up()));
    check(&mut home, daemon, expected, n_beats);
    for member in [b, c, d] {
        member.stop();
    }
}
