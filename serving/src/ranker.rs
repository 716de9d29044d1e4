//! The seam between the port and the model: one request in, one row of probabilities per candidate out.
//!
//! Owns the two shapes that cross it and the checks on what comes back. Knows neither HTTP nor tensors.

use std::sync::Arc;

use thiserror::Error;

/// A request after every check: what a ranker may rely on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedRequest {
    /// Who asks; 1 to 128 bytes.
    pub user_id: String,
    /// The candidates: 1 to `ServingConfig::max_candidates` distinct ids of 1 to 128 bytes.
    pub items: Vec<String>,
    /// Categorical values of the request as `(name, value)`, sorted and distinct; a name may have several.
    pub context: Vec<(String, String)>,
    /// How many of the candidates will be shown, when not all.
    pub top_k: Option<usize>,
}

/// The scores of one request, all computed by one version, in the order of [`CheckedRequest::items`].
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Number of the version that computed them, see [`crate::Published`].
    pub version: u64,
    /// The snapshot that version is or descends from.
    pub snapshot: Arc<str>,
    /// Names of the tasks.
    pub tasks: Arc<[Arc<str>]>,
    /// What the candidates are ordered by, `[n_items]`.
    pub scores: Vec<f32>,
    /// Probability of each task, `[n_items, n_tasks]` row by row.
    pub probabilities: Vec<f32>,
}

impl Ranked {
    /// Checks the shapes and that every number is finite, so that nothing behind this has to.
    ///
    /// # Errors
    /// [`RankError::Failed`] saying which.
    pub fn checked(self, n_items: usize) -> Result<Self, RankError> {
        let n_tasks = self.tasks.len();
        if self.scores.len() != n_items || self.probabilities.len() != n_items * n_tasks {
            return Err(RankError::Failed(format!(
                "version {} gave {} scores and {} probabilities for {n_items} items and {n_tasks} tasks",
                self.version,
                self.scores.len(),
                self.probabilities.len()
            )));
        }
        if let Some(place) = self.scores.iter().position(|score| !score.is_finite()) {
            return Err(RankError::Failed(format!(
                "version {} gave candidate {place} a score that is not finite",
                self.version
            )));
        }
        if !self.probabilities.iter().all(|p| p.is_finite()) {
            return Err(RankError::Failed(format!(
                "version {} gave a probability that is not finite",
                self.version
            )));
        }
        Ok(self)
    }
}

/// What is being served, for the routes that tell about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedModel {
    /// Number of the published version.
    pub version: u64,
    /// The snapshot it is or descends from.
    pub snapshot: Arc<str>,
    /// Names of its tasks.
    pub tasks: Arc<[Arc<str>]>,
}

/// Why there are no scores.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RankError {
    /// Nothing has been published yet.
    #[error("no model is published yet")]
    NotReady,
    /// The model could not compute this request.
    #[error("scoring failed: {0}")]
    Failed(String),
}

impl RankError {
    /// True when asking again later may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, RankError::NotReady)
    }
}

/// Computes scores. Each worker thread owns one, so an implementation may keep tensors and scratch space.
pub trait Ranker: Send {
    /// Scores every candidate of `ask` with the newest published version.
    ///
    /// The version is taken once, at the start: a swap during the call changes nothing in it.
    ///
    /// # Errors
    /// [`RankError::NotReady`] before the first version, [`RankError::Failed`] otherwise.
    fn rank(&mut self, ask: &CheckedRequest) -> Result<Ranked, RankError>;

    /// Lets go of versions that are no longer the newest. Called when no request has come for a moment, so that
    /// an idle worker does not keep an old version in memory.
    fn refresh(&mut self) {}
}

impl<R: Ranker + ?Sized> Ranker for Box<R> {
    fn rank(&mut self, ask: &CheckedRequest) -> Result<Ranked, RankError> {
        (**self).rank(ask)
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
        }
    }

    #[test]
    fn wrong_shapes_and_numbers_that_are_not_finite_never_pass() {
        assert!(ranked(&[0.1, 0.2], &[0.1, 0.2]).checked(2).is_ok());
        let cases = [
            (ranked(&[0.1], &[0.1]), "1 scores"),
            (ranked(&[0.1, 0.2], &[0.1]), "1 probabilities"),
            (ranked(&[0.1, f32::NAN], &[0.1, 0.2]), "candidate 1 a score"),
            (ranked(&[0.1, 0.2], &[f32::INFINITY, 0.2]), "a probability"),
        ];
        for (ranked, says) in cases {
            let error = ranked.checked(2).expect_err(says);
            assert!(error.to_string().contains(says), "{error}");
            assert!(!error.is_transient());
        }
    }
}
