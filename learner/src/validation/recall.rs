//! Recall of retrieval: whether an item that a user acts on is among the best of the whole catalog, before it is learned.
//!
//! The rank of a positive is exact, among all items of the catalog but those that its user acted on before, with the vectors
//! of the version as of then. That needs the vector of every item, so not every batch is measured: one is due when as many
//! item vectors as the catalog has could have been computed at [`ITEMS_PER_BATCH`] a batch. Which batches are measured is a
//! function of the batches and the size of the catalog.
//!
//! Beside it stand the figures of popularity: the same items ranked by how often they are positives
//! ([`FrequencyEstimator`](crate::retrieval::FrequencyEstimator)), equal ones at their mean rank.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use ouzel_model::{TowerInputs, TowerItem, Towers, similarities};
use ouzel_sample::{Batch, Id, Sample};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::retrieval::is_positive;
use crate::trainer::Trainer;
use crate::validation::float;

/// Item vectors that measuring may compute, per batch.
const ITEMS_PER_BATCH: usize = 256;
/// Most items of the catalog that positives are ranked among, the ones with the newest events.
pub const MAX_RANKED_ITEMS: usize = 50_000;
/// Items whose vectors are computed in one call, as a bound on memory.
const CHUNK: usize = 4096;

/// Recall of retrieval and of popularity, since the start of the lineage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecallFigures {
    /// Positives that were ranked.
    pub positives: u64,
    /// Positives of measured batches that were not: their user had acted on the item before, or it is not in the catalog.
    pub skipped: u64,
    /// Items that the newest positive was ranked among.
    pub items: u64,
    /// Retrieval.
    pub retrieval: RankFigures,
    /// The items with the most positives first.
    pub popularity: RankFigures,
}

/// Figures of one order of the items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RankFigures {
    /// Share of the positives among the best 10.
    pub recall_10: f64,
    /// Share of the positives among the best 50.
    pub recall_50: f64,
    /// Normalised discounted cumulative gain at 10: the mean of `1 / log2(1 + rank)`, 0 beyond.
    pub ndcg_10: f64,
}

/// Sums of one order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct RankSums {
    within_10: u64,
    within_50: u64,
    gain: f64,
}

impl RankSums {
    fn add(&mut self, rank: f64) {
        self.within_50 += u64::from(rank <= 50.0);
        if rank <= 10.0 {
            self.within_10 += 1;
            self.gain += 1.0 / (1.0 + rank).log2();
        }
    }

    fn figures(&self, n: u64) -> RankFigures {
        let n = float(n.max(1));
        RankFigures {
            recall_10: float(self.within_10) / n,
            recall_50: float(self.within_50) / n,
            ndcg_10: self.gain / n,
        }
    }
}

/// Measures recall from batch to batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    n: u64,
    n_skipped: u64,
    n_items: u64,
    retrieval: RankSums,
    popularity: RankSums,
    /// Item vectors that could have been computed since the last measured batch.
    budget: usize,
}

impl Recall {
    /// Whether the next batch is to be measured, for a catalog of `n_items`. Call it once for each batch.
    pub fn is_due(&mut self, n_items: usize) -> bool {
        self.budget = self.budget.saturating_add(ITEMS_PER_BATCH);
        let is_due = n_items > 0 && self.budget >= n_items.min(MAX_RANKED_ITEMS);
        if is_due {
            self.budget = 0;
        }
        is_due
    }

    /// Whether nothing was measured, nor waited for.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The figures; none before the first positive.
    #[must_use]
    pub fn figures(&self) -> Option<RecallFigures> {
        (self.n > 0).then(|| RecallFigures {
            positives: self.n,
            skipped: self.n_skipped,
            items: self.n_items,
            retrieval: self.retrieval.figures(self.n),
            popularity: self.popularity.figures(self.n),
        })
    }

    /// Ranks the positives of a batch that is not learned yet among `items`.
    ///
    /// # Errors
    /// When the towers cannot be read.
    pub fn measure(
        &mut self,
        trainer: &mut Trainer,
        batch: &Batch,
        items: &[TowerItem],
    ) -> Result<(), Error> {
        let positives: Vec<&Sample> = batch.samples.iter().filter(|s| is_positive(s)).collect();
        let Some(ranks) = trainer.ranks(&positives, items)? else {
            return Ok(());
        };
        self.n_items = items.len() as u64;
        for rank in ranks {
            match rank {
                None => self.n_skipped += 1,
                Some([retrieval, popularity]) => {
                    self.n += 1;
                    self.retrieval.add(retrieval);
                    self.popularity.add(popularity);
                }
            }
        }
        Ok(())
    }
}

impl Trainer {
    /// The rank of each positive by retrieval and by popularity, from 1; none for one that is not counted. None without
    /// towers.
    fn ranks(
        &mut self,
        positives: &[&Sample],
        items: &[TowerItem],
    ) -> Result<Option<Vec<Option<[f64; 2]>>>, Error> {
        if positives.is_empty() || self.retrieval.is_none() {
            return Ok(None);
        }
        self.flush_device_rows()?;
        let towers = Towers::of_net(self.model.net())?;
        let Some(retrieval) = &self.retrieval else {
            return Ok(None);
        };
        let weights = &self.weights;
        let mut vectors = Vec::with_capacity(items.len() * towers.width());
        for chunk in items.chunks(CHUNK) {
            let mut inputs = TowerInputs::default();
            chunk.iter().for_each(|item| inputs.add_item(item));
            vectors.extend(towers.items(&inputs, &weights.read_tower_rows(inputs.keys())));
        }
        let shares: Vec<f32> = items
            .iter()
            .map(|item| retrieval.frequency.share(item.item))
            .collect();
        let mut users = TowerInputs::default();
        for sample in positives {
            users.add_user(&weights.config, &sample.request);
        }
        let of_users = towers.users(&users, &weights.read_tower_rows(users.keys()));
        let places: HashMap<Id, usize> = items.iter().map(|item| item.item).zip(0..).collect();
        let ranks = positives.iter().zip(of_users.chunks_exact(towers.width()));
        let ranks = ranks.map(|(sample, user)| {
            let acted: HashSet<Id> = sample.request.history.iter().map(|entry| entry.item).collect();
            let item = sample.candidate.item;
            let place = places.get(&item).filter(|_| !acted.contains(&item))?;
            let seen: Vec<usize> = acted
                .iter()
                .filter_map(|item| places.get(item))
                .copied()
                .collect();
            let scores = similarities(user, &vectors);
            Some([rank(&scores, *place, &seen), rank(&shares, *place, &seen)])
        });
        Ok(Some(ranks.collect()))
    }
}

/// The rank of a place by these scores, from 1, without the places that were `seen`; among equal scores the mean rank.
fn rank(scores: &[f32], place: usize, seen: &[usize]) -> f64 {
    let own = scores[place];
    let count = |scores: &mut dyn Iterator<Item = f32>| {
        scores.fold((0u64, 0u64), |(above, equal), score| {
            match score.total_cmp(&own) {
                Ordering::Greater => (above + 1, equal),
                Ordering::Equal => (above, equal + 1),
                Ordering::Less => (above, equal),
            }
        })
    };
    let all = count(&mut scores.iter().copied());
    let gone = count(&mut seen.iter().map(|at| scores[*at]));
    // The item itself is among the equal ones.
    1.0 + float(all.0 - gone.0) + float(all.1 - 1 - gone.1) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_counts_unseen_items_above_and_half_of_the_equal_ones() {
        let scores = [0.9, 0.5, 0.5, 0.1, 0.7, 0.5];
        for (place, seen, expected) in [
            (0, vec![], 1.0),
            (4, vec![], 2.0),
            (4, vec![0], 1.0),
            (3, vec![], 6.0),
            (1, vec![], 4.0),
            (1, vec![0, 2], 2.5),
        ] {
            assert!(
                (rank(&scores, place, &seen) - expected).abs() < 1e-9,
                "{place} {seen:?}"
            );
        }
    }

    #[test]
    fn a_batch_is_due_when_the_budget_covers_the_catalog() {
        let mut recall = Recall::default();
        let due: Vec<bool> = (0..6).map(|_| recall.is_due(2 * ITEMS_PER_BATCH)).collect();
        assert_eq!(due, [false, true, false, true, false, true]);
        assert!(!Recall::default().is_due(0), "no catalog");
        assert!(Recall::default().is_due(1));
    }

    #[test]
    fn figures_are_shares_of_the_positives() {
        let mut recall = Recall::default();
        assert_eq!(recall.figures(), None);
        for rank in [1.0, 10.0, 30.0, 51.0] {
            recall.n += 1;
            recall.retrieval.add(rank);
        }
        let figures = recall.figures().unwrap().retrieval;
        assert!((figures.recall_10 - 0.5).abs() < 1e-9 && (figures.recall_50 - 0.75).abs() < 1e-9);
        assert!((figures.ndcg_10 - (1.0 + 1.0 / 11f64.log2()) / 4.0).abs() < 1e-9);
    }
}
