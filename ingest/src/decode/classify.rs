//! The slow path: why a payload is not an event.
//!
//! Runs only for records that failed the typed parse, so it may afford a tree. It names the field, never the
//! value: a dead-letter topic is read by more people than the log.

use ouzel_sample::{Reject, RejectReason, Stream};
use serde_json::Value;

/// What a field of the contract holds.
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
const SHOWN: &[(&str, Shape)] = &[("item_id", Shape::Text), ("position", Shape::Position)];
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
];

/// The reason `payload`, which is no event of `stream`, was refused. `parse` is what the typed parse said.
pub(super) fn classify(stream: Stream, payload: &[u8], parse: &serde_json::Error) -> Reject {
    let value: Value = match serde_json::from_slice(payload) {
        Ok(value) => value,
        Err(error) => return not_json(payload, &error),
    };
    let Value::Object(object) = &value else {
        let detail = format!("expected an object, found {}", kind(&value));
        return Reject::new(RejectReason::MalformedJson, detail);
    };
    let contract = match stream {
        Stream::Impressions => IMPRESSION,
        Stream::Actions => ACTION,
        Stream::Items => ITEM,
        // Only `join` writes it: the parser says enough.
        Stream::Samples => &[],
    };
    first_mismatch(contract, object, "").unwrap_or_else(|| {
        // A field given twice, the first time with another type: the tree keeps the last.
        Reject::new(
            RejectReason::WrongType,
            format!("not an event of {stream}: {parse}"),
        )
    })
}

fn not_json(payload: &[u8], error: &serde_json::Error) -> Reject {
    // `NaN` and `Infinity` are what some producers write for numbers that JSON has no word for.
    let reason = if error.to_string().contains("number out of range") || names_no_number(payload, error) {
        RejectReason::NonFinite
    } else {
        RejectReason::MalformedJson
    };
    Reject::new(reason, error.to_string())
}

/// Whether the parser stopped at the word of a number that is not finite.
fn names_no_number(payload: &[u8], error: &serde_json::Error) -> bool {
    let line = payload
        .split(|byte| *byte == b'\n')
        .nth(error.line().saturating_sub(1))
        .unwrap_or_default();
    // The column counts from 1 and may stand on the character or behind it.
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
    contract: &[(&str, Shape)],
    object: &serde_json::Map<String, Value>,
    at: &str,
) -> Option<Reject> {
    contract.iter().find_map(|(field, shape)| {
        let value = object.get(*field).filter(|value| !value.is_null())?;
        mismatch(value, *shape, &format!("{at}{field}"))
    })
}

/// Why `value`, which stands at `field`, is not of `shape`.
fn mismatch(value: &Value, shape: Shape, field: &str) -> Option<Reject> {
    let fits = match shape {
        Shape::Text => value.is_string(),
        Shape::Flag => value.is_boolean(),
        Shape::Integer => {
            if value
                .as_u64()
                .is_some_and(|number| i64::try_from(number).is_err())
            {
                return Some(Reject::new(
                    RejectReason::Future,
                    format!("`{field}` is beyond any date"),
                ));
            }
            value.is_i64()
        }
        Shape::Position => value.as_u64().is_some_and(|number| u16::try_from(number).is_ok()),
        Shape::Number => {
            // A finite f64, and yet beyond the f32 that is kept of it.
            if value
                .as_f64()
                .is_some_and(|number| number.abs() > f64::from(f32::MAX))
            {
                return Some(Reject::new(
                    RejectReason::NonFinite,
                    format!("`{field}` is beyond the range of a 32-bit float"),
                ));
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
                    Value::Object(shown) => first_mismatch(SHOWN, shown, &format!("{field}[{i}].")),
                    other => Some(wrong(other, "an object", &format!("{field}[{i}]"))),
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
                    (!fits).then(|| wrong(value, expected, &format!("{field}.{}", brief(name))))
                });
            }
            _ => false,
        },
        Shape::Vectors => match value {
            Value::Object(object) => {
                return object.iter().find_map(|(name, value)| match value {
                    Value::Array(list) => in_list(list, Shape::Number, &format!("{field}.{}", brief(name))),
                    other => Some(wrong(
                        other,
                        "a list of numbers",
                        &format!("{field}.{}", brief(name)),
                    )),
                });
            }
            _ => false,
        },
    };
    (!fits).then(|| wrong(value, shape.name(), field))
}

fn in_list(list: &[Value], shape: Shape, field: &str) -> Option<Reject> {
    list.iter()
        .enumerate()
        .find_map(|(i, value)| mismatch(value, shape, &format!("{field}[{i}]")))
}

fn wrong(value: &Value, expected: &str, field: &str) -> Reject {
    Reject::new(
        RejectReason::WrongType,
        format!("`{field}`: expected {expected}, found {}", kind(value)),
    )
}

/// A producer's own field name, cut to what fits a message.
fn brief(name: &str) -> String {
    name.chars().take(32).collect()
}

fn kind(value: &Value) -> &'static str {
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
