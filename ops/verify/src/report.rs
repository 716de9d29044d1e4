//! The result of a verification, as one JSON document or as a table.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde_json::json;

use crate::Request;
use crate::failpoint::{FailPoint, Visit};
use crate::lineage::{Activity, History, Kill, Timing};
use crate::scenario::Scenario;

/// What a lineage checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Check {
    Paused,
    FailPoints,
    CompleteLog,
    GrowingLog,
}

impl Check {
    const ALL: [Check; 4] = [
        Check::Paused,
        Check::FailPoints,
        Check::CompleteLog,
        Check::GrowingLog,
    ];

    fn name(self) -> &'static str {
        match self {
            Check::Paused => "paused, half of them on one core: as the reference run, bit for bit",
            Check::FailPoints => "aborted at fail points, complete log: as the reference run, bit for bit",
            Check::CompleteLog => "killed, complete log: as the reference run, bit for bit",
            Check::GrowingLog => "killed, growing log: as a run that follows the plan log, bit for bit",
        }
    }
}

/// A lineage that did not pass.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    lineage: String,
    check: Check,
    error: String,
    /// Number of kills of all lineages until then.
    at_kill: u64,
    kills: Vec<Kill>,
    /// The folder of the lineage, which is kept.
    dir: PathBuf,
}

/// The result of a verification.
#[derive(Debug, Default)]
pub struct Report {
    seed: u64,
    dir: PathBuf,
    is_kept: bool,
    timing: Timing,
    kills: Vec<Kill>,
    aborts: Vec<Visit>,
    startups: Vec<Duration>,
    n_compared: usize,
    /// Passed lineages by check.
    passed: BTreeMap<Check, u64>,
    n_samples: u64,
    failures: Vec<Failure>,
    /// Duration of the verification.
    pub(crate) wall: Duration,
}

impl Report {
    /// A report without lineages. `timing` is that of the reference run.
    pub(crate) fn new(request: &Request, timing: Timing) -> Self {
        Self {
            seed: request.seed,
            dir: request.dir.clone(),
            is_kept: request.is_kept,
            timing,
            ..Self::default()
        }
    }

    /// Number of SIGKILLs.
    #[must_use]
    pub fn n_kills(&self) -> u64 {
        self.kills.len() as u64
    }

    /// Number of samples of the lineages that passed.
    #[must_use]
    pub fn n_samples(&self) -> u64 {
        self.n_samples
    }

    /// True if every lineage passed.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// Number of lineages.
    pub(crate) fn n_lineages(&self) -> u64 {
        self.passed.values().sum::<u64>() + self.n_failures()
    }

    /// Number of lineages that did not pass.
    pub(crate) fn n_failures(&self) -> u64 {
        self.failures.len() as u64
    }

    /// Adds a lineage: what happened to it, and its samples or what is wrong. Removes its folder if it passed.
    /// Returns one line of text about it.
    pub(crate) fn record(
        &mut self,
        check: Check,
        name: &str,
        history: History,
        outcome: anyhow::Result<u64>,
    ) -> anyhow::Result<String> {
        let n_deaths = history.kills.len() + history.aborts.len();
        self.kills.extend_from_slice(&history.kills);
        self.aborts.extend(history.aborts);
        self.startups.extend(history.startups);
        self.n_compared += history.compared.len();
        let dir = self.dir.join(name);
        match outcome {
            Ok(n_samples) => {
                *self.passed.entry(check).or_default() += 1;
                self.n_samples += n_samples;
                if !self.is_kept {
                    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
                }
                Ok(format!("{name}: {n_deaths} kills, equal"))
            }
            Err(error) => {
                let error = format!("{error:#}");
                let summary = format!("{name}: FAILED after {n_deaths} kills: {error}");
                self.failures.push(Failure {
                    lineage: name.to_owned(),
                    check,
                    error,
                    at_kill: self.n_kills(),
                    kills: history.kills,
                    dir,
                });
                Ok(summary)
            }
        }
    }

    /// Number of aborts at named fail points, and at write calls of a snapshot.
    fn n_aborts(&self) -> (usize, usize) {
        let is_call = |visit: &&Visit| matches!(visit.point, FailPoint::SnapshotCall(_));
        let n_calls = self.aborts.iter().filter(is_call).count();
        (self.aborts.len() - n_calls, n_calls)
    }

    /// Number of kills of a scenario by activity (starting up, writing a snapshot, running), and number of damages.
    fn kill_counts(&self, scenario: Scenario) -> [usize; 4] {
        let count = |is_counted: &dyn Fn(&Kill) -> bool| {
            let kills = self.kills.iter().filter(|kill| kill.scenario == scenario);
            kills.filter(|kill| is_counted(kill)).count()
        };
        [
            count(&|kill| kill.activity == Activity::StartingUp),
            count(&|kill| kill.activity == Activity::WritingSnapshot),
            count(&|kill| kill.activity == Activity::Running),
            count(&|kill| kill.damage.is_some()),
        ]
    }

    /// Number of lineages of a check that passed, and that did not.
    fn check_counts(&self, check: Check) -> (u64, u64) {
        let failed = self.failures.iter().filter(|failure| failure.check == check);
        let n_passed = self.passed.get(&check).copied().unwrap_or(0);
        (n_passed, failed.count() as u64)
    }

    /// Median and longest time from a start to the first answer, s.
    fn startup_seconds(&self) -> (f64, f64) {
        let mut startups = self.startups.clone();
        startups.sort_unstable();
        let seconds = |startup: Option<&Duration>| startup.map_or(0.0, Duration::as_secs_f64);
        (
            seconds(startups.get(startups.len() / 2)),
            seconds(startups.last()),
        )
    }

    /// The report as one JSON document.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let scenarios = Scenario::ALL.map(|scenario| {
            let [starting_up, writing_snapshot, running, damages] = self.kill_counts(scenario);
            json!({
                "scenario": scenario,
                "starting_up": starting_up,
                "writing_snapshot": writing_snapshot,
                "running": running,
                "damages": damages,
            })
        });
        let checks = Check::ALL.map(|check| {
            let (passed, failed) = self.check_counts(check);
            json!({ "check": check, "passed": passed, "failed": failed })
        });
        let (median, longest) = self.startup_seconds();
        let (n_named, n_calls) = self.n_aborts();
        json!({
            "ok": self.is_passed(),
            "seed": self.seed,
            "kills": self.n_kills(),
            "scenarios": scenarios,
            "fail_points": { "named": n_named, "snapshot_calls": n_calls },
            "checks": checks,
            "snapshots_compared": self.n_compared,
            "samples": self.n_samples,
            "startup_seconds": { "median": median, "longest": longest },
            "reference_run": self.timing,
            "wall_seconds": self.wall.as_secs_f64(),
            "failures": self.failures,
            "dir": (self.is_kept || !self.is_passed()).then_some(&self.dir),
        })
    }

    /// Writes the report as a table.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let title = format!("{} kills, seed {}", self.n_kills(), self.seed);
        writeln!(
            out,
            "{title:<34} starting up  writing a snapshot  running  damaged"
        )?;
        for scenario in Scenario::ALL {
            let [starting_up, writing_snapshot, running, damages] = self.kill_counts(scenario);
            writeln!(
                out,
                "  {:<32} {starting_up:>11} {writing_snapshot:>19} {running:>8} {damages:>8}",
                scenario.name()
            )?;
        }
        let (n_named, n_calls) = self.n_aborts();
        writeln!(
            out,
            "aborts: {n_named} at named fail points, {n_calls} at write calls of a snapshot\n\
             lineages with equal ledger, weights, optimizer state, join state and features"
        )?;
        for check in Check::ALL {
            let (passed, failed) = self.check_counts(check);
            writeln!(out, "  {:<72} {passed} of {}", check.name(), passed + failed)?;
        }
        let (median, longest) = self.startup_seconds();
        writeln!(
            out,
            "  {} earlier snapshots equal to a snapshot at the same place\n\
             {} samples; from a start to the first answer {median:.2} s median, {longest:.2} s at most; {:.0} s in all",
            self.n_compared,
            self.n_samples,
            self.wall.as_secs_f64()
        )?;
        self.failures
            .iter()
            .try_for_each(|failure| failure.write(self.seed, out))
    }
}

impl Failure {
    fn write(&self, seed: u64, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "\nFAILED {} (seed {seed}, kill {}): {}",
            self.lineage, self.at_kill, self.error
        )?;
        for (number, kill) in (1..).zip(&self.kills) {
            let (name, age) = (kill.scenario.name(), kill.age);
            let damage = kill.damage.as_ref().map(|damage| format!("; {damage}"));
            let damage = damage.unwrap_or_default();
            writeln!(out, "  kill {number}: {name}, after {age:.0?}{damage}")?;
        }
        writeln!(out, "  kept in {}", self.dir.display())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn report(dir: &Path) -> Report {
        let request = Request {
            kills: 1,
            seed: 77,
            exe: PathBuf::new(),
            dir: dir.to_owned(),
            fail_points: None,
            is_kept: false,
        };
        Report::new(&request, Timing::default())
    }

    fn table(report: &Report) -> String {
        let mut table = Vec::new();
        report.write_table(&mut table).unwrap();
        String::from_utf8(table).unwrap()
    }

    #[test]
    fn a_failure_is_reported_with_its_seed_its_kills_and_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = report(dir.path());
        let lineage = dir.path().join("complete-0000");
        fs::create_dir(&lineage).unwrap();
        let kill = Kill {
            scenario: Scenario::DamagedSnapshot,
            age: Duration::from_millis(1234),
            activity: Activity::WritingSnapshot,
            damage: Some("rows.safetensors deleted".to_owned()),
        };
        let history = History {
            kills: vec![kill],
            ..History::default()
        };
        let outcome = Err(anyhow::anyhow!("the ledger differs"));
        let summary = report
            .record(Check::CompleteLog, "complete-0000", history, outcome)
            .unwrap();
        assert!(summary.contains("FAILED"), "{summary}");
        assert!(!report.is_passed());
        assert!(lineage.is_dir());
        let table = table(&report);
        for text in [
            "seed 77",
            "kill 1",
            "the ledger differs",
            "rows.safetensors deleted",
            "after 1s",
            "0 of 1",
            &lineage.display().to_string(),
        ] {
            assert!(table.contains(text), "{text} is not in\n{table}");
        }
        let json = report.to_json();
        assert_eq!(json["ok"], false);
        assert_eq!(json["failures"][0]["kills"][0]["activity"], "writing_snapshot");
        assert_eq!(json["dir"], dir.path().display().to_string());
    }

    #[test]
    fn a_passed_lineage_is_counted_and_its_folder_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = report(dir.path());
        let lineage = dir.path().join("growing-0000");
        fs::create_dir(&lineage).unwrap();
        report
            .record(Check::GrowingLog, "growing-0000", History::default(), Ok(12))
            .unwrap();
        assert!(report.is_passed() && !lineage.exists());
        assert_eq!(report.n_samples(), 12);
        assert!(table(&report).contains("1 of 1"));
        assert_eq!(report.to_json()["dir"], serde_json::Value::Null);
    }
}
