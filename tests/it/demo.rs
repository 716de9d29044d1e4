//! `ouzel demo` on a data folder, reported as one JSON document.

use super::daemon::Home;
use super::world::World;
use super::{keys, ouzel, run};

#[test]
fn the_demo_runs_any_data_folder_and_reports_all_figures() {
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
    let report = run(args).json();

    for (object, wanted) in [
        ("/events", vec!["impressions", "actions", "rejected"]),
        ("", vec!["judged", "positives", "samples"]),
        ("/progressive", vec!["auc", "gauc", "ne", "calibration"]),
        ("/baselines/popularity", vec!["auc"]),
        ("/baselines/frozen_half", vec!["auc"]),
        ("/second_half", vec!["auc", "frozen_auc"]),
        ("/freshness_seconds", vec!["p50", "p99"]),
        ("/serving", vec!["requests", "errors", "p50_ms", "p99_ms"]),
        ("", vec!["snapshots", "wall_seconds", "samples_per_second"]),
    ] {
        let values = report
            .pointer(object)
            .unwrap_or_else(|| panic!("no {object} in {report}"));
        for key in wanted {
            assert!(keys(values).contains(&key), "no {key} in {object}: {values}");
            assert!(!values[key].is_null(), "{object}/{key} is not known: {report}");
        }
    }
    assert_eq!(report["events"]["impressions"], expected.shown);
    assert_eq!(report["events"]["actions"], expected.actions);
    assert_eq!(report["events"]["rejected"], 0);
    assert_eq!(report["judged"], expected.shown);
    assert_eq!(report["positives"], expected.positives);
    assert!(report["serving"]["requests"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["serving"]["errors"], 0, "{report}");
    let written: Vec<String> = home
        .store()
        .list()
        .unwrap()
        .iter()
        .map(|listed| listed.id.to_string())
        .collect();
    let snapshots: Vec<&str> = report["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|id| id.as_str())
        .collect();
    assert_eq!(snapshots, written, "the last snapshot is reported, too");

    // The broker of a demo starts empty, so the state of another run is refused and unchanged.
    let again = ouzel(args).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    let stderr = String::from_utf8(again.stderr).unwrap();
    assert!(stderr.contains("give another --state"), "{stderr}");
    assert_eq!(home.store().list().unwrap().len(), written.len());
}
