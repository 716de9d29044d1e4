//! The errors of a configuration.

use std::path::PathBuf;
use std::{fmt, io};

use thiserror::Error;

/// How similar two names must be, by Jaro and Winkler, for one to be a misspelling of the other.
const SIMILAR: f64 = 0.8;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has errors. Prints one line per problem.
    #[error("{}", problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid {
        /// In order of position; never empty.
        problems: Vec<Problem>,
    },
}

/// One error in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name of the file, as the user gave it.
    pub file: String,
    /// Line and column, from 1, where the file mentions the key.
    pub at: Option<(usize, usize)>,
    /// Path of the key, as `join.tasks[0].window`; empty for the whole file.
    pub key: String,
    /// What is wrong. Never holds the value of a secret.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl From<Vec<Problem>> for ConfigError {
    fn from(problems: Vec<Problem>) -> Self {
        Self::Invalid { problems }
    }
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

/// The known name most similar to `name`, if any is similar enough.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase().replace('-', "_");
    known
        .map(|known| (strsim::jaro_winkler(&name, known), known))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}
