//! One interval of samples: the sums that its signals are computed from.

use std::collections::BTreeSet;

use ouzel_sample::{Batch, ReadTotals};
use serde::{Deserialize, Serialize};

use super::signal::Signal;
use super::slices::SliceSums;
use crate::validation::{ScoreChange, Sums, auc, float, score_changes};

/// Stands for a mean of 0.
const LEAST_MEAN: f64 = 0.01;

/// The open interval. Part of a snapshot, so that a restart closes it where it would have been closed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Interval {
    samples: u64,
    sums: Sums,
    /// Logit and label of each item that was scored.
    scored: Vec<(f32, bool)>,
    /// Absent in snapshots from before there were slices.
    #[serde(default)]
    slices: SliceSums,
    context_values: u64,
    item_values: u64,
    unknown_items: u64,
    users: BTreeSet<u64>,
    items: BTreeSet<u64>,
    /// What had been read when it began, and at its newest batch.
    read_from: ReadTotals,
    read_to: ReadTotals,
    /// Newest event time when it began, and at its newest batch, ms.
    from_ms: Option<i64>,
    to_ms: i64,
}

impl Interval {
    /// An interval that follows `before`.
    pub(super) fn after(before: &Self) -> Self {
        Self {
            read_from: before.read_to,
            read_to: before.read_to,
            from_ms: Some(before.to_ms),
            to_ms: before.to_ms,
            ..Self::default()
        }
    }

    /// Number of samples.
    pub(super) fn len(&self) -> u64 {
        self.samples
    }

    /// Newest event time of its samples' impressions, ms.
    pub(super) fn event_time_ms(&self) -> i64 {
        self.to_ms
    }

    /// Adds a batch with its logits from before it was learned from, `[n_samples, n_tasks]`.
    pub(super) fn add(&mut self, batch: &Batch, logits: &[f32]) {
        for (_, change) in score_changes(batch, logits, 0) {
            let (ScoreChange::Certain(scored) | ScoreChange::Presumed(scored) | ScoreChange::Late(scored)) =
                change;
            // The gate of versions finds scores that are not finite; they have no figures.
            if !scored.logit.is_finite() {
                continue;
            }
            match change {
                ScoreChange::Certain(scored) | ScoreChange::Presumed(scored) => {
                    self.sums.count(scored.logit, scored.label);
                    self.scored.push((scored.logit, scored.label));
                    self.slices.count(&scored);
                }
                ScoreChange::Late(scored) => {
                    self.sums.revise(scored.logit);
                    self.scored.push((scored.logit, true));
                    self.slices.revise(&scored);
                }
            }
        }
        for sample in &batch.samples {
            let (request, candidate) = (&sample.request, &sample.candidate);
            self.samples += 1;
            self.context_values += request.context.len() as u64;
            self.item_values += candidate.attributes.len() as u64;
            self.unknown_items += u64::from(candidate.attributes.is_empty());
            self.users.insert(request.user.0);
            self.items.insert(candidate.item.0);
            self.from_ms.get_or_insert(request.ts.0);
            self.to_ms = match self.samples {
                1 if self.to_ms == 0 => request.ts.0,
                _ => self.to_ms.max(request.ts.0),
            };
        }
        self.read_to = batch.read;
    }

    /// The signals that this interval has, each in its own unit.
    pub(super) fn signals(&mut self) -> Vec<(Signal, f64)> {
        let auc = auc(&mut self.scored);
        let figures = self.sums.figures(auc, None);
        let n = float(self.samples).max(1.0);
        let read = |total: fn(&ReadTotals) -> u64| {
            float(total(&self.read_to).saturating_sub(total(&self.read_from)))
        };
        let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        // None at all is far from any usual number, and still has a logarithm.
        let per_sample = |count: u64| Some((float(count) / n).max(LEAST_MEAN));
        let elapsed_ms = self.from_ms.map_or(0, |from| self.to_ms - from);
        let seconds = float(u64::try_from(elapsed_ms).unwrap_or(0)) / 1000.0;
        // Half a positive, so that no positive at all is a rate too.
        // Late positives of earlier intervals can outnumber the items of this one.
        let most = figures.judged.max(figures.positives);
        let rate = share(float(figures.positives) + 0.5, float(most) + 1.0);
        let signals = [
            (Signal::LabelRate, rate),
            (Signal::Ne, figures.ne),
            (Signal::Calibration, figures.calibration),
            (Signal::Auc, figures.auc),
            (Signal::ContextValues, per_sample(self.context_values)),
            (Signal::ItemValues, per_sample(self.item_values)),
            (Signal::UnknownItems, share(float(self.unknown_items), n)),
            (Signal::Users, share(float(self.users.len() as u64), n)),
            (Signal::Items, share(float(self.items.len() as u64), n)),
            (Signal::Rejected, share(read(|r| r.rejected), read(|r| r.records))),
            (
                Signal::Actions,
                share(read(|r| r.actions) + 0.5, read(|r| r.shown)),
            ),
            (
                Signal::Unmatched,
                share(read(|r| r.unmatched), read(|r| r.actions)),
            ),
            (Signal::EventRate, share(n, seconds)),
        ];
        let known = signals
            .into_iter()
            .filter_map(|(signal, value)| Some((signal, value?)));
        known.chain(self.slices.signals()).collect()
    }
}
