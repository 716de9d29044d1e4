//! A second learner as candidate: `ouzel candidate start --learn FILE` and its promotion.

use std::fs;

use ouzel::pipeline::candidate::CandidateReport;
use ouzel_snapshot::{AuditVerb, Store};
use serde_json::Value;

use super::broker::Broker;
use super::daemon::{Daemon, Home, rank_request};
use super::world::World;
use super::{CommandOutput, run_here, wait_until};

/// As for snapshots as candidates: time decides nothing, and snapshots are written on request and at the end.
const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\nsnapshot.every = \"0s\"\n\
                        snapshot.every_batches = 1000\nsnapshot.keep = 50\norder.max_reorder_delay = \"3s\"";

/// Another model that learns otherwise.
const OTHER: &str = "model.dim = 4\nmodel.hidden = [8]\noptimizer.row_rate = 0.02\n";

fn ouzel(home: &Home, args: &[&str]) -> CommandOutput {
    let config = home.config();
    run_here(&[args, &["--config", config.to_str().unwrap()]].concat())
}

/// Starts a second learner with these settings as a shadow of all users.
fn start(home: &Home, settings: &str, from: &[&str]) -> CommandOutput {
    let file = home.path().join("second.toml");
    fs::write(&file, settings).unwrap();
    let args = ["candidate", "start", "--learn", file.to_str().unwrap()];
    let role = ["--shadow", "--share", "100%", "--json"];
    ouzel(home, &[&args, from, &role].concat())
}

/// The report of a second learner that has learned everything, once it satisfies `is_ready`.
#[track_caller]
fn report(daemon: &Daemon, what: &str, is_ready: impl Fn(&CandidateReport) -> bool) -> CandidateReport {
    wait_until(what, || {
        let status = daemon.status();
        let report = status.candidate.filter(&is_ready)?;
        let has_learned_all = report
            .learner
            .as_ref()
            .is_some_and(|learner| learner.batches == status.batches);
        (has_learned_all || report.withdrawn.is_some()).then_some(report)
    })
}

/// Waits until the second learner has a state at the newest snapshot.
#[track_caller]
fn wait_state(home: &Home) {
    let batch = home.manifest().checkpoint.batch_seq;
    wait_until("the second learner has a state at the newest snapshot", || {
        let states = Store::inspect(&home.state().join("second-learner"))
            .list()
            .unwrap();
        let mut manifests = states.into_iter().filter_map(|entry| entry.manifest);
        manifests
            .any(|manifest| manifest.checkpoint.batch_seq == batch)
            .then_some(())
    });
}

/// Feeds the first part of a world and writes a snapshot.
fn begin(broker: &Broker, home: &mut Home, events: &[ouzel_ingest::DataEvent]) -> Daemon {
    let daemon = home.start();
    broker.feed(events);
    daemon.wait_joined(broker.n_records());
    daemon.snapshot();
    daemon
}

#[test]
fn a_second_learner_changes_no_bit_and_goes_on_after_a_restart() {
    let alone = Broker::embedded(1);
    let mut without = Home::new(&alone, SETTINGS);
    let world = World::generate(300, &without.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = begin(&alone, &mut without, early);
    alone.feed(late);
    alone.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(alone.n_records());
    daemon.stop();

    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let daemon = begin(&broker, &mut home, early);
    for (settings, why) in [
        (
            "join.label_policy = \"wait\"",
            "`join.label_policy` (one joiner makes the samples of both)",
        ),
        (
            "learner.batch_min_samples = 7",
            "`learner.batch_min_samples` (both learn the same batches)",
        ),
        ("model.dimm = 7", "model.dimm: unknown key"),
    ] {
        let refused = start(&home, settings, &[]);
        assert_eq!(refused.code, Some(1), "{}", refused.out);
        assert!(refused.err.contains(why), "{}", refused.err);
    }
    // The same model from the same weights must do the same.
    let started = start(&home, "", &["--from", "latest"]).json();
    assert!(started["also"][0].as_str().unwrap().contains("MiB"), "{started}");
    assert!(
        start(&home, "", &[])
            .err
            .contains("the second learner is the candidate already")
    );
    let (middle, rest) = late.split_at(late.len() / 2);
    broker.feed(middle);
    daemon.wait_joined(broker.n_records());
    let twin = report(&daemon, "the twin is compared", |report| {
        report
            .tasks
            .first()
            .is_some_and(|task| task.figures.serving.judged > 100)
    });
    let figures = twin.tasks[0].figures;
    assert_eq!(figures.serving, figures.candidate);
    for difference in [figures.difference, figures.auc_difference] {
        let difference = difference.unwrap();
        assert!(
            difference.low.abs() + difference.high.abs() < 1e-12,
            "{difference:?}"
        );
    }
    let learner = twin.learner.unwrap();
    assert_eq!((learner.behind, learner.skipped), (0, 0));
    assert!(learner.memory.now > 0 && learner.memory.now <= learner.memory.most);
    let shown = ouzel(&home, &["candidate", "show"]).out;
    assert!(
        shown.contains("those of the serving learner") && shown.contains("0 behind"),
        "{shown}"
    );

    // It scores requests, and no reply depends on it.
    for user in 0..10 {
        assert_eq!(
            daemon.rank(&rank_request(&format!("user-{user}"), 5)).variant,
            None
        );
    }
    daemon.snapshot();
    wait_state(&home);
    daemon.kill();
    let n_resumed = home.n_resumed();
    let daemon = home.start();
    let resumed = report(&daemon, "it goes on after a kill", |_| true);
    assert_eq!(resumed.withdrawn, None);
    assert!(resumed.tasks[0].figures.serving.judged >= figures.serving.judged);
    broker.feed(rest);
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records() - n_resumed);
    let twin = report(&daemon, "it learns on", |report| {
        report.tasks[0].figures.serving.judged > figures.serving.judged
    });
    assert_eq!(twin.tasks[0].figures.serving, twin.tasks[0].figures.candidate);
    daemon.stop();

    // Its last state has the bits of the serving learner.
    let (with, without) = (home.manifest().checkpoint, without.manifest().checkpoint);
    assert_eq!(
        (with.weights_hash.clone(), with.ledger_hash),
        (without.weights_hash, without.ledger_hash)
    );
    let states = Store::inspect(&home.state().join("second-learner"))
        .list()
        .unwrap();
    let last = states.last().unwrap().manifest.clone().unwrap();
    assert_eq!(
        (last.checkpoint.batch_seq, last.checkpoint.weights_hash),
        (with.batch_seq, with.weights_hash)
    );
}

/// Checks that the second learner goes on and is no serving model.
#[track_caller]
fn check_candidate(daemon: &Daemon) {
    let report = report(daemon, "the second learner takes part", |_| true);
    assert_eq!(report.withdrawn, None);
    assert!(report.learner.unwrap().settings.contains("`model.dim = 4`"));
}

#[test]
fn another_model_learns_beside_and_its_promotion_is_whole_or_nothing() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(300, &home.path().join("world"));
    let pieces: Vec<_> = world.events.chunks(world.events.len().div_ceil(3)).collect();
    let daemon = begin(&broker, &mut home, pieces[0]);
    start(&home, OTHER, &[]).json();
    broker.feed(pieces[1]);
    daemon.wait_joined(broker.n_records());
    let other = report(&daemon, "both models are compared", |report| {
        let task = report.tasks.first();
        task.is_some_and(|task| task.figures.serving.judged > 100)
    });
    let figures = other.tasks[0].figures;
    assert_eq!(figures.serving.judged, figures.candidate.judged);
    assert_ne!(figures.serving.log_loss, figures.candidate.log_loss);
    daemon.stop();
    let file = fs::read(home.config()).unwrap();

    // Killed before the promoted snapshot is the latest: the second learner is still a candidate. The stages end with a
    // snapshot of their own, the first visit of each fail point.
    let promote = |daemon: &mut Daemon, home: &Home| {
        check_candidate(daemon);
        let failed = ouzel(home, &["promote", "--note", "smaller"]);
        assert_eq!(failed.code, Some(1), "{}", failed.out);
        daemon.wait_exit();
    };
    let mut daemon = home.start_failing("snapshot_written:2");
    promote(&mut daemon, &home);
    assert_eq!(home.manifest().checkpoint.promoted_over, None);
    let daemon = home.start();
    check_candidate(&daemon);
    daemon.stop();

    // Killed after: it is what serves and learns, under the unchanged file.
    let mut daemon = home.start_failing("latest_moved:2");
    promote(&mut daemon, &home);
    let promoted = home.manifest();
    let over = promoted.checkpoint.promoted_over;
    assert!(over.is_some() && promoted.parent == over, "{promoted:?}");
    assert!(promoted.note.as_ref().unwrap().contains("smaller"));
    let old = home
        .store()
        .read(over.unwrap())
        .unwrap()
        .manifest()
        .checkpoint
        .clone();
    assert_eq!(promoted.checkpoint.positions, old.positions);
    assert_eq!(promoted.checkpoint.ledger_hash, old.ledger_hash);
    assert_ne!(promoted.checkpoint.schema_fingerprint, old.schema_fingerprint);
    let n_resumed = home.n_resumed();
    let daemon = home.start();
    daemon.wait_ready();
    wait_until("the start has ended the candidate", || {
        (!home.state().join("candidate.json").exists()).then_some(())
    });
    assert_eq!(daemon.status().candidate, None);
    let reply = daemon.rank(&rank_request("user-1", 5));
    assert_eq!((reply.variant, reply.snapshot), (None, promoted.id.to_string()));

    // It learns on, nothing is lost, and its snapshots say under which settings.
    broker.feed(pieces[2]);
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records() - n_resumed);
    daemon.stop();
    let end = home.manifest();
    assert!(end.checkpoint.batch_seq > promoted.checkpoint.batch_seq);
    assert_eq!(end.checkpoint.sample_seq, world.expected.samples());
    assert_eq!(
        end.checkpoint.schema_fingerprint,
        promoted.checkpoint.schema_fingerprint
    );
    let snapshot = home.store().read(end.id).unwrap();
    let recorded: Value = serde_json::from_slice(&snapshot.blob("config.json").unwrap()).unwrap();
    assert_eq!(recorded["model"]["dim"], 4);
    assert!(snapshot.manifest().file("promoted.json").is_some());
    assert_eq!(home.snapshot(&["verify"]).code, Some(0));
    let audit = home.store().audit().unwrap().lines;
    let n_promotions = audit
        .iter()
        .filter(|line| line.verb == AuditVerb::Promote)
        .count();
    assert_eq!(n_promotions, 2, "the one that the first kill prevented, too");

    // Once the file states the settings, it alone counts.
    fs::write(home.config(), [file.clone(), OTHER.as_bytes().to_vec()].concat()).unwrap();
    let daemon = home.start();
    daemon.wait_ready();
    let id = daemon.snapshot();
    assert!(
        home.store()
            .read(id)
            .unwrap()
            .manifest()
            .file("promoted.json")
            .is_none()
    );
    // The way back: a snapshot from before the promotion, under the former file.
    daemon.stop();
    fs::write(home.config(), file).unwrap();
    let back = home.snapshot(&["rollback", &over.unwrap().number().to_string(), "--rewind"]);
    assert_eq!(back.code, Some(0), "{}", back.err);
    let daemon = home.start();
    daemon.wait_ready();
    daemon.stop();
    assert_eq!(
        home.manifest().checkpoint.schema_fingerprint,
        old.schema_fingerprint
    );
}

#[test]
fn without_a_daemon_a_second_learner_is_promoted_or_stopped_and_not_started() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(200, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = begin(&broker, &mut home, early);
    start(&home, OTHER, &["--from", "latest"]).json();
    broker.feed(late);
    daemon.wait_joined(broker.n_records());
    daemon.stop();
    assert!(
        ouzel(&home, &["candidate", "show"])
            .out
            .contains("by the second learner as a shadow")
    );
    let promoted = ouzel(&home, &["promote", "--json"]).json();
    assert_eq!(promoted["done_by"], "this command");
    assert!(
        promoted["also"][0].as_str().unwrap().contains("`model.dim = 4`"),
        "{promoted}"
    );
    assert_eq!(promoted["snapshot"], home.manifest().id.to_string());
    assert!(!home.state().join("second-learner").exists());
    assert!(
        ouzel(&home, &["candidate", "stop"])
            .err
            .contains("there is no candidate")
    );
    let refused = start(&home, OTHER, &[]);
    assert!(refused.err.contains("no daemon runs"), "{}", refused.err);

    // One whose state is not at the point of the snapshot is withdrawn, and says why.
    let daemon = home.start();
    start(&home, "model.dim = 6", &[]).json();
    daemon.snapshot();
    wait_state(&home);
    daemon.kill();
    fs::remove_dir_all(home.state().join("second-learner")).unwrap();
    let daemon = home.start();
    let withdrawn = report(&daemon, "it is withdrawn", |report| report.withdrawn.is_some());
    assert!(withdrawn.withdrawn.unwrap().contains("it has no state in"));
    assert!(!home.state().join("candidate.json").exists());
    daemon.check_serves();
    daemon.stop();
}
