//! What came of it: one JSON document, or a table a person can read.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::failpoint::{FailPoint, Visit};

use super::Request;
use super::harm::Harm;
use super::lineage::{Hit, Kill, Lineage, Pace};

/// What is checked of a lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Held up at random instants, on all cores or one, it equals the undisturbed run.
    Halted,
    /// Died at fail points on a settled log, it equals the undisturbed run.
    Points,
    /// Killed on a settled log, it equals the undisturbed run.
    Settled,
    /// Killed on a growing log, it equals a new process that follows its plan log.
    Growing,
}

impl Check {
    const ALL: [Check; 4] = [Check::Halted, Check::Points, Check::Settled, Check::Growing];

    fn name(self) -> &'static str {
        match self {
            Check::Halted => {
                "held up at random, every other one on one core: the undisturbed run, bit for bit"
            }
            Check::Points => "died at fail points on a settled log: the undisturbed run, bit for bit",
            Check::Settled => "killed on a settled log: the undisturbed run, bit for bit",
            Check::Growing => "killed on a growing log: its plan log followed by a new process, bit for bit",
        }
    }
}

/// A lineage that did not pass.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Which lineage.
    pub lineage: String,
    /// What was checked.
    pub check: Check,
    /// What is wrong.
    pub error: String,
    /// Kills of all lineages until then.
    pub at_kill: u64,
    /// Its own kills.
    pub kills: Vec<Kill>,
    /// Its folder, which is kept.
    pub dir: PathBuf,
}

/// Everything that came of it.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    dir: PathBuf,
    is_kept: bool,
    kills: Vec<Kill>,
    last_kills: Vec<Kill>,
    points: Vec<Visit>,
    last_points: usize,
    ready: Vec<Duration>,
    passed: BTreeMap<Check, u64>,
    n_lineages: u64,
    n_samples: u64,
    /// Snapshots on the way that were compared with one at the same place.
    pub n_compared: usize,
    /// What did not pass.
    pub failures: Vec<Failure>,
    /// How long the undisturbed run took.
    pub pace: Option<Pace>,
    /// How long everything took.
    pub wall: Duration,
}

impl Report {
    /// A report on nothing yet.
    #[must_use]
    pub fn new(request: &Request) -> Self {
        Self {
            seed: request.seed,
            dir: request.dir.clone(),
            is_kept: request.is_kept,
            kills: Vec::new(),
            last_kills: Vec::new(),
            points: Vec::new(),
            last_points: 0,
            ready: Vec::new(),
            passed: BTreeMap::new(),
            n_lineages: 0,
            n_samples: 0,
            n_compared: 0,
            failures: Vec::new(),
            pace: None,
            wall: Duration::ZERO,
        }
    }

    /// Kills so far.
    #[must_use]
    pub fn n_kills(&self) -> u64 {
        self.kills.len() as u64
    }

    /// Samples of the lineages that passed.
    #[must_use]
    pub fn n_samples(&self) -> u64 {
        self.n_samples
    }

    /// Lineages so far.
    #[must_use]
    pub fn n_lineages(&self) -> u64 {
        self.n_lineages
    }

    /// True when everything passed.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// Takes over what a lineage went through.
    pub fn take(&mut self, lineage: &Lineage<'_>) {
        self.kills.extend(lineage.kills.iter().cloned());
        self.last_kills.clone_from(&lineage.kills);
        self.ready.extend(&lineage.ready);
        self.n_compared += lineage.compared.len();
    }

    /// Takes over where a lineage died by itself.
    pub fn take_points(&mut self, lineage: &Lineage<'_>) {
        self.points.extend_from_slice(&lineage.points);
        self.last_points = lineage.points.len();
        self.ready.extend(&lineage.ready);
        self.n_compared += lineage.compared.len();
    }

    /// Named fail points, and write-side calls of a snapshot, that daemons died at.
    #[must_use]
    pub fn n_points(&self) -> (usize, usize) {
        let is_call = |visit: &&Visit| matches!(visit.point, FailPoint::Call(_));
        let n_calls = self.points.iter().filter(is_call).count();
        (self.points.len() - n_calls, n_calls)
    }

    /// Enters how a lineage ended: its samples, or what is wrong. Removes its folder if it passed.
    pub fn enter(
        &mut self,
        check: Check,
        name: &str,
        outcome: anyhow::Result<u64>,
        tell: &mut impl FnMut(u64, u64, &str),
    ) -> anyhow::Result<()> {
        self.n_lineages += 1;
        let kills = std::mem::take(&mut self.last_kills);
        let n_deaths = kills.len() + std::mem::take(&mut self.last_points);
        let dir = self.dir.join(name);
        let words = match outcome {
            Ok(n_samples) => {
                *self.passed.entry(check).or_default() += 1;
                self.n_samples += n_samples;
                if !self.is_kept {
                    std::fs::remove_dir_all(&dir)?;
                }
                format!("{name}: {n_deaths} kills, equal")
            }
            Err(error) => {
                let error = format!("{error:#}");
                let words = format!("{name}: FAILED after {n_deaths} kills: {error}");
                self.failures.push(Failure {
                    lineage: name.to_owned(),
                    check,
                    error,
                    at_kill: self.n_kills(),
                    kills,
                    dir,
                });
                words
            }
        };
        tell(self.n_kills(), self.n_samples, &words);
        Ok(())
    }

    fn n_hit(&self, harm: Harm, hit: Hit) -> usize {
        let these = self.kills.iter().filter(|kill| kill.harm == harm);
        these.filter(|kill| kill.hit == hit).count()
    }

    fn n_damages(&self, harm: Harm) -> usize {
        let these = self.kills.iter().filter(|kill| kill.harm == harm);
        these.filter(|kill| kill.damage.is_some()).count()
    }

    /// From a start to the first answer: median and longest, s.
    fn restarts(&self) -> (f64, f64) {
        let mut ready = self.ready.clone();
        ready.sort_unstable();
        let seconds = |at: Option<&Duration>| at.map_or(0.0, Duration::as_secs_f64);
        (seconds(ready.get(ready.len() / 2)), seconds(ready.last()))
    }

    /// As one document.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let harms: Vec<_> = Harm::ALL
            .into_iter()
            .map(|harm| {
                json!({
                    "harm": harm,
                    "starting_up": self.n_hit(harm, Hit::StartingUp),
                    "writing_snapshot": self.n_hit(harm, Hit::WritingSnapshot),
                    "running": self.n_hit(harm, Hit::Running),
                    "damages": self.n_damages(harm),
                })
            })
            .collect();
        let checks: Vec<_> = Check::ALL
            .into_iter()
            .map(|check| {
                let failed = self.failures.iter().filter(|failure| failure.check == check).count();
                json!({ "check": check, "passed": self.passed.get(&check).copied().unwrap_or(0), "failed": failed })
            })
            .collect();
        let (median, longest) = self.restarts();
        let (n_named, n_calls) = self.n_points();
        json!({
            "ok": self.is_passed(),
            "seed": self.seed,
            "kills": self.n_kills(),
            "harms": harms,
            "fail_points": { "named": n_named, "snapshot_calls": n_calls },
            "checks": checks,
            "snapshots_compared": self.n_compared,
            "samples": self.n_samples,
            "restart_seconds": { "median": median, "longest": longest },
            "undisturbed": self.pace,
            "wall_seconds": self.wall.as_secs_f64(),
            "failures": self.failures,
            "dir": (self.is_kept || !self.is_passed()).then_some(&self.dir),
        })
    }

    /// As a table.
    pub fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{} kills, seed {}                  starting up  writing a snapshot  running  damaged",
            self.n_kills(),
            self.seed
        )?;
        for harm in Harm::ALL {
            writeln!(
                out,
                "  {:<34} {:>11} {:>19} {:>8} {:>8}",
                harm.name(),
                self.n_hit(harm, Hit::StartingUp),
                self.n_hit(harm, Hit::WritingSnapshot),
                self.n_hit(harm, Hit::Running),
                self.n_damages(harm)
            )?;
        }
        let (n_named, n_calls) = self.n_points();
        writeln!(
            out,
            "deaths at {n_named} named fail points, and at {n_calls} write-side calls of a snapshot"
        )?;
        writeln!(
            out,
            "lineages that came to the same ledger, weights, optimizer state, join state and features"
        )?;
        for check in Check::ALL {
            let passed = self.passed.get(&check).copied().unwrap_or(0);
            let failed = self
                .failures
                .iter()
                .filter(|failure| failure.check == check)
                .count() as u64;
            writeln!(out, "  {:<82} {passed} of {}", check.name(), passed + failed)?;
        }
        let (median, longest) = self.restarts();
        writeln!(
            out,
            "  {} snapshots on the way equal to one at the same place",
            self.n_compared
        )?;
        writeln!(
            out,
            "{} samples; from a start to the first answer {median:.2} s median, {longest:.2} s at most; {:.0} s in all",
            self.n_samples,
            self.wall.as_secs_f64()
        )?;
        for failure in &self.failures {
            writeln!(
                out,
                "\nFAILED {} (seed {}, kill {}): {}",
                failure.lineage, self.seed, failure.at_kill, failure.error
            )?;
            for (n, kill) in failure.kills.iter().enumerate() {
                let damage = kill.damage.as_deref().map(|damage| format!("; {damage}"));
                writeln!(
                    out,
                    "  kill {}: {}, after {:.0?}{}",
                    n + 1,
                    kill.harm.name(),
                    kill.after,
                    damage.unwrap_or_default()
                )?;
            }
            writeln!(out, "  kept in {}", failure.dir.display())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(dir: &std::path::Path) -> Request {
        Request {
            kills: 1,
            seed: 77,
            exe: PathBuf::new(),
            dir: dir.to_owned(),
            fail_points: None,
            is_kept: false,
        }
    }

    fn page(report: &Report) -> String {
        let mut page = Vec::new();
        report.tell(&mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn a_failure_is_told_with_its_seed_its_kills_and_where_its_state_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = Report::new(&request(dir.path()));
        let home = dir.path().join("settled-0000");
        std::fs::create_dir(&home).unwrap();
        let kill = Kill {
            harm: Harm::DamagedSnapshot,
            after: Duration::from_millis(1234),
            hit: Hit::WritingSnapshot,
            damage: Some("deleted rows.safetensors".to_owned()),
        };
        report.kills.push(kill.clone());
        report.last_kills.push(kill);
        let mut told = Vec::new();
        let mut tell = |_: u64, _: u64, words: &str| told.push(words.to_owned());
        let outcome = Err(anyhow::anyhow!("the ledger differs"));
        report
            .enter(Check::Settled, "settled-0000", outcome, &mut tell)
            .unwrap();
        assert!(told[0].contains("FAILED"), "{told:?}");
        assert!(!report.is_passed());
        assert!(home.is_dir());
        let page = page(&report);
        for words in [
            "seed 77",
            "kill 1",
            "the ledger differs",
            "deleted rows.safetensors",
            "after 1s",
            "0 of 1",
            &home.display().to_string(),
        ] {
            assert!(page.contains(words), "{words} is not in\n{page}");
        }
        let json = report.json();
        assert_eq!(json["ok"], false);
        assert_eq!(json["failures"][0]["kills"][0]["hit"], "writing_snapshot");
        assert_eq!(json["dir"], dir.path().display().to_string());
    }

    #[test]
    fn what_passed_is_counted_and_its_folder_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = Report::new(&request(dir.path()));
        let home = dir.path().join("growing-0000");
        std::fs::create_dir(&home).unwrap();
        report
            .enter(Check::Growing, "growing-0000", Ok(12), &mut |_, _, _| {})
            .unwrap();
        assert!(report.is_passed() && !home.exists());
        assert_eq!(report.n_samples(), 12);
        assert!(page(&report).contains("1 of 1"));
        assert_eq!(report.json()["dir"], serde_json::Value::Null);
    }
}
