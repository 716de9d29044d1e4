//! The crash harness: real daemons, killed again and again, must come to the state of one that never was.
//!
//! Two kinds of log are read. A *settled* log is complete before the first daemon starts, so its order is a
//! function of the log, and every lineage must equal one undisturbed run bit for bit. A *growing* log is
//! written while daemons live and die, so that its order across partitions is the machine's; what was read in
//! which order is in the plan log, and a new process that follows it from the beginning must come to the same
//! bits. In both, every record must have the outcome that the world which made it knows.
//!
//! Nothing here looks inside a daemon: it is started, killed and asked as an operator would, and judged by the
//! snapshots it leaves.

pub mod daemon;
pub mod dice;
pub mod evidence;
pub mod feed;
pub mod harm;
pub mod lineage;
pub mod points;
pub mod report;
pub mod settings;
pub mod world;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;

use ouzel_snapshot::SnapshotId;

use crate::cli::FailPoints;
use crate::config::{Config, Period};

use daemon::{Home, can_bind_to_one_core};
use dice::Dice;
use evidence::Evidence;
use feed::Log;
use harm::{Deck, copy_plan, segments};
use lineage::{Lineage, Pace};
use report::{Check, Report};
use settings::{KEEP_ALL, SNAPSHOT_EVERY, settings};
use world::World;

/// Slates of a world for each kill, and the least and most of them: up to a few seconds of work for a daemon.
const SLATES_PER_KILL: u64 = 100;
const SLATES: (u64, u64) = (800, 3000);
/// For so many kills, there is one run that is not killed but held up.
const KILLS_PER_HALTED: u64 = 10;
/// One kill in this many is made on a growing log.
const GROWING_SHARE: u64 = 4;
/// Most kills of one lineage on a growing log: what follows them is replayed in full.
const MOST_GROWING: u64 = 8;
/// After this many failures the rest would tell nothing new.
const MOST_FAILURES: usize = 5;

/// What is to be verified.
#[derive(Clone, Debug)]
pub struct Request {
    /// How many kills.
    pub kills: u64,
    /// Decides the worlds, the delays and the damages.
    pub seed: u64,
    /// The program under test.
    pub exe: PathBuf,
    /// Where its state directories go.
    pub dir: PathBuf,
    /// Fail points to die at, too.
    pub fail_points: Option<FailPoints>,
    /// Keep those of lineages that passed, too.
    pub is_kept: bool,
}

/// Runs the verification. `tell` gets the kills, the samples and a line of text after each lineage.
pub fn run(request: &Request, mut tell: impl FnMut(u64, u64, &str)) -> anyhow::Result<Report> {
    let started = Instant::now();
    let mut report = Report::new(request);
    let mut deck = Deck::new(request.seed);
    let on_growing = request.kills / GROWING_SHARE;

    let world = World::new(request.seed, n_slates(request), true);
    let mut log = Log::settled(world, &settings())?;
    let golden = Golden::make(request, &mut log).context("the undisturbed run failed")?;
    report.pace = Some(golden.pace);
    tell(0, golden.last.n_samples, &golden.words());
    let can_bind = can_bind_to_one_core();
    for n in 0..(request.kills / KILLS_PER_HALTED).max(1) {
        let name = format!("halted-{n:04}");
        let outcome = haltingly(request, &name, &mut log, &golden, can_bind && n % 2 == 1);
        report.enter(Check::Halted, &name, outcome.map(n_samples), &mut tell)?;
    }

    if let Some(which) = request.fail_points {
        points::run(request, which, &mut log, &golden, &mut report, &mut tell)?;
    }
    while report.n_kills() < request.kills - on_growing && report.failures.len() < MOST_FAILURES {
        let name = format!("settled-{:04}", report.n_lineages());
        let most = request.kills - on_growing - report.n_kills();
        let mut lineage = golden.lineage(request, &name, &mut log)?;
        let outcome = lineage
            .harm(&mut deck, most, &golden.evidence)
            .and_then(|()| golden.check(&mut lineage));
        report.take(&lineage);
        drop(lineage);
        report.enter(Check::Settled, &name, outcome.map(n_samples), &mut tell)?;
    }
    while report.n_kills() < request.kills && report.failures.len() < MOST_FAILURES {
        let most = (request.kills - report.n_kills()).min(MOST_GROWING);
        growing(request, most, golden.pace, &mut deck, &mut report, &mut tell)?;
    }
    report.wall = started.elapsed();
    Ok(report)
}

fn n_samples(found: Evidence) -> u64 {
    found.n_samples
}

fn n_slates(request: &Request) -> u32 {
    let (least, most) = SLATES;
    let n = request.kills.saturating_mul(SLATES_PER_KILL).clamp(least, most);
    u32::try_from(n).expect("the most is")
}

/// The undisturbed run over the settled log.
struct Golden {
    config: Config,
    evidence: Vec<Evidence>,
    last: Evidence,
    pace: Pace,
}

impl Golden {
    fn make(request: &Request, log: &mut Log) -> anyhow::Result<Self> {
        let config = log.configure(&settings());
        let home = Home::new(&request.dir.join("undisturbed"), &keeping_all(&config))?;
        let guess = Pace {
            ready: std::time::Duration::from_millis(500),
            whole: std::time::Duration::from_secs(5),
        };
        let dice = Dice::new(request.seed, "undisturbed");
        let mut lineage = Lineage::new(home, &request.exe, log, guess, dice);
        let (snapshot, pace) = lineage.finish()?;
        let home = lineage.home.clone();
        drop(lineage);
        evidence::outcomes(&home, &snapshot, &log.world().expected)?;
        Ok(Self {
            config,
            evidence: Evidence::all(&home)?,
            last: Evidence::of(snapshot.manifest())?,
            pace,
        })
    }

    fn words(&self) -> String {
        format!(
            "undisturbed: {} batches, {} samples, {} snapshots; up in {:.2} s, through in {:.2} s",
            self.last.n_batches,
            self.last.n_samples,
            self.evidence.len(),
            self.pace.ready.as_secs_f64(),
            self.pace.whole.as_secs_f64()
        )
    }

    fn lineage<'a>(&self, request: &'a Request, name: &str, log: &'a mut Log) -> anyhow::Result<Lineage<'a>> {
        let every = Dice::new(request.seed, &format!("snapshots of {name}")).index(SNAPSHOT_EVERY.len());
        self.lineage_of(request, name, log, SNAPSHOT_EVERY[every])
    }

    /// With a snapshot every so many batches.
    fn lineage_of<'a>(
        &self,
        request: &'a Request,
        name: &str,
        log: &'a mut Log,
        every_batches: u64,
    ) -> anyhow::Result<Lineage<'a>> {
        let dice = Dice::new(request.seed, name);
        let mut config = self.config.clone();
        config.snapshot.every_batches = every_batches;
        let home = Home::new(&request.dir.join(name), &config)?;
        Ok(Lineage::new(home, &request.exe, log, self.pace, dice))
    }

    /// Finishes a lineage, which must end in this very state.
    fn check(&self, lineage: &mut Lineage<'_>) -> anyhow::Result<Evidence> {
        let (snapshot, _) = lineage.finish()?;
        let found = Evidence::of(snapshot.manifest())?;
        found.must_equal(&self.last, "the undisturbed run")?;
        Ok(found)
    }
}

/// A run that is held up at random instants: time may pass anywhere, on any core, and must change nothing.
fn haltingly(
    request: &Request,
    name: &str,
    log: &mut Log,
    golden: &Golden,
    is_on_one_core: bool,
) -> anyhow::Result<Evidence> {
    let mut lineage = golden.lineage(request, name, log)?;
    lineage.is_on_one_core = is_on_one_core;
    let found = Evidence::of(lineage.finish_haltingly()?.manifest())?;
    found.must_equal(&golden.last, "the undisturbed run")?;
    Ok(found)
}

/// A lineage on a log that grows meanwhile, and a new process that follows its plan log.
fn growing(
    request: &Request,
    most: u64,
    pace: Pace,
    deck: &mut Deck,
    report: &mut Report,
    tell: &mut impl FnMut(u64, u64, &str),
) -> anyhow::Result<()> {
    let name = &format!("growing-{:04}", report.n_lineages());
    let mut settings = keeping_all(&settings());
    settings.learner.flush_after_idle = Period::from_ms(20);
    settings.order.max_reorder_delay = Period::from_ms(2);
    let world = World::new(request.seed ^ report.n_lineages(), n_slates(request), false);
    let over = pace
        .whole
        .mul_f64(0.5)
        .saturating_mul(u32::try_from(most).unwrap_or(u32::MAX));
    let mut log = Log::growing(world, &settings, over)?;
    let mut dice = Dice::new(request.seed, name);
    let mut config = log.configure(&settings);
    config.snapshot.every_batches = SNAPSHOT_EVERY[dice.index(SNAPSHOT_EVERY.len())];
    let home = Home::new(&request.dir.join(name), &config)?;
    let mut lineage = Lineage::new(home.clone(), &request.exe, &mut log, pace, dice);
    let archive = lineage.archive_plan()?;
    let finished = lineage.harm(deck, most, &[]).and_then(|()| lineage.finish());
    report.take(&lineage);
    drop(lineage);
    let outcome = finished.and_then(|(snapshot, _)| {
        evidence::outcomes(&home, &snapshot, &log.world().expected)?;
        let found = Evidence::of(snapshot.manifest())?;
        let (replayed, n_compared) = follow(request, name, &home, &archive, &mut log, pace)?;
        report.n_compared += n_compared;
        found.must_equal(&replayed, "a new process that followed its plan log")?;
        Ok(found)
    });
    report.enter(Check::Growing, name, outcome.map(n_samples), tell)
}

/// A new process follows the plan log of `home` from its beginning; every snapshot on the way must be the same. Returns
/// where it ended, and how many were compared.
fn follow(
    request: &Request,
    name: &str,
    home: &Home,
    archive: &Path,
    log: &mut Log,
    pace: Pace,
) -> anyhow::Result<(Evidence, usize)> {
    let mut config = home.config().clone();
    // Only what was written down may close a batch early.
    config.learner.flush_after_idle = Period::from_ms(0);
    let replay = Home::new(&home.dir().join("followed"), &config)?;
    if segments(archive)?
        .first()
        .is_some_and(|first| is_beginning(first))
    {
        copy_plan(archive, &replay.plan())?;
    } else {
        // The first segment was pruned before it was seen: from the first snapshot, then.
        copy_plan(&home.plan(), &replay.plan())?;
        copy_first_snapshot(home, &replay)?;
    }
    let dice = Dice::new(request.seed, name);
    let mut lineage = Lineage::new(replay, &request.exe, log, pace, dice);
    let (snapshot, _) = lineage.finish().context("following its plan log")?;
    let (ours, theirs) = (Evidence::all(home)?, Evidence::all(&lineage.home)?);
    let compared = evidence::compare(&ours, &theirs, "following the plan log makes of the same records")?;
    Ok((Evidence::of(snapshot.manifest())?, compared.len()))
}

/// True for the segment that starts with entry 0.
fn is_beginning(segment: &Path) -> bool {
    let digits = segment
        .file_stem()
        .and_then(|stem| stem.to_str()?.strip_prefix("plan-"));
    digits.and_then(|digits| digits.parse::<u64>().ok()) == Some(0)
}

fn copy_first_snapshot(from: &Home, to: &Home) -> anyhow::Result<()> {
    let store = from.store();
    let is_valid = |id: SnapshotId| store.verify(id).is_ok_and(|report| report.is_valid());
    let listed = store.list()?;
    let first = listed.iter().find(|listed| is_valid(listed.id));
    let id = first.context("no snapshot of it is valid")?.id.to_string();
    let (source, target) = (from.snapshots().join(&id), to.snapshots().join(&id));
    std::fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
    for entry in std::fs::read_dir(&source).with_context(|| format!("cannot list {}", source.display()))? {
        let path = entry?.path();
        let name = path.file_name().context("a listed file has a name")?;
        std::fs::copy(&path, target.join(name)).with_context(|| format!("cannot copy {}", path.display()))?;
    }
    Ok(())
}

fn keeping_all(config: &Config) -> Config {
    let mut config = config.clone();
    config.snapshot.keep = KEEP_ALL;
    config
}
