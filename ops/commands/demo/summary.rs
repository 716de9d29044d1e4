//! The figures of a demo, as JSON or as text.

use std::io::{self, Write};
use std::path::PathBuf;

use ouzel_learner::validation::Figures;
use serde_json::json;

use super::caller::CallFigures;
use crate::commands::data::JoinFigures;
use crate::commands::output::{figure, figures, or_dash};
use crate::commands::streams::StreamReport;
use crate::telemetry::float;

/// The measurements of a demo.
#[derive(Debug)]
pub(super) struct Summary {
    /// Name of the data.
    pub(super) data: String,
    pub(super) join: JoinFigures,
    pub(super) streams: StreamReport,
    /// Number of samples learned; a late positive is one more of its item.
    pub(super) n_samples: u64,
    /// The whole log.
    pub(super) all: Figures,
    /// The second half of the log's time.
    pub(super) second_half: Figures,
    /// The second half, scored by the snapshot from half time.
    pub(super) frozen: Figures,
    /// AUC and per-request AUC of the item's click-through rate over the whole log.
    pub(super) popularity: (Option<f64>, Option<f64>),
    /// `popularity` over the second half.
    pub(super) popularity_half: (Option<f64>, Option<f64>),
    /// Freshness, median and 99th percentile, s.
    pub(super) freshness: (Option<f64>, Option<f64>),
    /// Ids of the snapshots.
    pub(super) snapshots: Vec<String>,
    pub(super) calls: CallFigures,
    /// From the first event to the last sample, s.
    pub(super) wall_seconds: f64,
    /// The state directory.
    pub(super) state: PathBuf,
}

impl Summary {
    fn samples_per_second(&self) -> f64 {
        float(self.n_samples) / self.wall_seconds
    }

    /// As one JSON document.
    pub(super) fn json(&self) -> serde_json::Value {
        json!({
            "data": self.data,
            "events": {
                "impressions": self.join.impressions,
                "actions": self.join.actions,
                "rejected": self.join.rejected,
            },
            "join": self.join,
            "streams": self.streams.streams,
            "problems": self.streams.problems,
            "judged": self.all.judged,
            "positives": self.all.positives,
            "samples": self.n_samples,
            "progressive": {
                "auc": self.all.auc,
                "gauc": self.all.gauc,
                "ne": self.all.ne,
                "calibration": self.all.calibration,
            },
            "baselines": {
                "popularity": { "auc": self.popularity.0, "gauc": self.popularity.1 },
                "frozen_half": {
                    "auc": self.frozen.auc,
                    "gauc": self.frozen.gauc,
                    "ne": self.frozen.ne,
                },
            },
            "second_half": {
                "auc": self.second_half.auc,
                "frozen_auc": self.frozen.auc,
                "popularity_auc": self.popularity_half.0,
                "gauc": self.second_half.gauc,
                "ne": self.second_half.ne,
                "calibration": self.second_half.calibration,
            },
            "freshness_seconds": { "p50": self.freshness.0, "p99": self.freshness.1 },
            "snapshots": self.snapshots,
            "serving": self.calls,
            "wall_seconds": self.wall_seconds,
            "samples_per_second": self.samples_per_second(),
            "state": self.state,
        })
    }

    /// Writes the summary as text.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let join = &self.join;
        writeln!(out, "\n{}", self.data)?;
        writeln!(
            out,
            "  events      {} shown items, {} actions, {} rejected",
            join.impressions, join.actions, join.rejected
        )?;
        self.streams.write(out)?;
        writeln!(
            out,
            "  samples     {} learned in {:.1} s, {:.0} a second",
            self.n_samples,
            self.wall_seconds,
            self.samples_per_second()
        )?;
        writeln!(
            out,
            "\n  {} shown items, {} positive, each predicted before it was learned:",
            self.all.judged, self.all.positives
        )?;
        writeln!(
            out,
            "                         AUC     GAUC    NE      calibration"
        )?;
        let rows = [
            ("the whole log", &self.all),
            ("its second half", &self.second_half),
            ("  frozen at half time", &self.frozen),
        ];
        for (name, of_log) in rows {
            writeln!(out, "  {name:<22} {}", figures(of_log))?;
        }
        let (auc, gauc) = self.popularity_half;
        writeln!(out, "  {:<22} {}  {}", "  popularity", figure(auc), figure(gauc))?;
        writeln!(
            out,
            "  (frozen: weights, counters and histories are fixed; popularity: the item's click rate)"
        )?;
        let seconds = |value| or_dash(value, |value: f64| format!("{value:.2} s"));
        let (p50, p99) = (seconds(self.freshness.0), seconds(self.freshness.1));
        writeln!(
            out,
            "\n  freshness   {p50} median, {p99} at the 99th percentile, from the action's record to the served model"
        )?;
        let calls = &self.calls;
        let (requests, errors, versions) = (calls.requests, calls.errors, calls.versions);
        let ms = |value| or_dash(value, |value: f64| format!("{value:.1} ms"));
        let (p50, p99) = (ms(calls.p50_ms), ms(calls.p99_ms));
        writeln!(
            out,
            "  serving     {requests} requests of 100 candidates, {errors} errors, {p50} median, {p99} at the 99th percentile, {versions} versions seen"
        )?;
        if let Some(error) = &calls.first_error {
            writeln!(out, "              first error: {error}")?;
        }
        let state = self.state.display();
        writeln!(out, "  snapshots   {} written to {state}", self.snapshots.len())?;
        writeln!(out, "\n  Try next:")?;
        writeln!(out, "    ouzel snapshot list --state {state}")?;
        if let Some(last) = self.snapshots.last() {
            writeln!(out, "    ouzel snapshot show {last} --state {state}")?;
        }
        writeln!(
            out,
            "    ouzel demo --keep-serving        # then: curl the address it prints"
        )
    }
}
