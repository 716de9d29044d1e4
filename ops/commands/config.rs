//! `ouzel config show | check | schema | docs`.

use std::io::Write;

use anyhow::anyhow;
use serde_json::json;

use super::output;
use crate::cli::{ConfigVerb, FileArgs};
use crate::config::{Config, ConfigError, Problem};
use crate::error::{ErrorExt, Exit};

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
        ConfigVerb::Check { file, json } => return check(file, *json, out),
        ConfigVerb::Schema => output::json(&Config::schema(), out)?,
        ConfigVerb::Docs => write!(out, "{}", Config::reference())?,
    }
    Ok(Exit::Ok)
}

fn check(file: &FileArgs, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let Some(path) = file.path() else {
        return Err(anyhow!("no configuration file to check"))
            .hint("ouzel config check FILE")
            .exit(Exit::Usage);
    };
    let (problems, warnings) = match Config::load(path) {
        Ok(config) => (Vec::new(), warnings(&config)),
        Err(ConfigError::Invalid { problems }) if json => (problems, Vec::new()),
        Err(error @ ConfigError::Invalid { .. }) => return Err(error).exit(Exit::Check),
        Err(error) => return Err(error.into()),
    };
    if json {
        let problems: Vec<_> = problems.iter().map(as_json).collect();
        let ok = problems.is_empty();
        output::json(
            &json!({ "ok": ok, "problems": problems, "warnings": warnings }),
            out,
        )?;
        return Ok(if ok { Exit::Ok } else { Exit::Check });
    }
    for warning in warnings {
        writeln!(out, "warning: {warning}")?;
    }
    writeln!(out, "{} is valid", path.display())?;
    Ok(Exit::Ok)
}

/// Warnings about a usable configuration. A secret that is missing here may exist where the daemon runs.
fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = config.warnings();
    let unresolved = config.kafka_config().err();
    warnings.extend(unresolved.map(|error| format!("{error} on this machine")));
    warnings
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
