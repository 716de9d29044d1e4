//! Runs `ouzel verify` with a small workload: every scenario, every named fail point.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::Value;

use ouzel_verify::failpoint::FailPoint;

/// One kill for each scenario, and a second one for the scenario that has two.
const KILLS: &str = "8";

#[test]
fn no_scenario_changes_the_state() {
    let output = Command::new(env!("CARGO_BIN_EXE_ouzel"))
        .args([
            "verify",
            "--kills",
            KILLS,
            "--seed",
            "1",
            "--fail-points",
            "named",
            "--json",
        ])
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    let report: Value = serde_json::from_str(&out).expect("the report is JSON");
    assert_eq!(report["ok"], true, "{out}");
    assert_eq!(report["kills"].to_string(), KILLS);
    let checks: BTreeMap<&str, (u64, u64)> = report["checks"]
        .as_array()
        .expect("checks are listed")
        .iter()
        .map(|check| {
            let n = |name: &str| check[name].as_u64().expect("a count");
            let name = check["check"].as_str().expect("a name");
            (name, (n("passed"), n("failed")))
        })
        .collect();
    for name in ["paused", "fail_points", "complete_log", "growing_log"] {
        assert!(
            matches!(checks[name], (1.., 0)),
            "{name} did not pass at least once without a failure: {checks:?}"
        );
    }
    assert_eq!(report["fail_points"]["named"], FailPoint::NAMED.len(), "{out}");
    let scenarios = report["scenarios"].as_array().expect("scenarios are listed");
    for scenario in scenarios {
        let n = |name: &str| scenario[name].as_u64().expect("a count");
        let n_kills = n("starting_up") + n("writing_snapshot") + n("running");
        assert!(n_kills > 0, "{} was not played: {out}", scenario["scenario"]);
    }
}
