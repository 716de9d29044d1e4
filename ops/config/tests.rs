//! The configuration as a user meets it: what is refused, what is printed, what the rooms get.

mod errors;
mod models;
mod printed;
mod rooms;

use super::{Config, ConfigError};

/// What is wrong with a file, a line each, with the hint behind it.
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

/// Expects one problem with `text`, whose line and hint contain `expected`.
#[track_caller]
fn check(text: &str, expected: &str) {
    let message = refused(text);
    assert!(
        message.contains(expected),
        "{text}: {message}\nexpected {expected}"
    );
    assert_eq!(message.lines().count(), 1, "{text}: {message}");
}
