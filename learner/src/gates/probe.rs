//! The probe: a few recent real slates, on which versions are compared.

use std::collections::VecDeque;
use std::sync::Arc;

use ouzel_model::{Inputs, Model, Weights};
use ouzel_sample::{Batch, Candidate, Request, Sample, ShownSlate, VectorMap};
use serde::{Deserialize, Serialize};
use tch::Device;

use super::signal::Breach;
use crate::error::Error;

/// Least number of slates in a full probe.
const SLATES: usize = 16;
/// Most slates: so many of one item each.
const MAX_SLATES: usize = 64;
/// Candidates of a full probe with fewer slates.
const MIN_CANDIDATES: usize = 64;
/// Most candidates of a slate.
const CANDIDATES: usize = 24;
/// Batches from one replaced slate to the next, once the probe is full.
const REPLACE_EVERY: u64 = 50;
/// Largest difference of two log-odds that are the same on another machine.
const SAME_LOGIT: f32 = 1e-3;

/// A bounded ring of slates taken from the log. Which ones depends on the batches alone.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    slates: VecDeque<ProbeSlate>,
    /// Number of slates taken so far.
    n_taken: u64,
}

/// A slate of the probe.
#[derive(Clone, Debug)]
pub(super) struct ProbeSlate {
    /// Running number.
    pub(super) number: u64,
    slate: ShownSlate,
    /// Its content vectors; none after a restart.
    vectors: VectorMap,
}

/// A probe in a snapshot, with the scores of the snapshot's weights.
#[derive(Serialize, Deserialize)]
struct Recorded {
    n_taken: u64,
    slates: Vec<RecordedSlate>,
}

#[derive(Serialize, Deserialize)]
struct RecordedSlate {
    number: u64,
    request: Request,
    candidates: Vec<Candidate>,
    /// Log-odds without content vectors, `[n_candidates, n_tasks]`.
    logits: Vec<f32>,
}

impl Probe {
    /// Takes a slate of the batch if one is due.
    pub fn observe(&mut self, batch: &Batch) {
        let is_full = self.is_full();
        if is_full && !batch.seq.is_multiple_of(REPLACE_EVERY) {
            return;
        }
        let groups = batch.samples.chunk_by(|a, b| Arc::ptr_eq(&a.request, &b.request));
        // The first of the longest ones.
        let Some(group) = groups.rev().max_by_key(|group| group.len()) else {
            return;
        };
        if is_full {
            self.slates.pop_front();
        }
        let number = self.n_taken;
        self.n_taken += 1;
        self.slates
            .push_back(ProbeSlate::new(number, group, &batch.vectors));
    }

    /// Whether a new slate replaces an old one. Short slates are more, so that there is something to compare.
    fn is_full(&self) -> bool {
        let n_candidates = || -> usize { self.slates.iter().map(|slate| slate.slate.candidates.len()).sum() };
        let n = self.slates.len();
        n >= MAX_SLATES || (n >= SLATES && n_candidates() >= MIN_CANDIDATES)
    }

    pub(super) fn slates(&self) -> impl Iterator<Item = &ProbeSlate> {
        self.slates.iter()
    }

    /// The probe with its scores by `weights`, for a snapshot of these weights.
    ///
    /// # Errors
    /// When the model cannot compute.
    pub(super) fn record(&self, weights: &Weights, device: Device) -> Result<Vec<u8>, Error> {
        let mut model = Model::for_inference(weights, device)?;
        let mut slates = Vec::with_capacity(self.slates.len());
        for ProbeSlate { number, slate, .. } in &self.slates {
            let logits = score(&mut model, weights, slate, &VectorMap::default())?;
            // JSON has no NaN. Weights that give one are not saved, because their version does not pass.
            let logits: Vec<f32> = logits
                .into_iter()
                .map(|logit| if logit.is_finite() { logit } else { f32::MAX })
                .collect();
            slates.push(RecordedSlate {
                number: *number,
                request: Request::clone(&slate.request),
                candidates: slate
                    .candidates
                    .iter()
                    .map(|candidate| Candidate::clone(candidate))
                    .collect(),
                logits,
            });
        }
        let recorded = Recorded {
            n_taken: self.n_taken,
            slates,
        };
        Ok(serde_json::to_vec(&recorded).expect("a probe is numbers and names"))
    }

    /// Restores the probe of a snapshot, and compares the scores recorded in it with those of the restored weights.
    ///
    /// # Errors
    /// When the bytes are no probe, or the model cannot compute.
    pub(super) fn restore(
        bytes: &[u8],
        weights: &Weights,
        device: Device,
    ) -> Result<(Self, Option<Breach>), Error> {
        let recorded: Recorded =
            serde_json::from_slice(bytes).map_err(|error| Error::Probe(error.to_string()))?;
        let mut model = Model::for_inference(weights, device)?;
        let mut probe = Self {
            slates: VecDeque::new(),
            n_taken: recorded.n_taken,
        };
        let mut furthest = 0.0f32;
        for RecordedSlate {
            number,
            request,
            candidates,
            logits,
        } in recorded.slates
        {
            let slate = ShownSlate {
                request: Arc::new(request),
                candidates: candidates.into_iter().map(Arc::new).collect(),
            };
            let found = score(&mut model, weights, &slate, &VectorMap::default())?;
            for (found, recorded) in found.iter().zip(&logits) {
                let distance = (found - recorded).abs();
                furthest = if distance.is_finite() {
                    furthest.max(distance)
                } else {
                    f32::MAX
                };
            }
            if found.len() != logits.len() {
                furthest = f32::MAX;
            }
            probe.slates.push_back(ProbeSlate {
                number,
                slate,
                vectors: VectorMap::default(),
            });
        }
        let breach = (furthest > SAME_LOGIT).then(|| Breach {
            gate: "recorded_scores".to_owned(),
            detail: None,
            value: f64::from(furthest),
            limits: (None, Some(f64::from(SAME_LOGIT))),
        });
        Ok((probe, breach))
    }
}

impl ProbeSlate {
    fn new(number: u64, group: &[Sample], vectors: &VectorMap) -> Self {
        let group = &group[..group.len().min(CANDIDATES)];
        let request = Arc::clone(&group[0].request);
        let candidates: Vec<_> = group.iter().map(|sample| Arc::clone(&sample.candidate)).collect();
        let contents = candidates.iter().map(|candidate| candidate.content);
        let vectors = vectors.subset(contents.chain(request.contents.iter().copied()));
        Self {
            number,
            slate: ShownSlate { request, candidates },
            vectors,
        }
    }

    /// Log-odds by a version, `[n_candidates, n_tasks]`.
    pub(super) fn score(&self, model: &mut Model, weights: &Weights) -> Result<Vec<f32>, Error> {
        score(model, weights, &self.slate, &self.vectors)
    }
}

fn score(
    model: &mut Model,
    weights: &Weights,
    slate: &ShownSlate,
    vectors: &VectorMap,
) -> Result<Vec<f32>, Error> {
    let inputs = Inputs::of_shown(&weights.config, std::slice::from_ref(slate), vectors);
    Ok(model.score(&inputs, weights)?)
}

#[cfg(test)]
mod tests {
    use ouzel_sample::SampleKind;

    use super::*;
    use crate::testing::{batch, sample};

    /// A batch with one slate of `n` items.
    fn slate(seq: u64, n: u64) -> Batch {
        let first = sample(seq, 0, SampleKind::Final, false);
        let items = (0..n).map(|item| Sample {
            request: Arc::clone(&first.request),
            ..sample(seq, item, SampleKind::Final, false)
        });
        Batch {
            seq,
            ..batch(items.collect())
        }
    }

    #[test]
    fn short_slates_are_more_and_a_full_probe_replaces_one_at_intervals() {
        for (n_items, n_slates) in [(24, SLATES), (2, 32), (1, MAX_SLATES)] {
            let mut probe = Probe::default();
            for seq in 1..1000 {
                probe.observe(&slate(seq, n_items));
            }
            assert_eq!(probe.slates.len(), n_slates, "{n_items} items a slate");
            assert_eq!(
                probe.n_taken,
                n_slates as u64 + 999 / REPLACE_EVERY - n_slates as u64 / REPLACE_EVERY
            );
        }
    }
}
