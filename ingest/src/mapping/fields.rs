//! Reading the fields of an event from a record.

use std::borrow::Cow;

use ouzel_sample::{Reject, RejectReason};
use serde_json::{Map, Value};

use super::config::Field;
use super::path::{Path, Scope, number_text, text_of};

/// Fields that hold ids: whole numbers in them become texts.
const IDS: [&str; 3] = ["request_id", "user_id", "item_id"];

/// Values by name, and whether those of the record's own object come first.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) paths: Vec<(String, Path)>,
    pub(super) has_own: bool,
}

impl Field {
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let paths = match self {
            Field::Paths(paths) | Field::Comparison(paths, _) => paths.as_slice(),
            Field::Constant(_) => &[],
        };
        paths.iter()
    }

    pub(super) fn is_unset(&self) -> bool {
        matches!(self, Field::Paths(paths) if paths.is_empty())
    }

    /// The value of the field: the first that is no empty text. `None` where it is absent or null.
    pub(super) fn find<'a>(&'a self, scope: &Scope<'a>) -> Option<Cow<'a, Value>> {
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
pub(super) fn read_fields(
    fields: &[(&'static str, Field)],
    scope: &Scope<'_>,
    event: &mut Map<String, Value>,
) {
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
pub(super) fn id(value: &Value) -> Value {
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
pub(super) fn texts(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(texts),
        Value::Number(number) => *value = Value::String(number_text(number)),
        Value::Bool(flag) => *value = Value::from(flag.to_string()),
        Value::Null | Value::String(_) | Value::Object(_) => {}
    }
}

/// The scalars of a value, lists of them included; `None` where it holds an object or a list of lists, or is null.
pub(super) fn scalars(value: &Value) -> Option<&Value> {
    let is_scalar = |value: &Value| !value.is_object() && !value.is_array();
    match value {
        Value::Null => None,
        Value::Array(list) => list.iter().all(is_scalar).then_some(value),
        other => is_scalar(other).then_some(other),
    }
}

/// Adds the named values as the object `field`, with those of the record's own object where they count.
pub(super) fn insert_named(event: &mut Map<String, Value>, field: &str, scope: &Scope<'_>, named: &Named) {
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

pub(super) fn missing(what: &str) -> Reject {
    Reject::new(RejectReason::MissingField, format!("{what} is missing"))
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
