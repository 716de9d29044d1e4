//! `ouzel replay`: the same log and seed give the same samples and the same bits, from files and from Kafka.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::broker::Broker;
use super::daemon::Home;
use super::world::World;
use super::{keys, run};

/// `ouzel replay --json` with `args`.
#[track_caller]
fn replay(args: &[&str]) -> Value {
    let document = run(["replay", "--json"].iter().chain(args)).json();
    assert_eq!(keys(&document), ["runs"]);
    assert_eq!(document["runs"].as_array().map(Vec::len), Some(1));
    document["runs"][0].clone()
}

/// As above, on the folder at `dir`.
#[track_caller]
fn replay_data(dir: &Path, args: &[&str]) -> Value {
    replay(&[&["--data", dir.to_str().unwrap()], args].concat())
}

#[test]
fn a_replay_gives_the_same_hashes_run_after_run() {
    let home = Home::empty();
    let world = World::generate(300, home.path());
    let expected = world.expected;
    let first = replay_data(home.path(), &[]);
    let again = replay_data(home.path(), &[]);
    for figure in [
        "ledger_hash",
        "weights_hash",
        "samples",
        "auc",
        "gauc",
        "ne",
        "join",
        "second_half",
    ] {
        assert!(!first[figure].is_null(), "{figure}");
        assert_eq!(first[figure], again[figure], "{figure}");
    }
    for (name, value) in [
        ("impressions", expected.shown),
        ("duplicates", 0),
        ("positives", expected.positives),
        ("negatives", expected.shown - expected.positives),
        ("late", 0),
        ("actions", expected.actions),
        ("orphans", expected.orphans),
        ("duplicate_actions", expected.duplicates),
        ("late_actions", expected.late),
        ("rejected", 0),
    ] {
        assert_eq!(first["join"][name], value, "{name}");
    }
    assert_eq!(first["judged"], expected.shown);
    // The default policy learns a positive after its presumed negative.
    assert_eq!(first["samples"], expected.samples());

    let other_seed = replay_data(home.path(), &["--seed", "7"]);
    assert_eq!(
        first["ledger_hash"], other_seed["ledger_hash"],
        "samples do not depend on the seed"
    );
    assert_ne!(first["weights_hash"], other_seed["weights_hash"]);
}

#[test]
fn gates_that_observe_change_no_bit() {
    let home = Home::empty();
    World::generate(300, home.path());
    let config = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // Of so short a log, intervals are short and the limits close: what they find must not matter either.
    let strict =
        "gates.interval_samples = 256\ngates.warm_up_intervals = 5\ngates.min_rank_correlation = 0.999\n";
    let on = replay_data(home.path(), &["--config", &config("on.toml", strict)]);
    let off = replay_data(
        home.path(),
        &["--config", &config("off.toml", "gates.enabled = false\n")],
    );
    assert!(on["gates"]["versions"].as_u64().unwrap() > 0 && off["gates"].is_null());
    assert!(on["gates"]["intervals"].as_u64().unwrap() > 3, "{}", on["gates"]);
    for hash in ["ledger_hash", "weights_hash"] {
        assert_eq!(on[hash], off[hash], "{hash}");
    }
}

#[test]
fn a_replay_reports_the_documented_figures() {
    let home = Home::empty();
    World::generate(150, home.path());
    let run = replay_data(home.path(), &[]);
    assert_eq!(
        keys(&run),
        [
            "auc",
            "buckets",
            "calibration",
            "freshness",
            "gates",
            "gauc",
            "hidden",
            "join",
            "judged",
            "learned_from",
            "ledger_hash",
            "name",
            "ne",
            "popularity_auc",
            "positives",
            "problems",
            "publishing",
            "recall",
            "samples",
            "samples_per_second",
            "second_half",
            "second_half_buckets",
            "second_half_popularity_auc",
            "shares",
            "start",
            "streams",
            "suspicions",
            "tasks",
            "wall_seconds",
            "weights_hash",
        ]
    );
    assert_eq!(
        keys(&run["join"]),
        [
            "actions",
            "duplicate_actions",
            "duplicates",
            "impressions",
            "late",
            "late_actions",
            "negatives",
            "orphans",
            "positives",
            "rejected",
        ]
    );
    assert_eq!(run["tasks"]["click"]["all"]["auc"], run["auc"]);
    assert_eq!(run["tasks"]["click"]["second_half"], run["second_half"]);
    for (buckets, judged) in [
        ("buckets", &run["judged"]),
        ("second_half_buckets", &run["second_half"]["judged"]),
    ] {
        assert_eq!(keys(&run[buckets]), ["item", "user"]);
        for side in ["item", "user"] {
            let by_bucket = &run[buckets][side];
            assert_eq!(keys(by_bucket), ["hot", "new", "warm"]);
            assert_eq!(
                keys(&by_bucket["new"]),
                keys(&run["second_half"]),
                "{buckets} {side}"
            );
            let counts = ["new", "warm", "hot"].map(|bucket| by_bucket[bucket]["judged"].as_u64().unwrap());
            assert_eq!(
                Some(counts.iter().sum()),
                judged.as_u64(),
                "{buckets} {side} {counts:?}"
            );
        }
    }
    assert!(run["buckets"]["item"]["new"]["auc"].is_f64());
    for figure in ["auc", "gauc", "ne"] {
        assert!(run[figure].is_f64(), "{figure}");
        assert!(run["second_half"][figure].is_f64(), "{figure}");
    }
    for hash in ["ledger_hash", "weights_hash"] {
        assert_eq!(run[hash].as_str().map(str::len), Some(64), "{hash}");
    }
}

#[test]
fn immediate_labels_are_learned_once_each() {
    let home = Home::empty();
    let world = World::generate(150, home.path());
    let expected = world.expected;
    let run = replay_data(home.path(), &["--labels", "immediate"]);
    // An immediate label has no window, so a late action makes a positive, too.
    assert_eq!(run["judged"], expected.shown);
    assert_eq!(run["samples"], expected.shown);
    assert_eq!(run["join"]["positives"], expected.positives + expected.late);
    assert_eq!(
        run["join"]["negatives"],
        expected.shown - expected.positives - expected.late
    );
    assert_ne!(run["ledger_hash"], replay_data(home.path(), &[])["ledger_hash"]);
}

#[test]
fn versions_published_less_often_know_less() {
    let home = Home::empty();
    World::generate(300, home.path());
    let periods = ["--publish-every", "1ms,2m,365d"];
    let run = replay_data(home.path(), &[&["--labels", "immediate"], &periods[..]].concat());
    let published = run["publishing"].as_array().unwrap();
    let of = |name: &str| -> Vec<f64> { published.iter().map(|of| of[name].as_f64().unwrap()).collect() };
    let (aucs, versions) = (of("auc"), of("versions"));
    let newest = run["second_half"]["auc"].as_f64().unwrap();
    assert!(
        (aucs[0] - newest).abs() < 0.005,
        "{aucs:?}, newest weights {newest}"
    );
    assert!(aucs[0] > aucs[2] + 0.02, "{aucs:?}");
    assert!(versions[0] > versions[1] && versions[1] > 2.0, "{versions:?}");
    assert!((versions[2] - 1.0).abs() < f64::EPSILON, "{versions:?}");
    // Versions beside the learner change nothing that is learned.
    let plain = replay_data(home.path(), &["--labels", "immediate"]);
    assert_eq!(plain["weights_hash"], run["weights_hash"]);
    assert_eq!(plain["publishing"].as_array().unwrap().len(), 0);
}

#[test]
fn a_limit_ends_the_log_and_candidates_hide_its_slates() {
    let home = Home::empty();
    World::generate(300, home.path());
    let whole = replay_data(home.path(), &["--labels", "immediate", "--candidates", "8,20"]);
    let part = replay_data(home.path(), &["--labels", "immediate", "--limit", "1000"]);
    let judged = part["judged"].as_u64().unwrap();
    assert!((1000..1010).contains(&judged), "whole slates: {judged}");
    assert_eq!(part["hidden"].as_array().unwrap().len(), 0);
    let hidden = whole["hidden"].as_array().unwrap();
    let kinds = hidden
        .iter()
        .map(|figures| (figures["candidates"].as_u64(), &figures["has_top_k"]));
    let kinds: Vec<(Option<u64>, bool)> = kinds.map(|(n, top_k)| (n, top_k == true)).collect();
    let of = |n| [(Some(n), false), (Some(n), true)];
    assert_eq!(
        kinds,
        [vec![(None, false)], of(8).to_vec(), of(20).to_vec()].concat()
    );
    for figures in hidden {
        assert_eq!(figures["judged"], hidden[0]["judged"], "{figures}");
        assert!(
            figures["auc"].is_f64() && figures["same_order"].as_f64() > Some(0.5),
            "{figures}"
        );
    }
    // Scoring more changes nothing that is learned.
    let plain = replay_data(home.path(), &["--labels", "immediate"]);
    assert_eq!(plain["weights_hash"], whole["weights_hash"]);
    assert_eq!(plain["auc"], whole["auc"]);
    assert_eq!(keys(&plain["start"]), ["1000"], "fewer than 3,000 samples");
    let start = &plain["start"]["1000"];
    assert_eq!(start["judged"], 1000);
    assert_eq!(
        start["positives"].as_u64(),
        part["start"]["1000"]["positives"].as_u64()
    );
}

#[test]
fn a_join_on_disk_gives_the_samples_and_bits_of_one_in_memory() {
    let home = Home::empty();
    World::generate(300, &home.path().join("world"));
    fs::write(
        home.config(),
        "join.store = \"sled\"\njoin.sled = { requests_in_memory = 2, page_cache = \"1MiB\" }",
    )
    .unwrap();
    let config = home.config();
    let data = home.path().join("world");
    let on_disk = replay_data(&data, &["--config", config.to_str().unwrap()]);
    let in_memory = replay_data(&data, &[]);
    // Validation figures differ: predictions of shown items are not stored on disk.
    for figure in ["ledger_hash", "weights_hash", "samples", "join"] {
        assert_eq!(on_disk[figure], in_memory[figure], "{figure}");
    }
}

#[test]
fn kafka_and_files_give_the_same_samples_and_bits() {
    let broker = Broker::embedded(1);
    let home = Home::new(&broker, "");
    let world = World::generate(300, &home.path().join("world"));
    broker.feed(&world.events);
    let config = home.config();
    let config = config.to_str().unwrap();
    let files = replay_data(&home.path().join("world"), &["--config", config]);
    let kafka = replay(&["--from", "start", "--to", "end", "--config", config]);
    for figure in ["ledger_hash", "weights_hash", "samples", "join", "auc"] {
        assert_eq!(files[figure], kafka[figure], "{figure}");
    }

    // A range of the log. The catalog is read from its start.
    let part = replay(&["--from", "100", "--to", "200", "--config", config]);
    assert_eq!(part["join"]["impressions"], 400);
    assert_eq!(part["join"]["actions"], 100);
    assert_ne!(part["ledger_hash"], kafka["ledger_hash"]);
}

#[test]
fn the_choice_of_a_model_is_the_cheapest_within_the_noise_of_the_best() {
    let home = Home::empty();
    World::generate(300, home.path());
    let data = home.path().to_str().unwrap();
    let choose = [
        "model", "choose", "--data", data, "--limit", "1500", "deepfm", "em3-din",
    ];
    let choice = run(choose.iter().chain(&["--json"])).json();
    let models = choice["models"].as_array().unwrap();
    let number = |model: &Value, key: &str| model[key].as_f64().unwrap();
    assert_eq!(models.len(), 2);
    assert!(number(&models[0], "operations") < number(&models[1], "operations"));
    let best = models
        .iter()
        .map(|model| number(model, "auc"))
        .fold(0.0, f64::max);
    let noise = number(&choice, "noise");
    let expected = models.iter().find(|model| number(model, "auc") >= best - noise);
    assert_eq!(choice["choice"], expected.unwrap()["model"]);
    assert!(
        choice["why"]
            .as_str()
            .unwrap()
            .starts_with(choice["choice"].as_str().unwrap())
    );

    let text = run(choose);
    assert!(text.out.contains("Set `model.from = "), "{text:?}");
    let unknown = run(["model", "choose", "--data", data, "deep"]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.err.contains("no model is called \"deep\""), "{unknown:?}");
}
