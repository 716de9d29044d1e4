//! Tests of the whole program: the binary as a child process, with a broker.
//!
//! Every test generates a small world and needs only loopback. Tests against a real Kafka broker run if
//! `OUZEL_KAFKA_BOOTSTRAP` names one, and otherwise print that they were skipped.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails while setting a test up fails the test"
)]

mod bad_input;
mod broker;
mod candidate;
mod check;
mod context;
mod crash;
mod daemon;
mod demo;
mod disk;
mod encoders;
mod events;
mod follow;
mod freeze;
mod full_start;
mod gates;
mod go_back;
mod migrate;
mod mutations;
mod outage;
mod own_broker;
mod pause;
mod poisoned_hour;
mod process;
mod refusals;
mod remote;
mod replay;
mod retrieval;
mod rollback_load;
mod runbook;
mod schedules;
mod second_learner;
mod secure;
mod shutdown;
mod snapshots;
mod standby;
mod swap_back;
mod tasks;
mod tier;
mod world;

use std::ffi::{OsStr, OsString};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait of any step; only a failing test waits for it.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two polls of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Polls `condition` until it returns a value. `what` completes the sentence "timed out waiting until ...".
#[track_caller]
fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// Prints figures of a test, which the test runner shows on request.
#[allow(
    clippy::print_stderr,
    reason = "figures that the test runner shows on request"
)]
fn print_figures(figures: &str) {
    eprintln!("{figures}");
}

/// The binary under test, without the caller's settings.
fn ouzel(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = ouzel_by(env!("CARGO_BIN_EXE_ouzel"));
    command.args(args);
    command
}

/// A program that is the binary under test or starts it, without the caller's settings.
fn ouzel_by(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_remove("OUZEL_LOG")
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null());
    command
}

/// The exit code and output of a command.
#[derive(Debug)]
struct CommandOutput {
    code: Option<i32>,
    out: String,
    err: String,
}

impl CommandOutput {
    /// Its stdout as one JSON document.
    #[track_caller]
    fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// Runs a command to its end.
fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> CommandOutput {
    let output = ouzel(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    CommandOutput {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Runs a command in this process, which is faster.
fn run_here(args: &[&str]) -> CommandOutput {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["ouzel"].iter().chain(args).map(OsString::from);
    let exit = ouzel::commands::run(args, &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    CommandOutput {
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
        .unwrap_or_else(|| panic!("{object} is not an object"))
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}
