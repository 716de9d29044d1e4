//! Paths into a record: `user.id`, `items[0].sku`, `params[key=page].value`, `@header.ce_type`.
//!
//! A path is a list of steps from the record's root. `name` takes a field of an object, `[n]` an element of a list,
//! `[*]` every element, `[name=text]` the first element whose field `name` is `text`, and `|json` parses a text as
//! JSON. A name in double quotes may hold any character. `$` alone is the root itself. A path that begins with `$.`
//! starts at the whole record where others start at the stream's `root` or at an item of a list; `@key`, `@timestamp`,
//! `@topic`, `@position` (`topic/partition/offset`) and `@header.NAME` read the record's metadata.

use std::borrow::Cow;
use std::fmt;

use ouzel_sample::Record;
use serde_json::Value;

/// The metadata of a record, as far as paths may read it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metadata<'a> {
    /// The record's key.
    pub key: Option<&'a [u8]>,
    /// The record's own timestamp, ms since the epoch.
    pub timestamp_ms: Option<i64>,
    /// Topic or file.
    pub topic: &'a str,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition, or line of the file.
    pub offset: i64,
    /// Headers by name, in the order of the record.
    pub headers: &'a [(String, Vec<u8>)],
}

impl<'a> Metadata<'a> {
    /// The metadata of a record of `topic`.
    pub fn of(record: &'a Record, topic: &'a str) -> Self {
        let brought = record.metadata.as_deref();
        Self {
            key: brought.and_then(|brought| brought.key.as_deref()),
            timestamp_ms: record.timestamp_ms,
            topic,
            partition: record.position.partition.partition,
            offset: record.position.offset,
            headers: brought.map_or(&[], |brought| brought.headers.as_slice()),
        }
    }
}

/// Where a path starts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Start {
    /// The stream's root, or an item of a list.
    Here,
    /// The whole record.
    Record,
    /// The record's key.
    Key,
    /// The record's timestamp.
    Timestamp,
    /// The topic.
    Topic,
    /// Topic, partition and offset.
    Position,
    /// A header.
    Header(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Element(usize),
    Every,
    Find { field: String, text: String },
    Json,
}

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    text: String,
    start: Start,
    steps: Vec<Step>,
}

/// The values that a path may start at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    /// The stream's root, or an item of a list.
    pub(crate) here: &'a Value,
    /// The whole record.
    pub(crate) record: &'a Value,
    pub(crate) metadata: Metadata<'a>,
}

/// A path from the root of a record, for use outside of mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordPath(Path);

impl RecordPath {
    /// Parses a path.
    ///
    /// # Errors
    /// A sentence that names the character that does not fit.
    pub fn parse(text: &str) -> Result<Self, String> {
        Path::parse(text).map(Self)
    }

    /// The text, number or boolean at this path, as text; `None` where there is none.
    pub fn text(&self, record: &Value, metadata: Metadata<'_>) -> Option<String> {
        let scope = Scope {
            here: record,
            record,
            metadata,
        };
        let found = self.0.find(&scope)?;
        text_of(&found).map(Cow::into_owned)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Path {
    /// Parses a path.
    ///
    /// # Errors
    /// A sentence that names the character that does not fit.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (start, rest) = start(text)?;
        let mut steps = Vec::new();
        let mut rest = rest;
        while !rest.is_empty() {
            let (step, after) = step(rest, steps.is_empty() && start == Start::Here)
                .map_err(|what| format!("{what} at character {} of {text:?}", text.len() - rest.len() + 1))?;
            steps.push(step);
            rest = after;
        }
        if steps.is_empty() && start == Start::Here && text != "$" {
            return Err("a path must not be empty".to_owned());
        }
        Ok(Self {
            text: text.to_owned(),
            start,
            steps,
        })
    }

    /// The value at this path; `None` where it is absent or null.
    pub(crate) fn find<'a>(&self, scope: &Scope<'a>) -> Option<Cow<'a, Value>> {
        let text = |bytes: &[u8]| Cow::Owned(Value::String(String::from_utf8_lossy(bytes).into_owned()));
        let first = match &self.start {
            Start::Here => Cow::Borrowed(scope.here),
            Start::Record => Cow::Borrowed(scope.record),
            Start::Key => text(scope.metadata.key?),
            Start::Timestamp => Cow::Owned(Value::from(scope.metadata.timestamp_ms?)),
            Start::Topic => text(scope.metadata.topic.as_bytes()),
            Start::Position => {
                let Metadata {
                    topic,
                    partition,
                    offset,
                    ..
                } = scope.metadata;
                text(format!("{topic}/{partition}/{offset}").as_bytes())
            }
            Start::Header(name) => {
                let mut headers = scope.metadata.headers.iter();
                text(&headers.find(|(known, _)| known == name)?.1)
            }
        };
        let found = match first {
            Cow::Borrowed(value) => walk(value, &self.steps)?,
            Cow::Owned(value) => Cow::Owned(walk(&value, &self.steps)?.into_owned()),
        };
        (!found.is_null()).then_some(found)
    }

    /// The field of the root that this path reads first; `None` if it starts elsewhere.
    pub(crate) fn first_field(&self) -> Option<&str> {
        match (&self.start, self.steps.first()) {
            (Start::Here, Some(Step::Field(name))) => Some(name),
            _ => None,
        }
    }

    /// As [`Path::first_field`], of the whole record.
    pub(crate) fn first_record_field(&self) -> Option<&str> {
        match (&self.start, self.steps.first()) {
            (Start::Record, Some(Step::Field(name))) => Some(name),
            _ => None,
        }
    }

    /// True if this path reads the record's key or headers.
    pub(crate) fn reads_metadata(&self) -> bool {
        matches!(self.start, Start::Key | Start::Header(_))
    }

    /// The path as it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

fn start(text: &str) -> Result<(Start, &str), String> {
    if let Some(rest) = text.strip_prefix('@') {
        let (name, rest) = match rest.strip_prefix("header.") {
            Some(name) => {
                let end = name.find(['[', '|']).unwrap_or(name.len());
                return match &name[..end] {
                    "" => Err(format!("{text:?} names no header: write @header.NAME")),
                    header => Ok((Start::Header(header.to_owned()), &name[end..])),
                };
            }
            None => rest.split_at(rest.find(['.', '[', '|']).unwrap_or(rest.len())),
        };
        let start = match name {
            "key" => Start::Key,
            "timestamp" => Start::Timestamp,
            "topic" => Start::Topic,
            "position" => Start::Position,
            other => {
                return Err(format!(
                    "@{other} is not known: a record has @key, @timestamp, @topic, @position and @header.NAME"
                ));
            }
        };
        return Ok((start, rest));
    }
    match text.strip_prefix('$') {
        None => Ok((Start::Here, text)),
        Some("") => Ok((Start::Here, "")),
        Some(rest) if rest.starts_with(['.', '[']) => Ok((Start::Record, rest)),
        Some(_) => Err(format!("{text:?} must continue with a point after the $")),
    }
}

/// The first step of `text`, and what follows it.
fn step(text: &str, is_first: bool) -> Result<(Step, &str), String> {
    if let Some(rest) = text.strip_prefix("|json") {
        return Ok((Step::Json, rest));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let end = rest.find(']').ok_or("a [ without ]")?;
        return Ok((bracket(&rest[..end])?, &rest[end + 1..]));
    }
    let name = match text.strip_prefix('.') {
        Some(name) => name,
        None if is_first => text,
        None => return Err("expected a point, [ or |json".to_owned()),
    };
    if let Some(quoted) = name.strip_prefix('"') {
        let end = quoted.find('"').ok_or("a quoted name without its end")?;
        return Ok((Step::Field(quoted[..end].to_owned()), &quoted[end + 1..]));
    }
    let end = name.find(['.', '[', '|']).unwrap_or(name.len());
    if end == 0 {
        return Err("a name is missing".to_owned());
    }
    Ok((Step::Field(name[..end].to_owned()), &name[end..]))
}

fn bracket(text: &str) -> Result<Step, String> {
    if text == "*" {
        return Ok(Step::Every);
    }
    if let Some((field, text)) = text.split_once('=') {
        return match field {
            "" => Err("a [ must be followed by a field's name before the =".to_owned()),
            field => Ok(Step::Find {
                field: field.to_owned(),
                text: text.to_owned(),
            }),
        };
    }
    let number = text
        .parse()
        .map_err(|_| "[ ] must hold a number, * or field=text");
    Ok(Step::Element(number?))
}

fn walk<'a>(value: &'a Value, steps: &[Step]) -> Option<Cow<'a, Value>> {
    let Some((step, rest)) = steps.split_first() else {
        return Some(Cow::Borrowed(value));
    };
    match step {
        Step::Field(name) => walk(value.get(name)?, rest),
        Step::Element(index) => walk(value.get(index)?, rest),
        Step::Find { field, text } => {
            let is_it = |element: &&Value| element.get(field).and_then(text_of).as_deref() == Some(text);
            walk(value.as_array()?.iter().find(is_it)?, rest)
        }
        Step::Every => {
            let found = value.as_array()?.iter().filter_map(|element| walk(element, rest));
            Some(Cow::Owned(Value::Array(found.map(Cow::into_owned).collect())))
        }
        Step::Json => {
            let parsed: Value = serde_json::from_str(value.as_str()?).ok()?;
            Some(Cow::Owned(walk(&parsed, rest)?.into_owned()))
        }
    }
}

/// A scalar as text: `7` and `"7"` are the same. `None` for null, lists and objects.
pub(crate) fn text_of(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number_text(number))),
        Value::Bool(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A number as text, without the fraction of a whole float.
pub(crate) fn number_text(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9.0e15 => {
            format!("{float:.0}")
        }
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn find(path: &str, record: &Value) -> Option<Value> {
        let headers = [("ce_type".to_owned(), b"view".to_vec())];
        let scope = Scope {
            here: record,
            record,
            metadata: Metadata {
                key: Some(b"k1"),
                timestamp_ms: Some(5),
                topic: "web",
                partition: 2,
                offset: 9,
                headers: &headers,
            },
        };
        Path::parse(path).unwrap().find(&scope).map(Cow::into_owned)
    }

    #[test]
    fn every_step_is_followed() {
        let record = json!({
            "a": {"b": [10, {"c": "x"}]}, "params": [{"key": "p", "value": {"s": "v"}}, {"key": 7, "value": 8}],
            "text": "{\"inner\": [1, 2]}", "odd.name": 3, "none": null,
        });
        let table = [
            ("a.b[0]", Some(json!(10))),
            ("a.b[1].c", Some(json!("x"))),
            ("params[key=p].value.s", Some(json!("v"))),
            ("params[key=7].value", Some(json!(8))),
            ("params[*].key", Some(json!(["p", 7]))),
            ("text|json.inner[1]", Some(json!(2))),
            ("\"odd.name\"", Some(json!(3))),
            ("$.a.b[0]", Some(json!(10))),
            ("@key", Some(json!("k1"))),
            ("@timestamp", Some(json!(5))),
            ("@topic", Some(json!("web"))),
            ("@position", Some(json!("web/2/9"))),
            ("@header.ce_type", Some(json!("view"))),
            ("@header.other", None),
            ("none", None),
            ("a.missing.b", None),
            ("a.b[9]", None),
        ];
        for (path, expected) in table {
            assert_eq!(find(path, &record), expected, "{path}");
        }
        assert_eq!(find("$", &record), Some(record.clone()));
    }

    #[test]
    fn a_path_that_cannot_be_parsed_says_where() {
        for (path, words) in [
            ("", "must not be empty"),
            ("a..b", "a name is missing at character 2"),
            ("a[", "a [ without ]"),
            ("a[x]", "must hold a number"),
            ("a[=x]", "field's name"),
            ("a]b", ""),
            ("@nothing", "@nothing is not known"),
            ("@header.", "names no header"),
            ("$x", "point after the $"),
            ("\"a", "without its end"),
        ] {
            match Path::parse(path) {
                Err(error) => assert!(error.contains(words), "{path}: {error}"),
                Ok(parsed) => assert!(words.is_empty(), "{path} is {parsed:?}"),
            }
        }
    }
}
