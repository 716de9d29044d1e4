//! Events as decoded, and the records they came in.

use serde::{Deserialize, Serialize};

use crate::{EventTime, Id, Item, JoinRecord, Position, TaskId};

/// A record as a source read it, before decoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub position: Position,
    /// The log's own timestamp, ms since the epoch; the reference for clock-skew checks. A file has none of
    /// its own and states the event's.
    pub timestamp_ms: Option<i64>,
    /// The payload; `None` is a null value. That of an item's tombstone in Kafka is the deletion it stands for.
    pub payload: Option<Vec<u8>>,
}

/// What a record decoded to, with the coordinates that follow it through the join.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Where the record stands.
    pub position: Position,
    /// The log's own timestamp, ms since the epoch.
    pub timestamp_ms: Option<i64>,
    /// The event, or why there is none.
    pub event: Result<Event, Reject>,
}

/// A decoded event.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A slate was shown.
    Impression(Impression),
    /// A user did something with a shown item.
    Action(Action),
    /// An item is new or has changed.
    Item(Box<Item>),
    /// An item is gone on purpose, and is to be forgotten.
    Deleted(Deletion),
    /// What the join tier made of an impression or an action.
    JoinRecord(Box<JoinRecord>),
}

impl Event {
    /// The payload's time.
    #[must_use]
    pub fn ts(&self) -> EventTime {
        match self {
            Event::Impression(impression) => impression.ts,
            Event::Action(action) => action.ts,
            Event::Item(item) => item.ts,
            Event::Deleted(deletion) => deletion.ts,
            Event::JoinRecord(told) => told.ts(),
        }
    }
}

/// An item's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Which item.
    pub item: Id,
    /// When; a version made later stands.
    pub ts: EventTime,
}

/// One slate shown to one user.
#[derive(Clone, Debug, PartialEq)]
pub struct Impression {
    /// The slate's id; actions name it.
    pub request: Id,
    /// Who saw it.
    pub user: Id,
    /// When it was shown.
    pub ts: EventTime,
    /// What was shown, in order; item ids are distinct.
    pub items: Vec<ShownItem>,
    /// Categorical values of the request, sorted.
    pub context: Vec<Id>,
    /// Actions already known to belong to this slate, as `(item, task)`. Only a replay with
    /// `labels = immediate` fills it: the label is then revealed right after the request is predicted.
    pub revealed: Option<Vec<(Id, TaskId)>>,
}

/// One item of a slate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownItem {
    /// Which item.
    pub item: Id,
    /// Where it was shown, from 0; unknown for shuffled logs.
    pub position: Option<u16>,
}

/// What a user did with a shown item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Action {
    /// The slate it was shown in.
    pub request: Id,
    /// Which item.
    pub item: Id,
    /// Who acted.
    pub user: Id,
    /// When.
    pub ts: EventTime,
    /// Which configured task this action is the positive of.
    pub task: TaskId,
    /// Amount, dwell or rating, in the producer's unit.
    pub value: Option<f32>,
}

/// Why a record could not be used. Goes to the dead-letter topic and into a counter by reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// One of a closed set, used as a metric label.
    pub reason: RejectReason,
    /// What exactly was wrong, for the person reading the dead-letter topic.
    pub detail: String,
}

impl Reject {
    /// A rejection.
    pub fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// The closed set of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The record has no value.
    NullValue,
    /// Larger than the configured bound.
    TooLarge,
    /// Not JSON, or not a JSON object.
    MalformedJson,
    /// A field that must be there is not.
    MissingField,
    /// A field of another type than the contract's.
    WrongType,
    /// An id that is empty or longer than [`crate::MAX_ID_BYTES`].
    BadId,
    /// More items, features or history entries than the configured bound.
    TooMany,
    /// A number that is not finite.
    NonFinite,
    /// An item twice in one slate.
    DuplicateItem,
    /// Event time later than the record's timestamp by more than the allowed skew.
    Future,
    /// Event time before the earliest accepted one.
    TooOld,
    /// An action type that no task names.
    UnknownAction,
    /// LabeledItem by a join tier with other ids or another format.
    Foreign,
}

impl RejectReason {
    /// The reason as a metric label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RejectReason::NullValue => "null_value",
            RejectReason::TooLarge => "too_large",
            RejectReason::MalformedJson => "malformed_json",
            RejectReason::MissingField => "missing_field",
            RejectReason::WrongType => "wrong_type",
            RejectReason::BadId => "bad_id",
            RejectReason::TooMany => "too_many",
            RejectReason::NonFinite => "non_finite",
            RejectReason::DuplicateItem => "duplicate_item",
            RejectReason::Future => "future",
            RejectReason::TooOld => "too_old",
            RejectReason::UnknownAction => "unknown_action",
            RejectReason::Foreign => "foreign",
        }
    }
}
