//! `[kafka.properties]`: librdkafka's own settings, passed through, with secrets by reference only.
//!
//! A value is kept as it was written, so a reference such as `${env:NAME}` is all that this process can ever
//! print of a secret. [`Properties::resolve`] follows the references at the last moment, into a type that
//! does not print its values.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fmt, fs, io};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

/// What stands for a value that must not be printed.
const REDACTED: &str = "<redacted>";
/// `<property>_file = "PATH"` is `<property>` with the content of that file.
const FILE_SUFFIX: &str = "_file";

/// Properties by name, as written.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties {
    written: BTreeMap<String, String>,
}

/// Properties with their references followed. Prints its names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ResolvedProperties {
    values: BTreeMap<String, String>,
}

/// Why a reference leads nowhere. Never holds a value.
#[derive(Debug, Error)]
pub enum PropertyError {
    /// The environment has no such variable.
    #[error("cannot set kafka property {property}: the environment variable {name} is not set")]
    NoSuchVariable {
        /// Which property.
        property: String,
        /// Which variable.
        name: String,
    },
    /// The file cannot be read.
    #[error("cannot set kafka property {property} from the file {}: {source}", path.display())]
    Unreadable {
        /// Which property.
        property: String,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `${...}` that is not `${env:NAME}`.
    #[error("cannot set kafka property {property}: a reference is written ${{env:NAME}}")]
    BadReference {
        /// Which property.
        property: String,
    },
}

impl Properties {
    /// Properties as a file would state them.
    pub fn from_written(written: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            written: written.into_iter().collect(),
        }
    }

    /// Every property as written, in order of name.
    pub fn written(&self) -> impl Iterator<Item = (&str, &str)> {
        self.written
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Names whose value is a secret in plain sight.
    pub fn plain_secrets(&self) -> impl Iterator<Item = &str> {
        self.written()
            .filter(|(name, value)| is_secret(name) && !is_reference(value))
            .map(|(name, _)| name)
    }

    /// Follows every reference. `env` looks a variable up.
    pub fn resolve(&self, env: impl Fn(&str) -> Option<String>) -> Result<ResolvedProperties, PropertyError> {
        let mut values = BTreeMap::new();
        for (name, value) in &self.written {
            let value = substitute(name, value, &env)?;
            match name.strip_suffix(FILE_SUFFIX) {
                None => values.insert(name.clone(), value),
                Some(property) => {
                    let path = PathBuf::from(value);
                    let content = fs::read_to_string(&path).map_err(|source| PropertyError::Unreadable {
                        property: property.to_owned(),
                        path,
                        source,
                    })?;
                    // Editors end a file with a newline; no password does.
                    values.insert(
                        property.to_owned(),
                        content.trim_end_matches(['\n', '\r']).to_owned(),
                    )
                }
            };
        }
        Ok(ResolvedProperties { values })
    }

    fn printable<'a>(&self, name: &str, value: &'a str) -> &'a str {
        if is_secret(name) && !is_reference(value) {
            REDACTED
        } else {
            value
        }
    }
}

impl ResolvedProperties {
    /// All of them, for the client library. Not for printing.
    #[must_use]
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// The true value of `name`. Not for printing.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

/// True when a property's value must never be printed.
fn is_secret(name: &str) -> bool {
    // `ssl.key.location` and its like say where a secret is.
    !["_file", ".file", ".location"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
        && (["password", "passphrase", "secret", "private.key"]
            .iter()
            .any(|word| name.contains(word))
            || matches!(name, "ssl.key.pem" | "sasl.oauthbearer.config"))
}

/// True when `value` is nothing but one reference.
fn is_reference(value: &str) -> bool {
    value
        .strip_prefix("${env:")
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|name| !name.is_empty() && !name.contains(['$', '{', '}']))
}

/// Replaces every `${env:NAME}` in `value`.
fn substitute(
    property: &str,
    value: &str,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<String, PropertyError> {
    let mut out = String::new();
    let mut rest = value;
    while let Some(start) = rest.find("${") {
        let bad = || PropertyError::BadReference {
            property: property.to_owned(),
        };
        let end = rest[start..].find('}').ok_or_else(bad)? + start;
        let name = rest[start + 2..end].strip_prefix("env:").ok_or_else(bad)?;
        let value = env(name).ok_or_else(|| PropertyError::NoSuchVariable {
            property: property.to_owned(),
            name: name.to_owned(),
        })?;
        out.push_str(&rest[..start]);
        out.push_str(&value);
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.written()
                    .map(|(name, value)| (name, self.printable(name, value))),
            )
            .finish()
    }
}

impl fmt::Debug for ResolvedProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.values.keys().map(|name| (name, REDACTED)))
            .finish()
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.written.len()))?;
        for (name, value) in self.written() {
            map.serialize_entry(name, self.printable(name, value))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut written = BTreeMap::new();
        match Node::deserialize(deserializer)? {
            Node::Table(entries) => flatten("", entries, &mut written)?,
            Node::Value(_) => return Err(de::Error::custom("expected a table of librdkafka properties")),
        }
        Ok(Self { written })
    }
}

/// `ssl.key.location = ".."` without quotes is a table in a table in TOML; its name is the path.
fn flatten<E: de::Error>(
    prefix: &str,
    entries: Vec<(String, Node)>,
    written: &mut BTreeMap<String, String>,
) -> Result<(), E> {
    for (key, node) in entries {
        let name = if prefix.is_empty() {
            key
        } else {
            format!("{prefix}.{key}")
        };
        match node {
            Node::Table(entries) => flatten(&name, entries, written)?,
            Node::Value(value) => {
                if written.insert(name.clone(), value).is_some() {
                    return Err(E::custom(format!("the property {name} is given twice")));
                }
            }
        }
    }
    Ok(())
}

/// A value of the table. Numbers and booleans become the text librdkafka takes.
enum Node {
    Value(String),
    Table(Vec<(String, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a whole number or a boolean")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Value(value.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Value(value.to_string()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Value(value.to_string()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Table(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl JsonSchema for Properties {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("Properties")
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": true })
    }
}

#[cfg(test)]
mod tests;
