//! Groups events of single rows into slates, and reads histories.

use std::borrow::Cow;
use std::collections::HashMap;

use ouzel_sample::{Reject, RejectReason, Stream};
use serde_json::{Map, Value};

use crate::mapping::text_of;

/// One event of a data folder, ready to be produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataEvent {
    /// The stream it belongs to.
    pub stream: Stream,
    /// The record key: the id of the request, the item or the user.
    pub key: String,
    /// Event time, ms since the epoch.
    pub ts_ms: i64,
    /// The event as JSON.
    pub payload: Vec<u8>,
}

impl DataEvent {
    /// The record of a checked event of the contract.
    pub(super) fn new(stream: Stream, event: &Value) -> Self {
        let key = match stream {
            Stream::Items => "item_id",
            Stream::Users => "user_id",
            _ => "request_id",
        };
        Self {
            stream,
            key: event
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            ts_ms: event.get("ts_ms").and_then(Value::as_i64).unwrap_or_default(),
            payload: event.to_string().into_bytes(),
        }
    }
}

/// What became of a row of the impressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// Its items were added.
    Used,
    /// Its items were shown by the same slate already.
    Repeated,
}

/// Slates in the order of their first rows.
///
/// Rows of one request, user, time and context are one slate: a file with a row for each shown item. Rows that differ in
/// one of these are slates of their own, and the join puts those of a request together.
#[derive(Debug, Default)]
pub(super) struct Slates {
    slates: Vec<Map<String, Value>>,
    by_key: HashMap<String, usize>,
    max_items: usize,
}

impl Slates {
    /// No slates yet; a slate takes `max_items` items, and further rows begin another.
    pub(super) fn new(max_items: usize) -> Self {
        Self {
            max_items,
            ..Self::default()
        }
    }

    /// Adds a checked impression.
    pub(super) fn add(&mut self, impression: Value) -> Added {
        let Value::Object(mut impression) = impression else {
            return Added::Repeated;
        };
        let part = |name: &str| impression.get(name).map(Value::to_string).unwrap_or_default();
        let key = ["request_id", "user_id", "ts_ms", "context"].map(part).join("\n");
        let Some(at) = self.by_key.get(&key) else {
            self.by_key.insert(key, self.slates.len());
            self.slates.push(impression);
            return Added::Used;
        };
        let slate = &mut self.slates[*at];
        let (Some(Value::Array(items)), Some(Value::Array(shown))) =
            (impression.remove("items"), slate.get_mut("items"))
        else {
            return Added::Repeated;
        };
        let is_new = |item: &Value| {
            !shown
                .iter()
                .any(|known| known.get("item_id") == item.get("item_id"))
        };
        let new: Vec<Value> = items.into_iter().filter(is_new).collect();
        if new.is_empty() {
            return Added::Repeated;
        }
        if shown.len() + new.len() > self.max_items {
            impression.insert("items".to_owned(), Value::Array(new));
            self.by_key.insert(key, self.slates.len());
            self.slates.push(impression);
        } else {
            shown.extend(new);
        }
        Added::Used
    }

    /// The slates as impressions.
    pub(super) fn into_events(self) -> impl Iterator<Item = Value> {
        self.slates.into_iter().map(Value::Object)
    }
}

/// A user and the items acted on before the log, oldest first.
pub(super) fn history(row: &Value) -> Result<(String, Vec<String>), Reject> {
    let wrong = |detail: &str| Reject::new(RejectReason::WrongType, detail);
    let user = row
        .get("user_id")
        .and_then(text_of)
        .filter(|text| !text.is_empty());
    let missing = || Reject::new(RejectReason::MissingField, "`user_id` is missing");
    let user = user.ok_or_else(missing)?.into_owned();
    let items = ["items", "clicked_before"]
        .iter()
        .find_map(|field| row.get(*field));
    let Some(Value::Array(items)) = items else {
        return Err(wrong("neither `items` nor `clicked_before` is a list"));
    };
    let ids: Vec<String> = items.iter().filter_map(text_of).map(Cow::into_owned).collect();
    if ids.len() < items.len() {
        return Err(wrong("the list of items holds something that is no id"));
    }
    Ok((user, ids))
}
