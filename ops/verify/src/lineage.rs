//! One lineage: a state directory whose daemons are killed again and again until the log is consumed.

mod wait;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use ouzel_snapshot::Snapshot;

use crate::Request;
use crate::daemon::Daemon;
use crate::damage::{damage_snapshot, truncate_plan};
use crate::digest::{StateDigest, compare};
use crate::event_log::EventLog;
use crate::failpoint::Visit;
use crate::lineage_dir::{LineageDir, create_dir};
use crate::reference::REFERENCE;
use crate::rng::SeededRng;
use crate::scenario::{Scenario, ScenarioQueue};
use wait::Until;

pub(crate) use wait::WaitEnd;

/// About the time that a snapshot of this size takes to write.
const SNAPSHOT_WRITE_TIME: Duration = Duration::from_millis(12);
/// Range of the length of a pause by SIGSTOP.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(150));
const SIGTERM: i32 = 15;

/// How long a daemon takes that is left alone.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Timing {
    /// From its start to its first answer.
    pub(crate) startup: Duration,
    /// From its start until the log is consumed.
    pub(crate) total: Duration,
}

/// One SIGKILL.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Kill {
    pub(crate) scenario: Scenario,
    /// Age of the daemon.
    pub(crate) age: Duration,
    pub(crate) activity: Activity,
    /// What was damaged afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) damage: Option<String>,
}

/// What a daemon did when it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Activity {
    /// It had not answered yet.
    StartingUp,
    /// It left an unfinished snapshot, being written or removed.
    WritingSnapshot,
    /// Anything else.
    Running,
}

/// What happened to a lineage.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) kills: Vec<Kill>,
    /// Time from the start to the first answer, of each daemon that answered.
    pub(crate) startups: Vec<Duration>,
    /// Ids of the snapshots that were compared with another run.
    pub(crate) compared: BTreeSet<String>,
    /// Fail points at which daemons aborted.
    pub(crate) aborts: Vec<Visit>,
}

/// A lineage in progress; dropping it kills its daemon.
pub(crate) struct Lineage<'a> {
    pub(crate) dir: LineageDir,
    pub(crate) history: History,
    /// Runs the daemons on one core.
    pub(crate) is_on_one_core: bool,
    request: &'a Request,
    log: &'a mut EventLog,
    timing: Timing,
    rng: SeededRng,
    daemon: Option<Daemon>,
    /// Where the next daemon aborts.
    fail_at: Option<Visit>,
    /// Folder with a hard link to every segment of the plan log, pruned ones included.
    archive: Option<PathBuf>,
}

impl<'a> Lineage<'a> {
    /// A lineage without a daemon. `timing` is an estimate; `name` decides its random choices.
    pub(crate) fn new(
        dir: LineageDir,
        request: &'a Request,
        log: &'a mut EventLog,
        timing: Timing,
        name: &str,
    ) -> Self {
        Self {
            dir,
            history: History::default(),
            is_on_one_core: false,
            request,
            log,
            timing,
            rng: SeededRng::new(request.seed, name),
            daemon: None,
            fail_at: None,
            archive: None,
        }
    }

    /// Ends the lineage and kills its daemon. Returns what happened to it.
    pub(crate) fn into_history(self) -> History {
        self.history
    }

    /// Archives every segment of the plan log from here on. Returns the folder.
    pub(crate) fn archive_plan(&mut self) -> anyhow::Result<PathBuf> {
        let archive = self.dir.path.join("archive");
        create_dir(&archive)?;
        self.archive = Some(archive.clone());
        Ok(archive)
    }

    /// Number of SIGKILLs.
    pub(crate) fn n_kills(&self) -> u64 {
        self.history.kills.len() as u64
    }

    /// Kills daemons until the log is consumed or `max_kills` are done. Compares all snapshots after each kill.
    pub(crate) fn kill_repeatedly(
        &mut self,
        scenarios: &mut ScenarioQueue,
        max_kills: u64,
        expected: &[StateDigest],
    ) -> anyhow::Result<()> {
        while self.n_kills() < max_kills {
            let scenario = scenarios.pop();
            if scenario.n_kills() > max_kills - self.n_kills() {
                // Dropped, because no later lineage of this verification has more kills left.
                continue;
            }
            if self.play(scenario)? == WaitEnd::LogConsumed {
                scenarios.push(scenario);
                return Ok(());
            }
            self.compare(expected)?;
        }
        Ok(())
    }

    /// Kills a daemon that has written a snapshot and learned a little more.
    pub(crate) fn kill_after_first_snapshot(&mut self) -> anyhow::Result<()> {
        let then = self.timing.total / 20;
        if self.wait(Until::Snapshots { n: 1, then })? == WaitEnd::LogConsumed {
            bail!("the log was consumed before a snapshot was written");
        }
        self.kill(Scenario::Random)
    }

    /// Starts a daemon that aborts at `visit`, and waits for that or for the end of the log.
    pub(crate) fn abort_at(&mut self, visit: Visit) -> anyhow::Result<WaitEnd> {
        self.fail_at = Some(visit);
        let end = self.wait(Until::LogConsumed);
        self.fail_at = None;
        let end = end.with_context(|| format!("cannot abort at {visit}"))?;
        match end {
            WaitEnd::Condition => self.history.aborts.push(visit),
            // The armed daemon must not end the lineage: it could still abort while it stops.
            WaitEnd::LogConsumed => drop(self.take_daemon()),
        }
        Ok(end)
    }

    fn play(&mut self, scenario: Scenario) -> anyhow::Result<WaitEnd> {
        let Timing { startup, total } = self.timing;
        let until = match scenario {
            Scenario::Random | Scenario::Twice | Scenario::Stop => {
                Until::Age(self.rng.log_uniform(startup / 2, total.mul_f64(1.2)))
            }
            Scenario::Startup => Until::Age(self.rng.uniform(startup)),
            Scenario::SnapshotWrite => {
                let age = startup + self.rng.uniform(total.saturating_sub(startup) / 2);
                if self.wait(Until::Age(age))? == WaitEnd::LogConsumed {
                    return Ok(WaitEnd::LogConsumed);
                }
                let then = self.rng.uniform(SNAPSHOT_WRITE_TIME);
                Until::SnapshotWrite { then }
            }
            Scenario::TruncatedPlan | Scenario::DamagedSnapshot => {
                let n = if scenario == Scenario::TruncatedPlan { 1 } else { 2 };
                let then = self.rng.uniform(total / 4);
                Until::Snapshots { n, then }
            }
        };
        if self.wait(until)? == WaitEnd::LogConsumed {
            return Ok(WaitEnd::LogConsumed);
        }
        self.kill(scenario)?;
        let damage = match scenario {
            Scenario::Random | Scenario::Startup | Scenario::SnapshotWrite => None,
            Scenario::Twice => {
                let age = self.rng.uniform(startup.mul_f64(1.2));
                if self.wait(Until::Age(age))? == WaitEnd::Condition {
                    self.kill(scenario)?;
                }
                None
            }
            Scenario::TruncatedPlan => truncate_plan(&self.dir, &mut self.rng)?,
            Scenario::DamagedSnapshot => damage_snapshot(&self.dir, &mut self.rng)?,
            Scenario::Stop => self.stop_while_catching_up()?,
        };
        if let Some(kill) = self.history.kills.last_mut() {
            kill.damage = damage;
        }
        Ok(WaitEnd::Condition)
    }

    /// Sends SIGTERM soon after the startup, when the daemon follows the plan log. Returns what it did.
    fn stop_while_catching_up(&mut self) -> anyhow::Result<Option<String>> {
        let age = self.timing.startup.mul_f64(0.9) + self.rng.uniform(self.timing.total / 8);
        if self.wait(Until::Age(age))? == WaitEnd::LogConsumed {
            return Ok(None);
        }
        let daemon = self.take_daemon().context("no daemon runs")?;
        let (age, is_up) = (daemon.age(), daemon.startup.is_some());
        let status = daemon.stop()?;
        // SIGTERM kills a daemon that has not installed its handler yet.
        let is_killed = !is_up && status.signal() == Some(SIGTERM);
        if !status.success() && !is_killed {
            bail!("a daemon of {age:.0?} ended with {status} on SIGTERM");
        }
        Ok(Some(format!("the next daemon stopped after {age:.0?}")))
    }

    fn kill(&mut self, scenario: Scenario) -> anyhow::Result<()> {
        let Some(daemon) = self.take_daemon() else {
            return Ok(());
        };
        let (age, is_up) = (daemon.age(), daemon.startup.is_some());
        daemon
            .kill()
            .with_context(|| format!("before kill {}", self.n_kills() + 1))?;
        // During startup an unfinished snapshot may still be that of the daemon before.
        let activity = match is_up {
            false => Activity::StartingUp,
            true if self.dir.n_snapshots(false) > 0 => Activity::WritingSnapshot,
            true => Activity::Running,
        };
        self.history.kills.push(Kill {
            scenario,
            age,
            activity,
            damage: None,
        });
        Ok(())
    }

    fn take_daemon(&mut self) -> Option<Daemon> {
        let daemon = self.daemon.take()?;
        self.history.startups.extend(daemon.startup);
        Some(daemon)
    }

    /// Waits for the end of the log and stops the daemon. Returns its last snapshot.
    pub(crate) fn finish(&mut self) -> anyhow::Result<(Snapshot, Timing)> {
        self.wait(Until::LogConsumed)?;
        let daemon = self.take_daemon().context("no daemon runs")?;
        let timing = Timing {
            startup: daemon.startup.unwrap_or_default(),
            total: daemon.age(),
        };
        let status = daemon.stop()?;
        if !status.success() {
            bail!("the last daemon ended with {status} on SIGTERM");
        }
        // Since the log was consumed, the daemon may have begun a segment and recorded an early batch there.
        self.archive_segments()?;
        let recovery = self.dir.store().newest_valid()?;
        let snapshot = recovery
            .snapshot
            .context("the last daemon wrote no valid snapshot")?;
        Ok((snapshot, timing))
    }

    /// Pauses the daemon with SIGSTOP at random times until the log is consumed.
    pub(crate) fn pause_repeatedly(&mut self) -> anyhow::Result<()> {
        let mut age = self.rng.uniform(self.timing.startup);
        while self.wait(Until::Age(age))? == WaitEnd::Condition {
            let daemon = self.daemon.as_ref().context("no daemon runs")?;
            daemon.signal("STOP")?;
            std::thread::sleep(self.rng.log_uniform(PAUSE.0, PAUSE.1));
            daemon.signal("CONT")?;
            age = daemon.age() + self.rng.uniform(self.timing.total / 6);
        }
        Ok(())
    }

    /// Compares each snapshot with `expected`, the snapshots of the reference run.
    pub(crate) fn compare(&mut self, expected: &[StateDigest]) -> anyhow::Result<()> {
        let digests = StateDigest::read_all(&self.dir)?;
        self.history
            .compared
            .extend(compare(&digests, expected, REFERENCE)?);
        Ok(())
    }
}
