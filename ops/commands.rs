//! The commands.
//!
//! [`run`] parses the arguments, calls the command and reports its error. A command takes its arguments and stdout, and
//! returns an exit code or an error with a hint, which goes to stderr. No command ends the process.

mod candidate;
mod config;
mod daemon;
mod data;
mod demo;
mod events;
mod join;
mod learning;
mod model;
mod output;
mod replay;
mod score;
mod snapshot;
mod streams;
mod topics;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::{CommandFactory, Parser};

use crate::admin::AdminRequest;
use crate::cli::{Cli, Verb};
use crate::error::{Exit, report};

/// Runs the program with `args`, the first of which is its name.
pub fn run(args: impl IntoIterator<Item = OsString>, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            // A closed stderr has no reader to report to.
            let _is_written = write!(err, "{}", error.render()).is_ok();
            return Exit::Usage;
        }
        // Help and version.
        Err(answer) => {
            return if write!(out, "{}", answer.render()).is_ok() {
                Exit::Ok
            } else {
                Exit::Failure
            };
        }
    };
    let mut out = Stdout {
        inner: out,
        is_closed: false,
    };
    let exit = dispatch(&cli.verb, &mut out).and_then(|exit| {
        out.flush()?;
        Ok(exit)
    });
    match exit {
        Ok(exit) => exit,
        // As in `ouzel snapshot list | head -1`.
        Err(_) if out.is_closed => Exit::Ok,
        Err(error) => report(&error, err),
    }
}

fn dispatch(verb: &Verb, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match verb {
        Verb::Config(verb) => config::run(verb, out),
        Verb::Model(args) => model::run(args, out),
        Verb::Completions { shell } => {
            // Into memory first: the generator panics when its writer fails.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "ouzel", &mut script);
            out.write_all(&script)?;
            Ok(Exit::Ok)
        }
        Verb::Snapshot(args) => snapshot::run(args, out),
        Verb::Status(args) => learning::status(args, out),
        Verb::Pause(args) => {
            let note = args.note.note.clone();
            learning::run(args, &AdminRequest::Pause { note }, out)
        }
        Verb::Resume(args) => {
            let note = args.note.note.clone();
            learning::run(args, &AdminRequest::Resume { note }, out)
        }
        Verb::Candidate(args) => candidate::run(args, out),
        Verb::Promote(args) => candidate::promote(args, out),
        Verb::Topics(verb) => topics::run(verb, out),
        Verb::Events(verb) => events::run(verb, out),
        Verb::Replay(args) => replay::run(args, out),
        Verb::Daemon(args) => daemon::run(args),
        Verb::Demo(args) => demo::run(args, out),
        Verb::Join(args) => join::run(args),
        Verb::Score(args) => score::run(args, out),
        Verb::Verify(args) => verify::run(args, out),
    }
}

/// Stdout that remembers whether its reader has closed it.
struct Stdout<'a> {
    inner: &'a mut dyn Write,
    is_closed: bool,
}

impl Stdout<'_> {
    fn record<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.is_closed |= matches!(&result, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
        result
    }
}

impl Write for Stdout<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.inner.write(bytes);
        self.record(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.inner.flush();
        self.record(result)
    }
}

#[cfg(test)]
mod tests;
