//! `ouzel demo` on a data folder, reported as one JSON document.

use super::daemon::Home;
use super::world::World;
use super::{keys, ouzel, run};

#[test]
fn the_demo_runs_any_folder_and_tells_all_of_it() {
    let home = Home::empty();
    let world = World::generate(300, &home.path().join("world"));
    let expected = world.expected;
    let (data, state) = (home.path().join("world"), home.state());
    let args = [
        "demo",
        "--json",
        "--data",
        data.to_str().unwrap(),
        "--state",
        state.to_str().unwrap(),
    ];
    let told = run(args).json();

    for (object, wanted) in [
        ("/events", vec!["impressions", "actions", "rejected"]),
        ("/samples", vec!["total", "positive"]),
        ("/progressive", vec!["auc", "gauc", "ne", "calibration"]),
        ("/baselines/popularity", vec!["auc"]),
        ("/baselines/frozen_half", vec!["auc"]),
        ("/second_half", vec!["auc", "frozen_auc"]),
        ("/freshness_seconds", vec!["p50", "p99"]),
        ("/serving", vec!["requests", "errors", "p50_ms", "p99_ms"]),
        ("", vec!["snapshots", "wall_seconds", "samples_per_second"]),
    ] {
        let of = told
            .pointer(object)
            .unwrap_or_else(|| panic!("no {object} in {told}"));
        for key in wanted {
            assert!(keys(of).contains(&key), "no {key} in {object}: {of}");
            assert!(!of[key].is_null(), "{object}/{key} is not known: {told}");
        }
    }
    assert_eq!(told["events"]["impressions"], expected.shown);
    assert_eq!(told["events"]["actions"], expected.actions);
    assert_eq!(told["events"]["rejected"], 0);
    assert_eq!(told["samples"]["total"], expected.shown);
    assert_eq!(told["samples"]["positive"], expected.positives);
    assert!(told["serving"]["requests"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(told["serving"]["errors"], 0, "{told}");
    let written: Vec<String> = home
        .store()
        .list()
        .unwrap()
        .iter()
        .map(|listed| listed.id.to_string())
        .collect();
    let snapshots: Vec<&str> = told["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|id| id.as_str())
        .collect();
    assert_eq!(snapshots, written, "the last one is told, too");

    // Its broker starts empty, so the state of another run is refused and left alone.
    let again = ouzel(args).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(said.contains("give another --state"), "{said}");
    assert_eq!(home.store().list().unwrap().len(), written.len());
}
