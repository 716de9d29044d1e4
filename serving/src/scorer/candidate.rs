//! A scorer's part in shadow and canary.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::{LoadedModel, Scorer, load_newest, sigmoid};
use crate::candidate::ActiveCandidate;
use crate::{CandidateSlot, CheckedRequest, RankError, Ranked, ShadowJob, Variant};

/// What a scorer needs of the candidate.
pub(super) struct CandidateScorer {
    slot: Arc<CandidateSlot>,
    /// Takes requests to the thread of the shadow; `None` in that thread.
    shadow: Option<SyncSender<ShadowJob>>,
    current: Option<LoadedModel>,
    /// The request that is being answered, for the shadow.
    waiting: Option<Waiting>,
}

struct Waiting {
    candidate: Arc<ActiveCandidate>,
    first: Option<usize>,
}

impl Scorer {
    /// Lets the candidate of `slot` take part: a canary answers, and what a shadow scores goes to `shadow`.
    #[must_use]
    pub fn with_candidate(mut self, slot: Arc<CandidateSlot>, shadow: Option<SyncSender<ShadowJob>>) -> Self {
        self.candidate = Some(CandidateScorer {
            slot,
            shadow,
            current: None,
            waiting: None,
        });
        self
    }

    /// The reply of the canary, if the user is of its share. `None` also where it cannot score, which is counted.
    pub(super) fn rank_by_canary(&mut self, request: &CheckedRequest) -> Option<Ranked> {
        let candidate = self.candidate_of(request)?;
        if candidate.role.variant != Variant::Canary {
            return None;
        }
        match self.score_by_candidate(request) {
            Ok(ranked) => {
                candidate.count_scored(false);
                Some(Ranked {
                    variant: Some(Variant::Canary),
                    ..ranked
                })
            }
            // It was stopped meanwhile.
            Err(RankError::NotReady) => None,
            Err(error) => {
                let is_first = candidate.count_failed();
                if matches!(error, RankError::NotFinite(_)) {
                    candidate.suspend();
                }
                if is_first {
                    tracing::error!(%error, "the canary cannot score: the served version answers");
                }
                None
            }
        }
    }

    /// Notes for the shadow what the served version has ranked first.
    pub(super) fn note_for_shadow(&mut self, request: &CheckedRequest, ranked: &Ranked) {
        let candidate = self.candidate_of(request);
        let Some(own) = &mut self.candidate else { return };
        own.waiting = candidate
            .filter(|candidate| candidate.role.variant == Variant::Shadow)
            .map(|candidate| Waiting {
                candidate,
                first: (!ranked.is_fallback()).then(|| first(&ranked.scores)).flatten(),
            });
    }

    /// Hands the answered request to the thread of the shadow, or drops it if that is behind.
    pub(super) fn send_to_shadow(&mut self, request: &Arc<CheckedRequest>) {
        let Some(own) = &mut self.candidate else { return };
        let (Some(Waiting { candidate, first }), Some(shadow)) = (own.waiting.take(), &own.shadow) else {
            return;
        };
        let job = ShadowJob {
            request: Arc::clone(request),
            candidate: Arc::clone(&candidate),
            first,
        };
        if shadow.try_send(job).is_err() {
            candidate.count_dropped();
        }
    }

    /// Scores a request as the shadow.
    pub(crate) fn shadow(&mut self, job: &ShadowJob) {
        match self.score_by_candidate(&job.request) {
            Ok(ranked) => {
                let is_same = job.first.is_some() && job.first == first(&ranked.scores);
                job.candidate.count_scored(is_same);
            }
            // It was stopped after the request was sent.
            Err(RankError::NotReady) => job.candidate.count_dropped(),
            Err(error) => {
                if job.candidate.count_failed() {
                    tracing::error!(%error, "the shadow cannot score a request; no reply depends on it");
                }
            }
        }
    }

    /// Drops the candidate's model if it is not the newest; loads the newest so that no request waits for that.
    pub(super) fn refresh_candidate(&mut self) {
        match self.load_candidate() {
            Ok(()) | Err(RankError::NotReady) => {}
            Err(error) => tracing::error!(%error, "an idle worker cannot take the candidate"),
        }
    }

    fn candidate_of(&self, request: &CheckedRequest) -> Option<Arc<ActiveCandidate>> {
        let own = self.candidate.as_ref()?;
        own.slot.of_user(|| self.user(request))
    }

    /// Scores by the candidate alone, without a fallback.
    fn score_by_candidate(&mut self, request: &CheckedRequest) -> Result<Ranked, RankError> {
        self.load_candidate()?;
        let mut current = self.candidate.as_mut().and_then(|own| own.current.take());
        let LoadedModel { loaded, model } = current.as_mut().ok_or(RankError::NotReady)?;
        let (loaded, inputs) = (loaded.clone(), self.inputs(request, loaded.value.weights()));
        let logits = model.score(&inputs, loaded.value.weights());
        if let Some(own) = &mut self.candidate {
            own.current = current;
        }
        let id = loaded.value.snapshot();
        let logits = logits.map_err(|error| RankError::Failed(format!("candidate {id}: {error}")))?;
        let probabilities: Vec<f32> = logits.into_iter().map(sigmoid).collect();
        if probabilities.iter().all(|p| p.is_finite()) {
            Ok(self.ranked(request, &loaded, probabilities))
        } else {
            Err(RankError::NotFinite(format!("candidate {id}")))
        }
    }

    /// Makes the model of the newest candidate the current one; none if there is no candidate.
    fn load_candidate(&mut self) -> Result<(), RankError> {
        let Some(own) = &mut self.candidate else {
            return Err(RankError::NotReady);
        };
        let versions = own.slot.versions();
        if versions.is_empty() {
            own.current = None;
            return Err(RankError::NotReady);
        }
        load_newest(&mut own.current, versions, self.device, &self.expression).map(|_| ())
    }
}

/// The index of the best score, the first of equal ones.
fn first(scores: &[f32]) -> Option<usize> {
    let best = scores.iter().copied().reduce(f32::max)?;
    scores.iter().position(|score| *score >= best)
}
