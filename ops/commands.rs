//! The commands: arguments in, one exit code out.
//!
//! [`run`] parses, dispatches and reports. A command takes its arguments and a writer for its answer, stdout, and returns an
//! exit code or an error with a hint; errors go to the other writer, stderr. Nothing here touches the process itself.

mod completions;
mod config;
mod daemon;
mod data;
mod demo;
mod join;
mod model;
mod replay;
mod score;
mod snapshot;
mod table;
mod topics;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Parser;

use crate::cli::{Cli, Verb};
use crate::error::{Exit, report};

/// Runs the program with `args`, the first of which is its name.
pub fn run(args: impl IntoIterator<Item = OsString>, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            // With stderr gone nobody is left to read it.
            let _is_written = write!(err, "{}", error.render()).is_ok();
            return Exit::Usage;
        }
        // Help and version are answers.
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
        // `ouzel snapshot list | head -1` read all it wanted.
        Err(_) if out.is_closed => Exit::Ok,
        Err(error) => report(&error, err),
    }
}

fn dispatch(verb: &Verb, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match verb {
        Verb::Config(args) => config::run(args, out),
        Verb::Model(args) => model::run(args, out),
        Verb::Completions(args) => completions::run(args, out),
        Verb::Snapshot(args) => snapshot::run(args, out),
        Verb::Topics(args) => topics::run(args, out),
        Verb::Replay(args) => replay::run(args, out),
        Verb::Daemon(args) => daemon::run(args),
        Verb::Demo(args) => demo::run(args, out),
        Verb::Join(args) => join::run(args),
        Verb::Score(args) => score::run(args, out),
        Verb::Verify(args) => verify::run(args, out),
    }
}

/// Stdout that remembers whether its reader went away.
struct Stdout<'a> {
    inner: &'a mut dyn Write,
    is_closed: bool,
}

impl Stdout<'_> {
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.is_closed |= matches!(&result, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
        result
    }
}

impl Write for Stdout<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.inner.write(bytes);
        self.note(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.inner.flush();
        self.note(result)
    }
}

#[cfg(test)]
mod tests;
