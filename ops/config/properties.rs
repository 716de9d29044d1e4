//! `[kafka.properties]`: settings of librdkafka, passed through, with secrets by reference only.
//!
//! Values stay as written, so a printed configuration shows a reference such as `${env:NAME}` and never a secret.
//! [`Properties::resolve`] follows the references when a client connects.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fmt, fs, io};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;
use toml::{Table, Value};

use super::document::join;

/// Printed in place of a secret value.
const REDACTED: &str = "<redacted>";
/// `<property>_file = "PATH"` is `<property>` with the content of that file.
const FILE_SUFFIX: &str = "_file";

/// Takes the place of a secret that a check cannot resolve.
const STAND_IN: &str = "unresolved";

/// Properties by name, as written.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties {
    written: BTreeMap<String, String>,
}

/// Why a reference cannot be followed. Never holds a value.
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
    /// Every property as written, in order of name.
    pub fn written(&self) -> impl Iterator<Item = (&str, &str)> {
        self.written
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Names whose value is a secret in plain text.
    pub fn plain_secrets(&self) -> impl Iterator<Item = &str> {
        self.written()
            .filter(|(name, value)| is_secret(name) && !is_reference(value))
            .map(|(name, _)| name)
    }

    /// Follows every reference; `env` returns the value of a variable. Do not print the result.
    pub fn resolve(
        &self,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<BTreeMap<String, String>, PropertyError> {
        let resolved = self.written().map(|(name, value)| resolved(name, value, &env));
        resolved.collect()
    }

    /// As [`Properties::resolve`], for a check on a machine that may lack the secrets. A secret that cannot be resolved has
    /// a stand-in, and any other property is left out; the errors say which.
    pub fn resolve_to_check(
        &self,
        env: impl Fn(&str) -> Option<String>,
    ) -> (BTreeMap<String, String>, Vec<PropertyError>) {
        let (mut values, mut errors) = (BTreeMap::new(), Vec::new());
        for (name, value) in self.written() {
            match resolved(name, value, &env) {
                Ok((property, value)) => {
                    values.insert(property, value);
                }
                Err(error) => {
                    let property = name.strip_suffix(FILE_SUFFIX).unwrap_or(name);
                    if is_secret(property) || property == "sasl.username" {
                        values.insert(property.to_owned(), STAND_IN.to_owned());
                    }
                    errors.push(error);
                }
            }
        }
        (values, errors)
    }

    fn printable<'a>(&self, name: &str, value: &'a str) -> &'a str {
        if is_secret(name) && !is_reference(value) {
            REDACTED
        } else {
            value
        }
    }
}

/// The name and value of a property as librdkafka takes them.
fn resolved(
    name: &str,
    value: &str,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<(String, String), PropertyError> {
    let value = substitute(name, value, env)?;
    let Some(property) = name.strip_suffix(FILE_SUFFIX) else {
        return Ok((name.to_owned(), value));
    };
    let path = PathBuf::from(value);
    let content = fs::read_to_string(&path).map_err(|source| PropertyError::Unreadable {
        property: property.to_owned(),
        path,
        source,
    })?;
    // Editors add a newline at the end of a file.
    let content = content.trim_end_matches(['\n', '\r']).to_owned();
    Ok((property.to_owned(), content))
}

/// True if the value of this property must not be printed.
fn is_secret(name: &str) -> bool {
    // `ssl.key.location` and similar names hold the path of a secret.
    !["_file", ".file", ".location"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
        && (["password", "passphrase", "secret", "private.key"]
            .iter()
            .any(|word| name.contains(word))
            || matches!(name, "ssl.key.pem" | "sasl.oauthbearer.config"))
}

/// True if `value` is exactly one reference.
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
        let Value::Table(table) = Value::deserialize(deserializer)? else {
            return Err(de::Error::custom("expected a table of librdkafka properties"));
        };
        let mut written = BTreeMap::new();
        flatten("", table, &mut written).map_err(de::Error::custom)?;
        Ok(Self { written })
    }
}

/// Adds the properties of `table` by name. In TOML, `ssl.key.location = ".."` is a table in a table.
///
/// Numbers and booleans become the text that librdkafka takes.
fn flatten(prefix: &str, table: Table, written: &mut BTreeMap<String, String>) -> Result<(), String> {
    for (key, value) in table {
        let name = join(prefix, &key);
        let text = match value {
            Value::Table(table) => {
                flatten(&name, table, written)?;
                continue;
            }
            Value::String(text) => text,
            Value::Integer(_) | Value::Boolean(_) => value.to_string(),
            _ => return Err(format!("{name} must be a string, a whole number or a boolean")),
        };
        if written.insert(name.clone(), text).is_some() {
            return Err(format!("the property {name} is given twice"));
        }
    }
    Ok(())
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
