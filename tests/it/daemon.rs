//! `ouzel daemon` as a child process: started, asked, killed, told to stop.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use ouzel::admin::{AdminReply, AdminRequest, Client, Status};
use ouzel_serving::client::{RankClient, Reply};
use ouzel_serving::{RankRequest, RankResponse};
use ouzel_snapshot::{Alias, Manifest, SnapshotId, Store};
use serde_json::Value;
use tempfile::TempDir;

use super::broker::Broker;
use super::{PATIENCE, Said, ouzel, run_here, until};

/// A folder with the configuration and the state of one daemon, which outlives its processes.
pub(crate) struct Home {
    dir: TempDir,
    next_log: u32,
}

/// A running process.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    socket: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Home {
    /// A new one on the topics of `broker`. `settings` are more lines of TOML, sections included; they are not
    /// to name `kafka`, `log`, `snapshot.dir`, `serving.listen` or `serving.deadline`.
    pub(crate) fn new(broker: &Broker, settings: &str) -> Self {
        let home = Self::empty();
        let topics = &broker.topics;
        // A late answer of a busy machine is an answer still.
        let text = format!(
            "kafka.bootstrap = {:?}\n\
             kafka.topics = {{ impressions = {:?}, actions = {:?}, items = {:?}, samples = {:?} }}\n\
             snapshot.dir = {:?}\nserving.listen = \"127.0.0.1:0\"\nserving.deadline = \"30s\"\n\
             log.format = \"json\"\n{settings}\n",
            broker.bootstrap,
            topics.impressions,
            topics.actions,
            topics.items,
            topics.samples,
            home.state(),
        );
        fs::write(home.config(), text).unwrap();
        home
    }

    /// A folder without a configuration.
    pub(crate) fn empty() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            next_log: 0,
        }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.path().join("ouzel.toml")
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Its snapshots, to be looked at beside a daemon.
    pub(crate) fn store(&self) -> Store {
        Store::inspect(&self.state())
    }

    /// The snapshot that was made current last.
    pub(crate) fn latest(&self) -> Option<SnapshotId> {
        self.store().alias(Alias::Latest).unwrap()
    }

    /// What that snapshot says of itself. All of it is hashed.
    #[track_caller]
    pub(crate) fn manifest(&self) -> Manifest {
        let snapshot = self.store().read_alias(Alias::Latest).unwrap();
        snapshot.expect("there is a snapshot").manifest().clone()
    }

    /// Records that are in the snapshot a start would resume from: also from a first one that was whole when its writer
    /// was killed, but not made current yet.
    pub(crate) fn n_resumed(&self) -> u64 {
        let snapshot = self.store().newest_valid().unwrap().snapshot;
        let sum: i64 = snapshot.map_or(0, |snapshot| snapshot.manifest().cut.positions.values().sum());
        u64::try_from(sum).unwrap()
    }

    /// `ouzel snapshot` on this state.
    pub(crate) fn snapshot(&self, args: &[&str]) -> Said {
        let config = self.config();
        let before = ["snapshot", "--config", config.to_str().unwrap()];
        run_here(&[before.as_slice(), args].concat())
    }

    /// Starts the daemon and waits until it listens.
    #[track_caller]
    pub(crate) fn start(&mut self) -> Daemon {
        let log = self.path().join(format!("log-{}", self.next_log));
        self.next_log += 1;
        let mut child = ouzel(["daemon".as_ref(), "--config".as_ref(), self.config().as_os_str()])
            .stdout(File::create(self.path().join("out")).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Through this process, which has room for it even when the daemon's disk is made full.
        let mut said = child.stderr.take().unwrap();
        let mut file = File::create(&log).unwrap();
        std::thread::Builder::new()
            .spawn(move || io::copy(&mut said, &mut file))
            .unwrap();
        let mut daemon = Daemon {
            child,
            log,
            socket: self.state().join("admin.sock"),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        daemon.address = until("the daemon has started", || {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("the daemon ended with {status}");
            }
            let line = daemon.said("started")?;
            Some(line["address"].as_str().unwrap().parse().unwrap())
        });
        daemon
    }
}

impl Daemon {
    /// The first line of its log with this message.
    pub(crate) fn said(&self, message: &str) -> Option<Value> {
        let text = fs::read_to_string(&self.log).unwrap();
        let mut lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| {
            line["message"]
                .as_str()
                .is_some_and(|said| said.contains(message))
        })
    }

    /// A connection to the scoring port.
    pub(crate) fn client(&self) -> RankClient {
        RankClient::connect(self.address).unwrap()
    }

    /// `GET path`.
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.client().get(path).unwrap()
    }

    /// The value of a metric with these labels, `{a="b"}`; 0 when it is not on the page.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        let page = self.get("/metrics");
        assert_eq!(page.status, 200);
        let wanted = format!("{name}{labels} ");
        page.body
            .lines()
            .find_map(|line| line.strip_prefix(&wanted))
            .map_or(0.0, |value| value.parse().unwrap())
    }

    /// Ranks, once a model is there.
    #[track_caller]
    pub(crate) fn rank(&self, request: &RankRequest) -> RankResponse {
        self.ready();
        self.client().rank(request).unwrap()
    }

    /// Waits until a rank request would be answered.
    #[track_caller]
    pub(crate) fn ready(&self) {
        until("the daemon is ready", || {
            (self.get("/readyz").status == 200).then_some(())
        });
    }

    /// Asks on the admin socket.
    #[track_caller]
    pub(crate) fn ask(&self, request: &AdminRequest) -> AdminReply {
        let mut client = Client::connect(&self.socket)
            .unwrap()
            .expect("the daemon listens");
        client.ask(request).unwrap()
    }

    /// How it is doing.
    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        match self.ask(&AdminRequest::Status) {
            AdminReply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// How it is doing; `None` where it does not answer.
    pub(crate) fn try_status(&self) -> Option<Status> {
        let mut client = Client::connect(&self.socket).ok().flatten()?;
        match client.ask(&AdminRequest::Status).ok()? {
            AdminReply::Status(status) => Some(status),
            _ => None,
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// True once it has ended, by itself or not.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it has joined `n` records since its start, or has ended. True when it lives.
    #[track_caller]
    pub(crate) fn joined_or_ended(&mut self, n: u64) -> bool {
        let deadline = Instant::now() + PATIENCE;
        until("it has joined or ended", || {
            if self.has_ended() {
                return Some(false);
            }
            let status = self.try_status()?;
            let threads = || self.threads();
            assert!(
                Instant::now() < deadline,
                "{n} records to be joined: {status:?}\n{}",
                threads()
            );
            (status.events >= n).then_some(true)
        })
    }

    /// Its threads by name, each with what it is doing.
    fn threads(&self) -> String {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let about = |task: PathBuf, what: &str| fs::read_to_string(task.join(what)).unwrap_or_default();
        let lines = tasks.map(|task| {
            let task = task.unwrap().path();
            let state = about(task.clone(), "status");
            let state = state
                .lines()
                .find(|line| line.starts_with("State"))
                .unwrap_or_default();
            format!(
                "{} {state} {}",
                about(task.clone(), "comm").trim(),
                about(task, "wchan")
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Waits until it has joined `n` records since its start.
    #[track_caller]
    pub(crate) fn joined(&self, n: u64) {
        let mut events = 0;
        let deadline = Instant::now() + PATIENCE;
        until("all records are joined", || {
            events = self.status().events;
            assert!(Instant::now() < deadline, "{events} of {n} records joined");
            (events >= n).then_some(())
        });
        assert_eq!(events, n, "no record is joined twice");
    }

    /// Has a snapshot written now.
    #[track_caller]
    pub(crate) fn snapshot(&self) -> SnapshotId {
        match self.ask(&AdminRequest::Snapshot) {
            AdminReply::Done { snapshot: Some(id) } => id.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end and returns the exit code.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> Option<i32> {
        until("the daemon has ended", || self.child.try_wait().unwrap()).code()
    }

    /// Has it drain and end.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        assert_eq!(self.ended(), Some(0));
    }
}

impl Drop for Daemon {
    #[allow(
        clippy::print_stderr,
        reason = "the log of the daemon says why the test failed"
    )]
    fn drop(&mut self) {
        // It may have ended already, and a test that panics must not leave it behind.
        let _killed = self.child.kill().is_ok() && self.child.wait().is_ok();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}
