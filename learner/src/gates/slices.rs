//! Sums of an interval by how often the item had been seen: an average hides a slice that went wrong.

use serde::{Deserialize, Serialize};

use super::signal::Signal;
use crate::validation::{Bucket, Scored, Sums};

/// Least number of items of a slice that its figures are judged on.
const MIN_ITEMS: u64 = 256;
/// Least number of positives, and of negatives, among them.
const MIN_OUTCOMES: u64 = 24;

/// Sums of new, warm and hot items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct SliceSums {
    new: Sums,
    warm: Sums,
    hot: Sums,
}

impl SliceSums {
    /// Adds a scored item.
    pub(super) fn count(&mut self, scored: &Scored) {
        self.slice(scored).count(scored.logit, scored.label);
    }

    /// Turns an item that was added as a negative into a positive.
    pub(super) fn revise(&mut self, scored: &Scored) {
        self.slice(scored).revise(scored.logit);
    }

    fn slice(&mut self, scored: &Scored) -> &mut Sums {
        match scored.known.item {
            Bucket::New => &mut self.new,
            Bucket::Warm => &mut self.warm,
            Bucket::Hot => &mut self.hot,
        }
    }

    /// The signals of the slices that are large enough.
    pub(super) fn signals(&self) -> impl Iterator<Item = (Signal, f64)> + use<> {
        let slices = [
            (self.new, Signal::NewItemsNe, Signal::NewItemsCalibration),
            (self.warm, Signal::WarmItemsNe, Signal::WarmItemsCalibration),
            (self.hot, Signal::HotItemsNe, Signal::HotItemsCalibration),
        ];
        slices.into_iter().flat_map(|(sums, ne, calibration)| {
            let figures = sums.figures(None, None);
            let n_negatives = figures.judged.saturating_sub(figures.positives);
            let is_large = figures.judged >= MIN_ITEMS && figures.positives.min(n_negatives) >= MIN_OUTCOMES;
            let signals = [(ne, figures.ne), (calibration, figures.calibration)];
            let known = signals.map(|(signal, value)| Some((signal, value.filter(|_| is_large)?)));
            known.into_iter().flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use ouzel_sample::EventTime;

    use super::*;
    use crate::validation::Known;

    #[test]
    fn a_slice_has_figures_of_its_own_once_it_is_large_enough() {
        let mut sums = SliceSums::default();
        let scored = |item, logit, label| Scored {
            ts: EventTime(0),
            request: 0,
            logit,
            popularity: 0.0,
            label,
            known: Known {
                item,
                user: Bucket::Warm,
            },
        };
        for at in 0..MIN_ITEMS {
            // Predicted even: right for warm items, twice too much for new ones.
            sums.count(&scored(Bucket::Warm, 0.0, at % 2 == 0));
            sums.count(&scored(Bucket::New, 0.0, at % 4 == 0));
            if at > 0 {
                sums.count(&scored(Bucket::Hot, 0.0, at % 2 == 0));
            }
        }
        let found: Vec<(Signal, f64)> = sums.signals().collect();
        let value = |signal| {
            found
                .iter()
                .find(|(name, _)| *name == signal)
                .map(|(_, value)| *value)
        };
        assert!((value(Signal::WarmItemsCalibration).unwrap() - 1.0).abs() < 1e-6);
        assert!((value(Signal::WarmItemsNe).unwrap() - 1.0).abs() < 1e-6);
        assert!((value(Signal::NewItemsCalibration).unwrap() - 2.0).abs() < 1e-6);
        assert_eq!(value(Signal::HotItemsNe), None, "one item too few");
        // A late positive counts in the slice of its item.
        for _ in 0..MIN_ITEMS / 4 {
            sums.revise(&scored(Bucket::New, 0.0, true));
        }
        let found: Vec<(Signal, f64)> = sums.signals().collect();
        assert!(found.contains(&(Signal::NewItemsCalibration, 1.0)), "{found:?}");
    }
}
