//! One daemon as a child process: started, watched from outside as an operator would, and killed.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use ouzel_snapshot::Store;

use crate::admin::{AdminReply, AdminRequest};
use crate::config::Config;
use crate::failpoint::{VARIABLE, Visit};

/// Longest wait for an answer on the admin socket: a daemon that starts up may not be listening yet, and the
/// moment of a kill must not wait for it.
const ANSWER: Duration = Duration::from_millis(20);
/// Longest wait for a daemon to end after SIGTERM.
const STOP: Duration = Duration::from_secs(60);
const SIGABRT: i32 = 6;
/// Lines of a daemon's log in the message about its failure.
const LAST_LINES: usize = 6;

/// The folder of one lineage: its configuration, its state directory and the log of its daemons.
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
    config: Config,
}

impl Home {
    /// Makes the folder `dir` with `config`, its state directory put inside.
    pub fn new(dir: &Path, config: &Config) -> anyhow::Result<Self> {
        let mut config = config.clone();
        config.snapshot.dir = dir.join("state");
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let home = Self {
            dir: dir.to_owned(),
            config,
        };
        let path = home.config_path();
        std::fs::write(&path, home.config.show_all())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(home)
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.config.snapshot.dir
    }

    /// Where the plan log is.
    #[must_use]
    pub fn plan(&self) -> PathBuf {
        self.state().join("plan")
    }

    /// Where snapshots are.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.state().join("snapshots")
    }

    /// Its store, for reading.
    #[must_use]
    pub fn store(&self) -> Store {
        Store::inspect(self.state())
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("ouzel.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// The last lines of its daemons' log.
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n  ")
    }
}

/// A daemon that runs, or did.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    home: Home,
    started: Instant,
    ready: Option<Duration>,
    /// Records that its snapshot contained when it was started.
    n_before: u64,
}

impl Daemon {
    /// Starts `exe daemon` in `home`; through `taskset` on one core, if asked to, and to die at a fail point.
    pub fn start(
        exe: &Path,
        home: &Home,
        is_on_one_core: bool,
        fail_at: Option<Visit>,
    ) -> anyhow::Result<Self> {
        let n_before = match home.store().newest_valid()?.snapshot {
            Some(snapshot) => snapshot
                .manifest()
                .cut
                .positions
                .values()
                .map(|next| next.unsigned_abs())
                .sum(),
            None => 0,
        };
        let path = home.log_path();
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot open {}", path.display()))?;
        let mut command = match is_on_one_core {
            false => Command::new(exe),
            true => {
                // It becomes the daemon, under the same process id.
                let mut command = Command::new("taskset");
                command.args(["-c", "0"]).arg(exe);
                command
            }
        };
        match fail_at {
            Some(visit) => command.env(VARIABLE, visit.to_string()),
            None => command.env_remove(VARIABLE),
        };
        let child = command
            .arg("daemon")
            .arg("--config")
            .arg(home.config_path())
            .env_remove("OUZEL_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", exe.display()))?;
        Ok(Self {
            child,
            home: home.clone(),
            started: Instant::now(),
            ready: None,
            n_before,
        })
    }

    /// Since its start.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// From its start to its first answer on the admin socket, if it has given one.
    #[must_use]
    pub fn ready(&self) -> Option<Duration> {
        self.ready
    }

    /// Fails when it ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("cannot look after a daemon")? {
            None => Ok(()),
            Some(status) => bail!(
                "a daemon ended by itself, {status}; its log ends\n  {}",
                self.home.last_words()
            ),
        }
    }

    /// True once it has died of its fail point.
    pub fn has_aborted(&mut self) -> anyhow::Result<bool> {
        let status = self.child.try_wait().context("cannot look after a daemon")?;
        Ok(status.is_some_and(|status| status.signal() == Some(SIGABRT)))
    }

    /// Records of the log that it has taken, those of its snapshot included; `None` while it does not answer.
    pub fn n_taken(&mut self) -> Option<u64> {
        let events = self.ask()?;
        self.ready.get_or_insert(self.started.elapsed());
        Some(self.n_before + events)
    }

    fn ask(&self) -> Option<u64> {
        let mut stream = UnixStream::connect(self.home.config.admin_socket()).ok()?;
        stream.set_read_timeout(Some(ANSWER)).ok()?;
        let mut question = serde_json::to_vec(&AdminRequest::Status).ok()?;
        question.push(b'\n');
        stream.write_all(&question).ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).ok()?;
        match serde_json::from_str(&answer).ok()? {
            AdminReply::Status(status) => Some(status.events),
            _ => None,
        }
    }

    /// SIGKILL. Fails when it had ended by itself.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.check()?;
        self.child.kill().context("cannot kill a daemon")?;
        self.child.wait().context("cannot wait for a killed daemon")?;
        Ok(())
    }

    /// SIGTERM, and how it ended.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.check()?;
        self.signal("TERM")?;
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("cannot wait for a daemon")? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!(
            "a daemon did not end within {} s after SIGTERM; its log ends\n  {}",
            STOP.as_secs(),
            self.home.last_words()
        )
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        // The shell's own: not every machine has the command.
        let status = Command::new("sh")
            .args(["-c", "kill -\"$0\" \"$1\"", name, &self.child.id().to_string()])
            .status()
            .context("cannot run sh to send a signal")?;
        if !status.success() {
            bail!("cannot send SIG{name} to a daemon: {status}");
        }
        Ok(())
    }
}

/// True where a process can be bound to one core.
#[must_use]
pub fn can_bind_to_one_core() -> bool {
    let tried = Command::new("taskset")
        .args(["-c", "0", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to kill.
        let _is_killed = self.child.kill().is_ok();
        let _is_gone = self.child.wait().is_ok();
    }
}
