//! Applies a mapping: a record as a JSON value in, events of the contract as JSON values out.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use ouzel_sample::{Reject, RejectReason, Stream};
use serde_json::{Map, Value};

use super::config::Field;
use super::fields::{Named, id, insert_named, kind, missing, read_fields, scalars, texts};
use super::path::{Metadata, Path, Scope, text_of};
use super::time::{self, TimeUnit};

/// A compiled section `[events.<stream>]`.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub(super) stream: Stream,
    pub(super) conditions: Vec<(Path, Vec<String>)>,
    pub(super) root: Field,
    pub(super) time: Field,
    pub(super) time_name: String,
    pub(super) unit: TimeUnit,
    /// The list of items; no path when the record has one.
    pub(super) items: Field,
    /// Fields of the record.
    pub(super) fields: Vec<(&'static str, Field)>,
    /// Fields of an item in a list.
    pub(super) item_fields: Vec<(&'static str, Field)>,
    pub(super) context: Named,
    pub(super) features: Named,
    /// Every field that nothing else reads is a feature.
    pub(super) has_all_features: bool,
    pub(super) actions: BTreeMap<String, String>,
    /// Names of the root's fields that some path reads.
    pub(super) known: BTreeSet<String>,
    pub(super) reads_metadata: bool,
}

/// What a record brings besides its value.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordContext<'a> {
    /// Key, timestamp, topic and headers.
    pub metadata: Metadata<'a>,
    /// The action of a record that names none.
    pub default_action: Option<&'a str>,
    /// The time of an item or a profile that states none, ms since 1970.
    pub default_ts: Option<i64>,
}

/// The events of one record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mapped {
    /// Events of the contract; several when an action's record lists several items.
    pub events: Vec<Value>,
    /// Names of the fields that nothing reads.
    pub unread: Vec<String>,
}

impl Mapping {
    /// True if only some of the records are events of this stream, so that others may share its topic or file.
    pub fn is_selective(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// True if the record's key, topic or headers are read.
    pub fn reads_metadata(&self) -> bool {
        self.reads_metadata
    }

    /// True if a field of this name at the record's root is read.
    pub fn reads(&self, name: &str) -> bool {
        self.has_all_features || self.known.contains(name)
    }

    /// The task name of an action's name.
    pub fn task_name<'a>(&'a self, action: &'a str) -> &'a str {
        self.actions.get(action).map_or(action, String::as_str)
    }

    /// The events of a record.
    ///
    /// # Errors
    /// [`RejectReason::NotSelected`] where a condition does not hold; otherwise what is missing or cannot be read.
    pub fn apply(&self, record: &Value, context: &RecordContext<'_>) -> Result<Mapped, Reject> {
        let whole = Scope {
            here: record,
            record,
            metadata: context.metadata,
        };
        let is_selected = |(path, texts): &(Path, Vec<String>)| {
            let found = path.find(&whole);
            let text = found.as_deref().and_then(text_of);
            text.is_some_and(|text| texts.iter().any(|known| *known == text))
        };
        if let Some((path, _)) = self.conditions.iter().find(|condition| !is_selected(condition)) {
            let found = match path.find(&whole) {
                Some(_) => "has another value than",
                None => "is missing, by which",
            };
            let detail = format!("`{path}` {found} `where` in [events.{}] selects", self.stream);
            return Err(Reject::new(RejectReason::NotSelected, detail));
        }
        let root = match self.root.find(&whole) {
            _ if self.root.is_unset() => Cow::Borrowed(record),
            Some(root) => root,
            None => return Err(missing(&format!("`root` of [events.{}]", self.stream))),
        };
        let scope = Scope { here: &root, ..whole };
        let Some(object) = root.as_object() else {
            let detail = format!("the record must be an object, found {}", kind(&root));
            return Err(Reject::new(RejectReason::MalformedJson, detail));
        };
        let mut event = Map::new();
        read_fields(&self.fields, &scope, &mut event);
        if let Some(ts_ms) = self.event_time(&scope, context)? {
            event.insert("ts_ms".to_owned(), Value::from(ts_ms));
        }
        let mut mapped = Mapped::default();
        match self.stream {
            Stream::Impressions => mapped
                .events
                .push(self.impression(event, &scope, &mut mapped.unread)),
            Stream::Actions => mapped.events = self.action(event, &scope, context)?,
            _ => mapped.events.push(self.version(event, &scope, object)),
        }
        let unread = object
            .iter()
            .filter(|(name, value)| !self.reads(name) && !value.is_null());
        mapped.unread.extend(unread.map(|(name, _)| name.clone()));
        if self.has_all_features {
            let is_nested = |value: &Value| scalars(value).is_none() && !value.is_null();
            let nested = object
                .iter()
                .filter(|(name, value)| !self.known.contains(*name) && is_nested(value));
            mapped.unread.extend(nested.map(|(name, _)| name.clone()));
        }
        Ok(mapped)
    }

    fn event_time(&self, scope: &Scope<'_>, context: &RecordContext<'_>) -> Result<Option<i64>, Reject> {
        if self.unit == TimeUnit::Record {
            return match context.metadata.timestamp_ms.or(context.default_ts) {
                Some(timestamp) => Ok(Some(timestamp)),
                None => Err(missing(
                    "the record's timestamp, which time.unit = \"record\" reads, and which files do not have,",
                )),
            };
        }
        match self.time.find(scope) {
            Some(value) => time::parse(&value, self.unit, &self.time_name).map(Some),
            None if context.default_ts.is_some() => Ok(context.default_ts),
            None => Err(missing(&format!("`{}`", self.time_name))),
        }
    }

    fn impression(
        &self,
        mut event: Map<String, Value>,
        scope: &Scope<'_>,
        unread: &mut Vec<String>,
    ) -> Value {
        let list = self.items.find(scope);
        let shown: Vec<Value> = match list.as_deref() {
            Some(Value::Array(list)) => list
                .iter()
                .map(|entry| self.shown_item(entry, scope, unread))
                .collect(),
            Some(other) => {
                // Refused by its type when it is decoded.
                event.insert("items".to_owned(), other.clone());
                return Value::Object(event);
            }
            None => {
                let mut item = Map::new();
                read_fields(&self.item_fields, scope, &mut item);
                insert_named(&mut item, "features", scope, &self.features);
                // Without an item either, the list is what is missing.
                if item.contains_key("item_id") {
                    vec![Value::Object(item)]
                } else {
                    Vec::new()
                }
            }
        };
        if list.is_some() || !shown.is_empty() {
            event.insert("items".to_owned(), Value::Array(shown));
        }
        insert_named(&mut event, "context", scope, &self.context);
        Value::Object(event)
    }

    /// The entry of a list of items as a shown item. An entry that is no object is an item's id.
    fn shown_item(&self, entry: &Value, scope: &Scope<'_>, unread: &mut Vec<String>) -> Value {
        let mut item = Map::new();
        let Some(object) = entry.as_object() else {
            item.insert("item_id".to_owned(), id(entry));
            return Value::Object(item);
        };
        let scope = Scope {
            here: entry,
            ..*scope
        };
        read_fields(&self.item_fields, &scope, &mut item);
        insert_named(&mut item, "features", &scope, &self.features);
        let names = object
            .iter()
            .filter(|(name, value)| !self.known.contains(*name) && !value.is_null());
        unread.extend(names.map(|(name, _)| format!("items[].{name}")));
        Value::Object(item)
    }

    fn action(
        &self,
        mut event: Map<String, Value>,
        scope: &Scope<'_>,
        context: &RecordContext<'_>,
    ) -> Result<Vec<Value>, Reject> {
        let stated = event.get("action");
        let name = stated.and_then(text_of).map(Cow::into_owned);
        match name.or_else(|| context.default_action.map(str::to_owned)) {
            Some(name) => {
                event.insert("action".to_owned(), Value::from(self.task_name(&name)));
            }
            None if stated.is_none() => return Err(missing("`action`")),
            // Refused by its type when it is decoded.
            None => {}
        }
        let list = self.items.find(scope);
        let of = |entry: Option<&Value>| {
            let mut event = event.clone();
            let scope = entry.map_or(*scope, |here| Scope { here, ..*scope });
            match entry {
                Some(entry) if !entry.is_object() => {
                    event.insert("item_id".to_owned(), id(entry));
                }
                _ => read_fields(&self.item_fields, &scope, &mut event),
            }
            let value = event.get("value").and_then(Value::as_str);
            if let Some(number) = value.and_then(|text| text.trim().parse().ok()) {
                event.insert("value".to_owned(), Value::Number(number));
            }
            Value::Object(event)
        };
        match list.as_deref() {
            Some(Value::Array(list)) if list.is_empty() => {
                Err(missing("an item: the list of items is empty;"))
            }
            Some(Value::Array(list)) => Ok(list.iter().map(|entry| of(Some(entry))).collect()),
            _ => Ok(vec![of(None)]),
        }
    }

    /// True of a field of the event that has this name in the record, too.
    fn reads_field(&self, name: &str) -> bool {
        name == "features" || self.fields.iter().any(|(field, _)| *field == name)
    }

    /// A version of an item or of a profile.
    fn version(&self, mut event: Map<String, Value>, scope: &Scope<'_>, root: &Map<String, Value>) -> Value {
        for field in ["category", "author", "title", "text", "image"] {
            if let Some(value) = event.get_mut(field) {
                texts(value);
            }
        }
        if root.get("partial") == Some(&Value::Bool(true)) {
            event.insert("partial".to_owned(), Value::Bool(true));
            // A null of an update removes the value.
            let nulls = root
                .iter()
                .filter(|(name, value)| value.is_null() && self.reads_field(name));
            event.extend(nulls.map(|(name, _)| (name.clone(), Value::Null)));
        }
        if let Some(deleted) = event.get_mut("deleted")
            && let Some(text) = text_of(deleted)
        {
            *deleted = Value::Bool(matches!(&*text, "true" | "1"));
        }
        insert_named(&mut event, "features", scope, &self.features);
        if self.has_all_features {
            let given = event.remove("features");
            let is_cleared = given == Some(Value::Null);
            let mut features = match given {
                Some(Value::Object(features)) => features,
                Some(other) if !other.is_null() => {
                    event.insert("features".to_owned(), other);
                    return Value::Object(event);
                }
                _ => Map::new(),
            };
            for (name, value) in root {
                if !self.known.contains(name)
                    && let Some(value) = scalars(value)
                {
                    features.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
            if !features.is_empty() {
                event.insert("features".to_owned(), Value::Object(features));
            } else if is_cleared {
                event.insert("features".to_owned(), Value::Null);
            }
        }
        Value::Object(event)
    }
}
