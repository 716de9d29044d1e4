//! Training samples: one shown item with its features as of the impression.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use crate::{Attribute, Dense, EventTime, Id, Labels, MAX_TASKS, Position, TaskId, VectorId};

/// The user side of a slate, computed once and shared by all its candidates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Id of the request.
    pub id: Id,
    /// The user who saw it.
    pub user: Id,
    /// Event time of the impression.
    pub ts: EventTime,
    /// Categorical values of the request.
    pub context: Vec<Id>,
    /// The user's actions strictly before `ts`, oldest first, at most `FeatureConfig::history_len`.
    pub history: Vec<HistoryEntry>,
    /// Content of the newest `FeatureConfig::history_contents` entries of `history`, oldest first.
    pub contents: Vec<VectorId>,
    /// Lists of the user's long past strictly before `ts`, each oldest first and at most `FeatureConfig::long_len` long; they
    /// may repeat actions of `history`. Empty where the model reads none.
    pub past: Vec<Vec<HistoryEntry>>,
    /// Number of items in the slate.
    pub n_items: u16,
}

/// One past action of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The item acted on.
    pub item: Id,
    /// Event time of the action.
    pub ts: EventTime,
    /// The item's [`primary_attribute`](crate::primary_attribute) at the time of the action.
    pub attribute: Id,
    /// The task that the action is a positive of.
    pub task: TaskId,
}

/// The item side: one candidate of a slate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The item.
    pub item: Id,
    /// The item's categorical values as of the impression.
    pub attributes: Vec<Attribute>,
    /// Place in the slate, from 0.
    pub position: Option<u16>,
    /// Live features as of the impression, see [`crate::DENSE_NAMES`].
    pub dense: Dense,
    /// The item's content as of the impression.
    pub content: VectorId,
    /// The place in `Request::past` of the list that the candidate reads; none without such actions.
    pub past: Option<u16>,
    /// The predictions at the time of the impression.
    #[serde(skip)]
    pub predicted: ShownLogits,
}

/// The logit of each task predicted when the item was shown, once the learner has set them.
///
/// Validation compares it with the outcome, which may come hours later, when the model has already learned from
/// the same slate. It takes no part in state, equality or ledger; a sample restored without it is validated with
/// the prediction made just before it is learned.
#[derive(Debug)]
pub struct ShownLogits([AtomicU32; MAX_TASKS]);

impl Default for ShownLogits {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU32::new(f32::NAN.to_bits())))
    }
}

impl Clone for ShownLogits {
    fn clone(&self) -> Self {
        Self(std::array::from_fn(|task| {
            AtomicU32::new(self.0[task].load(Ordering::Relaxed))
        }))
    }
}

impl PartialEq for ShownLogits {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl ShownLogits {
    /// Sets the logits, `[n_tasks]`; the tasks beyond them become unknown.
    pub fn set(&self, logits: &[f32]) {
        let padded = logits.iter().copied().chain(std::iter::repeat(f32::NAN));
        for (task, logit) in self.0.iter().zip(padded) {
            task.store(logit.to_bits(), Ordering::Relaxed);
        }
    }

    /// The logit of a task; `None` until it is set.
    #[must_use]
    pub fn get(&self, task: usize) -> Option<f32> {
        let logit = f32::from_bits(self.0.get(task)?.load(Ordering::Relaxed));
        (!logit.is_nan()).then_some(logit)
    }
}

/// A slate that was just shown: the learner predicts it before its outcome is known.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownSlate {
    /// The user side.
    pub request: Arc<Request>,
    /// The item sides, shared with the samples made of them later.
    pub candidates: Vec<Arc<Candidate>>,
}

/// Why the joiner emitted a sample. The label policy decides which kinds exist and how they weigh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum SampleKind {
    /// The label is certain: the attribution window closed, or the action arrived.
    Final = 0,
    /// Emitted before the window closed and taken as negative for now.
    EarlyNegative = 1,
    /// The action arrived after the item had been emitted as negative.
    LatePositive = 2,
    /// The second copy of a sample, emitted once its label is certain.
    RealCopy = 3,
    /// Reverts an earlier negative: the gradient of the positive minus that of the negative.
    Correction = 4,
}

/// One shown item with its labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Running number of the sample in its lineage, from 0.
    pub seq: u64,
    /// The user side.
    pub request: Arc<Request>,
    /// The item side.
    pub candidate: Arc<Candidate>,
    /// The labels that became known with this sample.
    pub labels: Labels,
    /// The values of positives whose action carried one and whose task uses it, in `[0, 1]` of its cap, by task.
    pub values: Vec<(TaskId, f32)>,
    /// Why it was emitted.
    pub kind: SampleKind,
    /// Weight in the loss, in `(0, 1]`.
    pub weight: f32,
    /// Position of the impression's record.
    pub shown_at: Position,
    /// Record timestamp of the deciding action, ms; `None` when the window closed without one. Freshness is
    /// measured from it.
    pub action_record_ms: Option<i64>,
}

impl Sample {
    /// The id of its impression, whose samples share their request side; a request may have several impressions.
    #[must_use]
    pub fn impression(&self) -> Id {
        let Position { partition, offset } = self.shown_at;
        let record = Id(offset.cast_unsigned()).pair(Id(u64::from(partition.partition.cast_unsigned())));
        self.request.id.pair(record)
    }
}
