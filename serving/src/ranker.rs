//! The interface between the port and the model: a request in, a row of probabilities per candidate out.
//!
//! It owns both shapes and the check of the result. It knows neither HTTP nor tensors.

use std::collections::BTreeSet;
use std::sync::Arc;

use thiserror::Error;

use crate::Variant;
use crate::retrieval::{CheckedRetrieval, RetrieveError, Retrieved};

/// A request that passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedRequest {
    /// The user, 1 to 512 bytes.
    pub user_id: String,
    /// The candidates: 1 to `ServingConfig::max_candidates` distinct ids of 1 to 512 bytes.
    pub items: Vec<String>,
    /// Features of each candidate, `[n_items]`.
    pub features: Vec<NamedValues>,
    /// Context values.
    pub context: NamedValues,
    /// Number of candidates to be shown; all when absent.
    pub top_k: Option<usize>,
}

/// Values by name, as the decoder of events reads them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamedValues {
    /// Distinct, sorted `(name, value)` pairs; a name may have several values.
    pub categories: Vec<(String, String)>,
    /// Numbers by name.
    pub numbers: Vec<(String, f32)>,
}

/// The scores of one request, in the order of [`CheckedRequest::items`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranked {
    /// Number of the version, see [`crate::Published`]; 0 if the fallback scored every candidate.
    pub version: u64,
    /// The snapshot that the version was loaded from or trained on from; empty with version 0.
    pub snapshot: Arc<str>,
    /// Names of the tasks.
    pub tasks: Arc<[Arc<str>]>,
    /// The values that order the candidates, `[n_items]`.
    pub scores: Vec<f32>,
    /// Probability of each task, `[n_items, n_tasks]` row by row.
    pub probabilities: Vec<f32>,
    /// Indices of the candidates that the fallback scored. It knows the first task; their other probabilities are NaN.
    pub fallback: BTreeSet<usize>,
    /// Present if a candidate version scored, not the served one.
    pub variant: Option<Variant>,
}

impl Ranked {
    /// Whether the fallback scored every candidate, because no version could.
    #[must_use]
    pub fn is_fallback(&self) -> bool {
        self.version == 0
    }

    /// Checks that shapes match and that every number a reply needs is finite.
    ///
    /// # Errors
    /// [`RankError::Failed`] with the first mismatch.
    pub fn checked(self, n_items: usize) -> Result<Self, RankError> {
        let n_tasks = self.tasks.len();
        let (n_scores, n_probabilities) = (self.scores.len(), self.probabilities.len());
        let why = if n_scores != n_items || n_probabilities != n_items * n_tasks {
            format!(
                "{n_scores} scores and {n_probabilities} probabilities for {n_items} items, {n_tasks} tasks"
            )
        } else if let Some(index) = self.scores.iter().position(|score| !score.is_finite()) {
            format!("candidate {index} a score that is not finite")
        } else if !self.has_needed_probabilities() {
            "a probability that is not finite".to_owned()
        } else {
            return Ok(self);
        };
        Err(RankError::Failed(format!("version {} gave {why}", self.version)))
    }

    /// Whether the model's probabilities, and the first one of each candidate of the fallback, are finite.
    fn has_needed_probabilities(&self) -> bool {
        let rows = self.probabilities.chunks_exact(self.tasks.len().max(1));
        rows.enumerate().all(|(index, row)| {
            let n_needed = if self.fallback.contains(&index) {
                1
            } else {
                row.len()
            };
            row.iter().take(n_needed).all(|p| p.is_finite())
        })
    }
}

/// The served version, for the status routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedModel {
    /// Number of the published version.
    pub version: u64,
    /// The snapshot that it was loaded from or trained on from.
    pub snapshot: Arc<str>,
    /// Names of its tasks.
    pub tasks: Arc<[Arc<str>]>,
}

/// Why a request has no scores.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages describe the variants")]
pub enum RankError {
    #[error("no model is published yet")]
    NotReady,
    #[error("scoring failed: {0}")]
    Failed(String),
    #[error("scoring failed: {0} gave a probability that is not finite")]
    NotFinite(String),
}

/// Computes scores. Each worker thread owns one ranker, which may hold tensors and scratch buffers.
pub trait Ranker: Send {
    /// Scores every candidate with the newest published version, or with a fallback.
    ///
    /// The version is taken once at the start; a swap during the call does not affect it.
    ///
    /// # Errors
    /// [`RankError::NotReady`] before the first version of a ranker without a fallback, [`RankError::Failed`] otherwise.
    fn rank(&mut self, request: &CheckedRequest) -> Result<Ranked, RankError>;

    /// Finds items of the catalog for a user or an item.
    ///
    /// # Errors
    /// [`RetrieveError`]; that there are no towers for a ranker that finds nothing.
    fn retrieve(&mut self, _request: &CheckedRetrieval) -> Result<Retrieved, RetrieveError> {
        Err(RetrieveError::NoTowers)
    }

    /// Called once the reply to a request that was ranked has been sent.
    fn replied(&mut self, _request: &Arc<CheckedRequest>) {}

    /// Drops a version that is no longer the newest. Idle workers call it, so that old versions leave memory.
    fn refresh(&mut self) {}
}

impl<R: Ranker + ?Sized> Ranker for Box<R> {
    fn rank(&mut self, request: &CheckedRequest) -> Result<Ranked, RankError> {
        (**self).rank(request)
    }

    fn retrieve(&mut self, request: &CheckedRetrieval) -> Result<Retrieved, RetrieveError> {
        (**self).retrieve(request)
    }

    fn replied(&mut self, request: &Arc<CheckedRequest>) {
        (**self).replied(request);
    }

    fn refresh(&mut self) {
        (**self).refresh();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked(scores: &[f32], probabilities: &[f32]) -> Ranked {
        Ranked {
            version: 3,
            snapshot: "s".into(),
            tasks: Arc::from([Arc::from("click")]),
            scores: scores.to_vec(),
            probabilities: probabilities.to_vec(),
            fallback: BTreeSet::new(),
            variant: None,
        }
    }

    #[test]
    fn wrong_shapes_and_numbers_that_are_not_finite_are_refused() {
        assert!(ranked(&[0.1, 0.2], &[0.1, 0.2]).checked(2).is_ok());
        let cases = [
            (ranked(&[0.1], &[0.1]), "1 scores"),
            (ranked(&[0.1, 0.2], &[0.1]), "1 probabilities"),
            (ranked(&[0.1, f32::NAN], &[0.1, 0.2]), "candidate 1 a score"),
            (ranked(&[0.1, 0.2], &[f32::INFINITY, 0.2]), "a probability"),
        ];
        for (ranked, expected) in cases {
            let error = ranked.checked(2).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
