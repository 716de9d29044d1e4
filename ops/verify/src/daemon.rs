//! One daemon as a child process: started, observed through its admin socket, and killed.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::failpoint::{VARIABLE, Visit};
use crate::lineage_dir::LineageDir;

/// Longest wait for an answer on the admin socket: a daemon that starts up may not answer, and kills must not be late.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(20);
/// Longest wait for the end of a daemon after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const STATUS_REQUEST: &[u8] = b"{\"ask\":\"status\"}\n";
const SIGABRT: i32 = 6;

/// The part of the answer to [`STATUS_REQUEST`] that the harness reads.
#[derive(Deserialize)]
struct StatusReply {
    /// Events read since the start.
    events: u64,
}

/// A daemon, killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    dir: LineageDir,
    started: Instant,
    /// Time from the start to the first answer on the admin socket; `None` before it.
    pub(crate) startup: Option<Duration>,
    /// Records in the snapshot from which the daemon started.
    n_restored: u64,
}

impl Daemon {
    /// Starts `exe daemon` in `dir`, through `taskset` on one core if asked to, armed for a fail point.
    pub(crate) fn start(
        exe: &Path,
        dir: &LineageDir,
        is_on_one_core: bool,
        fail_at: Option<Visit>,
    ) -> anyhow::Result<Self> {
        let snapshot = dir.store().newest_valid()?.snapshot;
        let n_restored = snapshot.map_or(0, |snapshot| {
            let positions = &snapshot.manifest().checkpoint.positions;
            positions.values().map(|next| next.unsigned_abs()).sum()
        });
        let path = dir.log_path();
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot open {}", path.display()))?;
        let mut command = Command::new(exe);
        if is_on_one_core {
            // `taskset` becomes the daemon, under the same process id.
            command = Command::new("taskset");
            command.args(["-c", "0"]).arg(exe);
        }
        match fail_at {
            Some(visit) => command.env(VARIABLE, visit.to_string()),
            None => command.env_remove(VARIABLE),
        };
        let child = command
            .arg("daemon")
            .arg("--config")
            .arg(dir.config_path())
            .env_remove("OUZEL_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", exe.display()))?;
        Ok(Self {
            child,
            dir: dir.clone(),
            started: Instant::now(),
            startup: None,
            n_restored,
        })
    }

    /// Time since the start.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    fn exit_status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for a daemon")
    }

    /// Fails if the daemon ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => bail!(
                "a daemon ended by itself, {status}; its log ends with\n  {}",
                self.dir.log_tail()
            ),
        }
    }

    /// True once the daemon has aborted at its fail point.
    pub(crate) fn has_aborted(&mut self) -> anyhow::Result<bool> {
        let status = self.exit_status()?;
        Ok(status.is_some_and(|status| status.signal() == Some(SIGABRT)))
    }

    /// Number of records read, those in its snapshot included; `None` without an answer.
    pub(crate) fn n_read(&mut self) -> Option<u64> {
        let n_events = self.query_events()?;
        self.startup.get_or_insert(self.started.elapsed());
        Some(self.n_restored + n_events)
    }

    fn query_events(&self) -> Option<u64> {
        let mut stream = UnixStream::connect(self.dir.state.join("admin.sock")).ok()?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).ok()?;
        stream.write_all(STATUS_REQUEST).ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).ok()?;
        let reply: StatusReply = serde_json::from_str(&answer).ok()?;
        Some(reply.events)
    }

    /// Sends SIGKILL. Fails if the daemon had ended by itself.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.check()?;
        self.child.kill().context("cannot kill a daemon")?;
        self.child.wait().context("cannot wait for a killed daemon")?;
        Ok(())
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.check()?;
        self.signal("TERM")?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!(
            "a daemon did not end within {} s after SIGTERM; its log ends with\n  {}",
            STOP_TIMEOUT.as_secs(),
            self.dir.log_tail()
        )
    }

    /// Sends a signal by name, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) -> anyhow::Result<()> {
        // The built-in command of the shell: not every machine has /bin/kill.
        let pid = self.child.id().to_string();
        let status = Command::new("sh")
            .args(["-c", "kill -\"$0\" \"$1\"", name, &pid])
            .status();
        let status = status.context("cannot run sh to send a signal")?;
        if !status.success() {
            bail!("cannot send SIG{name} to a daemon: {status}");
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail if the daemon has ended, which is what is wanted.
        let _is_killed = self.child.kill().is_ok();
        let _is_reaped = self.child.wait().is_ok();
    }
}

/// True if this machine has `taskset`, which binds a process to one core.
pub(crate) fn can_bind_to_one_core() -> bool {
    let status = Command::new("taskset")
        .args(["-c", "0", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
