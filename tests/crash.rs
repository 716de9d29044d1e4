//! `ouzel verify`, as a user runs it: real daemons, killed in every way it knows, a small world.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::Value;

use ouzel::failpoint::FailPoint;

/// One of each kind, of which one kills twice.
const KILLS: &str = "8";

#[test]
fn a_kill_of_every_kind_changes_nothing() {
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
    for name in ["halted", "points", "settled", "growing"] {
        assert!(
            matches!(checks[name], (1.., 0)),
            "{name} passed at least once and never failed: {checks:?}"
        );
    }
    assert_eq!(report["fail_points"]["named"], FailPoint::NAMED.len(), "{out}");
    let harms = report["harms"].as_array().expect("harms are listed");
    let met: Vec<&str> = harms
        .iter()
        .filter(|harm| {
            let n = |name: &str| harm[name].as_u64().expect("a count");
            n("starting_up") + n("writing_snapshot") + n("running") > 0
        })
        .filter_map(|harm| harm["harm"].as_str())
        .collect();
    assert_eq!(met.len(), harms.len(), "every kind was met: {out}");
}
