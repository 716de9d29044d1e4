//! Errors as a user reads them, with hints, and exit codes.

use std::fmt;
use std::io::Write;
use std::process::{ExitCode, Termination};

use ouzel_ingest::Error as SourceError;

use crate::config::ConfigError;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// Failed.
    Failure,
    /// A wrong argument or setting.
    Usage,
    /// A check failed, as of a snapshot or a configuration.
    Check,
    /// Another daemon has taken over.
    TakenOver,
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
            Exit::TakenOver => 4,
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

/// An error with a hint and an exit code.
#[derive(Debug)]
struct Hinted {
    error: anyhow::Error,
    hint: Option<String>,
    exit: Option<Exit>,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The whole chain: this error hides its causes.
        f.write_str(&one_line(&self.error))
    }
}

impl std::error::Error for Hinted {}

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
            let mut hinted = hinted(error.into());
            hinted.hint = Some(hint.into());
            hinted.into()
        })
    }

    fn exit(self, exit: Exit) -> anyhow::Result<T> {
        self.map_err(|error| {
            let mut hinted = hinted(error.into());
            hinted.exit = Some(exit);
            hinted.into()
        })
    }
}

fn hinted(error: anyhow::Error) -> Hinted {
    match error.downcast::<Hinted>() {
        Ok(hinted) => hinted,
        Err(error) => Hinted {
            error,
            hint: None,
            exit: None,
        },
    }
}

/// The hint of an error, if it has one.
pub(crate) fn hint_of(error: &anyhow::Error) -> Option<String> {
    let hinted = error.chain().find_map(|cause| cause.downcast_ref::<Hinted>())?;
    hinted.hint.clone()
}

/// Prints `error` with its hints. Returns its exit code.
pub fn report(error: &anyhow::Error, err: &mut dyn Write) -> Exit {
    let hinted = error.chain().find_map(|cause| cause.downcast_ref::<Hinted>());
    let inner = hinted.map_or(error, |hinted| &hinted.error);
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
    if let Some(hint) = hinted.and_then(|hinted| hinted.hint.as_ref()) {
        text += &format!("hint: {hint}\n");
    }
    // With stderr gone nobody is left to read it.
    let _is_written = err.write_all(text.as_bytes()).is_ok();
    let is_setting = matches!(config, Some(ConfigError::Invalid { .. }))
        || inner
            .chain()
            .filter_map(|cause| cause.downcast_ref::<SourceError>())
            .any(is_setting);
    let default = if is_setting { Exit::Usage } else { Exit::Failure };
    hinted.and_then(|hinted| hinted.exit).unwrap_or(default)
}

/// True if only another setting can mend it.
fn is_setting(error: &SourceError) -> bool {
    matches!(
        error,
        SourceError::OwnedProperty { .. } | SourceError::BadProperty { .. } | SourceError::NotBuiltIn { .. }
    )
}

/// The error with its causes, each once: many errors repeat their cause in their own message.
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
    fn a_cause_is_printed_once() {
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
    fn a_refused_kafka_property_is_a_usage_error() {
        let refused = SourceError::OwnedProperty {
            key: "group.id".to_owned(),
            reason: "it is ours",
        };
        let error = Err::<(), _>(refused).context("cannot start").unwrap_err();
        let expected = "error: cannot start: kafka property `group.id` cannot be set: it is ours; remove it from `kafka.properties`\n";
        check(&error, expected, Exit::Usage);
    }

    #[test]
    fn exit_codes_are_those_of_the_manual() {
        let codes = [Exit::Ok, Exit::Failure, Exit::Usage, Exit::Check].map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3]);
    }
}
