//! Scores shown items among many other candidates, as a serving request does.
//!
//! A model learns from slates of what was shown, often 1 to 36 items, and is asked for hundreds of candidates. Some
//! requests are scored again with the weights and features of their impression: the slate alone, and hidden among random other
//! items of the catalogue. The figures of both are of the shown items, whose outcomes are known.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use serde::Serialize;

use ouzel_learner::Trainer;
use ouzel_learner::model::uniform;
use ouzel_learner::validation::Figures;
use ouzel_sample::{
    Batch, EventTime, FeatureQuery, FeatureState, Id, IdHasher, Impression, ShownItem, ShownSlate,
};

use super::rescored::Rescored;

/// One request in so many is scored again.
const EVERY: u64 = 4;

/// A number of candidates in a request, and whether the request names the size of its reply.
#[derive(Clone, Copy, Debug)]
struct RequestKind {
    /// Candidates, the shown items included.
    n: usize,
    has_top_k: bool,
}

/// Figures of the shown items among the candidates of one kind of request.
#[derive(Debug, Serialize)]
pub(super) struct HiddenFigures {
    /// Candidates of a request; none: the shown items alone.
    pub(super) candidates: Option<usize>,
    /// Whether the request has `top_k`, the number of items shown.
    pub(super) has_top_k: bool,
    /// Share of the pairs of a slate that have the order of the slate alone.
    pub(super) same_order: f64,
    /// Mean log-odds less those of the slate alone, nats.
    pub(super) logit_shift: f64,
    /// Figures of the second half.
    #[serde(flatten)]
    pub(super) figures: Figures,
}

/// Slates scored again, hidden among other candidates.
pub(super) struct HiddenSlates {
    kinds: Vec<RequestKind>,
    /// Items known so far, in the order of the log.
    catalogue: Vec<Id>,
    known: HashSet<Id, BuildHasherDefault<IdHasher>>,
    /// Alone, then in each kind of request.
    rescored: Rescored,
    /// Pairs and those in the order of the slate alone, for each kind of request.
    pairs: Vec<[u64; 2]>,
    /// Sums of logits less those of the slate alone, and their number, for each kind of request.
    shifts: Vec<(f64, u64)>,
}

impl HiddenSlates {
    /// Hides slates among `sizes` candidates.
    pub(super) fn new(sizes: &[usize]) -> Self {
        let kinds: Vec<RequestKind> = sizes
            .iter()
            .flat_map(|n| [false, true].map(|has_top_k| RequestKind { n: *n, has_top_k }))
            .collect();
        Self {
            catalogue: Vec::new(),
            known: HashSet::default(),
            rescored: Rescored::new(kinds.len() + 1),
            pairs: vec![[0; 2]; kinds.len()],
            shifts: vec![(0.0, 0); kinds.len()],
            kinds,
        }
    }

    /// Whether slates are hidden at all.
    pub(super) fn is_measured(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// Adds an item to the catalogue.
    pub(super) fn add_item(&mut self, item: Id) {
        if !self.kinds.is_empty() && self.known.insert(item) {
            self.catalogue.push(item);
        }
    }

    /// Scores the slate of an impression that is about to be shown, if it is one of those chosen.
    pub(super) fn score(
        &mut self,
        impression: &Impression,
        features: &FeatureState,
        trainer: &mut Trainer,
    ) -> anyhow::Result<()> {
        if self.kinds.is_empty() || !impression.request.0.is_multiple_of(EVERY) {
            return Ok(());
        }
        let n = impression.items.len();
        let alone = predict(impression, &impression.items, Some(n), features, trainer)?;
        let mut logits: Vec<Vec<f32>> = alone.iter().map(|logit| vec![*logit]).collect();
        for (index, kind) in self.kinds.iter().enumerate() {
            let items = self.candidates(impression, kind.n);
            let top_k = kind.has_top_k.then_some(n);
            let hidden = predict(impression, &items, top_k, features, trainer)?;
            for ((own, hidden), alone) in logits.iter_mut().zip(&hidden).zip(&alone) {
                own.push(*hidden);
                self.shifts[index].0 += f64::from(hidden - alone);
                self.shifts[index].1 += 1;
            }
            for a in 0..n {
                for b in 0..a {
                    let is_same = (alone[a] > alone[b]) == (hidden[a] > hidden[b]);
                    self.pairs[index][0] += 1;
                    self.pairs[index][1] += u64::from(is_same);
                }
            }
        }
        for (shown, logits) in impression.items.iter().zip(logits) {
            self.rescored.insert(impression.request, shown.item, logits);
        }
        Ok(())
    }

    /// The shown items, then random others of the catalogue up to `n` in all.
    fn candidates(&self, impression: &Impression, n: usize) -> Vec<ShownItem> {
        let mut items = impression.items.clone();
        let mut taken: Vec<Id> = items.iter().map(|shown| shown.item).collect();
        taken.sort_unstable();
        let mut draw = 0;
        // Each draw finds a new item unless the catalogue is nearly used up.
        while items.len() < n && draw < 4 * n as u64 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "an index of the catalogue"
            )]
            let index =
                (f64::from(uniform(1, impression.request.0, draw)) * self.catalogue.len() as f64) as usize;
            draw += 1;
            let Some(item) = self.catalogue.get(index) else {
                continue;
            };
            if let Err(at) = taken.binary_search(item) {
                taken.insert(at, *item);
                items.push(ShownItem::new(*item, None));
            }
        }
        items
    }

    /// Records the outcomes of a batch.
    pub(super) fn learning(&mut self, batch: &Batch) {
        self.rescored.learning(batch);
    }

    /// The figures from `middle` on, the slates alone first.
    pub(super) fn figures(&self, middle: EventTime) -> Vec<HiddenFigures> {
        if self.kinds.is_empty() {
            return Vec::new();
        }
        #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
        let ratio = |part: u64, all: u64| part as f64 / all.max(1) as f64;
        let alone = HiddenFigures {
            candidates: None,
            has_top_k: false,
            same_order: 1.0,
            logit_shift: 0.0,
            figures: self.rescored.figures(0, middle),
        };
        let among = self.kinds.iter().enumerate().map(|(index, kind)| {
            let ([all, same], (shift, n)) = (self.pairs[index], self.shifts[index]);
            HiddenFigures {
                candidates: Some(kind.n),
                has_top_k: kind.has_top_k,
                same_order: ratio(same, all),
                #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
                logit_shift: shift / n.max(1) as f64,
                figures: self.rescored.figures(index + 1, middle),
            }
        });
        std::iter::once(alone).chain(among).collect()
    }
}

/// Logits of the first `impression.items.len()` of `items`, with the features and weights of now.
fn predict(
    impression: &Impression,
    items: &[ShownItem],
    top_k: Option<usize>,
    features: &FeatureState,
    trainer: &mut Trainer,
) -> anyhow::Result<Vec<f32>> {
    let query = FeatureQuery {
        request: impression.request,
        user: impression.user,
        ts: impression.ts,
        context: &impression.context,
        numbers: &impression.numbers,
        items,
        slate_size: None,
    };
    let (request, candidates) = trainer.norm().read_candidates(features, &query, top_k);
    let vectors = features.vectors_of(std::iter::once(&request), candidates.iter());
    let slate = ShownSlate {
        request: Arc::new(request),
        candidates: candidates.into_iter().map(Arc::new).collect(),
    };
    trainer.predict_shown(std::slice::from_ref(&slate), &vectors)?;
    let shown = slate.candidates.iter().take(impression.items.len());
    Ok(shown
        .map(|candidate| candidate.predicted.get(0).unwrap_or(f32::NAN))
        .collect())
}
