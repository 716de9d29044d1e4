//! Checks a section against the ranges in its schema, so that each range is written once.
//!
//! A range stands at its key: `#[schemars(range(min = 1))]`, `extend("exclusiveMinimum" = 0)`, and for durations and
//! sizes `extend("x-minimum" = "1ms")`. The same attribute serves this check, the JSON Schema and the reference.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::Value;

use super::{ByteSize, Period};

/// A configuration value that its section refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} {message}")]
pub struct KeyError {
    /// Path of the key, below the section that was checked, as `tasks[0].window`.
    pub key: String,
    /// The rule and the value, to be read after the key: "must be at least 1, not 0".
    pub message: String,
    /// A name that does not exist, with those that do.
    pub unknown: Option<(String, Vec<String>)>,
}

impl KeyError {
    /// An error about the value of `key`.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
            unknown: None,
        }
    }

    /// The same error with its key below `section`.
    #[must_use]
    pub fn within(mut self, section: &str) -> Self {
        self.key = join(section, &self.key);
        self
    }
}

/// The JSON Schema of `T`, without references.
#[must_use]
pub fn schema_of<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Every value of `section` outside of the range that its schema states.
///
/// # Panics
/// Never: a section has no map with keys other than strings.
#[must_use]
pub fn out_of_range<T: JsonSchema + Serialize>(section: &T) -> Vec<KeyError> {
    let value = serde_json::to_value(section).expect("every section is JSON");
    let mut errors = Vec::new();
    walk("", &value, &schema_of::<T>(), &mut errors);
    errors
}

/// The range that a key's schema states, as "at least 1"; none where every value of its type will do.
#[must_use]
pub fn allowed_range(schema: &Value) -> Option<String> {
    let is_integer = schema["type"] == "integer";
    let text = |name: &str| match &schema[name] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        number => Some(number.to_string()),
    };
    let min = text("minimum").or_else(|| text("x-minimum"));
    let max = text("maximum").or_else(|| text("x-maximum"));
    let above = text("exclusiveMinimum").map(|bound| format!("more than {bound}"));
    let below = text("exclusiveMaximum").map(|bound| format!("less than {bound}"));
    if let (Some(min), Some(max)) = (&min, &max) {
        return Some(format!("from {min} to {max}"));
    }
    let min = min
        .filter(|min| !(is_integer && min == "0"))
        .map(|bound| format!("at least {bound}"));
    let max = max.map(|bound| format!("at most {bound}"));
    let parts: Vec<String> = [above, min, below, max].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" and "))
}

fn walk(path: &str, value: &Value, schema: &Value, errors: &mut Vec<KeyError>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                walk(&join(path, key), value, &schema["properties"][key], errors);
            }
        }
        Value::Array(elements) => {
            for (index, value) in elements.iter().enumerate() {
                walk(&format!("{path}[{index}]"), value, &schema["items"], errors);
            }
        }
        // JSON has no text for a number that is not finite.
        Value::Null if schema["type"] == "number" => {
            errors.push(KeyError::new(path, "must be a finite number"));
        }
        _ if !is_allowed(value, schema) => {
            let range = allowed_range(schema).unwrap_or_default();
            errors.push(KeyError::new(
                path,
                format!("must be {range}, not {}", plain(value)),
            ));
        }
        _ => {}
    }
}

/// `value` as a message shows it: without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_allowed(value: &Value, schema: &Value) -> bool {
    let bound = |name: &str| schema[name].as_f64();
    if let Some(number) = value.as_f64() {
        return bound("minimum").is_none_or(|min| number >= min)
            && bound("maximum").is_none_or(|max| number <= max)
            && bound("exclusiveMinimum").is_none_or(|min| number > min)
            && bound("exclusiveMaximum").is_none_or(|max| number < max);
    }
    let measured = |text: &str| match schema["x-type"].as_str() {
        Some("duration") => text.parse().ok().map(|period: Period| period.ms().unsigned_abs()),
        Some("size") => text.parse().ok().map(|size: ByteSize| size.bytes()),
        _ => None,
    };
    let bound = |name: &str| schema[name].as_str().and_then(measured);
    value.as_str().and_then(measured).is_none_or(|length| {
        bound("x-minimum").is_none_or(|min| length >= min)
            && bound("x-maximum").is_none_or(|max| length <= max)
    })
}

fn join(path: &str, key: &str) -> String {
    match (path, key) {
        ("", _) => key.to_owned(),
        (_, "") => path.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, JsonSchema)]
    struct Section {
        #[schemars(range(min = 1))]
        count: usize,
        #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
        rate: f32,
        #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1d"))]
        wait: Period,
        entries: Vec<Entry>,
        any: u64,
    }

    #[derive(Serialize, JsonSchema)]
    struct Entry {
        #[schemars(extend("x-minimum" = "1B"))]
        size: ByteSize,
    }

    fn section() -> Section {
        Section {
            count: 1,
            rate: 0.5,
            wait: Period::from_ms(1),
            entries: vec![Entry {
                size: ByteSize::from_bytes(1),
            }],
            any: 0,
        }
    }

    fn refused(change: impl FnOnce(&mut Section)) -> String {
        let mut section = section();
        change(&mut section);
        let errors = out_of_range(&section);
        assert!(errors.len() <= 1, "{errors:?}");
        errors.first().map(KeyError::to_string).unwrap_or_default()
    }

    #[test]
    fn a_value_out_of_its_range_is_named_with_the_range() {
        assert_eq!(refused(|_| ()), "");
        assert_eq!(refused(|s| s.count = 0), "count must be at least 1, not 0");
        assert_eq!(refused(|s| s.rate = f32::NAN), "rate must be a finite number");
        let rate = "rate must be more than 0 and less than 1, not 1.5";
        assert_eq!(refused(|s| s.rate = 1.5), rate);
        let wait = "wait must be from 1ms to 1d, not 2d";
        assert_eq!(refused(|s| s.wait = Period::from_secs(2 * 86_400)), wait);
        let size = "entries[0].size must be at least 1B, not 0B";
        assert_eq!(refused(|s| s.entries[0].size = ByteSize::from_bytes(0)), size);
    }

    #[test]
    fn an_error_of_a_section_gets_the_path_of_the_file() {
        let error = KeyError::new("count", "must be at least 1, not 0");
        assert_eq!(error.clone().within("learner").key, "learner.count");
        assert_eq!(KeyError::new("", "is empty").within("learner").key, "learner");
    }
}
