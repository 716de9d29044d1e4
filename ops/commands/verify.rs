//! `ouzel verify`: checks that a crash changes nothing.

use std::io::Write;

use anyhow::{Context, bail};

use ouzel_verify::Request;

use crate::cli::VerifyArgs;
use crate::commands::data::temporary_dir;
use crate::error::Exit;
use crate::telemetry::progress::{Figures, Progress, Style};

/// Runs the command.
pub(super) fn run(args: &VerifyArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let dir = match &args.state {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
            if std::fs::read_dir(dir)?.next().is_some() {
                bail!(
                    "{} is not empty: name an empty folder with --state",
                    dir.display()
                );
            }
            dir.clone()
        }
        None => temporary_dir("verify")?,
    };
    let request = Request {
        kills: args.kills,
        seed: args.seed,
        exe: std::env::current_exe().context("cannot find the file of this program")?,
        dir: dir.clone(),
        fail_points: args.fail_points,
        is_kept: args.state.is_some(),
    };
    let mut progress = Progress::new("kills", Some(args.kills), Style::detect(args.json));
    let figures = |samples| Figures {
        samples,
        ..Figures::default()
    };
    let report = ouzel_verify::run(&request, |n_kills, n_samples, summary| {
        progress.note(summary);
        progress.update(n_kills, &figures(n_samples));
    })?;
    progress.finish(report.n_kills(), &figures(report.n_samples()));
    if args.json {
        writeln!(out, "{}", report.to_json())?;
    } else {
        report.write_table(out)?;
    }
    if !report.is_passed() {
        return Ok(Exit::Check);
    }
    if args.state.is_none() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ouzel_verify::DaemonSettings;

    use crate::config::Config;

    #[test]
    fn the_daemons_under_test_have_a_valid_configuration() {
        let dir = "a \"quoted\" path/state";
        let settings = DaemonSettings::new("127.0.0.1:9092").with("snapshot", "dir", dir);
        let config = Config::parse(&settings.to_toml(), "ouzel.toml").unwrap();
        assert_eq!(config.admin_socket(), Path::new(dir).join("admin.sock"));
        assert_eq!(config.join.tasks.len(), 2);
    }
}
