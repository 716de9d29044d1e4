//! `ouzel completions SHELL`: a completion script on stdout.

use std::io::Write;

use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs};
use crate::error::Exit;

/// Runs the command.
pub(super) fn run(args: &CompletionsArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    // Into memory first: the generator panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ouzel", &mut script);
    out.write_all(&script)?;
    Ok(Exit::Ok)
}
