//! The figures of a demo, as JSON or as text.

use std::io::{self, Write};
use std::path::PathBuf;

use ouzel_learner::validation::Figures;
use serde_json::json;

use super::caller::CallFigures;
use crate::commands::data::JoinFigures;
use crate::commands::output::{figure, figures};
use crate::telemetry::float;

/// The measurements of a demo.
#[derive(Debug)]
pub(super) struct Summary {
    /// Name of the data.
    pub(super) data: String,
    pub(super) join: JoinFigures,
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
        float(self.all.samples) / self.wall_seconds
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
            "samples": { "total": self.all.samples, "positive": self.all.positives },
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
            "serving": {
                "requests": self.calls.n_requests,
                "errors": self.calls.n_errors,
                "first_error": self.calls.first_error,
                "versions": self.calls.n_versions,
                "p50_ms": self.calls.p50_ms,
                "p99_ms": self.calls.p99_ms,
            },
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
        writeln!(
            out,
            "  samples     {} ({} positive) in {:.1} s, {:.0} a second",
            self.all.samples,
            self.all.positives,
            self.wall_seconds,
            self.samples_per_second()
        )?;
        writeln!(out, "\n  every sample predicted before it was learned:")?;
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
            "  (frozen: weights, counters and histories stand still; popularity: the item's click rate)"
        )?;
        let (p50, p99) = self.freshness;
        let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2} s"));
        writeln!(
            out,
            "\n  freshness   {} median, {} at the 99th percentile, from the action's record to the served model",
            seconds(p50),
            seconds(p99)
        )?;
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1} ms"));
        writeln!(
            out,
            "  serving     {} requests of 100 candidates, {} errors, {} median, {} at the 99th percentile, {} versions seen",
            self.calls.n_requests,
            self.calls.n_errors,
            ms(self.calls.p50_ms),
            ms(self.calls.p99_ms),
            self.calls.n_versions
        )?;
        if let Some(error) = &self.calls.first_error {
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
