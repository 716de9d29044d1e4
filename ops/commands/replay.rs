//! `ouzel replay`: the same state machines as the daemon, in one loop, without serving.
//!
//! Everything that decides a bit is the daemon's: decoder, orderer, stage, trainer. The order is the bounded
//! merge, so the same input, configuration and seed give the same two hashes, run after run.

mod freshness;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use ouzel_ingest::join::{Counters, Outcome};
use ouzel_ingest::order::Orderer;
use ouzel_ingest::{
    DataDir, DataSource, Decoder, ImmediateLabels, KafkaSource, Polled, ReplayBound, ReplayRange, Source,
    Stage,
};
use ouzel_learner::Trainer;
use ouzel_learner::validation::{Bucket, Buckets, Figures, Progressive, ScoreLog};
use ouzel_sample::{Batch, Event, EventTime, FeatureState, IdKind, Item, Stream};

use crate::cli::{ErrorExt, Exit, Labels, RangePoint, ReplayArgs};
use crate::config::Config;
use crate::contents::Contents;
use crate::progress::{self, Progress, Style};
use freshness::{Ages, Freshness};

/// Samples between two updates of the progress line.
const TELL_EVERY: u64 = 4096;

/// Figures of one run.
#[derive(Debug, Serialize)]
pub struct Run {
    name: String,
    samples: u64,
    positives: u64,
    auc: Option<f64>,
    gauc: Option<f64>,
    ne: Option<f64>,
    calibration: Option<f64>,
    popularity_auc: Option<f64>,
    /// From the action to its being learned, in event time.
    freshness: Option<Ages>,
    second_half: Figures,
    second_half_popularity_auc: Option<f64>,
    buckets: Buckets,
    second_half_buckets: Buckets,
    join: JoinFigures,
    ledger_hash: String,
    weights_hash: String,
    wall_seconds: f64,
    samples_per_second: f64,
}

/// What became of the records.
#[derive(Debug, Serialize)]
pub struct JoinFigures {
    /// Shown items.
    pub impressions: u64,
    /// Those of slates that came again.
    pub duplicates: u64,
    /// Those with the primary action.
    pub positives: u64,
    /// Those without, when their window closed.
    pub negatives: u64,
    /// Those whose window was over on arrival.
    pub late: u64,
    /// Action records.
    pub actions: u64,
    /// Those without an impression.
    pub orphans: u64,
    /// Those that came again.
    pub duplicate_actions: u64,
    /// Those after their window.
    pub late_actions: u64,
    /// Records that could not be used.
    pub rejected: u64,
}

impl JoinFigures {
    /// Impressions count shown items, by the primary task.
    #[must_use]
    pub fn of(counters: &Counters) -> Self {
        let task = counters.tasks.first().copied().unwrap_or_default();
        Self {
            impressions: counters.items,
            duplicates: counters.duplicate_items,
            positives: task.positive,
            negatives: task.negative,
            late: task.late,
            actions: counters.actions,
            orphans: counters.orphans,
            duplicate_actions: counters.duplicate_actions,
            late_actions: counters.late_actions,
            rejected: counters.rejected_impressions + counters.rejected_actions,
        }
    }
}

/// Runs the command.
pub fn run(args: &ReplayArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut runs = Vec::new();
    let configs = if args.config.is_empty() {
        vec![("default".to_owned(), Config::default())]
    } else {
        let load = |path: &std::path::PathBuf| anyhow::Ok((path.display().to_string(), Config::load(path)?));
        args.config.iter().map(load).collect::<Result<_, _>>()?
    };
    for (name, mut config) in configs {
        if let Some(seed) = args.seed {
            config.learner.seed = seed;
        }
        crate::telemetry::init_logs(&config.log)?;
        let run = match &args.data {
            Some(path) => {
                let data = Arc::new(DataDir::open(path, Some(&config.task_names()))?);
                replay_data(&name, &config, &data, args)?
            }
            None => replay_kafka(&name, &config, args)?,
        };
        if !args.json {
            tell(&run, out)?;
        }
        runs.push(run);
    }
    if args.json {
        serde_json::to_writer(&mut *out, &serde_json::json!({ "runs": runs }))?;
        writeln!(out)?;
    }
    Ok(Exit::Ok)
}

fn replay_data(name: &str, config: &Config, data: &Arc<DataDir>, args: &ReplayArgs) -> anyhow::Result<Run> {
    let decoder = Decoder::new(config.id_space(), config.task_names(), config.events.clone());
    let reveal = (args.labels == Labels::Immediate)
        .then(|| ImmediateLabels::collect(&decoder, data.records(Stream::Actions)));
    let source = DataSource::new(data, &ouzel_sample::Positions::default());
    let features = FeatureState::new(config.feature_config());
    seed_histories(&features, config, data);
    let total = data.summary().n_impressions;
    Pipeline::new(config, decoder, features, &source, reveal)?.run(name, source, Some(total), args.json)
}

fn replay_kafka(name: &str, config: &Config, args: &ReplayArgs) -> anyhow::Result<Run> {
    if args.labels == Labels::Immediate {
        bail!("--labels immediate needs --data: the actions of a whole log must be known before it is read");
    }
    let bound = |point: Option<RangePoint>| match point {
        None | Some(RangePoint::Start | RangePoint::End) => None,
        Some(RangePoint::Offset(offset)) => Some(ReplayBound::Offset(offset)),
        Some(RangePoint::TimeMs(ms)) => Some(ReplayBound::TimeMs(ms)),
    };
    let range = ReplayRange {
        from: bound(args.from),
        to: bound(args.to),
    };
    let source = KafkaSource::open_range(&config.kafka_config()?, &range)?;
    let decoder = Decoder::new(config.id_space(), config.task_names(), config.events.clone());
    let features = FeatureState::new(config.feature_config());
    Pipeline::new(config, decoder, features, &source, None)?.run(name, source, None, args.json)
}

/// Seeds the histories a data folder brings from before its log.
pub fn seed_histories(features: &FeatureState, config: &Config, data: &DataDir) {
    let ids = config.id_space();
    let before = EventTime(data.summary().first_ts.saturating_sub(1));
    let histories = data.histories().iter().map(|(user, items)| {
        let items = items.iter().map(|item| ids.id(IdKind::Item, item)).collect();
        (ids.id(IdKind::User, user), items)
    });
    ouzel_ingest::seed_histories(features, histories, before);
}

/// The state machines of a replay, driven by one loop.
struct Pipeline {
    decoder: Decoder,
    reveal: Option<ImmediateLabels>,
    orderer: Orderer,
    stage: Stage,
    trainer: Trainer,
    scores: ScoreLog,
    progressive: Progressive,
    freshness: Freshness,
    contents: Option<Contents>,
    /// Items whose content is encoded before anything but items is taken.
    unencoded: Vec<Arc<Item>>,
    is_quiet: bool,
    // Last, so that it goes when the store in it is closed.
    _scratch: Scratch,
}

/// A directory for the join store on disk: a replay leaves that of a daemon alone. Removed with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ouzel-replay-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is there only if there was a store on disk; what cannot be removed is the system's to tidy.
        let _removed = std::fs::remove_dir_all(&self.0).is_ok();
    }
}

impl Pipeline {
    fn new(
        config: &Config,
        decoder: Decoder,
        features: FeatureState,
        source: &dyn Source,
        reveal: Option<ImmediateLabels>,
    ) -> anyhow::Result<Self> {
        let partitions = source.partitions();
        let start = partitions
            .iter()
            .map(|partition| (partition.id, partition.next))
            .collect();
        let timed = partitions
            .iter()
            .map(|partition| partition.id)
            .filter(|id| id.stream != Stream::Items);
        let learner = config.learner_config();
        let scratch = Scratch::new();
        let (join, features) = (config.join.clone(), Arc::new(features));
        let is_tier = partitions
            .iter()
            .any(|partition| partition.id.stream == Stream::Samples);
        let stage = if is_tier {
            Stage::behind_tier(&join, features, learner.batch_min_samples)
        } else {
            let store = config.join_store(&scratch.0);
            Stage::new(&store, &join, timed, features, learner.batch_min_samples)?
        };
        Ok(Self {
            decoder,
            reveal,
            orderer: Orderer::new(&start, true),
            stage,
            trainer: Trainer::new(config.model_config(), learner)?,
            scores: ScoreLog::default(),
            progressive: Progressive::new(20_000),
            freshness: Freshness::default(),
            contents: Contents::open(config).hint(
                "a daemon holds the vectors of its state directory: name another folder with content.vector_dir",
            )?,
            unencoded: Vec::new(),
            is_quiet: false,
            _scratch: scratch,
        })
    }

    fn run(
        mut self,
        name: &str,
        mut source: impl Source,
        total: Option<u64>,
        is_quiet: bool,
    ) -> anyhow::Result<Run> {
        self.is_quiet = is_quiet;
        let mut progress = Progress::new("samples", total, Style::detect(is_quiet));
        let started = Instant::now();
        let mut told = 0;
        loop {
            match source.poll(Duration::from_millis(100))? {
                Polled::Records(records) => {
                    for record in &records {
                        self.orderer.push(self.decoder.decode(record))?;
                    }
                }
                Polled::AtEnd(partition) => self.orderer.at_end(partition),
                Polled::Added(_) | Polled::Idle => {}
                Polled::Finished => {
                    for partition in source.partitions() {
                        self.orderer.finish(partition.id);
                    }
                }
            }
            self.release()?;
            let done = self.scores.len() as u64;
            if done >= told + TELL_EVERY {
                told = done;
                progress.update(done, &self.figures(done, started));
            }
            if self.orderer.is_exhausted() {
                break;
            }
        }
        let mut batches = Vec::new();
        self.stage.finish(&mut batches)?;
        self.learn(batches)?;
        self.stage.counters().check().context("the join lost count")?;
        let done = self.scores.len() as u64;
        progress.finish(done, &self.figures(done, started));
        self.report(name, started.elapsed())
    }

    fn release(&mut self) -> anyhow::Result<()> {
        let mut batches = Vec::new();
        while let Some(recorded) = self.orderer.next(false)? {
            self.orderer.forget_runs();
            let position = recorded.position;
            let recorded = match &self.reveal {
                Some(reveal) => reveal.apply(recorded),
                None => Some(recorded),
            };
            if let Some(recorded) = recorded {
                if !matches!(recorded.event, Ok(Event::Item(_))) {
                    self.encode()?;
                }
                let outcome = self
                    .stage
                    .take(&recorded, &mut batches)
                    .with_context(|| format!("cannot join {position}"))?;
                if let (Ok(Event::Action(action)), Outcome::Matched | Outcome::Early) =
                    (&recorded.event, &outcome)
                {
                    self.freshness.acted(action);
                }
                if let (Some(_), Ok(Event::Item(item))) = (&self.contents, &recorded.event) {
                    self.unencoded.extend(self.stage.features().item(item.id));
                }
                self.learn(std::mem::take(&mut batches))?;
            }
        }
        Ok(())
    }

    /// A bounded log is encoded ahead of use, so that what it comes to does not depend on how fast that is.
    fn encode(&mut self) -> anyhow::Result<()> {
        let items = std::mem::take(&mut self.unencoded);
        let (Some(contents), false) = (&self.contents, items.is_empty()) else {
            return Ok(());
        };
        let total = u64::try_from(items.len()).ok();
        let mut progress = Progress::new("contents", total, Style::detect(self.is_quiet));
        let mut n_encoded = 0;
        let vectors = contents.vectors(&items, |n| {
            n_encoded = n as u64;
            progress.update(n_encoded, &progress::Figures::default());
        })?;
        if n_encoded > 0 {
            progress.finish(n_encoded, &progress::Figures::default());
        }
        for (item, vectors) in items.iter().zip(vectors) {
            self.stage.use_vectors(item.id, vectors);
        }
        Ok(())
    }

    fn learn(&mut self, batches: Vec<Batch>) -> anyhow::Result<()> {
        for batch in batches {
            self.trainer.predict(&batch)?;
            let report = self.trainer.step(&batch)?;
            self.scores.add(&batch, &report.logits);
            self.progressive.add(&batch, &report.logits);
            self.freshness.learned(&batch, self.stage.event_time());
        }
        Ok(())
    }

    fn figures(&self, done: u64, started: Instant) -> progress::Figures {
        #[expect(clippy::cast_precision_loss, reason = "a rate for the progress line")]
        let rate = done as f64 / started.elapsed().as_secs_f64();
        let window = self.progressive.window();
        progress::Figures {
            samples: done,
            samples_per_second: Some(rate),
            auc: window.auc,
            ..progress::Figures::default()
        }
    }

    fn report(mut self, name: &str, wall: Duration) -> anyhow::Result<Run> {
        let all = self.scores.figures(EventTime::MIN);
        let middle = self.scores.middle();
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let samples_per_second = all.samples as f64 / wall.as_secs_f64();
        Ok(Run {
            name: name.to_owned(),
            samples: all.samples,
            positives: all.positives,
            auc: all.auc,
            gauc: all.gauc,
            ne: all.ne,
            calibration: all.calibration,
            popularity_auc: self.scores.popularity(EventTime::MIN).0,
            freshness: self.freshness.ages(),
            second_half: self.scores.figures(middle),
            second_half_popularity_auc: self.scores.popularity(middle).0,
            buckets: self.scores.buckets(EventTime::MIN),
            second_half_buckets: self.scores.buckets(middle),
            join: JoinFigures::of(self.stage.counters()),
            ledger_hash: self.stage.ledger().hex(),
            weights_hash: self.trainer.hash()?,
            wall_seconds: wall.as_secs_f64(),
            samples_per_second,
        })
    }
}

fn tell(run: &Run, out: &mut dyn Write) -> anyhow::Result<()> {
    let figure = |value: Option<f64>| value.map_or("  -   ".to_owned(), |value| format!("{value:.4}"));
    writeln!(out, "{}", run.name)?;
    writeln!(
        out,
        "  samples      {} ({} positive), {:.0} a second",
        run.samples, run.positives, run.samples_per_second
    )?;
    writeln!(out, "               AUC     GAUC    NE      calibration")?;
    for (what, figures) in [("all", None), ("second half", Some(&run.second_half))] {
        let (auc, gauc, ne, calibration) = match figures {
            None => (run.auc, run.gauc, run.ne, run.calibration),
            Some(half) => (half.auc, half.gauc, half.ne, half.calibration),
        };
        let [auc, gauc, ne, calibration] = [auc, gauc, ne, calibration].map(figure);
        writeln!(out, "  {what:<12} {auc}  {gauc}  {ne}  {calibration}")?;
    }
    writeln!(
        out,
        "  popularity   {}          (second half {})",
        figure(run.popularity_auc),
        figure(run.second_half_popularity_auc)
    )?;
    for (side, of) in run.second_half_buckets.sides() {
        for (bucket, name) in Bucket::ALL {
            let of = of.figures(bucket);
            let [auc, gauc, ne, calibration] = [of.auc, of.gauc, of.ne, of.calibration].map(figure);
            let what = format!("{name} {side}s");
            writeln!(
                out,
                "  {what:<12} {auc}  {gauc}  {ne}  {calibration}  ({} of the second half)",
                of.samples
            )?;
        }
    }
    if let Some(ages) = &run.freshness {
        writeln!(
            out,
            "  freshness    an action is learned after {:.1} s of event time in the median, {:.1} s in 19 of 20",
            ages.median_seconds, ages.p95_seconds
        )?;
    }
    let join = &run.join;
    writeln!(
        out,
        "  join         {} shown: {} positive, {} negative, {} late, {} duplicate; {} actions: {} orphan, {} late, {} duplicate; {} rejected",
        join.impressions,
        join.positives,
        join.negatives,
        join.late,
        join.duplicates,
        join.actions,
        join.orphans,
        join.late_actions,
        join.duplicate_actions,
        join.rejected
    )?;
    writeln!(out, "  ledger       {}", run.ledger_hash)?;
    writeln!(out, "  weights      {}", run.weights_hash)?;
    Ok(())
}

/// The name of a data folder in messages.
#[must_use]
pub fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
