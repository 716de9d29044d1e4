//! The distinct contents of a batch, those of candidates first.

use std::collections::HashMap;

use ouzel_sample::{ItemVectors, VectorId, VectorMap};

/// Content ids that the requests and candidates of a batch name.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// By candidate.
    pub(super) candidates: Vec<VectorId>,
    /// By request, oldest first; empty without content interest.
    pub(super) histories: Vec<Vec<VectorId>>,
}

/// The distinct contents of a batch, and which candidate and history entry has which.
#[derive(Clone, Debug, Default)]
pub struct ContentInputs {
    /// Ids, those of candidates first; [`VectorId::NONE`] stands for an item without content.
    pub ids: Vec<VectorId>,
    /// Frozen vectors, by content.
    pub frozen: Vec<ItemVectors>,
    /// Number of contents of candidates.
    pub n_targets: usize,
    /// Content of each candidate, `[n_candidates]`.
    pub of_candidate: Vec<i64>,
    /// Each content of a candidate that is not empty, with a candidate that has it.
    pub contrasted: Vec<(i64, i64)>,
    /// Entries of a request's history with padding.
    pub len: usize,
    /// Content of each history entry, `[n_requests * len]`; any in padding.
    pub of_history: Vec<i64>,
    /// 1 for an entry with content, else 0, `[n_requests * len]`.
    pub valid: Vec<f32>,
}

impl ContentInputs {
    /// The contents of candidates alone.
    pub(super) fn without_histories(&self) -> Self {
        Self {
            ids: self.ids[..self.n_targets].to_vec(),
            frozen: self.targets().to_vec(),
            n_targets: self.n_targets,
            of_candidate: self.of_candidate.clone(),
            len: 1,
            ..Self::default()
        }
    }

    /// Frozen vectors of the contents of candidates, `[n_targets]`.
    pub(crate) fn targets(&self) -> &[ItemVectors] {
        &self.frozen[..self.n_targets]
    }

    pub(super) fn new(collected: Collected, vectors: &VectorMap) -> Self {
        let mut out = Self::default();
        let mut place: HashMap<VectorId, i64> = HashMap::new();
        let mut find = |ids: &mut Vec<VectorId>, id: VectorId| -> i64 {
            // An id whose vectors are gone counts as no content.
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
