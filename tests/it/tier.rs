//! The join tier: processes that join, come and go and die, and a learner that must not notice.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};

use serde_json::Value;

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::world::{Expected, World};
use super::{ouzel, until};

/// Window and lateness as configured by default, and some.
const AFTER_MS: i64 = 700_000;

/// One `ouzel join`.
struct Member {
    child: Child,
    log: PathBuf,
}

impl Member {
    /// Starts one under a name of its own.
    fn start(home: &Home, name: &str) -> Self {
        let log = home.path().join(format!("join-{name}"));
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
///
/// Records are held back for longer than a busy machine takes to fetch those beside them. Without that one owner of
/// a unit may read an action before its impression and the next one after it, and an action that is late is then
/// counted as such by both.
fn home(broker: &Broker, group: &str) -> Home {
    let settings = format!(
        "learner.batch_min_samples = 32\nsnapshot.every_batches = 10\norder.hold = \"2s\"\njoin.source = \"tier\"\n\
         tier = {{ group = {group:?}, session_timeout = \"3s\", commit = \"100ms\" }}"
    );
    Home::new(broker, &settings)
}

/// Items that the learner was told of.
fn n_shown(daemon: &Daemon) -> f64 {
    daemon.metric("ouzel_ops_join_outcomes_total", "{outcome=\"shown\"}")
}

/// Waits until every outcome has been heard, then compares them all with what the world knows.
#[track_caller]
fn check(mut home: Home, daemon: Daemon, expected: &Expected, n_beats: u64) {
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
    check(home, daemon, &world.expected, n_beats);
    member.stop();
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
    check(home, daemon, expected, n_beats);
    for member in [b, c, d] {
        member.stop();
    }
}
