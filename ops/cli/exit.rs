//! Exit codes, and errors as the user reads them.

use std::fmt;
use std::io::Write;
use std::process::{ExitCode, Termination};

use ouzel_ingest::Error as SourceError;

use crate::config::ConfigError;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Ok,
    /// It could not.
    Failure,
    /// It was asked in a way that cannot be done: a wrong argument or setting.
    Usage,
    /// It checked something, and the check failed.
    Check,
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Check => 3,
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

/// An error with what to do about it and the exit code it deserves.
#[derive(Debug)]
struct Told {
    error: anyhow::Error,
    hint: Option<String>,
    exit: Option<Exit>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The whole chain, because this error is the end of it.
        f.write_str(&one_line(&self.error))
    }
}

impl std::error::Error for Told {}

/// Adds a hint or an exit code to the error of a result.
pub trait ErrorExt<T> {
    /// Prints `hint: {hint}` below the error.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;

    /// Ends the process with `exit` instead of [`Exit::Failure`].
    fn exit(self, exit: Exit) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> ErrorExt<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| {
            let mut told = tell(error.into());
            told.hint = Some(hint.into());
            told.into()
        })
    }

    fn exit(self, exit: Exit) -> anyhow::Result<T> {
        self.map_err(|error| {
            let mut told = tell(error.into());
            told.exit = Some(exit);
            told.into()
        })
    }
}

fn tell(error: anyhow::Error) -> Told {
    match error.downcast::<Told>() {
        Ok(told) => told,
        Err(error) => Told {
            error,
            hint: None,
            exit: None,
        },
    }
}

/// Prints `error` and its hints, and returns the exit code it deserves.
pub fn report(error: &anyhow::Error, err: &mut dyn Write) -> Exit {
    let told = error.chain().find_map(|cause| cause.downcast_ref::<Told>());
    let inner = told.map_or(error, |told| &told.error);
    let config = inner
        .chain()
        .find_map(|cause| cause.downcast_ref::<ConfigError>());
    let mut text = String::new();
    if let Some(ConfigError::Invalid { problems }) = config {
        for problem in problems {
            text += &format!("error: {problem}\n");
            if let Some(hint) = &problem.hint {
                text += &format!("hint: {hint}\n");
            }
        }
    } else {
        text += &format!("error: {}\n", one_line(error));
    }
    if let Some(hint) = told.and_then(|told| told.hint.as_ref()) {
        text += &format!("hint: {hint}\n");
    }
    // With stderr gone there is nobody left to tell.
    let _told = err.write_all(text.as_bytes()).is_ok();
    let is_setting = matches!(config, Some(ConfigError::Invalid { .. }))
        || inner
            .chain()
            .filter_map(|cause| cause.downcast_ref::<SourceError>())
            .any(is_setting);
    let default = if is_setting { Exit::Usage } else { Exit::Failure };
    told.and_then(|told| told.exit).unwrap_or(default)
}

/// True for what only another setting can mend.
fn is_setting(error: &SourceError) -> bool {
    matches!(
        error,
        SourceError::OwnedProperty { .. } | SourceError::BadProperty { .. } | SourceError::NotBuiltIn { .. }
    )
}

/// The error and its causes, each once: many an error tells its cause and names it as well.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;
    use crate::config::Config;

    fn check(error: &anyhow::Error, expected: &str, exit: Exit) {
        let mut text = Vec::new();
        assert_eq!(report(error, &mut text), exit);
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn an_error_is_one_line_with_its_causes_and_a_hint_is_another() {
        let plain = Err::<(), _>(anyhow!("no such host")).context("cannot reach the broker");
        check(
            &plain.unwrap_err(),
            "error: cannot reach the broker: no such host\n",
            Exit::Failure,
        );

        let hinted = Err::<(), _>(anyhow!("no such host"))
            .context("cannot reach the broker")
            .hint("look at kafka.bootstrap")
            .exit(Exit::Usage)
            .context("cannot start");
        let expected =
            "error: cannot start: cannot reach the broker: no such host\nhint: look at kafka.bootstrap\n";
        check(&hinted.unwrap_err(), expected, Exit::Usage);
    }

    #[test]
    fn a_cause_is_told_once() {
        let unreadable = || ConfigError::Unreadable {
            path: "x.toml".into(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        };
        let expected = "error: cannot read the configuration x.toml: entity not found\n";
        check(&unreadable().into(), expected, Exit::Failure);
        check(
            &Err::<(), _>(unreadable()).exit(Exit::Check).unwrap_err(),
            expected,
            Exit::Check,
        );
    }

    #[test]
    fn each_problem_of_a_configuration_has_its_line_and_its_hint() {
        let error = anyhow::Error::from(Config::parse("a = 1\nserving.port = 1", "c.toml").unwrap_err());
        let mut text = Vec::new();
        assert_eq!(report(&error, &mut text), Exit::Usage);
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "error: c.toml:1:1: a: unknown key");
        assert!(lines[1].starts_with("hint: "));
        assert_eq!(lines[2], "error: c.toml:2:9: serving.port: unknown key");
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn a_property_that_is_refused_is_a_matter_of_usage() {
        let refused = SourceError::OwnedProperty {
            key: "group.id".to_owned(),
            reason: "it is ours",
        };
        let error = Err::<(), _>(refused).context("cannot start").unwrap_err();
        let expected = "error: cannot start: kafka property `group.id` cannot be set: it is ours; remove it from `kafka.properties`\n";
        check(&error, expected, Exit::Usage);
    }

    #[test]
    fn every_code_is_the_one_the_manual_promises() {
        let codes = [Exit::Ok, Exit::Failure, Exit::Usage, Exit::Check].map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3]);
    }
}
