//! `ouzel candidate` and `ouzel promote`: a snapshot that scores a share of the traffic beside the served version.

use ouzel::config::Config;
use ouzel::pipeline::candidate::CandidateReport;
use ouzel_sample::{IdKind, UserShare};
use ouzel_serving::Variant;
use ouzel_snapshot::{Alias, AuditVerb, SnapshotId};
use serde_json::Value;

use super::broker::Broker;
use super::daemon::{Daemon, Home, rank_request};
use super::world::World;
use super::{CommandOutput, run_here, wait_until};

/// Time closes no batch, and a record waits for those of other partitions that are under way, so that two daemons read
/// one order. Snapshots are written on request, at the first batch and at the end.
const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\nsnapshot.every = \"0s\"\n\
                        snapshot.every_batches = 1000\nsnapshot.keep = 50\norder.max_reorder_delay = \"3s\"";

/// Users of the generated worlds.
const N_USERS: usize = 25;

/// A command on the state of `home`.
fn ouzel(home: &Home, args: &[&str]) -> CommandOutput {
    let config = home.config();
    run_here(&[args, &["--config", config.to_str().unwrap()]].concat())
}

#[track_caller]
fn done(home: &Home, args: &[&str]) -> Value {
    ouzel(home, &[args, &["--json"]].concat()).json()
}

fn number(id: SnapshotId) -> String {
    id.number().to_string()
}

/// Starts a shadow that scores all users, which the running daemon answers.
#[track_caller]
fn start_shadow(home: &Home, id: SnapshotId) -> CommandOutput {
    ouzel(
        home,
        &[
            "candidate",
            "start",
            &number(id),
            "--shadow",
            "--share",
            "100%",
            "--json",
        ],
    )
}

/// The body of the reply to each user.
fn replies(daemon: &Daemon) -> Vec<String> {
    let mut client = daemon.client();
    let rank = |user| {
        let request = serde_json::to_string(&rank_request(&format!("user-{user}"), 20)).unwrap();
        let reply = client.post("/v1/rank", &request).unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.body
    };
    (0..N_USERS).map(rank).collect()
}

/// The report of the candidate, once it satisfies `is_ready`.
#[track_caller]
fn report(daemon: &Daemon, what: &str, is_ready: impl Fn(&CandidateReport) -> bool) -> CandidateReport {
    wait_until(what, || daemon.status().candidate.filter(&is_ready))
}

/// Feeds a world in two halves, with a snapshot after the first. Lets `between` change the daemon there. Returns the
/// daemon with everything joined.
fn run(broker: &Broker, home: &mut Home, world: &World, between: impl FnOnce(&Home, SnapshotId)) -> Daemon {
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = home.start();
    broker.feed(early);
    daemon.wait_joined(broker.n_records());
    let first = daemon.snapshot();
    between(home, first);
    broker.feed(late);
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records());
    daemon.snapshot();
    daemon
}

/// Checks that the figures of both models appear wherever they are reported. Returns the number of compared items.
#[track_caller]
fn check_comparison(home: &Home, daemon: &Daemon, first: SnapshotId) -> u64 {
    let compared = report(daemon, "the candidate is compared", |report| {
        report.tasks[0].figures.serving.judged > 400
    });
    let figures = &compared.tasks[0].figures;
    assert_eq!(
        (compared.snapshot, compared.variant),
        (Some(first), Variant::Shadow)
    );
    assert_eq!(figures.serving.judged, figures.candidate.judged);
    assert_eq!(figures.serving.positives, figures.candidate.positives);
    for side in [figures.serving, figures.candidate] {
        assert!(
            side.auc.is_some() && side.gauc.is_some() && side.ne.is_some(),
            "{side:?}"
        );
    }
    assert_ne!(figures.serving.log_loss, figures.candidate.log_loss);
    let difference = figures.difference.unwrap();
    assert!(difference.low < difference.mean && difference.mean < difference.high);
    let mean = figures.candidate.log_loss.unwrap() - figures.serving.log_loss.unwrap();
    assert!((difference.mean - mean).abs() < 1e-6, "{mean} {difference:?}");
    let (auc, gauc) = (figures.auc_difference.unwrap(), figures.gauc_difference.unwrap());
    let [serving, candidate] = [figures.serving, figures.candidate];
    for (difference, mean) in [
        (auc, candidate.auc.unwrap() - serving.auc.unwrap()),
        (gauc, candidate.gauc.unwrap() - serving.gauc.unwrap()),
    ] {
        assert!((difference.mean - mean).abs() < 1e-9, "{mean} {difference:?}");
        assert!(difference.low < difference.mean && difference.mean < difference.high);
    }
    assert!(compared.summary.contains("95 % interval"), "{}", compared.summary);
    assert!(compared.slates > 100);
    assert!(daemon.get("/v1/status").body.contains(&compared.summary));
    let figure = "{task=\"click\",model=\"candidate\",figure=\"auc\"}";
    assert!(daemon.metric("ouzel_learner_candidate_figure_ratio", figure) > 0.0);
    assert!(ouzel(home, &["candidate", "show"]).out.contains("calibration"));
    assert!(ouzel(home, &["status"]).out.contains(&compared.summary));
    figures.serving.judged
}

#[test]
fn a_shadow_is_compared_and_changes_no_reply_and_no_bit() {
    let alone = Broker::embedded(1);
    let mut without = Home::new(&alone, SETTINGS);
    let world = World::generate(300, &without.path().join("world"));
    run(&alone, &mut without, &world, |_, _| {}).stop();

    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let daemon = run(&broker, &mut home, &world, |home, first| {
        let none = ouzel(home, &["candidate", "show"]);
        assert_eq!(none.code, Some(1));
        assert!(none.err.contains("candidate start"), "{}", none.err);
        assert_eq!(start_shadow(home, first).json()["done_by"], "the running daemon");
        let second = start_shadow(home, first);
        assert!(second.err.contains("is the candidate already"), "{}", second.err);
    });
    let first = home.store().alias(Alias::Candidate).unwrap().unwrap();
    let n_compared = check_comparison(&home, &daemon, first);

    // The same requests with and without it, while nothing is learned.
    let with = replies(&daemon);
    let answered = report(&daemon, "each request is scored or dropped", |report| {
        report.requests.scored + report.requests.dropped == N_USERS as u64
    });
    assert_eq!(answered.requests.failed, 0);
    assert!(answered.requests.scored > 0);
    daemon.kill();
    let daemon = home.start();
    daemon.wait_ready();
    let resumed = report(&daemon, "the candidate takes part again", |report| {
        report.tasks[0].figures.serving.judged > 0
    });
    let n_resumed = resumed.tasks[0].figures.serving.judged;
    assert!(
        n_resumed >= n_compared,
        "its figures are in the snapshot: {n_resumed}"
    );
    done(&home, &["candidate", "stop", "--note", "seen enough"]);
    assert_eq!(daemon.status().candidate, None);
    let without_it = replies(&daemon);
    let strip = |replies: &[String]| -> Vec<Value> {
        let parse = |body: &String| {
            let mut reply: Value = serde_json::from_str(body).unwrap();
            // A restart serves the same weights as another version.
            for field in ["version", "snapshot"] {
                reply.as_object_mut().unwrap().remove(field);
            }
            reply
        };
        replies.iter().map(parse).collect()
    };
    assert_eq!(strip(&with), strip(&without_it));
    start_shadow(&home, first).json();
    assert_eq!(replies(&daemon), without_it, "to the byte");
    done(&home, &["candidate", "stop"]);
    daemon.stop();

    let (with, without) = (home.manifest().checkpoint, without.manifest().checkpoint);
    assert_eq!(with.weights_hash, without.weights_hash);
    assert_eq!(with.ledger_hash, without.ledger_hash);
    assert_eq!(home.store().alias(Alias::Candidate).unwrap(), None);
    let verbs = |verb| {
        let lines = home.store().audit().unwrap().lines.into_iter();
        lines.filter(|line| line.verb == verb).count()
    };
    assert_eq!(
        (verbs(AuditVerb::CandidateStart), verbs(AuditVerb::CandidateStop)),
        (2, 2)
    );
}

/// Checks that the canary answers the users of its share, and nobody else.
#[track_caller]
fn check_canary(daemon: &Daemon, canary: SnapshotId, share: UserShare) {
    daemon.wait_ready();
    report(daemon, "the canary takes part", |_| true);
    let ids = Config::default().id_space();
    let mut n_canary = 0;
    for user in 0..N_USERS {
        let user = format!("user-{user}");
        let reply = daemon.rank(&rank_request(&user, 5));
        let is_in = share.contains(ids.id(IdKind::User, &user));
        assert_eq!(reply.variant, is_in.then_some(Variant::Canary), "{user}");
        assert!(
            !is_in || reply.snapshot == canary.to_string(),
            "{user}: {}",
            reply.snapshot
        );
        n_canary += u64::from(is_in);
    }
    assert!(0 < n_canary && n_canary < N_USERS as u64, "{n_canary}");
}

#[test]
fn a_canary_answers_its_users_and_a_promotion_is_whole_or_nothing() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(300, &home.path().join("world"));
    let pieces: Vec<_> = world.events.chunks(world.events.len().div_ceil(3)).collect();
    let daemon = home.start();
    broker.feed(pieces[0]);
    daemon.wait_joined(broker.n_records());
    let first = daemon.snapshot();
    broker.feed(pieces[1]);
    daemon.wait_joined(broker.n_records());
    let newest = daemon.snapshot();
    let share: UserShare = "40%".parse().unwrap();
    done(&home, &["candidate", "start", &number(first), "--canary", "40%"]);
    check_canary(&daemon, first, share);
    let n_asked = daemon.status().candidate.unwrap().requests.scored;
    assert!(n_asked > 0);
    daemon.kill();

    // Killed before the snapshot of the promotion is the latest: the candidate is still a candidate.
    let promote = |daemon: &mut Daemon, home: &Home| {
        daemon.wait_ready();
        let failed = ouzel(home, &["promote", "--note", "calmer"]);
        assert_eq!(failed.code, Some(1), "{}", failed.out);
        daemon.wait_exit();
    };
    let mut daemon = home.start_failing("snapshot_written:1");
    promote(&mut daemon, &home);
    assert_eq!(home.latest(), Some(newest));
    let daemon = home.start();
    check_canary(&daemon, first, share);
    daemon.kill();

    // Killed after: it is what serves and learns.
    let mut daemon = home.start_failing("latest_moved:1");
    promote(&mut daemon, &home);
    let promoted = home.manifest();
    assert_eq!(promoted.parent, Some(first));
    assert_eq!(promoted.checkpoint.promoted_over, Some(newest));
    let old = home.store().read(newest).unwrap().manifest().checkpoint.clone();
    assert_eq!(promoted.checkpoint.positions, old.positions);
    assert_eq!(promoted.checkpoint.batch_seq, old.batch_seq);
    assert!(promoted.note.unwrap().contains("calmer"));
    let n_resumed = home.n_resumed();
    let daemon = home.start();
    daemon.wait_ready();
    wait_until("the start has ended the candidate", || {
        home.store()
            .alias(Alias::Candidate)
            .unwrap()
            .is_none()
            .then_some(())
    });
    assert_eq!(daemon.status().candidate, None);
    for user in 0..N_USERS {
        let reply = daemon.rank(&rank_request(&format!("user-{user}"), 5));
        assert_eq!((reply.variant, reply.snapshot), (None, promoted.id.to_string()));
    }
    let refused = ouzel(&home, &["promote"]);
    assert!(refused.err.contains("there is no candidate"), "{}", refused.err);

    // It learns on, and nothing is lost.
    broker.feed(pieces[2]);
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records() - n_resumed);
    daemon.stop();
    let end = home.manifest();
    assert!(end.checkpoint.batch_seq > promoted.checkpoint.batch_seq);
    assert_eq!(end.checkpoint.sample_seq, world.expected.samples());
    assert_eq!(end.checkpoint.promoted_over, None);
    let audit = home.store().audit().unwrap();
    let n_promotions = audit
        .lines
        .iter()
        .filter(|line| line.verb == AuditVerb::Promote)
        .count();
    assert_eq!(n_promotions, 2, "the one that the first kill prevented, too");
    assert_eq!(home.snapshot(&["verify"]).code, Some(0));
}

#[test]
fn without_a_daemon_the_next_start_takes_part_and_a_promotion_is_a_snapshot() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(200, &home.path().join("world"));
    let mut first = None;
    run(&broker, &mut home, &world, |_, id| first = Some(id)).stop();
    let first = first.unwrap();
    for (args, why) in [
        (&["promote"][..], "there is no candidate"),
        (&["candidate", "stop"], "there is no candidate"),
        (&["candidate", "start", "99", "--shadow"], "99"),
    ] {
        let refused = ouzel(&home, args);
        assert_eq!(refused.code, Some(1), "{}", refused.out);
        assert!(refused.err.contains(why), "{}", refused.err);
    }
    for args in [
        &["candidate", "start", "1"][..],
        &["candidate", "start", "1", "--canary", "0%"],
        &["candidate", "start", "1", "--canary", "5%", "--shadow"],
    ] {
        assert_eq!(ouzel(&home, args).code, Some(2), "{args:?}");
    }
    done(&home, &["candidate", "start", &number(first), "--canary", "50%"]);
    assert!(ouzel(&home, &["candidate", "show"]).out.contains("as a canary"));
    let daemon = home.start();
    check_canary(&daemon, first, "50%".parse().unwrap());
    daemon.stop();
    let over = home.latest();
    let promoted = done(&home, &["promote"]);
    assert_eq!(promoted["done_by"], "this command");
    let manifest = home.manifest();
    assert_eq!(promoted["snapshot"], manifest.id.to_string());
    assert_eq!(
        (manifest.parent, manifest.checkpoint.promoted_over),
        (Some(first), over)
    );
    assert!(
        ouzel(&home, &["candidate", "show"])
            .err
            .contains("there is no candidate")
    );
    let daemon = home.start();
    daemon.wait_ready();
    assert_eq!(
        daemon.rank(&rank_request("user-1", 3)).snapshot,
        manifest.id.to_string()
    );
    daemon.stop();
}
