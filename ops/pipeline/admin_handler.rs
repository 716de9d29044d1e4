//! Carries out the requests of the admin socket on a running pipeline; `candidates` those about a candidate.

mod candidates;

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use ouzel_ingest::{KafkaConfig, QuarantineRule};
use ouzel_sample::{EventTime, Stream};
use ouzel_serving::{CandidateSlot, Published, Version};
use ouzel_snapshot::{Alias, SnapshotId, Store};

use super::control::LearningState;
use super::go_back::{
    ReadAgain, check_can_quarantine, check_log, quarantine, rewind, snapshot_before, unpin,
};
use super::model_op::ModelOp;
use super::promoted::UsedConfig;
use super::remote::RemoteStatus;
use super::run::{CurrentRun, Restart};
use super::schema::check_schema;
use super::skip::{gap, skip_to_time};
use super::stages::learn::LearnerRequest;
use crate::admin::{AdminReply, AdminRequest, HeldBy, LearnFrom, Status};
use crate::config::Config;
use crate::error::{ErrorExt, hint_of};
use crate::telemetry::clock::Clock;

/// Longest wait for a stage to carry out a request.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Longest wait for new stages, which load a snapshot.
const RESTART_TIMEOUT: Duration = Duration::from_secs(600);

/// Answers the requests of the admin socket.
pub(crate) struct AdminHandler {
    pub(crate) run: CurrentRun,
    pub(crate) restarts: Sender<Restart>,
    pub(crate) config: Arc<Config>,
    /// The log, to see what it still holds; `None` where it cannot be read twice.
    pub(crate) kafka: Option<KafkaConfig>,
    pub(crate) store: Arc<Store>,
    pub(crate) published: Arc<Published<Version>>,
    pub(crate) candidates: Arc<CandidateSlot>,
    pub(crate) remote: RemoteStatus,
    /// For the audit log.
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) started: Instant,
}

/// A time, ms since the epoch; absent before the first event.
fn known(time: EventTime) -> Option<i64> {
    (time != EventTime::MIN).then_some(time.0)
}

/// The snapshot that a change has written or names, and what else it has changed.
type Changed = (Option<SnapshotId>, Vec<String>);

impl AdminHandler {
    /// Carries out a request.
    pub(crate) fn answer(&self, request: AdminRequest) -> AdminReply {
        if let (Some(why), false) = (&self.run.get().no_log, matches!(request, AdminRequest::Status)) {
            return AdminReply::Refused {
                error: format!("the daemon cannot read its log and learns nothing: {why}"),
                hint: Some(
                    "stop the daemon: this command then changes the state directory itself".to_owned(),
                ),
            };
        }
        let role = self.run.get().role.clone();
        if let (Some(why), false) = (
            role.and_then(|role| role.unwritable()),
            matches!(request, AdminRequest::Status),
        ) {
            return AdminReply::Refused {
                error: format!("the daemon cannot write to its state directory: {why}"),
                hint: Some("make room there; the daemon goes on by itself".to_owned()),
            };
        }
        if self.store.epoch().is_none() && !matches!(request, AdminRequest::Status) {
            return AdminReply::Refused {
                error: "this daemon is a standby: another one writes to the state directory".to_owned(),
                hint: Some("repeat the command on the machine of that daemon".to_owned()),
            };
        }
        let named = |id: SnapshotId| (Some(id), Vec::new());
        let done: anyhow::Result<Changed> = match request {
            AdminRequest::Status => return AdminReply::Status(Box::new(self.report())),
            AdminRequest::Snapshot => self.snapshot().map(named),
            AdminRequest::Pause { note } => self.pause(note),
            AdminRequest::Resume { note } => self.resume(note),
            AdminRequest::Rollback { id, from, note } => self.roll_back(&id, from, note),
            AdminRequest::Quarantine { rule, again, note } => self.quarantine(rule, &again, note),
            AdminRequest::Pin { id, note } => self.pin(&id, note).map(named),
            AdminRequest::FreezeBase { note } => self.apply(ModelOp::FreezeBase, note).map(named),
            AdminRequest::Rebase { note } => self.apply(ModelOp::Rebase, note).map(named),
            AdminRequest::Unpin { note } => self
                .request(LearnerRequest::Unpin(note))
                .map(|()| (None, Vec::new())),
            AdminRequest::CandidateStart {
                id,
                variant,
                share,
                note,
            } => self.start_candidate(&id, variant, share, note).map(named),
            AdminRequest::CandidateLearn {
                settings,
                file,
                from,
                variant,
                share,
                note,
            } => self.start_second((&settings, &file), from.as_deref(), (variant, share), note),
            AdminRequest::CandidateStop { note } => self.stop_candidate(note),
            AdminRequest::Promote { note } => self.promote(note),
            AdminRequest::Tag { id, name, note } => self.tag(&id, &name, &note).map(named),
            AdminRequest::Untag { name, note } => {
                let untagged = self.store.untag(&name, &note, self.clock.now_ms());
                untagged.map(|id| (id, Vec::new())).map_err(anyhow::Error::from)
            }
        };
        match done {
            Ok((snapshot, also)) => AdminReply::Done {
                snapshot: snapshot.map(|id| id.to_string()),
                also,
            },
            Err(error) => AdminReply::Refused {
                hint: hint_of(&error),
                error: format!("{error:#}"),
            },
        }
    }

    /// Writes a snapshot now.
    fn snapshot(&self) -> anyhow::Result<SnapshotId> {
        self.check_running()?;
        self.run
            .get()
            .requests
            .snapshot_now(TIMEOUT)
            .ok_or_else(|| anyhow!("no snapshot was written; the log of the daemon says why"))
    }

    /// Stops learning, after a snapshot of what was learned. Serving goes on, and every start begins paused.
    fn pause(&self, note: String) -> anyhow::Result<Changed> {
        self.check_running()?;
        let written = self.run.get().requests.snapshot_now(TIMEOUT);
        self.request(LearnerRequest::Pause(note))?;
        let also = match written {
            Some(_) => Vec::new(),
            None => vec!["no snapshot was written first: a restart serves the newest one on disk".to_owned()],
        };
        Ok((written, also))
    }

    /// Goes on learning. What a gate found is normal from now on; the snapshot that follows makes that durable.
    fn resume(&self, note: String) -> anyhow::Result<Changed> {
        let run = self.run.get();
        let learning = run.control.learning();
        if learning == LearningState::Running && run.status.gates().held.is_none() {
            bail!("learning runs, and no gate holds a version: there is nothing to resume");
        }
        self.request(LearnerRequest::Resume(note))?;
        if learning == LearningState::Paused {
            return Ok((None, Vec::new()));
        }
        let written = run.requests.snapshot_now(TIMEOUT).context(
            "learning goes on, but the snapshot after it was not written: a crash before the next one stops it again",
        )?;
        Ok((Some(written), Vec::new()))
    }

    /// Refuses what needs a snapshot while nothing is learned.
    fn check_running(&self) -> anyhow::Result<()> {
        let run = self.run.get();
        match run.control.learning() {
            LearningState::Running => Ok(()),
            learning => Err(anyhow!("learning is {}", learning.name())).hint(
                "`ouzel resume` goes on; `ouzel snapshot rollback ID --rewind` and `quarantine` work meanwhile",
            ),
        }
    }

    fn roll_back(&self, id: &str, from: LearnFrom, note: String) -> anyhow::Result<Changed> {
        let id = self.readable(id)?;
        let also = match from {
            LearnFrom::Now => self.skip_to_now(id, note)?,
            LearnFrom::Time(ms) => self.skip_to_time(id, ms, note)?,
            LearnFrom::Rewind => {
                self.check_log(id)?;
                // Serves the snapshot at once, and shows that its weights can be loaded.
                self.hold(id)?;
                let clock = Arc::clone(&self.clock);
                self.restart(move |store| rewind(store, id, &note, clock.now_ms()))?
            }
        };
        Ok((Some(id), also))
    }

    /// Continues from the weights of `id`, with the present features and positions. The snapshot that follows makes the
    /// rollback durable; before it, a crash undoes the rollback.
    fn skip_to_now(&self, id: SnapshotId, note: String) -> anyhow::Result<Vec<String>> {
        self.check_running()?;
        let pinned = self.store.alias(Alias::Pinned)?;
        self.request(LearnerRequest::Rollback(id, note.clone()))?;
        self.run.get().requests.snapshot_now(TIMEOUT).with_context(|| {
            format!(
                "snapshot {id} is served and learning continues from it, but the snapshot after it was not written: a \
                 crash before the next one undoes the rollback"
            )
        })?;
        unpin(&self.store, pinned, &note, self.clock.now_ms())
    }

    /// Continues the state of `id` at the first records of a time.
    fn skip_to_time(&self, id: SnapshotId, ms: i64, note: String) -> anyhow::Result<Vec<String>> {
        let kafka = self
            .kafka
            .as_ref()
            .context("this process cannot read its log again")?;
        let gap = gap(&self.store.read(id)?, kafka, ms, self.clock.now_ms())?;
        self.hold(id)?;
        let (clock, config) = (Arc::clone(&self.clock), Arc::clone(&self.config));
        self.restart(move |store| skip_to_time(store, &config, (id, &gap), ms, &note, clock.now_ms()))
    }

    /// Excludes events from learning and reads the log again without them.
    fn quarantine(&self, rule: QuarantineRule, again: &ReadAgain, note: String) -> anyhow::Result<Changed> {
        let kafka = self.kafka.as_ref();
        let is_behind_tier = kafka.is_some_and(|kafka| kafka.streams.contains(&Stream::Samples));
        check_can_quarantine(&rule, is_behind_tier)?;
        let id = snapshot_before(&self.store, &rule, again)?;
        if let Some(id) = id {
            self.readable(&id.to_string())?;
            self.check_log(id)?;
            self.hold(id)?;
        }
        let clock = Arc::clone(&self.clock);
        let also = self.restart(move |store| quarantine(store, &rule, id, &note, clock.now_ms()))?;
        Ok((id, also))
    }

    /// Serves `id` at once, before stages start from it. Refuses a snapshot that they could not start from.
    fn hold(&self, id: SnapshotId) -> anyhow::Result<()> {
        let snapshot = self.store.read(id)?;
        let used = UsedConfig::of(&self.config, &snapshot)?.config;
        check_schema(&snapshot, &used)?;
        self.request(LearnerRequest::Hold(id, Some(Box::new(used))))
    }

    /// Refuses to go back to `id` if the log from there on is gone.
    fn check_log(&self, id: SnapshotId) -> anyhow::Result<()> {
        let kafka = self
            .kafka
            .as_ref()
            .context("this process cannot read its log again")?;
        check_log(&self.store, id, kafka)
    }

    /// Ends the stages, changes the store and waits until new stages run. Returns what else was changed.
    fn restart(
        &self,
        change: impl FnOnce(&Store) -> anyhow::Result<Vec<String>> + Send + 'static,
    ) -> anyhow::Result<Vec<String>> {
        let (reply, answer) = sync_channel(1);
        let restart = Restart {
            change: Box::new(change),
            reply,
        };
        self.restarts.send(restart).map_err(|_| {
            anyhow!("this process cannot read its log again: it is no daemon, or it is stopping")
        })?;
        answer.recv_timeout(RESTART_TIMEOUT).with_context(|| {
            let limit = RESTART_TIMEOUT.as_secs();
            format!("the stages did not start again within {limit} s; the log of the daemon says why")
        })?
    }

    /// Changes the model between two batches. The snapshot that follows makes the change durable.
    fn apply(&self, op: ModelOp, note: String) -> anyhow::Result<SnapshotId> {
        self.check_running()?;
        self.request(LearnerRequest::ModelOp(op, note))?;
        self.run.get().requests.snapshot_now(TIMEOUT).with_context(|| {
            let done = op.done();
            format!(
                "{done}, but the snapshot after it was not written: a crash before the next one undoes it"
            )
        })
    }

    fn pin(&self, id: &str, note: String) -> anyhow::Result<SnapshotId> {
        let id = self.readable(id)?;
        self.request(LearnerRequest::Pin(id, note))?;
        Ok(id)
    }

    fn tag(&self, id: &str, name: &str, note: &str) -> anyhow::Result<SnapshotId> {
        let id = SnapshotId::from_str(id)?;
        self.store.tag(id, name, note, self.clock.now_ms())?;
        Ok(id)
    }

    /// Parses the id of a snapshot that can be read.
    fn readable(&self, id: &str) -> anyhow::Result<SnapshotId> {
        let id = SnapshotId::from_str(id)?;
        self.store.read(id)?;
        Ok(id)
    }

    /// Sends a request to the learner and waits until it is carried out.
    fn request(&self, request: LearnerRequest) -> anyhow::Result<()> {
        let (reply, answer) = sync_channel(1);
        self.run
            .get()
            .learner
            .send((request, reply))
            .map_err(|_| anyhow!("the learner has ended; the log of the daemon says why"))?;
        answer.recv_timeout(TIMEOUT).with_context(|| {
            let limit = TIMEOUT.as_secs();
            format!("the learner did not answer within {limit} s")
        })?
    }

    fn report(&self) -> Status {
        let (run, served) = (self.run.get(), self.published.served());
        let learning = run.control.learning();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            serving: served.map(|model| model.snapshot.to_string()),
            latest: run.control.latest().map(|id| id.to_string()),
            pinned: run.control.pinned().map(|id| id.to_string()),
            learning: learning.name().to_owned(),
            stopped_because: learning.reason().map(str::to_owned),
            gates: run.status.gates(),
            events: run.status.events.load(Ordering::Relaxed),
            rejected: run.status.rejected.load(Ordering::Relaxed),
            unneeded: run.status.unneeded.load(Ordering::Relaxed),
            event_time_ms: known(run.status.event_time()),
            watermark_ms: known(run.status.watermark()),
            watermark_held_by: run.status.watermark_holder().map(|(id, newest)| HeldBy {
                partition: id.to_string(),
                event_time_ms: known(newest),
            }),
            samples: run.status.samples.load(Ordering::Relaxed),
            batches: run.status.batches.load(Ordering::Relaxed),
            not_learning: run.not_learning(),
            samples_per_second: run.status.learning_rate(),
            pending: run.status.counters().pending_items,
            candidate: run
                .status
                .candidate()
                .map(|report| report.with_counts(&self.candidates)),
            role: role_name(&self.store).to_owned(),
            epoch: self.store.epoch(),
            behind: run.status.standby_lag(),
            remote: self.remote.get(),
        }
    }
}

/// `primary`, or `standby` while another daemon writes.
pub(crate) fn role_name(store: &Store) -> &'static str {
    match store.epoch() {
        Some(_) => "primary",
        None => "standby",
    }
}
