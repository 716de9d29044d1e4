//! Records of the log, before and after decoding.

use serde::{Deserialize, Serialize};

use crate::{Action, Deletion, EventTime, Impression, Item, ItemUpdate, JoinRecord, Position, ProfileUpdate};

/// A record as a source read it, before decoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position in the log.
    pub position: Position,
    /// The log's own timestamp, ms since the epoch: the reference for clock-skew checks. Records of a file carry
    /// the event time here.
    pub timestamp_ms: Option<i64>,
    /// The payload; `None` for a null value, which deletes the item or profile whose id is the key.
    pub payload: Option<Vec<u8>>,
    /// Key and headers, where the decoder needs them.
    pub metadata: Option<Box<RecordMetadata>>,
}

/// The key and the headers of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The key.
    pub key: Option<Vec<u8>>,
    /// Headers by name, in the order of the record.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// A decoded record: an event or the reason why there is none, with the record's coordinates.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedRecord {
    /// Position in the log.
    pub position: Position,
    /// The log's own timestamp, ms since the epoch.
    pub timestamp_ms: Option<i64>,
    /// The event, or why the record was rejected.
    pub event: Result<Event, Reject>,
}

impl DecodedRecord {
    /// About as many bytes as the record takes in memory: its lists, texts and vectors.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let event = match &self.event {
            Ok(Event::Impression(shown)) => {
                size_of_val(shown.items.as_slice()) + size_of_val(shown.context.as_slice())
            }
            Ok(Event::Item(item)) => {
                let texts: usize = item.texts.iter().map(String::len).sum();
                let values: usize = item.vectors.iter().map(|(_, vector)| vector.len()).sum();
                size_of_val(item.attributes.as_slice()) + texts + values * size_of::<f32>() + item.name.len()
            }
            Ok(Event::ItemUpdate(update)) => {
                let texts: usize = update.texts.iter().flatten().map(String::len).sum();
                let values: usize = update.vectors.iter().map(|(_, vector)| vector.len()).sum();
                size_of_val(update.features.as_slice())
                    + texts
                    + values * size_of::<f32>()
                    + update.name.len()
            }
            Ok(Event::Profile(update)) => size_of_val(update.features.as_slice()),
            Ok(Event::Actions(actions)) => size_of_val(actions.as_slice()),
            Ok(Event::JoinRecord(_) | Event::Action(_) | Event::Deletion(_)) => 0,
            Err(reject) => reject.detail.len(),
        };
        size_of::<Self>() + event
    }
}

/// A decoded event.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A slate was shown.
    Impression(Impression),
    /// A user acted on a shown item.
    Action(Action),
    /// A user acted on several items at once, as by an order.
    Actions(Vec<Action>),
    /// An item is new or has changed.
    Item(Box<Item>),
    /// Some fields of an item have changed.
    ItemUpdate(Box<ItemUpdate>),
    /// An item was deleted.
    Deletion(Deletion),
    /// The profile of a user is new, has changed or was deleted.
    Profile(Box<ProfileUpdate>),
    /// A result of the join tier.
    JoinRecord(Box<JoinRecord>),
}

impl Event {
    /// The event time.
    #[must_use]
    pub fn ts(&self) -> EventTime {
        match self {
            Event::Impression(impression) => impression.ts,
            Event::Action(action) => action.ts,
            Event::Actions(actions) => actions.first().map_or(EventTime::MIN, |action| action.ts),
            Event::Item(item) => item.ts,
            Event::ItemUpdate(update) => update.ts,
            Event::Deletion(deletion) => deletion.ts,
            Event::Profile(update) => update.ts,
            Event::JoinRecord(record) => record.ts(),
        }
    }
}

/// Why a record was rejected. Written to the dead-letter topic and counted by reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The category, for metrics.
    pub reason: RejectReason,
    /// The field and what is wrong with it. Holds no payload values except numbers and action names.
    pub detail: String,
    /// The name of an action that no task learns from.
    pub action: Option<String>,
}

impl Reject {
    /// A rejection for `reason`.
    #[must_use]
    pub fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            action: None,
        }
    }
}

/// The closed set of reasons for rejecting a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The record has no value.
    NullValue,
    /// The payload is larger than the configured limit.
    TooLarge,
    /// The payload is not a JSON object.
    MalformedJson,
    /// A required field is missing.
    MissingField,
    /// A field has the wrong type.
    WrongType,
    /// An id is empty or longer than [`crate::MAX_ID_BYTES`].
    BadId,
    /// More items, attributes, texts or vector values than the configured limit.
    TooMany,
    /// A number is not finite.
    NonFinite,
    /// Event time is ahead of the record's timestamp by more than the allowed skew.
    Future,
    /// Event time is before the earliest accepted time.
    TooOld,
    /// No task has the action's name.
    UnknownAction,
    /// Another stream's record: a condition in `where` does not hold.
    NotSelected,
    /// An operator has excluded the record from learning.
    Quarantined,
    /// The record comes from a join tier with another id salt or format.
    Foreign,
    /// The payload does not fit its schema, or has no frame that names one.
    MalformedPayload,
    /// The registry does not have the record's schema, or the schema cannot be used.
    UnknownSchema,
}

impl RejectReason {
    /// True of records that are valid and that nothing here needs: they are counted and go to no dead letters.
    #[must_use]
    pub fn is_unneeded(self) -> bool {
        matches!(
            self,
            RejectReason::UnknownAction | RejectReason::NotSelected | RejectReason::Quarantined
        )
    }

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
            RejectReason::Future => "future",
            RejectReason::TooOld => "too_old",
            RejectReason::UnknownAction => "unknown_action",
            RejectReason::NotSelected => "not_selected",
            RejectReason::Quarantined => "quarantined",
            RejectReason::Foreign => "foreign",
            RejectReason::MalformedPayload => "malformed_payload",
            RejectReason::UnknownSchema => "unknown_schema",
        }
    }
}
