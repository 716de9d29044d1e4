//! A training sample: one shown item with what was known when it was shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use crate::{Dense, EventTime, Id, Labels, Position, TaskId, VectorId};

/// The user side of a slate, shared by all its candidates and computed once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The slate.
    pub id: Id,
    /// Who saw it.
    pub user: Id,
    /// When.
    pub ts: EventTime,
    /// Categorical values of the request.
    pub context: Vec<Id>,
    /// The user's actions strictly before `ts`, oldest first, at most `FeatureConfig::history_len`.
    pub history: Vec<HistoryEntry>,
    /// Content of the newest entries of `history`, oldest first, as far as `FeatureConfig::history_contents` asks.
    pub contents: Vec<VectorId>,
    /// How many items the slate had.
    pub n_items: u16,
}

/// One past action of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// On which item.
    pub item: Id,
    /// When.
    pub ts: EventTime,
    /// What the item was about when it was acted on: the first of its category, author and tags; 0 for nothing.
    pub about: Id,
    /// Which task's action it was.
    pub task: TaskId,
}

/// The item side: one candidate of a slate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Which item.
    pub item: Id,
    /// Its categorical values as of the impression.
    pub attributes: Vec<crate::Attribute>,
    /// Where it was shown, from 0.
    pub position: Option<u16>,
    /// The live features as of the impression, see [`crate::DENSE_NAMES`].
    pub dense: Dense,
    /// Its content as of the impression.
    pub content: VectorId,
    /// What the model predicted when it was shown.
    #[serde(skip)]
    pub predicted: Predicted,
}

/// The logit of the primary task at the moment of the impression, once the learner has filled it in.
///
/// Validation compares it with the outcome, which may come hours later, when the model has long learned from
/// the same slate. It decides nothing: it is not part of the state, of equality, or of the ledger, and a sample
/// restored without it is validated with the prediction made when it is learned.
#[derive(Debug)]
pub struct Predicted(AtomicU32);

impl Default for Predicted {
    fn default() -> Self {
        Self(AtomicU32::new(f32::NAN.to_bits()))
    }
}

impl Clone for Predicted {
    fn clone(&self) -> Self {
        Self(AtomicU32::new(self.0.load(Ordering::Relaxed)))
    }
}

impl PartialEq for Predicted {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Predicted {
    /// Fills it in.
    pub fn set(&self, logit: f32) {
        self.0.store(logit.to_bits(), Ordering::Relaxed);
    }

    /// The logit, if it was filled in.
    #[must_use]
    pub fn get(&self) -> Option<f32> {
        let logit = f32::from_bits(self.0.load(Ordering::Relaxed));
        (!logit.is_nan()).then_some(logit)
    }
}

/// A slate that was shown and whose outcome is not known yet: to be predicted, not learned from.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// The user side.
    pub request: Arc<Request>,
    /// The item sides; the same that its samples will hold.
    pub candidates: Vec<Arc<Candidate>>,
}

/// Why the joiner emitted a sample; label policies choose which kinds exist and how they weigh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// The outcome is certain: the window closed, or the action came.
    Final = 0,
    /// Emitted before the window closed, taken as negative for now.
    EarlyNegative = 1,
    /// An action came after a sample of the same item had been emitted as negative.
    LatePositive = 2,
    /// The second copy of a sample whose outcome is now certain.
    RealCopy = 3,
    /// Undoes an earlier negative: the gradient of positive minus negative.
    Correction = 4,
}

/// One shown item with its labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Running number of the sample in this lineage, from 0.
    pub seq: u64,
    /// The user side.
    pub request: Arc<Request>,
    /// The item side.
    pub candidate: Arc<Candidate>,
    /// What became known with this sample.
    pub labels: Labels,
    /// Why it was emitted.
    pub kind: Kind,
    /// Weight in the loss, in `(0, 1]`.
    pub weight: f32,
    /// The impression's record.
    pub shown_at: Position,
    /// Record timestamp of the action that decided it, ms; `None` when a closing window did. Freshness is
    /// measured from it.
    pub action_record_ms: Option<i64>,
}
