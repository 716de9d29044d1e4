//! Finds out why a payload is not an event.
//!
//! It runs only for records that failed the typed parse, so it may build a tree. It names the field, never the value:
//! more people read a dead-letter topic than the log.

use ouzel_sample::{Reject, RejectReason, Stream};
use serde_json::Value;

use super::events::shortened;

#[derive(Clone, Copy)]
enum Shape {
    Text,
    Integer,
    Position,
    Number,
    Texts,
    Slate,
    Attributes,
    Vectors,
    Flag,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Shape::Text => "a string",
            Shape::Integer => "an integer",
            Shape::Position => "an integer from 0 to 65535",
            Shape::Number => "a number",
            Shape::Texts => "a string or a list of strings",
            Shape::Slate => "a list of objects",
            Shape::Attributes => "an object of strings, numbers, booleans or lists of them",
            Shape::Vectors => "an object of lists of numbers",
            Shape::Flag => "true or false",
        }
    }
}

const IMPRESSION: &[(&str, Shape)] = &[
    ("request_id", Shape::Text),
    ("user_id", Shape::Text),
    ("ts_ms", Shape::Integer),
    ("items", Shape::Slate),
    ("context", Shape::Attributes),
];
const SLATE_ITEM: &[(&str, Shape)] = &[
    ("item_id", Shape::Text),
    ("position", Shape::Position),
    ("features", Shape::Attributes),
];
const ACTION: &[(&str, Shape)] = &[
    ("request_id", Shape::Text),
    ("item_id", Shape::Text),
    ("user_id", Shape::Text),
    ("ts_ms", Shape::Integer),
    ("action", Shape::Text),
    ("value", Shape::Number),
];
const ITEM: &[(&str, Shape)] = &[
    ("item_id", Shape::Text),
    ("ts_ms", Shape::Integer),
    ("category", Shape::Texts),
    ("author", Shape::Texts),
    ("title", Shape::Text),
    ("text", Shape::Texts),
    ("image", Shape::Text),
    ("vectors", Shape::Vectors),
    ("features", Shape::Attributes),
    ("deleted", Shape::Flag),
    ("partial", Shape::Flag),
];
const USER: &[(&str, Shape)] = &[
    ("user_id", Shape::Text),
    ("ts_ms", Shape::Integer),
    ("features", Shape::Attributes),
    ("deleted", Shape::Flag),
    ("partial", Shape::Flag),
];

/// The rejection of an `event` that failed the typed parse for `stream` with `error`.
pub(super) fn classify(stream: Stream, event: &Value, error: &serde_json::Error) -> Reject {
    let Value::Object(object) = event else {
        let detail = format!("the record must be an object, found {}", type_name(event));
        return Reject::new(RejectReason::MalformedJson, detail);
    };
    let fields = match stream {
        Stream::Impressions => IMPRESSION,
        Stream::Actions => ACTION,
        Stream::Items => ITEM,
        Stream::Users => USER,
        // Written by `ouzel join` only: the parser's message is enough.
        Stream::Samples => &[],
    };
    first_mismatch(fields, object, "").unwrap_or_else(|| {
        // A field given twice, the first time with another type: the tree keeps the last.
        let detail = format!("not an event of {stream}: {error}");
        Reject::new(RejectReason::WrongType, detail)
    })
}

/// The rejection of a `payload` that is not JSON.
pub(super) fn malformed(payload: &[u8], error: &serde_json::Error) -> Reject {
    // Some producers write `NaN` or `Infinity`, which JSON does not have.
    let reason = if error.to_string().contains("number out of range") || is_at_non_finite(payload, error) {
        RejectReason::NonFinite
    } else {
        RejectReason::MalformedJson
    };
    Reject::new(reason, error.to_string())
}

/// True when the parser stopped at `NaN`, `Infinity` or the like.
fn is_at_non_finite(payload: &[u8], error: &serde_json::Error) -> bool {
    let line = payload
        .split(|byte| *byte == b'\n')
        .nth(error.line().saturating_sub(1))
        .unwrap_or_default();
    // The column counts from 1 and may be that of the character or of the next one.
    let from = error.column().saturating_sub(2);
    let near = line.get(from..).unwrap_or_default();
    (0..=1).any(|skip| {
        let near = near.get(skip..).unwrap_or_default();
        [b"NaN".as_slice(), b"nan", b"Inf", b"inf"]
            .iter()
            .any(|word| near.starts_with(word))
    })
}

fn first_mismatch(
    fields: &[(&str, Shape)],
    object: &serde_json::Map<String, Value>,
    path: &str,
) -> Option<Reject> {
    fields.iter().find_map(|(field, shape)| {
        let value = object.get(*field).filter(|value| !value.is_null())?;
        mismatch(value, *shape, &format!("{path}{field}"))
    })
}

/// The rejection of `value` at `field` unless it has `shape`.
fn mismatch(value: &Value, shape: Shape, field: &str) -> Option<Reject> {
    let named = |name: &str| format!("{field}.{}", shortened(name));
    let fits = match shape {
        Shape::Text => value.is_string(),
        Shape::Flag => value.is_boolean(),
        Shape::Integer => {
            if value
                .as_u64()
                .is_some_and(|number| i64::try_from(number).is_err())
            {
                let detail = format!("`{field}` is later than any date");
                return Some(Reject::new(RejectReason::Future, detail));
            }
            value.is_i64()
        }
        Shape::Position => {
            if value
                .as_u64()
                .is_some_and(|number| u16::try_from(number).is_err())
            {
                let detail = format!("`{field}` is beyond 65535, the last place that can be learned");
                return Some(Reject::new(RejectReason::WrongType, detail));
            }
            value.is_u64()
        }
        Shape::Number => {
            // Finite as an f64, but stored as an f32.
            if value
                .as_f64()
                .is_some_and(|number| number.abs() > f64::from(f32::MAX))
            {
                let detail = format!("`{field}` is beyond the range of a 32-bit float");
                return Some(Reject::new(RejectReason::NonFinite, detail));
            }
            value.is_number()
        }
        Shape::Texts => match value {
            Value::Array(list) => return in_list(list, Shape::Text, field),
            other => other.is_string(),
        },
        Shape::Slate => match value {
            Value::Array(list) => {
                return list.iter().enumerate().find_map(|(i, shown)| match shown {
                    Value::Object(shown) => first_mismatch(SLATE_ITEM, shown, &format!("{field}[{i}].")),
                    other => Some(wrong_type(other, "an object", &format!("{field}[{i}]"))),
                });
            }
            _ => false,
        },
        Shape::Attributes => match value {
            Value::Object(object) => {
                return object.iter().find_map(|(name, value)| {
                    let flat = |value: &Value| !value.is_object() && !value.is_array();
                    let fits = match value {
                        Value::Array(list) => list.iter().all(flat),
                        other => flat(other),
                    };
                    let expected = "a string, a number, a boolean or a list of them";
                    (!fits).then(|| wrong_type(value, expected, &named(name)))
                });
            }
            _ => false,
        },
        Shape::Vectors => match value {
            Value::Object(object) => {
                return object.iter().find_map(|(name, value)| match value {
                    Value::Array(list) => in_list(list, Shape::Number, &named(name)),
                    other => Some(wrong_type(other, "a list of numbers", &named(name))),
                });
            }
            _ => false,
        },
    };
    (!fits).then(|| wrong_type(value, shape.name(), field))
}

fn in_list(list: &[Value], shape: Shape, field: &str) -> Option<Reject> {
    list.iter()
        .enumerate()
        .find_map(|(i, value)| mismatch(value, shape, &format!("{field}[{i}]")))
}

fn wrong_type(value: &Value, expected: &str, field: &str) -> Reject {
    Reject::new(
        RejectReason::WrongType,
        format!("`{field}`: expected {expected}, found {}", type_name(value)),
    )
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a fraction",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
