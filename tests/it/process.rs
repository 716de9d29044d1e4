//! Child processes of a test: started with a log, searched, signalled, killed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::wait_until;

/// A running process whose log is kept in a file. Dropping it kills it, and prints the log when the test failed.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its stderr in `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        // This process copies the log, because a test may limit the file size of the child.
        let mut stderr = child.stderr.take().unwrap();
        let mut file = File::create(log).unwrap();
        std::thread::Builder::new()
            .spawn(move || io::copy(&mut stderr, &mut file))
            .unwrap();
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The lines of its log with this message.
    pub(crate) fn logged(&self, message: &str) -> Vec<Value> {
        let text = fs::read_to_string(&self.log).unwrap();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let has_message = |line: &Value| {
            let text = line["message"].as_str();
            text.is_some_and(|text| text.contains(message))
        };
        lines.filter(has_message).collect()
    }

    /// True when any part of its log contains `text`.
    pub(crate) fn log_contains(&self, text: &str) -> bool {
        fs::read_to_string(&self.log).unwrap().contains(text)
    }

    /// True once it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end. Returns the exit code.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self) -> Option<i32> {
        wait_until("the process has ended", || self.child.try_wait().unwrap()).code()
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it cleanly.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        assert_eq!(self.wait_exit(), Some(0));
    }
}

impl Drop for Process {
    #[allow(clippy::print_stderr, reason = "the log explains a failed test")]
    fn drop(&mut self) {
        // A failing test must not leave the process running.
        let _killed = self.child.kill().is_ok() && self.child.wait().is_ok();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}
