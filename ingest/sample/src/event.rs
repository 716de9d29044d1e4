//! Decoded events of the streams that producers write.

use crate::{EventTime, Id, Number, TaskId};

/// One slate shown to one user, or a part of it: a request may be shown in several impressions.
#[derive(Clone, Debug, PartialEq)]
pub struct Impression {
    /// Id of the request; actions refer to it.
    pub request: Id,
    /// The user who saw it.
    pub user: Id,
    /// Event time at which it was shown.
    pub ts: EventTime,
    /// The shown items in order. The join takes each item of a request once.
    pub items: Vec<ShownItem>,
    /// Categorical values of the request, sorted.
    pub context: Vec<Id>,
    /// Numeric values of the request, sorted by name.
    pub numbers: Vec<Number>,
    /// All actions on these items. Set only in a replay with `labels = immediate`, which
    /// reveals the labels right after the request is predicted.
    pub known_actions: Option<Vec<KnownAction>>,
}

/// One item of a slate.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownItem {
    /// The item.
    pub item: Id,
    /// Place in the slate, from 0; `None` for logs that do not record it.
    pub position: Option<u16>,
    /// What describes the item in this request alone.
    pub features: ShownFeatures,
}

/// Values of an item in one request: a retrieval score, a distance, a label of the search.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShownFeatures {
    /// Categorical values, sorted and distinct.
    pub values: Vec<Id>,
    /// Numeric values, sorted by name.
    pub numbers: Vec<Number>,
}

impl ShownItem {
    /// A shown item without features of its own.
    #[must_use]
    pub fn new(item: Id, position: Option<u16>) -> Self {
        Self {
            item,
            position,
            features: ShownFeatures::default(),
        }
    }
}

/// An action that is known with the impression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnownAction {
    /// The item acted on.
    pub item: Id,
    /// The task that the action is a positive of.
    pub task: TaskId,
    /// As in [`Action`].
    pub value: Option<f32>,
}

/// An action of a user on an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Action {
    /// Id of the request that showed the item; `None` where the producer does not know it.
    pub request: Option<Id>,
    /// The item acted on.
    pub item: Id,
    /// The user who acted.
    pub user: Id,
    /// Event time of the action.
    pub ts: EventTime,
    /// The task that the action is a positive of.
    pub task: TaskId,
    /// Amount, dwell time or rating, in the producer's unit.
    pub value: Option<f32>,
}

/// The deletion of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The deleted item.
    pub item: Id,
    /// Event time of the deletion; an item version with a later time is kept.
    pub ts: EventTime,
}
