//! Reads configuration files and merges them with the models that they start from.

use std::fs;
use std::path::Path;

use ouzel_sample::settings::KeyError;
use toml::{Table, Value};

use super::document::Document;
use super::problem::{ConfigError, Problem};
use super::root::Config;
use super::{across, events, model};

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::parse(&text, &path.display().to_string())?.with_encoder_widths())
    }

    /// Reads and checks the file at `path`; without one, returns the defaults.
    pub(crate) fn load_or_default(path: Option<&Path>) -> Result<Self, ConfigError> {
        path.map_or_else(|| Ok(Self::default()), Self::load)
    }

    /// Reads and checks `text`; `file` is its name in messages. The problems are in order of position.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let document = Document::read(text, file, "", &Self::schema())?;
        let mut table = document.table.clone();
        let model = match table.get("model") {
            None => model::merge(&document, &Table::new())?.into(),
            Some(Value::Table(stated)) => model::merge(&document, stated)?.into(),
            // Refused below, with its position.
            Some(value) => value.clone(),
        };
        table.insert("model".to_owned(), model);
        if let Some(Value::Table(stated)) = table.get("events") {
            table.insert("events".to_owned(), events::merge(&document, stated)?.into());
        }
        validated(document.deserialize::<Self>(table)?, &document)
    }

    /// This configuration with another model: a ready-made one, or a model file.
    pub fn with_model(mut self, from: &str) -> Result<Self, ConfigError> {
        self.model = model::preset(from)?;
        validated(self.with_encoder_widths(), &Document::empty(from))
    }

    /// The errors of values in the file at `path`, each with its position if the file names the key; those come first.
    pub(crate) fn locate(path: &Path, errors: Vec<KeyError>) -> Vec<Problem> {
        let file = path.display().to_string();
        let text = fs::read_to_string(path).unwrap_or_default();
        let document = Document::read(&text, &file, "", &Self::schema());
        let document = document.unwrap_or_else(|_| Document::empty(&file));
        let mut problems: Vec<Problem> = errors.into_iter().map(|error| document.refuse(error)).collect();
        problems.sort_by_key(|problem| (problem.at.is_none(), problem.at));
        problems
    }
}

/// The configuration, unless a value in it cannot be used; problems have their positions in `document`.
pub(super) fn validated(config: Config, document: &Document) -> Result<Config, ConfigError> {
    let errors = across::validate(&config).into_iter();
    let mut problems: Vec<Problem> = errors.map(|error| document.refuse(error)).collect();
    if problems.is_empty() {
        return Ok(Config {
            notices: document.renamed.clone(),
            ..config
        });
    }
    problems.sort_by_key(|problem| problem.at);
    Err(ConfigError::Invalid { problems })
}
