//! The whole program from outside: the binary as a child process, a broker, events in, scores out.
//!
//! Every test makes a small world of its own and needs nothing but loopback. Those against a real Kafka broker
//! run where `OUZEL_KAFKA_BOOTSTRAP` names one, and say loudly when they do not.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails while setting a test up fails the test"
)]

mod bad_input;
mod broker;
mod context;
mod crash;
mod daemon;
mod demo;
mod disk;
mod encoders;
mod follow;
mod freeze;
mod mutations;
mod outage;
mod own_broker;
mod refusals;
mod replay;
mod schedules;
mod shutdown;
mod snapshots;
mod tier;
mod world;

use std::ffi::{OsStr, OsString};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longest that anything here may take; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Looks until `look` gives something.
#[track_caller]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(LOOK);
    }
}

/// The binary under test, with nothing of the caller's settings.
fn ouzel(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ouzel"));
    command
        .args(args)
        .env_remove("OUZEL_LOG")
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null());
    command
}

/// What a command that ended said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    /// Its stdout as the one JSON document that it is.
    #[track_caller]
    fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// Runs a command to its end.
fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Said {
    let output = ouzel(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// The same in this process, for commands that leave no trace in it: many of them cost no start of a program.
fn run_here(args: &[&str]) -> Said {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["ouzel"].iter().chain(args).map(OsString::from);
    let exit = ouzel::cli::run(args, &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said {
        code: Some(exit.code().into()),
        out: text(out),
        err: text(err),
    }
}

/// The keys of a JSON object, sorted.
#[track_caller]
fn keys(object: &serde_json::Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object
        .as_object()
        .unwrap_or_else(|| panic!("{object} is no object"))
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}
