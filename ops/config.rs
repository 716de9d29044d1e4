//! The configuration: one TOML file.
//!
//! Each section is a type of the crate that reads it, with its defaults, its ranges and the text of its keys. This module
//! reads files, merges them with the models that they start from, validates and prints. An unknown key is refused with
//! the nearest known name, a wrong value with its line and column.

mod across;
mod changes;
mod derived;
mod document;
mod events;
mod files;
mod fingerprint;
mod model;
mod problem;
mod properties;
mod reference;
mod renamed;
mod root;
mod sections;
mod show;
mod text;

#[cfg(test)]
mod tests;

pub(crate) use changes::SettingChange;
pub use model::READY_MADE;
pub use ouzel_ingest::join::{JoinSource, LabelPolicy, TaskConfig};
pub use ouzel_sample::settings::{ByteSize, Period};
pub use problem::{ConfigError, Problem};
pub use properties::{Properties, PropertyError};
pub use root::Config;
pub use sections::{Admin, Content, Ids, Kafka, Log, LogFormat};
