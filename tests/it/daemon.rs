//! `ouzel daemon` as a child process, and the folder with its configuration and state.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ouzel::admin::{AdminReply, AdminRequest, Client, Status};
use ouzel_serving::client::{RankClient, Reply};
use ouzel_serving::{RankRequest, RankResponse};
use ouzel_snapshot::{Alias, Manifest, SnapshotId, Store};
use serde_json::Value;
use tempfile::TempDir;

use super::broker::Broker;
use super::process::Process;
use super::{CommandOutput, TIMEOUT, ouzel, ouzel_by, run_here, wait_until};

/// The configuration and state of one daemon; it outlives the daemon's processes.
pub(crate) struct Home {
    dir: TempDir,
    /// The state directory of another home, which this one shares.
    shared: Option<PathBuf>,
    next_log: u32,
}

/// A running daemon.
pub(crate) struct Daemon {
    process: Process,
    socket: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Home {
    /// A daemon on the topics of `broker`. `settings` are further lines of TOML without `kafka`, `log`,
    /// `snapshot.dir`, `serving.listen` and `serving.deadline`.
    pub(crate) fn new(broker: &Broker, settings: &str) -> Self {
        Self::empty().with_settings(broker, settings)
    }

    /// A daemon on the state directory of `other`, as a standby for it.
    pub(crate) fn beside(other: &Self, broker: &Broker, settings: &str) -> Self {
        let mut home = Self::empty();
        home.shared = Some(other.state());
        let settings = format!("snapshot.local_dir = {:?}\n{settings}", home.local());
        home.with_settings(broker, &settings)
    }

    fn with_settings(self, broker: &Broker, settings: &str) -> Self {
        self.set(broker, settings);
        self
    }

    /// Writes the configuration, as for [`Home::new`].
    pub(crate) fn set(&self, broker: &Broker, settings: &str) {
        let topics = &broker.topics;
        // A busy machine replies late.
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
            self.state(),
        );
        fs::write(self.config(), text).unwrap();
    }

    /// A folder without a configuration.
    pub(crate) fn empty() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            shared: None,
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
        match &self.shared {
            Some(shared) => shared.clone(),
            None => self.local(),
        }
    }

    /// What belongs to this daemon only.
    fn local(&self) -> PathBuf {
        self.path().join("state")
    }

    /// The snapshots, for inspection beside a running daemon.
    pub(crate) fn store(&self) -> Store {
        Store::inspect(&self.state())
    }

    /// The latest snapshot.
    pub(crate) fn latest(&self) -> Option<SnapshotId> {
        self.store().alias(Alias::Latest).unwrap()
    }

    /// The manifest of the latest snapshot, all of whose files are verified.
    #[track_caller]
    pub(crate) fn manifest(&self) -> Manifest {
        let snapshot = self.store().read_alias(Alias::Latest).unwrap();
        snapshot.expect("there is a snapshot").manifest().clone()
    }

    /// Number of records in the snapshot that a start resumes from, which may be complete and not yet current.
    pub(crate) fn n_resumed(&self) -> u64 {
        let snapshot = self.store().newest_valid().unwrap().snapshot;
        let sum: i64 = snapshot.map_or(0, |snapshot| {
            snapshot.manifest().checkpoint.positions.values().sum()
        });
        u64::try_from(sum).unwrap()
    }

    /// `ouzel snapshot` on this state.
    pub(crate) fn snapshot(&self, args: &[&str]) -> CommandOutput {
        let config = self.config();
        let before = ["snapshot", "--config", config.to_str().unwrap()];
        run_here(&[before.as_slice(), args].concat())
    }

    /// Starts the daemon and waits until it listens.
    #[track_caller]
    pub(crate) fn start(&mut self) -> Daemon {
        self.start_with(&[])
    }

    /// Starts the daemon with further arguments and waits until it listens.
    #[track_caller]
    pub(crate) fn start_with(&mut self, args: &[&str]) -> Daemon {
        let mut command = ouzel(["daemon".as_ref(), "--config".as_ref(), self.config().as_os_str()]);
        command.args(args);
        self.start_command(command)
    }

    /// Starts the daemon so that it aborts at this visit of a fail point, such as `latest_moved:1`, and waits until it
    /// listens.
    #[track_caller]
    pub(crate) fn start_failing(&mut self, visit: &str) -> Daemon {
        let mut command = ouzel(["daemon".as_ref(), "--config".as_ref(), self.config().as_os_str()]);
        command.env("OUZEL_FAIL_AT", visit);
        self.start_command(command)
    }

    /// Starts the daemon with a soft limit of 0 bytes on the size of its files, and waits until it listens.
    #[track_caller]
    pub(crate) fn start_without_room(&mut self) -> Daemon {
        let daemon = ouzel(["daemon".as_ref(), "--config".as_ref(), self.config().as_os_str()]);
        let mut command = ouzel_by("sh");
        command
            .args(["-c", "ulimit -S -f 0 && exec \"$0\" \"$@\""])
            .arg(daemon.get_program())
            .args(daemon.get_args());
        self.start_command(command)
    }

    #[track_caller]
    fn start_command(&mut self, mut command: std::process::Command) -> Daemon {
        let log = self.path().join(format!("log-{}", self.next_log));
        self.next_log += 1;
        command.stdout(File::create(self.path().join("out")).unwrap());
        let mut daemon = Daemon {
            process: Process::start(&mut command, &log),
            socket: self.local().join("admin.sock"),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        daemon.address = wait_until("the daemon has started", || {
            assert!(!daemon.process.has_ended(), "the daemon ended at its start");
            let line = daemon.logged("started")?;
            Some(line["address"].as_str().unwrap().parse().unwrap())
        });
        daemon
    }

    /// Starts the daemon on all `n_records` records of the log, lets it join them undisturbed and stops it. Returns the
    /// manifest of its last snapshot.
    #[track_caller]
    pub(crate) fn run_to_end(&mut self, n_records: u64) -> Manifest {
        let daemon = self.start();
        daemon.wait_joined(n_records);
        daemon.stop();
        self.manifest()
    }
}

/// A request to rank `item-0`, `item-1`, ... for `user`.
pub(crate) fn rank_request(user: &str, n_items: usize) -> RankRequest {
    RankRequest {
        user_id: user.to_owned(),
        items: (0..n_items).map(|i| format!("item-{i}").into()).collect(),
        ..RankRequest::default()
    }
}

impl Daemon {
    /// The first line of its log with this message.
    pub(crate) fn logged(&self, message: &str) -> Option<Value> {
        self.process.logged(message).into_iter().next()
    }

    /// Checks that the daemon ranks by a model.
    #[track_caller]
    pub(crate) fn check_serves(&self) {
        let ranked = self.client().rank(&rank_request("user-1", 2)).unwrap();
        assert_eq!((ranked.items.len(), ranked.model), (2, None));
        assert_eq!(self.get("/v2/models/ouzel/ready").status, 200);
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

    /// Ranks, once there is a model.
    #[track_caller]
    pub(crate) fn rank(&self, request: &RankRequest) -> RankResponse {
        self.wait_ready();
        self.client().rank(request).unwrap()
    }

    /// Waits until the daemon ranks by a model.
    #[track_caller]
    pub(crate) fn wait_ready(&self) {
        wait_until("the daemon serves a model", || {
            (self.get("/v2/models/ouzel/ready").status == 200).then_some(())
        });
    }

    /// Sends a request to the admin socket.
    #[track_caller]
    fn request(&self, request: &AdminRequest) -> AdminReply {
        let mut client = Client::connect(&self.socket)
            .unwrap()
            .expect("the daemon listens");
        client.send(request).unwrap()
    }

    /// The status.
    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        match self.request(&AdminRequest::Status) {
            AdminReply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// The status; `None` without a reply.
    pub(crate) fn try_status(&self) -> Option<Status> {
        let mut client = Client::connect(&self.socket).ok().flatten()?;
        match client.send(&AdminRequest::Status).ok()? {
            AdminReply::Status(status) => Some(*status),
            _ => None,
        }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// True once it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// Waits until it has joined `n` records since its start, or has ended. Returns true when it is alive.
    #[track_caller]
    pub(crate) fn wait_joined_or_ended(&mut self, n: u64) -> bool {
        let deadline = Instant::now() + TIMEOUT;
        wait_until("it has joined or ended", || {
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

    /// The name and state of each of its threads.
    fn threads(&self) -> String {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let read = |task: &Path, file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
        let lines = tasks.map(|task| {
            let task = task.unwrap().path();
            let status = read(&task, "status");
            let state = status.lines().find(|line| line.starts_with("State"));
            let state = state.unwrap_or_default();
            format!("{} {state} {}", read(&task, "comm").trim(), read(&task, "wchan"))
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Waits until it has joined `n` records since its start.
    #[track_caller]
    pub(crate) fn wait_joined(&self, n: u64) {
        let mut events = 0;
        let deadline = Instant::now() + TIMEOUT;
        wait_until("all records are joined", || {
            events = self.status().events;
            assert!(Instant::now() < deadline, "{events} of {n} records joined");
            (events >= n).then_some(())
        });
        assert_eq!(events, n, "no record is joined twice");
    }

    /// Writes a snapshot now.
    #[track_caller]
    pub(crate) fn snapshot(&self) -> SnapshotId {
        match self.request(&AdminRequest::Snapshot) {
            AdminReply::Done {
                snapshot: Some(id), ..
            } => id.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Learns again after a gate stopped it.
    #[track_caller]
    pub(crate) fn resume(&self) {
        let request = AdminRequest::Resume {
            note: "a test".to_owned(),
        };
        let reply = self.request(&request);
        assert!(
            matches!(
                reply,
                AdminReply::Done {
                    snapshot: Some(_),
                    ..
                }
            ),
            "{reply:?}"
        );
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(self) {
        self.process.kill();
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for its end. Returns the exit code.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self) -> Option<i32> {
        self.process.wait_exit()
    }

    /// Stops it cleanly.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.process.stop();
    }
}
