//! `ouzel replay`: the pipeline of a daemon in one thread, over files or a range of Kafka, without serving.
//!
//! The log is bounded, so the same input, configuration and seed give the same samples and weights in every run.

mod freshness;
mod hidden;
mod leaks;
mod publishing;
mod report;
mod rescored;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;

use ouzel_ingest::join::Outcome;
use ouzel_ingest::{
    DataSource, DeadLetters, ImmediateLabels, KafkaConfig, KafkaSource, ReplayBound, ReplayRange,
};
use ouzel_sample::{Batch, DecodedRecord, Event, EventTime, Stream};

use crate::cli::{Labels, RangePoint, ReplayArgs};
use crate::commands::data::{open_data, seed_histories};
use crate::commands::streams::{Sources, StreamReport};
use crate::config::Config;
use crate::error::{ErrorExt, Exit};
use crate::pipeline::in_place::{self, Observer};
use crate::pipeline::learner::{Learner, SharedScores};
use crate::pipeline::lock;
use crate::pipeline::spec::{Parts, PipelineSpec, contract_decoder, decoder};
use crate::telemetry;
use crate::telemetry::progress::{Figures, Progress, Style};
use freshness::Freshness;
use hidden::HiddenSlates;
use publishing::Publishing;
use report::{Measured, RunReport};

/// Samples between two updates of the progress.
const PROGRESS_EVERY: u64 = 4096;

/// Runs the command.
pub(super) fn run(args: &ReplayArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let configs = if args.config.is_empty() {
        vec![("default".to_owned(), Config::default())]
    } else {
        let load = |path: &std::path::PathBuf| anyhow::Ok((path.display().to_string(), Config::load(path)?));
        args.config.iter().map(load).collect::<Result<_, _>>()?
    };
    let mut runs = Vec::new();
    for (name, mut config) in configs {
        if let Some(seed) = args.seed {
            config.learner.seed = seed;
        }
        telemetry::init_logs(&config.log)?;
        for notice in &config.notices {
            tracing::warn!("{notice}");
        }
        let run = replay(&name, &config, args)?;
        if !args.json {
            run.write(out)?;
        }
        runs.push(run);
    }
    if args.json {
        serde_json::to_writer(&mut *out, &serde_json::json!({ "runs": runs }))?;
        writeln!(out)?;
    }
    let problems: Vec<&str> = runs.first().into_iter().flat_map(RunReport::problems).collect();
    // The table has them already.
    for problem in problems.iter().filter(|_| args.json) {
        tracing::error!("{problem}");
    }
    Ok(if problems.is_empty() {
        Exit::Ok
    } else {
        Exit::Check
    })
}

/// What a comparison of models needs of a run.
pub(super) struct Measurement {
    pub(super) second_half: ouzel_learner::validation::Figures,
    pub(super) samples_per_second: f64,
}

/// Replays the log of `args` under one configuration, without a report.
pub(super) fn measure(name: &str, config: &Config, args: &ReplayArgs) -> anyhow::Result<Measurement> {
    let report = replay(name, config, args)?;
    Ok(report.measurement())
}

/// Replays the log of `args` under one configuration.
fn replay(name: &str, config: &Config, args: &ReplayArgs) -> anyhow::Result<RunReport> {
    let is_immediate = args.labels == Labels::Immediate;
    let scores = SharedScores::default();
    // The rows of a folder are JSON, whatever the topics hold.
    let formats = match args.data {
        Some(_) => Arc::default(),
        None => Arc::new(config.record_formats().exit(Exit::Usage)?),
    };
    let kafka_formats = Arc::clone(&formats);
    let mut spec = PipelineSpec {
        config,
        open_source: Box::new(move |_| {
            let range = ReplayRange {
                from: bound(args.from),
                to: bound(args.to),
            };
            let kafka = KafkaConfig {
                formats: kafka_formats,
                ..config.kafka_config()?
            };
            Ok(Box::new(KafkaSource::open_range(&kafka, &range)?))
        }),
        decoder: decoder(config)?.with_formats(formats),
        dead_letters: dead_letters(config, args)?,
        late: None,
        seed: Box::new(|_| {}),
        accept_loss: None,
        scores: Some(Arc::clone(&scores)),
    };
    let (mut total, mut reveal, mut folder) = (None, None, None);
    if let Some(path) = &args.data {
        let data = Arc::new(open_data(path, config, args.strict, &mut spec.dead_letters)?);
        total = Some(data.summary().n_impressions);
        spec.decoder = contract_decoder(config)?;
        reveal = is_immediate.then(|| ImmediateLabels::collect(&spec.decoder, data.records(Stream::Actions)));
        let events = Arc::clone(&data);
        folder = Some(Arc::clone(&data));
        spec.open_source = Box::new(move |from| Ok(Box::new(DataSource::new(&events, from))));
        spec.seed = Box::new(move |features| seed_histories(features, config, &data));
    } else if is_immediate {
        bail!(
            "--labels immediate needs --data: the actions of the whole log must be known before it is read"
        );
    }
    let style = Style::detect(args.json);
    let parts = spec.build(None)?;
    let mut follower = Follower::new(config, args, scores, Progress::new("shown items", total, style));
    let mut parts = in_place::run(parts, reveal.as_mut(), style, &mut follower)?;
    let wall = follower.started.elapsed();
    let figures = follower.figures(&parts.learner);
    let n_judged = follower.n_judged();
    follower.progress.finish(n_judged, &figures);
    let log = lock(&follower.scores);
    let hidden = follower.hidden.figures(log.middle());
    let publishing = follower.publishing.figures(log.middle());
    let stage = parts.sequencer.stage();
    let read = parts.intake.decoder.accounts();
    let task = config.task_names().first().cloned().unwrap_or_default();
    let inspection = folder
        .as_ref()
        .map(|data| leaks::inspect(data, &task))
        .unwrap_or_default();
    for suspicion in &inspection.suspicions {
        tracing::warn!("{suspicion}");
    }
    let streams = StreamReport::new(&Sources {
        config,
        accounts: folder.as_ref().map_or(&read, |data| data.accounts()),
        histories: folder.as_ref().map(|data| data.history_account()),
        counters: stage.counters(),
        items: stage.item_counts(),
        users: stage.user_counts(),
        immediate: reveal.as_ref().map(ImmediateLabels::counts),
    })?;
    let measured = Measured {
        freshness: &follower.freshness,
        hidden,
        publishing,
        streams,
        inspection,
        wall,
    };
    RunReport::new(name, &log, measured, &mut parts)
}

/// Where rejected records go: the file that `--dead-letters` names, or nowhere.
fn dead_letters(config: &Config, args: &ReplayArgs) -> anyhow::Result<DeadLetters> {
    match &args.dead_letters {
        Some(path) => Ok(DeadLetters::file(path, config.topics())?),
        None => Ok(DeadLetters::discard()),
    }
}

fn bound(point: Option<RangePoint>) -> Option<ReplayBound> {
    match point {
        None | Some(RangePoint::Start | RangePoint::End) => None,
        Some(RangePoint::Offset(offset)) => Some(ReplayBound::Offset(offset)),
        Some(RangePoint::TimeMs(ms)) => Some(ReplayBound::TimeMs(ms)),
    }
}

/// Measures a run and shows its progress.
struct Follower<'a> {
    config: &'a Config,
    scores: SharedScores,
    freshness: Freshness,
    progress: Progress,
    started: Instant,
    /// Number of samples learned.
    n_samples: u64,
    /// Number of judged items when the progress was last shown.
    n_shown: u64,
    hidden: HiddenSlates,
    publishing: Publishing,
    /// Shown items after which the run ends.
    limit: Option<u64>,
    /// Shown items read.
    n_read: u64,
}

impl<'a> Follower<'a> {
    fn new(config: &'a Config, args: &ReplayArgs, scores: SharedScores, progress: Progress) -> Self {
        Self {
            config,
            scores,
            freshness: Freshness::default(),
            progress,
            started: Instant::now(),
            n_samples: 0,
            n_shown: 0,
            hidden: HiddenSlates::new(&args.candidates),
            publishing: Publishing::new(&args.publish_every),
            limit: args.limit,
            n_read: 0,
        }
    }

    /// Number of shown items with a label.
    fn n_judged(&self) -> u64 {
        lock(&self.scores).len() as u64
    }

    fn figures(&self, learner: &Learner) -> Figures {
        let samples = self.n_samples;
        Figures {
            samples,
            samples_per_second: Some(per_second(samples, self.started.elapsed())),
            auc: learner.progressive.window().auc,
            ..Figures::default()
        }
    }
}

impl Observer for Follower<'_> {
    fn reading(&mut self, recorded: &DecodedRecord, parts: &mut Parts) -> anyhow::Result<()> {
        match &recorded.event {
            Ok(Event::Item(item)) => self.hidden.add_item(item.id),
            Ok(Event::ItemUpdate(update)) => self.hidden.add_item(update.id),
            Ok(Event::Impression(impression)) => {
                self.n_read += impression.items.len() as u64;
                let features = parts.sequencer.stage().features();
                self.hidden
                    .score(impression, features, &mut parts.learner.trainer)?;
                let learner = (&mut parts.learner.trainer, self.config);
                self.publishing.score(impression, features, learner)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.limit.is_some_and(|limit| self.n_read >= limit)
    }

    fn scores_catalog(&self) -> bool {
        self.hidden.is_measured()
    }

    fn joined(&mut self, recorded: &DecodedRecord, outcome: &Outcome) {
        if let (Ok(Event::Action(action)), Outcome::Matched | Outcome::Early) = (&recorded.event, outcome) {
            self.freshness.add_action(action);
        }
    }

    fn learning(&mut self, batch: &Batch, now: EventTime) {
        self.freshness.add_batch(batch, now);
        self.hidden.learning(batch);
        self.publishing.learning(batch);
        self.n_samples += batch.samples.len() as u64;
    }

    fn progress(&mut self, learner: &Learner) {
        let n_judged = self.n_judged();
        if n_judged >= self.n_shown + PROGRESS_EVERY {
            self.n_shown = n_judged;
            self.progress.update(n_judged, &self.figures(learner));
        }
    }
}

fn per_second(n: u64, wall: Duration) -> f64 {
    telemetry::float(n) / wall.as_secs_f64()
}
