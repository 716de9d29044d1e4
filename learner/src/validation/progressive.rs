//! Running metrics of a live learner, over a window and since the start of the lineage.

use serde::{Deserialize, Serialize};

use ouzel_sample::{Batch, EventTime};

use crate::validation::figures::{Sums, float};
use crate::validation::score_log::{ScoreChange, score_changes};
use crate::validation::{Buckets, Figures, ScoreLog};

/// Progressive validation of the primary task.
///
/// The window holds the newest scores and has exact metrics. Totals since the start of the lineage take their AUC from a
/// histogram of logits with bins of 1/64. Totals are part of a snapshot, so they survive a restart.
#[derive(Clone, Debug)]
pub struct Progressive {
    window: ScoreLog,
    totals: Totals,
}

/// Sums since the start of the lineage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Totals {
    #[serde(flatten)]
    sums: Sums,
    /// Negatives and positives by bin of the logit.
    bins: Vec<(u64, u64)>,
}

const BINS: usize = 2048;
const BINS_PER_LOGIT: f32 = 64.0;

impl Progressive {
    /// Empty metrics with a window of `window_len` samples.
    #[must_use]
    pub fn new(window_len: usize) -> Self {
        Self {
            window: ScoreLog::of_newest(window_len),
            totals: Totals {
                sums: Sums::default(),
                bins: vec![(0, 0); BINS],
            },
        }
    }

    /// Adds a batch with its logits from before it was learned from, `[n_samples, n_tasks]`.
    pub fn add(&mut self, batch: &Batch, logits: &[f32]) {
        for (item, change) in score_changes(batch, logits) {
            match change {
                ScoreChange::Certain(scored) | ScoreChange::Presumed(scored) => {
                    self.totals.count(scored.logit, scored.label);
                }
                ScoreChange::Late(scored) => self.totals.revise(scored.logit),
            }
            self.window.take(item, change);
        }
    }

    /// Metrics of the window.
    #[must_use]
    pub fn window(&self) -> Figures {
        self.window.figures(EventTime::MIN)
    }

    /// Metrics of the window by bucket of item and user.
    #[must_use]
    pub fn window_buckets(&self) -> Buckets {
        self.window.buckets(EventTime::MIN)
    }

    /// Metrics since the start, without a per-request AUC, which would need every slate.
    #[must_use]
    pub fn total(&self) -> Figures {
        let Totals { sums, bins } = &self.totals;
        let (mut below, mut wins) = (0.0f64, 0.0f64);
        for (negatives, positives) in bins {
            wins += float(*positives) * (below + 0.5 * float(*negatives));
            below += float(*negatives);
        }
        let pairs = below * float(sums.positives);
        sums.figures((pairs > 0.0).then(|| wins / pairs), None)
    }

    /// The totals as bytes, for a snapshot.
    #[must_use]
    pub fn dump(&self) -> Vec<u8> {
        serde_json::to_vec(&self.totals).expect("totals are numbers and lists of numbers")
    }

    /// Restores totals from a snapshot; the window starts empty.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), serde_json::Error> {
        let totals: Totals = serde_json::from_slice(bytes)?;
        if totals.bins.len() == BINS {
            self.totals = totals;
        }
        Ok(())
    }
}

impl Totals {
    /// Counts an item.
    fn count(&mut self, z: f32, y: bool) {
        self.sums.count(z, y);
        let (negatives, positives) = &mut self.bins[bin(z)];
        *(if y { positives } else { negatives }) += 1;
    }

    /// Turns an item that was counted as a negative into a positive.
    fn revise(&mut self, z: f32) {
        self.sums.revise(z);
        let (negatives, positives) = &mut self.bins[bin(z)];
        // A restart loses predictions: the item may have been counted in a bin nearby.
        *negatives = negatives.saturating_sub(1);
        *positives += 1;
    }
}

fn bin(z: f32) -> usize {
    let middle = 1024.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the bins; NaN becomes 0"
    )]
    let bin = (z * BINS_PER_LOGIT + middle).clamp(0.0, 2047.0) as usize;
    bin
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::auc;

    #[test]
    fn totals_survive_a_dump_and_agree_with_exact_figures() {
        let mut progressive = Progressive::new(10);
        let mut exact = Vec::new();
        for i in 0..1000u16 {
            let (z, y) = (f32::from(i % 97) / 20.0 - 2.0, i % 3 == 0 || i % 97 > 80);
            progressive.totals.count(z, y);
            exact.push((z, y));
        }
        let expected = auc(&mut exact).unwrap();
        assert!((progressive.total().auc.unwrap() - expected).abs() < 1e-3);
        let mut copy = Progressive::new(10);
        copy.restore(&progressive.dump()).unwrap();
        assert_eq!(copy.totals, progressive.totals);
    }
}
