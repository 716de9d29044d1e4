//! `ouzel config show | check | schema | docs`.

use std::io::Write;

use anyhow::anyhow;
use serde_json::json;

use super::output;
use crate::cli::{ConfigVerb, FileArgs};
use crate::config::{Config, ConfigError, Problem};
use crate::error::{ErrorExt, Exit};
use crate::preflight::{Findings, check_broker, preflight};
use crate::telemetry::clock::SystemClock;

/// Runs the command.
pub(super) fn run(verb: &ConfigVerb, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match verb {
        ConfigVerb::Show { all, file, json } => {
            let config = Config::load_or_default(file.path())?;
            match (json, all) {
                (true, _) => output::json(&config.to_json(), out)?,
                (false, true) => write!(out, "{}", config.show_all())?,
                (false, false) => write!(out, "{}", config.show())?,
            }
        }
        ConfigVerb::Check { file, connect, json } => return check(file, *connect, *json, out),
        ConfigVerb::Schema => output::json(&Config::schema(), out)?,
        ConfigVerb::Docs => write!(out, "{}", Config::reference())?,
    }
    Ok(Exit::Ok)
}

fn check(file: &FileArgs, connect: bool, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let Some(path) = file.path() else {
        return Err(anyhow!("no configuration file to check"))
            .hint("ouzel config check FILE")
            .exit(Exit::Usage);
    };
    let (problems, warnings, notes) = match Config::load(path) {
        Ok(config) => {
            let findings = findings(&config, connect);
            let warnings: Vec<String> = config
                .warnings()
                .into_iter()
                .chain(findings.warning_lines())
                .collect();
            let problems = Config::locate(path, findings.problems);
            (problems, warnings, findings.notes)
        }
        Err(ConfigError::Invalid { problems }) => (problems, Vec::new(), Vec::new()),
        Err(error) => return Err(error.into()),
    };
    if json {
        let problems: Vec<_> = problems.iter().map(as_json).collect();
        let ok = problems.is_empty();
        output::json(
            &json!({ "ok": ok, "problems": problems, "warnings": warnings, "notes": notes }),
            out,
        )?;
        return Ok(if ok { Exit::Ok } else { Exit::Check });
    }
    for warning in warnings {
        writeln!(out, "warning: {warning}")?;
    }
    for note in notes {
        writeln!(out, "note: {note}")?;
    }
    if !problems.is_empty() {
        return Err(ConfigError::Invalid { problems }).exit(Exit::Check);
    }
    writeln!(out, "{} is valid", path.display())?;
    Ok(Exit::Ok)
}

/// What a daemon's start would find, and with `connect` what the broker says.
fn findings(config: &Config, connect: bool) -> Findings {
    let mut findings = preflight(config);
    if !connect || !findings.problems.is_empty() {
        return findings;
    }
    match config.kafka_config() {
        Err(error) => findings.problem("kafka.properties", error.to_string()),
        Ok(kafka) => match check_broker(config, &kafka, &SystemClock) {
            Ok(found) => findings.extend(found),
            Err(error) => findings.problem("kafka.bootstrap", error.to_string()),
        },
    }
    findings
}

fn as_json(problem: &Problem) -> serde_json::Value {
    json!({
        "file": problem.file,
        "line": problem.at.map(|(line, _)| line),
        "column": problem.at.map(|(_, column)| column),
        "key": problem.key,
        "message": problem.message,
        "hint": problem.hint,
    })
}
