//! The text of a key, from its schema, which has it from the doc comment of the section.
//!
//! A doc comment of a key has two paragraphs: what the key means, and when to change it. The second one may begin with
//! `Unit: x.`, for a number whose name does not say what it counts.

use ouzel_sample::settings::allowed_range;
use serde_json::Value as Schema;

/// The text of a key.
#[derive(Debug)]
pub(super) struct KeyText {
    /// The meaning of the key.
    pub(super) meaning: String,
    /// The unit of a number.
    pub(super) unit: Option<String>,
    /// The range of the value, if narrower than its type.
    pub(super) range: Option<String>,
    /// The possible names, each with its meaning.
    pub(super) values: Vec<(String, String)>,
    /// When to change it.
    pub(super) advice: String,
}

impl KeyText {
    /// The text of a key with this schema.
    pub(super) fn of(schema: &Schema) -> Self {
        let mut paragraphs = paragraphs(schema);
        let mut advice = match paragraphs.len() {
            0 | 1 => String::new(),
            _ => paragraphs.pop().unwrap_or_default(),
        };
        let mut unit = None;
        if let Some((stated, rest)) = advice
            .strip_prefix("Unit: ")
            .and_then(|text| text.split_once(". "))
        {
            unit = Some(stated.to_owned());
            advice = rest.to_owned();
        }
        let values = schema["oneOf"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|value| {
                let name = value["const"].as_str()?.to_owned();
                Some((name, self::paragraphs(value).join(" ")))
            });
        Self {
            meaning: paragraphs.join(" "),
            unit,
            range: allowed_range(schema).or_else(|| allowed_range(&schema["items"])),
            values: values.collect(),
            advice,
        }
    }
}

/// The type of a key's value, for people.
pub(super) fn type_name(schema: &Schema) -> String {
    if let Some(name) = schema["x-type"].as_str() {
        return name.to_owned();
    }
    if !schema["oneOf"].is_null() {
        return "name".to_owned();
    }
    let name = match &schema["type"] {
        Schema::Array(names) => names.first().and_then(Schema::as_str),
        name => name.as_str(),
    };
    match name {
        Some("array") if schema["items"]["properties"].is_object() => "list of tables".to_owned(),
        Some("array") => format!("list of {}s", type_name(&schema["items"])),
        Some("object") => "table".to_owned(),
        Some(name) => name.to_owned(),
        None => "string".to_owned(),
    }
}

fn paragraphs(schema: &Schema) -> Vec<String> {
    let description = schema["description"].as_str().unwrap_or_default();
    let paragraphs = description.split("\n\n");
    paragraphs
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}
