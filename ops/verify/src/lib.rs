//! The crash tests behind `ouzel verify`: daemons that are killed must reach the states of one that is not.
//!
//! A *complete* log has all its records before the first daemon starts. Its order is a function of the log, and every
//! lineage must equal one reference run bit for bit. A *growing* log is written while daemons start and die, so the
//! order across partitions depends on the machine. The plan log records the order, and a new process that follows it
//! from the beginning must reach the same bits. On both logs every record must have the outcome that the generator of
//! the workload counted.
//!
//! Daemons are started, killed and queried as an operator would, and judged by the snapshots that they leave. The crate
//! does not use the program that it tests; only [`failpoint`] runs inside of it.

mod daemon;
mod damage;
mod digest;
mod event_log;
pub mod failpoint;
mod growing;
mod lineage;
mod lineage_dir;
mod points;
mod reference;
mod report;
mod rng;
mod scenario;
mod settings;
mod workload;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;

use daemon::can_bind_to_one_core;
use event_log::EventLog;
use lineage::History;
use reference::ReferenceRun;
use report::Check;
use rng::SeededRng;
use scenario::ScenarioQueue;
use settings::SNAPSHOT_EVERY;
use workload::Workload;

pub use digest::StateDigest;
pub use points::FailPoints;
pub use report::Report;
pub use settings::DaemonSettings;

/// Slates of a workload for each kill.
const SLATES_PER_KILL: u64 = 100;
/// Fewest and most slates of a workload: up to a few seconds of work for a daemon.
const SLATES: (u64, u64) = (800, 3000);
/// Number of kills for each lineage that is paused instead.
const KILLS_PER_PAUSED: u64 = 10;
/// One kill in this many happens on a growing log.
const GROWING_SHARE: u64 = 4;
/// Most kills of one lineage on a growing log, which is replayed in full afterwards.
const MAX_GROWING_KILLS: u64 = 8;
/// Number of failures that ends a verification: more would tell nothing new.
const MAX_FAILURES: u64 = 5;

/// What to verify.
#[derive(Clone, Debug)]
pub struct Request {
    /// Number of SIGKILLs.
    pub kills: u64,
    /// Decides workloads, delays and damages.
    pub seed: u64,
    /// The program under test.
    pub exe: PathBuf,
    /// The folder for the state directories.
    pub dir: PathBuf,
    /// Fail points at which daemons abort, in addition to the kills.
    pub fail_points: Option<FailPoints>,
    /// Keeps the state directories of lineages that passed.
    pub is_kept: bool,
}

/// Runs a verification. Calls `on_lineage` with the number of kills and of samples so far and a line of text after each
/// lineage.
///
/// # Errors
/// If the reference run fails or a file cannot be written. A lineage that fails is part of the report.
pub fn run(request: &Request, mut on_lineage: impl FnMut(u64, u64, &str)) -> anyhow::Result<Report> {
    let started = Instant::now();
    let mut log = EventLog::complete(Workload::new(request.seed, n_slates(request), true))?;
    let reference = ReferenceRun::new(request, &mut log).context("the reference run failed")?;
    on_lineage(0, reference.last.n_samples, &reference.summary());
    let mut verification = Verification {
        request,
        report: Report::new(request, reference.timing),
        scenarios: ScenarioQueue::new(request.seed),
        on_lineage: &mut on_lineage,
    };
    verification.pause_daemons(&mut log, &reference)?;
    if let Some(points) = request.fail_points {
        verification.abort_at_points(points, &mut log, &reference)?;
    }
    let n_complete = request.kills - request.kills / GROWING_SHARE;
    while let Some(max_kills) = verification.kills_left(n_complete) {
        verification.kill_on_complete_log(max_kills, &mut log, &reference)?;
    }
    while let Some(max_kills) = verification.kills_left(request.kills) {
        verification.kill_on_growing_log(max_kills.min(MAX_GROWING_KILLS), reference.timing)?;
    }
    verification.report.wall = started.elapsed();
    Ok(verification.report)
}

/// A verification in progress.
struct Verification<'a> {
    request: &'a Request,
    report: Report,
    scenarios: ScenarioQueue,
    on_lineage: &'a mut dyn FnMut(u64, u64, &str),
}

impl Verification<'_> {
    /// Number of kills until there are `n` in all; `None` if no more are needed.
    fn kills_left(&self, n: u64) -> Option<u64> {
        let n_left = n.saturating_sub(self.report.n_kills());
        (n_left > 0 && self.report.n_failures() < MAX_FAILURES).then_some(n_left)
    }

    /// Pauses daemons at random times, on one core or on all, which must change nothing.
    fn pause_daemons(&mut self, log: &mut EventLog, reference: &ReferenceRun) -> anyhow::Result<()> {
        let can_bind = can_bind_to_one_core();
        for number in 0..(self.request.kills / KILLS_PER_PAUSED).max(1) {
            let name = format!("paused-{number:04}");
            let every_batches = snapshot_interval(self.request, &name);
            let mut lineage = reference.lineage(self.request, log, &name, every_batches)?;
            lineage.is_on_one_core = can_bind && number % 2 == 1;
            let outcome = lineage
                .pause_repeatedly()
                .and_then(|()| reference.finish(&mut lineage));
            drop(lineage);
            // Startups with pauses are left out of the report.
            self.record(Check::Paused, &name, History::default(), outcome)?;
        }
        Ok(())
    }

    /// Kills the daemons of one lineage until its log is consumed or `max_kills` are done.
    fn kill_on_complete_log(
        &mut self,
        max_kills: u64,
        log: &mut EventLog,
        reference: &ReferenceRun,
    ) -> anyhow::Result<()> {
        let name = format!("complete-{:04}", self.report.n_lineages());
        let every_batches = snapshot_interval(self.request, &name);
        let mut lineage = reference.lineage(self.request, log, &name, every_batches)?;
        let outcome = lineage
            .kill_repeatedly(&mut self.scenarios, max_kills, &reference.digests)
            .and_then(|()| reference.finish(&mut lineage));
        let history = lineage.into_history();
        self.record(Check::CompleteLog, &name, history, outcome)
    }

    fn record(
        &mut self,
        check: Check,
        name: &str,
        history: History,
        outcome: anyhow::Result<StateDigest>,
    ) -> anyhow::Result<()> {
        let summary = self
            .report
            .record(check, name, history, outcome.map(|digest| digest.n_samples))?;
        (self.on_lineage)(self.report.n_kills(), self.report.n_samples(), &summary);
        Ok(())
    }
}

/// Number of slates of a workload, which grows with the number of kills.
fn n_slates(request: &Request) -> u32 {
    let n_slates = request.kills.saturating_mul(SLATES_PER_KILL);
    u32::try_from(n_slates.clamp(SLATES.0, SLATES.1)).expect("at most SLATES.1")
}

/// Batches from one snapshot to the next, for the lineage `name`.
fn snapshot_interval(request: &Request, name: &str) -> i64 {
    let mut rng = SeededRng::new(request.seed, &format!("snapshots of {name}"));
    SNAPSHOT_EVERY[rng.index(SNAPSHOT_EVERY.len())]
}
