//! Applies a mapping: a record as a JSON value in, events of the contract as JSON values out.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use ouzel_sample::settings::KeyError;
use ouzel_sample::{Reject, RejectReason, Stream};
use serde_json::{Map, Value};

use super::config::{
    ActionMapping, Conditions, EventTimeSource, Field, FieldSource, ImpressionMapping, ItemMapping,
    NamedPaths, path,
};
use super::path::{Metadata, Path, Scope, number_text, text_of};
use super::time::{self, TimeUnit};

/// Fields that hold ids: whole numbers in them become texts.
const IDS: [&str; 3] = ["request_id", "user_id", "item_id"];

/// A compiled section `[events.<stream>]`.
#[derive(Clone, Debug)]
pub struct Mapping {
    stream: Stream,
    conditions: Vec<(Path, Vec<String>)>,
    root: Field,
    time: Field,
    time_name: String,
    unit: TimeUnit,
    /// The list of items; no path when the record has one.
    items: Field,
    /// Fields of the record.
    fields: Vec<(&'static str, Field)>,
    /// Fields of an item in a list.
    item_fields: Vec<(&'static str, Field)>,
    context: Named,
    features: Named,
    /// Every field that nothing else reads is a feature.
    has_all_features: bool,
    actions: BTreeMap<String, String>,
    /// Names of the root's fields that some path reads.
    known: BTreeSet<String>,
    reads_metadata: bool,
}

/// Values by name, and whether those of the record's own object come first.
#[derive(Clone, Debug)]
struct Named {
    paths: Vec<(String, Path)>,
    has_own: bool,
}

/// What a record brings besides its value.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordContext<'a> {
    /// Key, timestamp, topic and headers.
    pub metadata: Metadata<'a>,
    /// The action of a record that names none.
    pub default_action: Option<&'a str>,
    /// The time of an item that states none, ms since 1970.
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

/// The parts of a section that each stream has differently.
struct Parts<'a> {
    stream: Stream,
    conditions: &'a Conditions,
    root: &'a FieldSource,
    time: &'a EventTimeSource,
    fields: Vec<(&'static str, &'a FieldSource)>,
    /// Names of the fields that are an item's when the record has a list of items.
    of_items: &'static [&'static str],
    context: &'a NamedPaths,
    features: &'a NamedPaths,
    actions: BTreeMap<String, String>,
}

impl Mapping {
    /// The mapping of the impressions.
    ///
    /// # Errors
    /// The first path that cannot be parsed, by its key.
    pub fn impressions(section: &ImpressionMapping) -> Result<Self, KeyError> {
        Self::compile(Parts {
            stream: Stream::Impressions,
            conditions: &section.conditions,
            root: &section.root,
            time: &section.time,
            fields: section.fields(),
            of_items: &["item_id", "position"],
            context: &section.context,
            features: &section.features,
            actions: BTreeMap::new(),
        })
    }

    /// The mapping of the actions.
    ///
    /// # Errors
    /// The first path that cannot be parsed, by its key.
    pub fn actions(section: &ActionMapping) -> Result<Self, KeyError> {
        let none = NamedPaths::default();
        Self::compile(Parts {
            stream: Stream::Actions,
            conditions: &section.conditions,
            root: &section.root,
            time: &section.time,
            fields: section.fields(),
            of_items: &["item_id", "value"],
            context: &none,
            features: &none,
            actions: section.actions.0.clone(),
        })
    }

    /// The mapping of the items.
    ///
    /// # Errors
    /// The first path that cannot be parsed, by its key.
    pub fn items(section: &ItemMapping) -> Result<Self, KeyError> {
        Self::compile(Parts {
            stream: Stream::Items,
            conditions: &section.conditions,
            root: &section.root,
            time: &section.time,
            fields: section.fields(),
            of_items: &[],
            context: &NamedPaths::default(),
            features: &section.features,
            actions: BTreeMap::new(),
        })
    }

    fn compile(parts: Parts<'_>) -> Result<Self, KeyError> {
        let conditions = parts.conditions.0.iter();
        let conditions =
            conditions.map(|(text, equals)| Ok((path("where", text)?, equals.as_slice().to_vec())));
        let conditions: Vec<_> = conditions.collect::<Result<_, KeyError>>()?;
        let (mut fields, mut item_fields, mut items) = (Vec::new(), Vec::new(), Field::Paths(Vec::new()));
        for (name, source) in parts.fields {
            let field = source.compile(name)?;
            if name == "items" {
                items = field;
            } else if parts.of_items.contains(&name) {
                item_fields.push((name, field));
            } else {
                fields.push((name, field));
            }
        }
        let (paths, all_context) = parts.context.compile("context")?;
        let context = Named {
            paths,
            has_own: parts.context.has_own(),
        };
        let (paths, has_all_features) = parts.features.compile("features")?;
        let features = Named {
            paths,
            has_own: parts.features.has_own(),
        };
        if all_context || (has_all_features && parts.stream != Stream::Items) {
            let key = if all_context { "context" } else { "features" };
            return Err(KeyError::new(
                key,
                "must name each field: a field that is learned from without a name may tell the outcome",
            ));
        }
        let time = parts.time.field.compile("time.field")?;
        let time_name = match &time {
            Field::Paths(paths) if !paths.is_empty() => paths[0].text().to_owned(),
            _ => "ts_ms".to_owned(),
        };
        let root = parts.root.compile("root")?;
        let sources = || fields.iter().chain(&item_fields).map(|(_, field)| field);
        let paths = || {
            let named = context.paths.iter().chain(&features.paths).map(|(_, path)| path);
            let all = sources().chain([&time, &items]).flat_map(Field::paths);
            all.chain(named).chain(conditions.iter().map(|(path, _)| path))
        };
        let mut known: BTreeSet<String> = paths()
            .filter_map(|path| path.first_field().map(str::to_owned))
            .collect();
        if root.paths().next().is_none() {
            known.extend(paths().filter_map(|path| path.first_record_field().map(str::to_owned)));
        }
        if parts.stream == Stream::Impressions && context.has_own {
            known.insert("context".to_owned());
        }
        if parts.stream != Stream::Actions && features.has_own {
            known.insert("features".to_owned());
        }
        let reads_metadata = paths().chain(root.paths()).any(Path::reads_metadata);
        Ok(Self {
            stream: parts.stream,
            unit: parts.time.unit,
            conditions,
            root,
            time,
            time_name,
            items,
            fields,
            item_fields,
            context,
            features,
            has_all_features,
            actions: parts.actions,
            known,
            reads_metadata,
        })
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
            let detail = format!(
                "`{path}` has another value than `where` in [events.{}] selects",
                self.stream
            );
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
            _ => mapped.events.push(self.item(event, &scope, object)),
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
            return match context.metadata.timestamp_ms {
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

    fn item(&self, mut event: Map<String, Value>, scope: &Scope<'_>, root: &Map<String, Value>) -> Value {
        for field in ["category", "author", "title", "text", "image"] {
            if let Some(value) = event.get_mut(field) {
                texts(value);
            }
        }
        if let Some(deleted) = event.get_mut("deleted")
            && let Some(text) = text_of(deleted)
        {
            *deleted = Value::Bool(matches!(&*text, "true" | "1"));
        }
        insert_named(&mut event, "features", scope, &self.features);
        if self.has_all_features {
            let mut features = match event.remove("features") {
                Some(Value::Object(features)) => features,
                Some(other) => {
                    event.insert("features".to_owned(), other);
                    return Value::Object(event);
                }
                None => Map::new(),
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
            }
        }
        Value::Object(event)
    }
}

impl Field {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let paths = match self {
            Field::Paths(paths) | Field::Comparison(paths, _) => paths.as_slice(),
            Field::Constant(_) => &[],
        };
        paths.iter()
    }

    fn is_unset(&self) -> bool {
        matches!(self, Field::Paths(paths) if paths.is_empty())
    }

    /// The value of the field: the first that is no empty text. `None` where it is absent or null.
    fn find<'a>(&'a self, scope: &Scope<'a>) -> Option<Cow<'a, Value>> {
        match self {
            Field::Paths(paths) => {
                let mut found = paths.iter().filter_map(|path| path.find(scope));
                let first = found.next()?;
                if first.as_str() != Some("") {
                    return Some(first);
                }
                Some(found.find(|value| value.as_str() != Some("")).unwrap_or(first))
            }
            Field::Comparison(paths, texts) => {
                let found = paths.iter().find_map(|path| path.find(scope));
                let text = found.as_deref().and_then(text_of);
                let is_equal = text.is_some_and(|text| texts.iter().any(|known| *known == text));
                Some(Cow::Owned(Value::Bool(is_equal)))
            }
            Field::Constant(value) => Some(Cow::Borrowed(value)),
        }
    }
}

/// Reads `fields` into `event`; ids become texts and places numbers where they can.
fn read_fields(fields: &[(&'static str, Field)], scope: &Scope<'_>, event: &mut Map<String, Value>) {
    for (name, field) in fields {
        let Some(value) = field.find(scope) else { continue };
        let value = match *name {
            name if IDS.contains(&name) => id(&value),
            "position" => place(&value),
            _ => value.into_owned(),
        };
        event.insert((*name).to_owned(), value);
    }
}

/// An id as a text: 5, 5.0 and `"5"` are one.
fn id(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::String(number_text(number)),
        other => other.clone(),
    }
}

/// A place as a whole number, also where it is written as a text or a float.
fn place(value: &Value) -> Value {
    let text = match value {
        Value::Number(number) if number.is_f64() => Some(Cow::Owned(number_text(number))),
        Value::String(text) => Some(Cow::Borrowed(text.trim())),
        _ => None,
    };
    let whole = text.and_then(|text| text.parse::<i64>().ok());
    whole.map_or_else(|| value.clone(), Value::from)
}

/// Turns numbers and booleans of a text field into texts.
fn texts(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(texts),
        Value::Number(number) => *value = Value::String(number_text(number)),
        Value::Bool(flag) => *value = Value::from(flag.to_string()),
        Value::Null | Value::String(_) | Value::Object(_) => {}
    }
}

/// The scalars of a value, lists of them included; `None` where it holds an object or a list of lists, or is null.
fn scalars(value: &Value) -> Option<&Value> {
    let is_scalar = |value: &Value| !value.is_object() && !value.is_array();
    match value {
        Value::Null => None,
        Value::Array(list) => list.iter().all(is_scalar).then_some(value),
        other => is_scalar(other).then_some(other),
    }
}

/// Adds the named values as the object `field`, with those of the record's own object where they count.
fn insert_named(event: &mut Map<String, Value>, field: &str, scope: &Scope<'_>, named: &Named) {
    let Named { paths, has_own } = named;
    let given = scope.here.get(field).filter(|value| *has_own && !value.is_null());
    let mut object = match given {
        Some(Value::Object(object)) => object.clone(),
        Some(other) => {
            // Refused by its type when it is decoded.
            event.insert(field.to_owned(), other.clone());
            return;
        }
        None if paths.is_empty() => return,
        None => Map::new(),
    };
    for (name, path) in paths {
        // What the record itself names so comes first.
        if let Some(value) = path.find(scope) {
            object.entry(name.clone()).or_insert_with(|| value.into_owned());
        }
    }
    if !object.is_empty() {
        event.insert(field.to_owned(), Value::Object(object));
    }
}

fn missing(what: &str) -> Reject {
    Reject::new(RejectReason::MissingField, format!("{what} is missing"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
