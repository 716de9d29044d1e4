//! `ouzel verify`: see for yourself that a crash changes nothing.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::cli::{Exit, VerifyArgs};
use crate::progress::{Figures, Progress, Style};
use crate::verify::{self, Request};

/// Runs the command.
pub fn run(args: &VerifyArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let dir = match &args.state {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
            if std::fs::read_dir(dir)?.next().is_some() {
                bail!("{} is not empty: give a folder of its own", dir.display());
            }
            dir.clone()
        }
        None => temporary()?,
    };
    let request = Request {
        kills: args.kills,
        seed: args.seed,
        exe: std::env::current_exe().context("cannot find this program's own file")?,
        dir: dir.clone(),
        fail_points: args.fail_points,
        is_kept: args.state.is_some(),
    };
    let mut progress = Progress::new("kills", Some(args.kills), Style::detect(args.json));
    let report = verify::run(&request, |n_kills, n_samples, words| {
        let figures = Figures {
            samples: n_samples,
            ..Figures::default()
        };
        progress.note(words);
        progress.update(n_kills, &figures);
    })?;
    progress.finish(
        report.n_kills(),
        &Figures {
            samples: report.n_samples(),
            ..Figures::default()
        },
    );
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

/// A new folder, with a short name: the admin sockets inside have little room for theirs.
fn temporary() -> anyhow::Result<PathBuf> {
    let base = std::env::temp_dir();
    for number in 0..10_000u32 {
        let dir = base.join(format!("ouzel-verify-{}-{number}", std::process::id()));
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", dir.display())),
        }
    }
    bail!("cannot find a free name for a folder in {}", base.display())
}
