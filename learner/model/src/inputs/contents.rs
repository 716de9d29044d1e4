//! The contents of a batch: each once, those of candidates first.

use std::collections::HashMap;

use ouzel_sample::{ItemVectors, VectorId, VectorMap};

/// What the requests and candidates of a batch name.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// One for each candidate.
    pub(super) candidates: Vec<VectorId>,
    /// For each request, oldest first; none where no block reads them.
    pub(super) histories: Vec<Vec<VectorId>>,
}

/// The distinct contents of a batch, and who has which.
#[derive(Clone, Debug, Default)]
pub struct ContentInputs {
    /// Their names, those of candidates first; [`VectorId::NONE`] stands for an item without content.
    pub ids: Vec<VectorId>,
    /// Their frozen vectors, `[ids]`.
    pub frozen: Vec<ItemVectors>,
    /// How many of them are candidates'.
    pub n_targets: usize,
    /// Which of them each candidate has, `[n_candidates]`.
    pub of_candidate: Vec<i64>,
    /// Of each candidates' content that is not empty: its place, and a candidate that has it.
    pub contrasted: Vec<(i64, i64)>,
    /// Places for entries of a request's history, count.
    pub len: usize,
    /// Which of them each entry has, `[n_requests * len]`; any in padding.
    pub of_history: Vec<i64>,
    /// 1 where there is an entry with content, `[n_requests * len]`.
    pub valid: Vec<f32>,
}

impl ContentInputs {
    pub(super) fn new(collected: Collected, vectors: &VectorMap) -> Self {
        let mut out = Self::default();
        let mut place: HashMap<VectorId, i64> = HashMap::new();
        let mut find = |ids: &mut Vec<VectorId>, id: VectorId| -> i64 {
            // A name whose vectors are forgotten says as much as none.
            let id = if vectors.get(id).is_some() {
                id
            } else {
                VectorId::NONE
            };
            *place.entry(id).or_insert_with(|| {
                ids.push(id);
                i64::try_from(ids.len() - 1).unwrap_or(i64::MAX)
            })
        };
        for (candidate, id) in (0i64..).zip(collected.candidates) {
            let n_before = out.ids.len();
            let at = find(&mut out.ids, id);
            if out.ids.len() > n_before && out.ids[n_before] != VectorId::NONE {
                out.contrasted.push((at, candidate));
            }
            out.of_candidate.push(at);
        }
        out.n_targets = out.ids.len();
        out.len = collected.histories.iter().map(Vec::len).max().unwrap_or(0).max(1);
        for history in collected.histories {
            let n = history.len();
            for id in history {
                let at = find(&mut out.ids, id);
                let is_known = usize::try_from(at).is_ok_and(|at| out.ids[at] != VectorId::NONE);
                out.of_history.push(at);
                out.valid.push(f32::from(u8::from(is_known)));
            }
            out.of_history.resize(out.of_history.len() + out.len - n, 0);
            out.valid.resize(out.of_history.len(), 0.0);
        }
        out.frozen = out
            .ids
            .iter()
            .map(|id| vectors.get(*id).cloned().unwrap_or_default())
            .collect();
        out
    }
}
