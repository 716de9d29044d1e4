//! The figures of one replay, as JSON or as a table.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use ouzel_learner::validation::{Bucket, Buckets, Figures, RecallFigures, ScoreLog};
use ouzel_sample::EventTime;

use super::freshness::{Ages, Freshness};
use super::hidden::HiddenFigures;
use super::leaks::Inspection;
use super::publishing::PublishingFigures;
use super::{Measurement, per_second};
use crate::commands::data::JoinFigures;
use crate::commands::output::{figure, figures};
use crate::commands::streams::StreamReport;
use crate::pipeline::gates::GateFigures;
use crate::pipeline::spec::Parts;

/// Numbers of first judged items whose figures are reported.
const START: [usize; 3] = [1000, 3000, 10_000];

/// Figures of one run.
#[derive(Debug, Serialize)]
pub(super) struct RunReport {
    name: String,
    /// Number of shown items with a label, each counted once: what the figures are of.
    judged: u64,
    positives: u64,
    /// Number of samples learned; a late positive is one more of its item.
    samples: u64,
    auc: Option<f64>,
    gauc: Option<f64>,
    ne: Option<f64>,
    calibration: Option<f64>,
    popularity_auc: Option<f64>,
    /// Figures of the first 1,000, 3,000 and 10,000 judged items, as far as there are as many, by their number.
    start: BTreeMap<usize, Figures>,
    /// Ages of actions when they are learned, in event time.
    freshness: Option<Ages>,
    second_half: Figures,
    /// Figures of each task, the first included.
    tasks: BTreeMap<String, TaskFigures>,
    second_half_popularity_auc: Option<f64>,
    buckets: Buckets,
    second_half_buckets: Buckets,
    /// Shown items among many other candidates, with `--candidates`.
    hidden: Vec<HiddenFigures>,
    /// Shown items under versions that are published every so often, with `--publish-every`.
    publishing: Vec<PublishingFigures>,
    /// Recall of retrieval and of popularity over the catalog; none without towers.
    recall: Option<RecallFigures>,
    join: JoinFigures,
    #[serde(flatten)]
    streams: StreamReport,
    /// What the gates would have done in a daemon; none if they are off.
    gates: Option<GateFigures>,
    /// Values of a folder's impressions and catalogue that are learned from, with the number of shown items that have them
    /// among the first 50,000.
    learned_from: BTreeMap<String, u64>,
    /// Values that predict the outcome almost alone, a sentence each.
    suspicions: Vec<String>,
    ledger_hash: String,
    weights_hash: String,
    /// Share of each model of a mixture at the end, by its widths; empty for a model of one.
    shares: BTreeMap<String, f32>,
    wall_seconds: f64,
    samples_per_second: f64,
}

/// What was measured beside the scores.
pub(super) struct Measured<'a> {
    pub(super) freshness: &'a Freshness,
    pub(super) hidden: Vec<HiddenFigures>,
    pub(super) publishing: Vec<PublishingFigures>,
    pub(super) streams: StreamReport,
    pub(super) inspection: Inspection,
    /// How long the run took.
    pub(super) wall: Duration,
}

/// Figures of one task.
#[derive(Debug, Serialize)]
struct TaskFigures {
    all: Figures,
    second_half: Figures,
}

impl TaskFigures {
    /// The figures of the tasks of a model.
    fn by_name(tasks: &[String], scores: &ScoreLog) -> BTreeMap<String, Self> {
        let all = scores.task_figures(tasks.len(), EventTime::MIN).into_iter();
        let second_half = scores.task_figures(tasks.len(), scores.middle());
        let figures = all
            .zip(second_half)
            .map(|(all, second_half)| Self { all, second_half });
        tasks.iter().cloned().zip(figures).collect()
    }
}

impl RunReport {
    /// What is wrong with the log.
    pub(super) fn problems(&self) -> impl Iterator<Item = &str> {
        self.streams.problems.iter().map(String::as_str)
    }

    pub(super) fn measurement(&self) -> Measurement {
        Measurement {
            second_half: self.second_half,
            samples_per_second: self.samples_per_second,
        }
    }

    /// The figures of a pipeline that has ended.
    pub(super) fn new(
        name: &str,
        scores: &ScoreLog,
        measured: Measured<'_>,
        parts: &mut Parts,
    ) -> anyhow::Result<Self> {
        let wall = measured.wall;
        let stage = parts.sequencer.stage();
        let n_samples = stage.ledger().n_samples();
        let all = scores.figures(EventTime::MIN);
        let middle = scores.middle();
        Ok(Self {
            name: name.to_owned(),
            judged: all.judged,
            positives: all.positives,
            samples: n_samples,
            auc: all.auc,
            gauc: all.gauc,
            ne: all.ne,
            calibration: all.calibration,
            popularity_auc: scores.popularity(EventTime::MIN).0,
            start: START
                .into_iter()
                .filter(|n| *n <= scores.len())
                .map(|n| (n, scores.start(n)))
                .collect(),
            freshness: measured.freshness.ages(),
            second_half: scores.figures(middle),
            tasks: TaskFigures::by_name(&parts.learner.trainer.model().tasks, scores),
            second_half_popularity_auc: scores.popularity(middle).0,
            buckets: scores.buckets(EventTime::MIN),
            second_half_buckets: scores.buckets(middle),
            hidden: measured.hidden,
            publishing: measured.publishing,
            recall: parts.learner.progressive.recall.figures(),
            join: JoinFigures {
                rejected: measured.streams.n_rejected(),
                ..JoinFigures::new(stage.counters())
            },
            streams: measured.streams,
            gates: parts.learner.gate_figures().cloned(),
            learned_from: measured.inspection.learned_from,
            suspicions: measured.inspection.suspicions,
            ledger_hash: stage.ledger().hex(),
            weights_hash: parts.learner.trainer.hash()?,
            shares: parts.learner.trainer.shares().into_iter().collect(),
            wall_seconds: wall.as_secs_f64(),
            samples_per_second: per_second(n_samples, wall),
        })
    }

    /// Writes the table.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.name)?;
        writeln!(
            out,
            "  judged       {} shown items, {} positive",
            self.judged, self.positives
        )?;
        writeln!(
            out,
            "  samples      {} learned, {:.0} per second",
            self.samples, self.samples_per_second
        )?;
        writeln!(out, "               AUC     GAUC    NE      calibration")?;
        let all = [self.auc, self.gauc, self.ne, self.calibration].map(figure);
        writeln!(out, "  all          {}", all.join("  "))?;
        writeln!(out, "  second half  {}", figures(&self.second_half))?;
        writeln!(
            out,
            "  popularity   {}          (second half {})",
            figure(self.popularity_auc),
            figure(self.second_half_popularity_auc)
        )?;
        for (task, of_task) in self.tasks.iter().filter(|_| self.tasks.len() > 1) {
            writeln!(
                out,
                "  {task:<12} {}  (second half {})",
                figures(&of_task.all),
                figures(&of_task.second_half)
            )?;
        }
        for (n, start) in &self.start {
            writeln!(out, "  first {n:<6} {}", figures(start))?;
        }
        if !self.shares.is_empty() {
            let shares = self
                .shares
                .iter()
                .map(|(member, share)| format!("{member} {:.0} %", 100.0 * share));
            writeln!(out, "  widths       {}", shares.collect::<Vec<_>>().join(", "))?;
        }
        for (side, buckets) in self.second_half_buckets.sides() {
            for (bucket, name) in Bucket::ALL {
                let bucket = buckets.figures(bucket);
                if bucket.judged == 0 {
                    continue;
                }
                let label = format!("{name} {side}s");
                let (row, judged) = (figures(bucket), bucket.judged);
                writeln!(out, "  {label:<12} {row}  ({judged} items of the second half)")?;
            }
        }
        self.write_rescored(out)?;
        if let Some(recall) = &self.recall {
            for (name, of) in [("recall", recall.retrieval), ("  popularity", recall.popularity)] {
                writeln!(
                    out,
                    "  {name:<12} at 10 {:.3}, at 50 {:.3}, NDCG at 10 {:.3}  ({} positives among {} items)",
                    of.recall_10, of.recall_50, of.ndcg_10, recall.positives, recall.items
                )?;
            }
        }
        if let Some(ages) = &self.freshness {
            writeln!(
                out,
                "  freshness    from an action until it is learned: {:.1} s of event time median, {:.1} s at the 95th percentile",
                ages.median_seconds, ages.p95_seconds
            )?;
        }
        if let Some(gates) = &self.gates {
            writeln!(out, "  gates        {gates}")?;
        }
        self.streams.write(out)?;
        if !self.learned_from.is_empty() {
            let names = self.learned_from.iter().map(|(name, n)| format!("{name} ({n})"));
            writeln!(out, "  learned from {}", names.collect::<Vec<_>>().join(", "))?;
        }
        for suspicion in &self.suspicions {
            writeln!(out, "  warning      {suspicion}")?;
        }
        writeln!(out, "  ledger       {}", self.ledger_hash)?;
        writeln!(out, "  weights      {}", self.weights_hash)
    }

    /// Writes the figures of shown items that were scored again.
    fn write_rescored(&self, out: &mut dyn Write) -> io::Result<()> {
        for hidden in &self.hidden {
            let among = match (hidden.candidates, hidden.has_top_k) {
                (None, _) => "alone".to_owned(),
                (Some(n), false) => format!("of {n}"),
                (Some(n), true) => format!("{n}, top_k"),
            };
            writeln!(
                out,
                "  {among:<12} {}  (second half, a quarter of the requests; {} of pairs in the same order)",
                figures(&hidden.figures),
                figure(Some(hidden.same_order))
            )?;
        }
        for published in &self.publishing {
            let label = format!("every {}", published.publish_every);
            writeln!(
                out,
                "  {label:<12} {}  (second half, {} versions)",
                figures(&published.figures),
                published.versions
            )?;
        }
        Ok(())
    }
}
