//! One TOML file, checked to the last key.
//!
//! [`Config`] holds every setting with its default. A file states only what differs. An unknown key is
//! refused with the nearest known name, a wrong value with its line and column, and [`Config::show`] prints
//! the whole of what is in force as a file that reads back to the same configuration.

mod content;
mod model;
mod parse;
mod properties;
mod rooms;
mod rows;
mod sections;
mod show;
mod stream;
mod units;
mod validate;

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use content::Content;
pub use model::{Bound, Dense, Model, Optimizer, READY_MADE};
pub use properties::{Properties, PropertyError, ResolvedProperties};
pub use rows::{FeatureRows, Rows, UserRows};
pub use sections::{Admin, Ids, Kafka, Learner, Log, LogFormat, Serving, Snapshot, Topics};
pub use stream::{Dedup, Events, Features, Join, JoinSource, JoinStore, Order, Policy, Sled, Task, Tier};
pub use units::{ByteSize, Period, UnitError};

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where events come from.
    pub kafka: Kafka,
    /// How ids become numbers.
    pub ids: Ids,
    /// What one event may be.
    pub events: Events,
    /// How impressions and actions become samples.
    pub join: Join,
    /// How the work of joining is shared, where it is.
    pub tier: Tier,
    /// In which order records of several partitions are taken.
    pub order: Order,
    /// What is kept of users and items between events.
    pub features: Features,
    /// What turns items' texts and pictures into vectors.
    pub content: Content,
    /// How samples become steps.
    pub learner: Learner,
    /// The shape of the ranker.
    pub model: Model,
    /// How the ranker learns.
    pub optimizer: Optimizer,
    /// When an id gets an embedding row, and when it loses it.
    pub rows: Rows,
    /// What is kept on disk.
    pub snapshot: Snapshot,
    /// The scoring port.
    pub serving: Serving,
    /// Administration, never on the scoring port.
    pub admin: Admin,
    /// What the process says of itself on stderr.
    pub log: Log,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file can be read but not used. Prints one line a problem.
    #[error("{}", problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid {
        /// What is wrong, in order of position; never empty.
        problems: Vec<Problem>,
    },
}

/// One thing wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name of the file, as the user gave it.
    pub file: String,
    /// Line and column, from 1, where the file mentions it.
    pub at: Option<(usize, usize)>,
    /// Path of the key, as `join.tasks[0].window`; empty for the whole file.
    pub key: String,
    /// What is wrong. Never holds the value of a secret.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::parse(&text, &path.display().to_string())?.with_widths())
    }

    /// Reads and checks `text`; `file` is its name in messages.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        parse::parse(text, file).map_err(|problems| ConfigError::Invalid { problems })
    }

    /// What works but deserves a word, one line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        validate::warnings(self)
    }

    /// The whole configuration as TOML, every key with its meaning, unit and default.
    #[must_use]
    pub fn show(&self) -> String {
        show::show(self)
    }

    /// The admin socket: as configured, or `admin.sock` in the state directory.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.admin
            .socket
            .clone()
            .unwrap_or_else(|| self.snapshot.dir.join("admin.sock"))
    }

    /// Where the join store on disk is: `join` in the state directory.
    #[must_use]
    pub fn join_dir(&self) -> PathBuf {
        self.snapshot.dir.join("join")
    }

    /// The JSON Schema of the file, without references: every section in place.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        let mut settings = SchemaSettings::draft2020_12();
        settings.inline_subschemas = true;
        settings
            .into_generator()
            .into_root_schema_for::<Self>()
            .to_value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default_configuration() {
        assert_eq!(Config::parse("", "x.toml").unwrap(), Config::default());
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = Config::load(Path::new("/nowhere/ouzel.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("cannot read the configuration /nowhere/ouzel.toml: "),
            "{message}"
        );
    }

    #[test]
    fn every_key_is_documented() {
        fn walk(path: &str, schema: &serde_json::Value, bare: &mut Vec<String>) {
            let nested = [schema, &schema["items"]];
            for (key, property) in nested
                .iter()
                .filter_map(|s| s["properties"].as_object())
                .flatten()
            {
                let path = format!("{path}.{key}");
                if property["description"].as_str().is_none_or(str::is_empty) {
                    bare.push(path.clone());
                }
                walk(&path, property, bare);
            }
        }
        let mut bare = Vec::new();
        walk("", &Config::schema(), &mut bare);
        assert!(bare.is_empty(), "without a doc comment: {bare:?}");
    }
}
