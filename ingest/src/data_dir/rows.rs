//! Converts lines of data files to events.
//!
//! Fields of the event format are kept. Other text becomes a feature of the item or context of the request, numbers
//! in `*_id` fields become text, other numbers stay numbers; empty text and `null` are absent.

use ouzel_sample::Stream;
use serde_json::{Map, Value, json};

/// One event of a data folder, ready to be produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataEvent {
    /// The stream it belongs to.
    pub stream: Stream,
    /// The record key: the request id or the item id.
    pub key: String,
    /// Event time, ms since the epoch.
    pub ts_ms: i64,
    /// The event as JSON.
    pub payload: Vec<u8>,
}

type Row = Map<String, Value>;

/// Fields of an impression row that are not context; the last three would reveal the outcome.
#[rustfmt::skip]
const IMPRESSION_FIELDS: &[&str] =
    &["request_id", "user_id", "item_id", "ts_ms", "position", "click", "clicked", "label"];

/// Fields of an item row that are not features.
#[rustfmt::skip]
const ITEM_FIELDS: &[&str] = &[
    "item_id", "ts_ms", "category", "author", "author_id", "director", "title", "text", "image", "vectors", "features",
];

/// Fields with the value of an action; the first that a row has counts.
const VALUE_FIELDS: &[&str] = &["value", "dwell_ms", "rating"];

/// The event fields of an impression row: one shown item.
pub(super) struct ImpressionRow {
    pub(super) request_id: String,
    user_id: String,
    item_id: String,
    ts_ms: i64,
    position: Option<u64>,
}

impl ImpressionRow {
    pub(super) fn read(row: &Row) -> Result<Self, String> {
        Ok(Self {
            request_id: required_text(row, "request_id")?,
            user_id: required_text(row, "user_id")?,
            item_id: required_text(row, "item_id")?,
            ts_ms: required_time(row)?,
            position: row.get("position").and_then(Value::as_u64),
        })
    }
}

/// The impression rows of one request.
pub(super) struct Slate {
    request_id: String,
    user_id: String,
    pub(super) ts_ms: i64,
    items: Vec<(String, Option<u64>)>,
    /// Other fields with equal values in every row; differing ones describe the item.
    context: Vec<(String, String)>,
}

impl Slate {
    pub(super) fn new(shown: &ImpressionRow, row: &Row) -> Self {
        Self {
            request_id: shown.request_id.clone(),
            user_id: shown.user_id.clone(),
            ts_ms: shown.ts_ms,
            items: Vec::new(),
            context: context_of(row),
        }
    }

    /// Adds a shown item. Returns false when the slate already has it.
    pub(super) fn add(&mut self, shown: ImpressionRow, row: &Row) -> Result<bool, String> {
        if (shown.ts_ms, &shown.user_id) != (self.ts_ms, &self.user_id) {
            return Err(format!(
                "request {} has rows of another time or user",
                self.request_id
            ));
        }
        if self.items.iter().any(|(item_id, _)| *item_id == shown.item_id) {
            return Ok(false);
        }
        if !self.items.is_empty() {
            let context = context_of(row);
            self.context.retain(|pair| context.contains(pair));
        }
        self.items.push((shown.item_id, shown.position));
        Ok(true)
    }

    pub(super) fn into_event(self) -> DataEvent {
        let item = |(item_id, position)| match position {
            Some(position) => json!({ "item_id": item_id, "position": position }),
            None => json!({ "item_id": item_id }),
        };
        let items: Vec<Value> = self.items.into_iter().map(item).collect();
        let mut event = json!({
            "request_id": self.request_id, "user_id": self.user_id, "ts_ms": self.ts_ms, "items": items,
        });
        if !self.context.is_empty() {
            let context = self.context.into_iter().map(|(name, text)| (name, json!(text)));
            event["context"] = context.collect();
        }
        data_event(Stream::Impressions, self.request_id, self.ts_ms, &event)
    }
}

/// The name and the event of an action row; `default` is the name when the row has none.
pub(super) fn action(row: &Row, default: Option<&str>) -> Result<(String, DataEvent), String> {
    let name = ["action", "type"]
        .iter()
        .find_map(|field| optional_text(row, field))
        .or_else(|| default.map(str::to_owned))
        .ok_or("neither `action` nor `type` names the action")?;
    let request_id = required_text(row, "request_id")?;
    let ts_ms = required_time(row)?;
    let mut event = json!({
        "request_id": request_id,
        "item_id": required_text(row, "item_id")?,
        "user_id": required_text(row, "user_id")?,
        "ts_ms": ts_ms,
        "action": name,
    });
    let value = VALUE_FIELDS
        .iter()
        .filter_map(|field| row.get(*field))
        .find(|value| value.is_number());
    if let Some(value) = value {
        event["value"] = value.clone();
    }
    Ok((name, data_event(Stream::Actions, request_id, ts_ms, &event)))
}

/// The event of an item row; `default_ts` is its time when the row has none.
pub(super) fn item(row: Row, default_ts: i64) -> Result<DataEvent, String> {
    let item_id = required_text(&row, "item_id")?;
    let ts_ms = match row.contains_key("ts_ms") {
        true => required_time(&row)?,
        false => default_ts,
    };
    let mut event = Map::new();
    event.insert("item_id".into(), json!(item_id));
    event.insert("ts_ms".into(), json!(ts_ms));
    let categories = match row.get("category") {
        Some(list @ Value::Array(_)) => texts_of(Some(list)),
        other => {
            let text = other.and_then(text_of).unwrap_or_default();
            text.split('|').map(str::to_owned).collect()
        }
    };
    insert_texts(&mut event, "category", categories);
    let author = ["author", "author_id", "director"];
    if let Some(author) = author.iter().find_map(|field| optional_text(&row, field)) {
        event.insert("author".into(), json!(author));
    }
    for field in ["title", "image"] {
        if let Some(text) = optional_text(&row, field) {
            event.insert(field.into(), json!(text));
        }
    }
    insert_texts(&mut event, "text", texts_of(row.get("text")));
    if let Some(vectors @ Value::Object(_)) = row.get("vectors") {
        event.insert("vectors".into(), vectors.clone());
    }
    let mut features = match row.get("features") {
        Some(Value::Object(features)) => features.clone(),
        _ => Map::new(),
    };
    for (name, value) in row {
        match &value {
            _ if ITEM_FIELDS.contains(&name.as_str()) => {}
            Value::Array(_) => insert_texts(&mut features, &name, texts_of(Some(&value))),
            Value::Number(number) if name.ends_with("_id") => {
                features.insert(name, json!(number.to_string()));
            }
            Value::String(text) if text.is_empty() => {}
            Value::Null | Value::Object(_) => {}
            Value::String(_) | Value::Number(_) | Value::Bool(_) => {
                features.insert(name, value);
            }
        }
    }
    if !features.is_empty() {
        event.insert("features".into(), Value::Object(features));
    }
    Ok(data_event(Stream::Items, item_id, ts_ms, &Value::Object(event)))
}

/// A user and the items acted on before the log, oldest first.
pub(super) fn history(row: &Row) -> Result<(String, Vec<String>), String> {
    let Some(Value::Array(_)) = row.get("clicked_before") else {
        return Err("`clicked_before` is not a list".to_owned());
    };
    let items = texts_of(row.get("clicked_before"));
    Ok((required_text(row, "user_id")?, items))
}

fn data_event(stream: Stream, key: String, ts_ms: i64, event: &Value) -> DataEvent {
    DataEvent {
        stream,
        key,
        ts_ms,
        payload: event.to_string().into_bytes(),
    }
}

/// Fields of an impression row that are context, as text.
fn context_of(row: &Row) -> Vec<(String, String)> {
    row.iter()
        .filter(|(name, _)| !IMPRESSION_FIELDS.contains(&name.as_str()))
        .filter_map(|(name, value)| Some((name.clone(), text_of(value)?)))
        .collect()
}

fn required_text(row: &Row, field: &str) -> Result<String, String> {
    optional_text(row, field).ok_or_else(|| format!("`{field}` is missing"))
}

fn optional_text(row: &Row, field: &str) -> Option<String> {
    row.get(field).and_then(text_of)
}

fn required_time(row: &Row) -> Result<i64, String> {
    row.get("ts_ms")
        .and_then(Value::as_i64)
        .ok_or_else(|| "`ts_ms` is not an integer".to_owned())
}

/// A scalar as text; `None` for empty text, null, lists and objects.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn texts_of(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(text_of).collect(),
        Some(other) => text_of(other).into_iter().collect(),
        None => Vec::new(),
    }
}

fn insert_texts(object: &mut Map<String, Value>, name: &str, texts: Vec<String>) {
    let texts = texts.into_iter().filter(|text| !text.is_empty());
    let texts: Vec<Value> = texts.map(Value::String).collect();
    if !texts.is_empty() {
        object.insert(name.to_owned(), Value::Array(texts));
    }
}
