//! Tests of refused files, of printed configurations, and of the settings that each crate gets.

mod errors;
mod models;
mod printed;
mod rooms;

use super::{Config, ConfigError};

/// The problems of a file, one line each, with their hints.
#[track_caller]
fn refused(text: &str) -> String {
    match Config::parse(text, "x.toml") {
        Ok(_) => panic!("accepted: {text}"),
        Err(ConfigError::Invalid { problems }) => {
            let lines = problems.iter().map(|problem| {
                let hint = problem.hint.as_deref().unwrap_or_default();
                format!("{problem} {hint}\n")
            });
            lines.collect()
        }
        Err(error) => panic!("{error}"),
    }
}

/// Checks that `text` has one problem, whose line and hint contain `expected`.
#[track_caller]
fn check(text: &str, expected: &str) {
    let message = refused(text);
    assert!(
        message.contains(expected),
        "{text}: {message}\nexpected {expected}"
    );
    assert_eq!(message.lines().count(), 1, "{text}: {message}");
}
