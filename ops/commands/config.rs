//! `ouzel config show | check | schema | docs`.

use std::io::Write;

use anyhow::anyhow;
use serde_json::json;

use crate::cli::{ConfigArgs, ConfigVerb, FileArgs};
use crate::config::{Config, ConfigError, Problem};
use crate::error::{ErrorExt, Exit};

/// Runs the command.
pub(super) fn run(args: &ConfigArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match &args.verb {
        ConfigVerb::Show { all, file, json } => show(file, *all, *json, out),
        ConfigVerb::Check { file, json } => check(file, *json, out),
        ConfigVerb::Schema => {
            writeln!(out, "{:#}", Config::schema())?;
            Ok(Exit::Ok)
        }
        ConfigVerb::Docs => {
            out.write_all(Config::reference().as_bytes())?;
            Ok(Exit::Ok)
        }
    }
}

fn show(file: &FileArgs, all: bool, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let config = file
        .path()
        .map_or_else(|| Ok(Config::default()), |path| Config::load(path))?;
    let text = match (json, all) {
        (true, _) => format!("{:#}\n", config.to_json()),
        (false, true) => config.show_all(),
        (false, false) => config.show(),
    };
    out.write_all(text.as_bytes())?;
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
        writeln!(
            out,
            "{:#}",
            json!({ "ok": ok, "problems": problems, "warnings": warnings })
        )?;
        return Ok(if ok { Exit::Ok } else { Exit::Check });
    }
    for warning in warnings {
        writeln!(out, "warning: {warning}")?;
    }
    writeln!(out, "{} is valid", path.display())?;
    Ok(Exit::Ok)
}

/// Warnings about a usable configuration. A secret may be missing on the machine that checks it.
fn warnings(config: &Config) -> Vec<String> {
    let unresolved = config
        .kafka
        .properties
        .resolve(|name| std::env::var(name).ok())
        .err();
    config
        .warnings()
        .into_iter()
        .chain(unresolved.map(|error| format!("{error} on this machine")))
        .collect()
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
