//! `ouzel verify`: checks that a crash changes nothing.

use std::io::Write;

use anyhow::{Context, bail};

use crate::cli::VerifyArgs;
use crate::commands::data::temporary_dir;
use crate::error::Exit;
use crate::telemetry::progress::{Figures, Progress, Style};
use crate::verify::{self, Request};

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
    let report = verify::run(&request, |n_kills, n_samples, text| {
        progress.note(text);
        progress.update(n_kills, &figures(n_samples));
    })?;
    progress.finish(report.n_kills(), &figures(report.n_samples()));
    if args.json {
        writeln!(out, "{}", report.json())?;
    } else {
        report.tell(out)?;
    }
    if !report.is_passed() {
        return Ok(Exit::Check);
    }
    if args.state.is_none() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(Exit::Ok)
}
