//! The predictions at their impression of items whose outcome may still change.
//!
//! The models of a mixture are compared by what they predicted when an item was shown. When a late positive arrives, a model
//! has learned from the other items of the slate, so that its prediction of the moment says nothing of the one that was served.
//! Therefore each model keeps the logits of its newest presumed negatives, in the order of the stream and in bounded memory.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use ouzel_sample::{Id, IdHasher, Sample, SampleKind};

use crate::prior::is_late;

/// The logits of the newest presumed negatives of one model, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ShownLogits {
    /// Most items; 0 keeps none.
    capacity: usize,
    n_tasks: usize,
    /// Shown items.
    items: VecDeque<Id>,
    /// Their logits by task, `[n_items, n_tasks]`.
    logits: VecDeque<f32>,
    /// Running number of each item, from 0 at the first that was ever kept.
    number_of: HashMap<Id, u64, BuildHasherDefault<IdHasher>>,
    /// Running number of the oldest item.
    oldest: u64,
}

impl ShownLogits {
    /// Keeps up to `capacity` items of `n_tasks` logits.
    pub(crate) fn new(capacity: usize, n_tasks: usize) -> Self {
        Self {
            capacity,
            n_tasks,
            ..Self::default()
        }
    }

    /// Number of logits of an item.
    pub(crate) fn n_tasks(&self) -> usize {
        self.n_tasks
    }

    /// The logits to compare models by, `[n_samples, n_tasks]`: those at the impression for late positives whose item is
    /// kept, `logits` for all other samples. Keeps the logits of the presumed negatives among the samples.
    pub(crate) fn compared(&mut self, samples: &[Sample], logits: &[f32]) -> Vec<f32> {
        let mut compared = logits.to_vec();
        if self.capacity == 0 {
            return compared;
        }
        for (sample, logits) in samples.iter().zip(compared.chunks_exact_mut(self.n_tasks)) {
            let shown = sample.request.id.pair(sample.candidate.item);
            match sample.kind {
                SampleKind::EarlyNegative => self.keep(shown, logits),
                _ if is_late(sample, true) => {
                    if let Some(place) = self.place(shown) {
                        let kept = self.logits.range(place..place + self.n_tasks);
                        logits
                            .iter_mut()
                            .zip(kept)
                            .for_each(|(logit, kept)| *logit = *kept);
                    }
                }
                _ => {}
            }
        }
        compared
    }

    /// Where the logits of an item begin.
    fn place(&self, shown: Id) -> Option<usize> {
        let place = self.number_of.get(&shown)?.checked_sub(self.oldest)?;
        Some(usize::try_from(place).ok()? * self.n_tasks)
    }

    /// Keeps the first logits of an item. Logits that are not finite are left out: no snapshot could hold them.
    fn keep(&mut self, shown: Id, logits: &[f32]) {
        if self.number_of.contains_key(&shown) || !logits.iter().all(|logit| logit.is_finite()) {
            return;
        }
        if self.items.len() == self.capacity
            && let Some(oldest) = self.items.pop_front()
        {
            self.logits.drain(..self.n_tasks);
            self.number_of.remove(&oldest);
            self.oldest += 1;
        }
        self.number_of
            .insert(shown, self.oldest + self.items.len() as u64);
        self.items.push_back(shown);
        self.logits.extend(logits);
    }

    /// The items, oldest first, and their logits `[n, n_tasks]`.
    pub(crate) fn export(&self) -> (Vec<u64>, Vec<f32>) {
        let ids = self.items.iter().map(|shown| shown.0);
        (ids.collect(), self.logits.iter().copied().collect())
    }

    /// Restores what [`ShownLogits::export`] returned, the newest items if the capacity is smaller now.
    pub(crate) fn import(&mut self, ids: &[u64], logits: &[f32]) {
        *self = Self::new(self.capacity, self.n_tasks);
        if self.capacity == 0 {
            return;
        }
        for (shown, logits) in ids.iter().zip(logits.chunks_exact(self.n_tasks)) {
            self.keep(Id(*shown), logits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{again, sample};

    #[test]
    fn a_late_positive_is_compared_by_the_prediction_at_its_impression() {
        let mut shown = ShownLogits::new(2, 1);
        let first: Vec<Sample> = (1..=3)
            .map(|item| sample(1, item, SampleKind::EarlyNegative, false))
            .collect();
        assert_eq!(shown.compared(&first, &[1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]);
        let late: Vec<Sample> = first
            .iter()
            .map(|first| again(first, SampleKind::LatePositive, true, true))
            .collect();
        // The first item is beyond the capacity.
        assert_eq!(shown.compared(&late, &[7.0, 8.0, 9.0]), [7.0, 2.0, 3.0]);
        let certain = sample(1, 3, SampleKind::Final, true);
        assert_eq!(shown.compared(&[certain], &[5.0]), [5.0]);
    }

    #[test]
    fn it_is_restored_with_the_newest_items() {
        let mut shown = ShownLogits::new(3, 2);
        let items: Vec<Sample> = (1..=4)
            .map(|item| sample(1, item, SampleKind::EarlyNegative, false))
            .collect();
        shown.compared(&items, &[1.0, -1.0, f32::NAN, -2.0, 3.0, -3.0, 4.0, -4.0]);
        let (ids, logits) = shown.export();
        assert_eq!(logits, [1.0, -1.0, 3.0, -3.0, 4.0, -4.0], "finite ones only");
        let mut restored = ShownLogits::new(3, 2);
        restored.import(&ids, &logits);
        assert_eq!(restored, shown);
        let mut smaller = ShownLogits::new(1, 2);
        smaller.import(&ids, &logits);
        assert_eq!(smaller.export(), (ids[2..].to_vec(), vec![4.0, -4.0]));
        let mut none = ShownLogits::new(0, 2);
        none.import(&ids, &logits);
        assert_eq!(none.export(), (Vec::new(), Vec::new()));
    }
}
