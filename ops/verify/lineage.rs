//! One lineage: a state directory whose daemons are killed again and again until the log is consumed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use ouzel_snapshot::Snapshot;

use crate::failpoint::Visit;

use super::daemon::{Daemon, Home};
use super::dice::Dice;
use super::evidence::{Evidence, compare};
use super::feed::Log;
use super::harm::{Deck, Harm, damage_snapshot, segments, tear_plan};

/// How often a daemon is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// How often its directories are looked at for a snapshot being written.
const LOOK_EVERY: Duration = Duration::from_micros(200);
const REST: Duration = Duration::from_millis(1);
/// Longest that a lineage may take to consume what is left of its log.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a snapshot of this size takes to write, about.
const WRITING: Duration = Duration::from_millis(12);
const SIGTERM: i32 = 15;
/// As snapshots being written, or removed, are called.
const UNFINISHED: &str = ".tmp-";

/// How long an undisturbed daemon takes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pace {
    /// From its start to its first answer.
    pub ready: Duration,
    /// From its start until the log is consumed.
    pub whole: Duration,
}

/// One kill, and what it hit.
#[derive(Clone, Debug, Serialize)]
pub struct Kill {
    /// Why it was done.
    pub harm: Harm,
    /// How old the daemon was.
    pub after: Duration,
    /// What the daemon was doing.
    pub hit: Hit,
    /// What was broken afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// What a daemon was doing when it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hit {
    /// It was not up yet.
    StartingUp,
    /// It left an unfinished snapshot behind, being written or removed.
    WritingSnapshot,
    /// Anything else.
    Running,
}

/// What is waited for.
enum Until {
    /// This age.
    Age(Duration),
    /// A snapshot being written, and a little longer.
    Writing(Duration),
    /// This many snapshots, and then longer.
    Snapshots(usize, Duration),
    /// The end of the log.
    Consumed,
}

/// What was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// What was waited for.
    Moment,
    /// The end of the log, before that.
    Consumed,
}

/// The lineage.
pub struct Lineage<'a> {
    /// Where it lives.
    pub home: Home,
    /// Its kills so far.
    pub kills: Vec<Kill>,
    /// From start to first answer of each daemon that came so far.
    pub ready: Vec<Duration>,
    /// Its snapshots that were compared with those of the undisturbed run at the same place.
    pub compared: BTreeSet<String>,
    /// The fail points that its daemons died at.
    pub points: Vec<Visit>,
    /// Its daemons get one core.
    pub is_on_one_core: bool,
    exe: &'a Path,
    log: &'a mut Log,
    pace: Pace,
    dice: Dice,
    daemon: Option<Daemon>,
    /// What the next daemon dies at by itself.
    fail_at: Option<Visit>,
    /// Where hard links to every plan segment are kept, pruned or not.
    archive: Option<PathBuf>,
}

impl<'a> Lineage<'a> {
    /// A lineage that has not begun.
    pub fn new(home: Home, exe: &'a Path, log: &'a mut Log, pace: Pace, dice: Dice) -> Self {
        Self {
            home,
            kills: Vec::new(),
            ready: Vec::new(),
            compared: BTreeSet::new(),
            points: Vec::new(),
            is_on_one_core: false,
            exe,
            log,
            pace,
            dice,
            daemon: None,
            fail_at: None,
            archive: None,
        }
    }

    /// Keeps every segment of the plan log, so that it can be followed from its beginning later.
    pub fn archive_plan(&mut self) -> anyhow::Result<PathBuf> {
        let archive = self.home.dir().join("archive");
        fs::create_dir_all(&archive).with_context(|| format!("cannot create {}", archive.display()))?;
        self.archive = Some(archive.clone());
        Ok(archive)
    }

    /// Kills daemons until the log is consumed or `most` kills were made. After each, every snapshot must be
    /// what `golden` was at the same place.
    pub fn harm(&mut self, deck: &mut Deck, most: u64, golden: &[Evidence]) -> anyhow::Result<()> {
        while self.n_kills() < most {
            let harm = deck.draw();
            if harm.n_kills() > most - self.n_kills() {
                // Too few are left for it, so it is never played; the next card may fit.
                continue;
            }
            if self.strike(harm)? == Met::Consumed {
                deck.put_back(harm);
                return Ok(());
            }
            self.compare(golden)?;
        }
        Ok(())
    }

    /// Kills a daemon that has written a snapshot and learned a little more.
    pub fn kill_after_first_snapshot(&mut self) -> anyhow::Result<()> {
        let after = self.pace.whole / 20;
        match self.wait(&Until::Snapshots(1, after))? {
            Met::Moment => self.kill(Harm::Random),
            Met::Consumed => bail!("the log was consumed before there was a snapshot"),
        }
    }

    /// Starts a daemon that dies at this place, and waits until it has, or has consumed the log.
    pub fn die_at(&mut self, visit: Visit) -> anyhow::Result<Met> {
        self.fail_at = Some(visit);
        let met = self.wait(&Until::Consumed);
        self.fail_at = None;
        let met = met.with_context(|| format!("to die at {visit}"))?;
        match met {
            Met::Moment => self.points.push(visit),
            // It may still come to the place while it ends: another one is to do that.
            Met::Consumed => drop(self.take()),
        }
        Ok(met)
    }

    /// SIGKILLs so far.
    #[must_use]
    pub fn n_kills(&self) -> u64 {
        self.kills.len() as u64
    }

    fn strike(&mut self, harm: Harm) -> anyhow::Result<Met> {
        let Pace { ready, whole } = self.pace;
        let until = match harm {
            Harm::Random | Harm::Twice | Harm::Stop => {
                Until::Age(self.dice.log_uniform(ready / 2, whole.mul_f64(1.2)))
            }
            Harm::StartUp => Until::Age(self.dice.uniform(ready)),
            Harm::SnapshotWrite => {
                let after = ready + self.dice.uniform(whole.saturating_sub(ready) / 2);
                if self.wait(&Until::Age(after))? == Met::Consumed {
                    return Ok(Met::Consumed);
                }
                Until::Writing(self.dice.uniform(WRITING))
            }
            Harm::TornPlan => Until::Snapshots(1, self.dice.uniform(whole / 4)),
            Harm::DamagedSnapshot => Until::Snapshots(2, self.dice.uniform(whole / 4)),
        };
        if self.wait(&until)? == Met::Consumed {
            return Ok(Met::Consumed);
        }
        self.kill(harm)?;
        match harm {
            Harm::Random | Harm::StartUp | Harm::SnapshotWrite => {}
            Harm::Twice => {
                let again = self.dice.uniform(ready.mul_f64(1.2));
                if self.wait(&Until::Age(again))? == Met::Moment {
                    self.kill(harm)?;
                }
            }
            Harm::TornPlan => {
                let damage = tear_plan(&self.home, &mut self.dice)?;
                self.note(damage);
            }
            Harm::DamagedSnapshot => {
                let damage = damage_snapshot(&self.home, &mut self.dice)?;
                self.note(damage);
            }
            Harm::Stop => {
                // It follows the plan log as soon as it is up.
                let again = ready.mul_f64(0.9) + self.dice.uniform(whole / 8);
                if self.wait(&Until::Age(again))? == Met::Moment
                    && let Some(daemon) = self.take()
                {
                    let age = daemon.age();
                    let is_up = daemon.ready().is_some();
                    let status = daemon.stop()?;
                    // Before it can hear the signal it dies of it, which is one more way to be killed.
                    let is_too_early = !is_up && status.signal() == Some(SIGTERM);
                    if !status.success() && !is_too_early {
                        bail!("a daemon of {age:.0?} ended with {status} on SIGTERM");
                    }
                    self.note(Some(format!("the next one stopped after {age:.0?}")));
                }
            }
        }
        Ok(Met::Moment)
    }

    fn kill(&mut self, harm: Harm) -> anyhow::Result<()> {
        let Some(daemon) = self.take() else { return Ok(()) };
        let (after, is_up) = (daemon.age(), daemon.ready().is_some());
        daemon
            .kill()
            .with_context(|| format!("before kill {}", self.kills.len() + 1))?;
        // One that is starting up may not yet have removed what the one before left unfinished.
        let hit = match is_up {
            false => Hit::StartingUp,
            true if self.is_writing()? => Hit::WritingSnapshot,
            true => Hit::Running,
        };
        self.kills.push(Kill {
            harm,
            after,
            hit,
            damage: None,
        });
        Ok(())
    }

    fn note(&mut self, damage: Option<String>) {
        if let Some(kill) = self.kills.last_mut() {
            kill.damage = damage;
        }
    }

    fn take(&mut self) -> Option<Daemon> {
        let daemon = self.daemon.take()?;
        self.ready.extend(daemon.ready());
        Some(daemon)
    }

    /// Waits, starting a daemon if none runs, and tends the log meanwhile.
    fn wait(&mut self, until: &Until) -> anyhow::Result<Met> {
        if self.daemon.is_none() {
            let daemon = Daemon::start(self.exe, &self.home, self.is_on_one_core, self.fail_at)?;
            self.daemon = Some(daemon);
        }
        let began = Instant::now();
        let mut asked = None;
        let mut seen = None;
        loop {
            self.log.on_tick()?;
            self.link_plan()?;
            let Some(daemon) = &mut self.daemon else {
                bail!("a daemon is missing")
            };
            if self.fail_at.is_some() && daemon.has_aborted()? {
                self.take();
                return Ok(Met::Moment);
            }
            daemon.check()?;
            let age = daemon.age();
            if asked.is_none_or(|asked: Instant| asked.elapsed() >= ASK_EVERY) {
                let n_taken = daemon.n_taken();
                if let (Some(taken), Some(all)) = (n_taken, self.log.n_records())
                    && taken >= all
                {
                    return Ok(Met::Consumed);
                }
                asked = Some(Instant::now());
            }
            if began.elapsed() > PATIENCE {
                bail!("the log was not consumed within {} s", PATIENCE.as_secs());
            }
            let (rest, moment) = match until {
                Until::Age(at) => (REST.min(at.saturating_sub(age)), age >= *at),
                Until::Consumed => (REST, false),
                Until::Writing(longer) => {
                    let is_there = seen.is_some() || self.is_writing()?;
                    (LOOK_EVERY, is_long_enough(&mut seen, is_there, *longer))
                }
                Until::Snapshots(n, longer) => {
                    let is_there = seen.is_some() || self.n_snapshots() >= *n;
                    (REST, is_long_enough(&mut seen, is_there, *longer))
                }
            };
            if moment {
                return Ok(Met::Moment);
            }
            std::thread::sleep(rest);
        }
    }

    /// Lets the log be consumed, stops the last daemon, and returns its last snapshot.
    pub fn finish(&mut self) -> anyhow::Result<(Snapshot, Pace)> {
        self.wait(&Until::Consumed)?;
        let daemon = self.take().context("a daemon runs here")?;
        let pace = Pace {
            ready: daemon.ready().unwrap_or_default(),
            whole: daemon.age(),
        };
        let status = daemon.stop()?;
        if !status.success() {
            bail!("the last daemon ended with {status} on SIGTERM");
        }
        // It may have begun a segment, and written an early batch down in it, since the log was consumed.
        self.link_plan()?;
        let recovery = self.home.store().newest_valid()?;
        let snapshot = recovery.snapshot.context("the last daemon left no snapshot")?;
        Ok((snapshot, pace))
    }

    /// As [`Lineage::finish`], holding the daemon up with SIGSTOP at random instants.
    pub fn finish_haltingly(&mut self) -> anyhow::Result<Snapshot> {
        let mut at = self.dice.uniform(self.pace.ready);
        while self.wait(&Until::Age(at))? == Met::Moment {
            let Some(daemon) = &self.daemon else { break };
            daemon.signal("STOP")?;
            std::thread::sleep(self.dice.log_uniform(REST, Duration::from_millis(150)));
            daemon.signal("CONT")?;
            at = daemon.age() + self.dice.uniform(self.pace.whole / 6);
        }
        Ok(self.finish()?.0)
    }

    /// Compares each snapshot with that of the undisturbed run at the same place, if there is one.
    pub fn compare(&mut self, golden: &[Evidence]) -> anyhow::Result<()> {
        let found = Evidence::all(&self.home)?;
        self.compared.extend(compare(
            &found,
            golden,
            "the undisturbed run was at the same place",
        )?);
        Ok(())
    }

    fn link_plan(&self) -> anyhow::Result<()> {
        let Some(archive) = &self.archive else {
            return Ok(());
        };
        for path in segments(&self.home.plan())? {
            let Some(name) = path.file_name() else { continue };
            let link = archive.join(name);
            // A segment may be pruned between the two looks; then there is nothing to link.
            if !link.exists()
                && let Err(error) = fs::hard_link(&path, &link)
                && path.exists()
            {
                return Err(error).with_context(|| format!("cannot link {}", path.display()));
            }
        }
        Ok(())
    }

    fn is_writing(&self) -> anyhow::Result<bool> {
        let Ok(entries) = fs::read_dir(self.home.snapshots()) else {
            return Ok(false);
        };
        for entry in entries {
            let entry = entry.context("cannot list snapshots")?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn n_snapshots(&self) -> usize {
        let Ok(entries) = fs::read_dir(self.home.snapshots()) else {
            return 0;
        };
        let finished = |name: &str| !name.starts_with(UNFINISHED);
        entries
            .flatten()
            .filter(|entry| finished(&entry.file_name().to_string_lossy()))
            .count()
    }
}

/// True once what was waited for has been there for `longer`.
fn is_long_enough(seen: &mut Option<Instant>, is_there: bool, longer: Duration) -> bool {
    if is_there {
        return seen.get_or_insert_with(Instant::now).elapsed() >= longer;
    }
    false
}
