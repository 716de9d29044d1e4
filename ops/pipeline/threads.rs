//! Runs a pipeline on threads, with serving and snapshots: a daemon or a demo.
//!
//! Poll and the listeners react to the shutdown; every other stage ends when its input closes.

mod process_state;
mod remote;
mod restarts;
mod scoring;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::time::Instant;

use anyhow::{Context, bail};

use ouzel_ingest::EventProducer;
use ouzel_ingest::plan::PlanLog;
use ouzel_learner::set_intra_op_threads;
use ouzel_sample::FeatureState;
use ouzel_serving::http::EventsApp;
use ouzel_serving::{CandidateSlot, MAX_SHADOW_JOBS, Published, Queue, Version, run_shadow, run_worker};
use ouzel_snapshot::Store;
use ouzel_verify::failpoint::{self, FailPoint};

use super::admin_handler::AdminHandler;
use super::checkpoint::CheckpointWriter;
use super::contents::Contents;
use super::control::Control;
use super::gauges;
use super::learner::Outputs;
use super::process::{HttpPort, Process, ServedState};
use super::provenance::{fingerprint, provenance};
use super::publisher::Publisher;
use super::quarantine::QuarantineFile;
use super::remote::RemoteStatus;
use super::run::{CurrentRun, Restart, RunHandles, without_log};
use super::second::SecondPlace;
use super::spec::{Parts, PipelineSpec};
use super::stages::backlog::Backlog;
use super::stages::encode::{Encode, Encoding};
use super::stages::events::{Events, MAX_WAITING_CALLS};
use super::stages::join::{Join, JoinLinks, JoinSettings, Plan, PlanReader, PlanWriter};
use super::stages::learn::{Learn, PendingRequest};
use super::stages::poll::Poll;
use super::stages::save::Saver;
use super::standby::RunRole;
use super::standby::comparison::Comparison;
use super::standby::keeper::Keeper;
use crate::admin;
use crate::config::Config;
use crate::supervisor::{Shutdown, Task};
use crate::telemetry::Metrics;
use crate::telemetry::clock::Clock;
use process_state::process_state;

/// Capacity of the channel from join to the learner, batches.
const BATCHES_AHEAD: usize = 16;

pub use remote::{OpenedStore, open_store};

/// A pipeline whose threads run.
pub struct Running<'a> {
    /// The threads that a new run of the stages leaves alone, and the stages.
    pub process: Process,
    /// The newest run of the stages.
    pub run: CurrentRun,
    /// Address of the scoring port.
    pub address: SocketAddr,
    /// Its snapshots on disk.
    pub store: Arc<Store>,
    config: &'a Config,
    published: Arc<Published<Version>>,
    /// The place of a candidate beside it.
    candidates: Arc<CandidateSlot>,
    /// How its remote copy stands.
    remote: RemoteStatus,
    /// For freshness, the age of snapshots and the audit log. No model depends on it.
    clock: Arc<dyn Clock>,
    /// Ends the present run of the stages.
    stop_stages: Shutdown,
    to_restart: Sender<Restart>,
    restarts: Receiver<Restart>,
}

/// Starts every stage on a state directory. Steps that can fail come before the first thread. `events` writes the events
/// that clients post.
pub fn start<'a>(
    spec: PipelineSpec<'a>,
    OpenedStore { store, full }: OpenedStore,
    events: Option<EventProducer>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    shutdown: &Shutdown,
) -> anyhow::Result<Running<'a>> {
    let config = spec.config;
    let port = HttpPort::bind(config.serving.listen)?;
    let address = port.address;
    let events_port = match config.serving.events_listen {
        Some(listen) if events.is_some() && listen != config.serving.listen => Some(HttpPort::bind(listen)?),
        _ => None,
    };
    let published = Arc::new(Published::new());
    let (to_restart, restarts) = channel();
    let (parts, handles) = match spec.build(Some(&store)) {
        Ok(parts) => {
            let control = Control::new(parts.resumed_from);
            let (to_learner, from_admin) = channel();
            let handles = RunHandles::new(&parts, &control, to_learner, &to_restart);
            (Some((parts, control, from_admin)), handles)
        }
        Err(error) if error.is::<ouzel_ingest::Error>() => {
            let why = format!("{error:#}");
            match without_log(config, &store, &published, why)? {
                Some(handles) => (None, handles),
                // Nothing can be served: most likely the configuration of a first start is wrong.
                None => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    let socket = admin::Listener::bind(&config.admin_socket())?;
    failpoint::reach(FailPoint::StateRestored);

    let mut running = Running {
        process: Process::new(shutdown, metrics),
        run: CurrentRun::new(handles),
        address,
        store,
        config,
        published,
        candidates: Arc::new(CandidateSlot::new()),
        remote: RemoteStatus::default(),
        clock,
        stop_stages: Shutdown::new(),
        to_restart: to_restart.clone(),
        restarts,
    };
    let copied = running.copy_to_remote()?;
    running.keep_lease(copied, full)?;
    // Scoring first: after a crash the last snapshot is served while the pipeline catches up with the log.
    let shared = running.events(events, events_port)?;
    running.serve(port, shared)?;
    running.admin(socket, to_restart)?;
    let n_partitions = match parts {
        Some((parts, control, from_admin)) => {
            let n = parts.sequencer.orderer().positions().iter().count();
            running.stages(parts, control, from_admin)?;
            n
        }
        None => 0,
    };
    let (run, clock) = (running.run.clone(), Arc::clone(&running.clock));
    running.process.report(move || gauges::set(&run.get(), &*clock))?;
    tracing::info!(%address, state = %config.snapshot.dir.display(), partitions = n_partitions, "started");
    if let Some(why) = &running.run.get().no_log {
        tracing::error!(
            why,
            "the log cannot be read: the newest snapshot is served, nothing is learned, and reading is tried again"
        );
    }
    Ok(running)
}

impl<'a> Running<'a> {
    /// Starts the writer of posted events, and their port if they have their own; otherwise returns what the scoring port
    /// needs to take them.
    fn events(
        &mut self,
        producer: Option<EventProducer>,
        port: Option<HttpPort>,
    ) -> anyhow::Result<Option<EventsApp>> {
        let Some(producer) = producer else {
            return Ok(None);
        };
        let (to_events, calls) = sync_channel(MAX_WAITING_CALLS);
        let stage = Events::new(producer, Arc::clone(&self.clock));
        self.process
            .supervisor
            .spawn(Task::Events, move || stage.run(&calls))?;
        let app = self.process.events_app(to_events, &self.config.serving);
        match port {
            None => Ok(Some(app)),
            Some(port) => {
                tracing::info!(address = %port.address, "taking events");
                self.process.serve_events(port, app)?;
                Ok(None)
            }
        }
    }

    /// Starts the scorers, the thread of a shadow, and the HTTP port.
    fn serve(&mut self, port: HttpPort, events: Option<EventsApp>) -> anyhow::Result<()> {
        let config = self.config;
        let queue = Arc::new(Queue::new(config.serving.queue_capacity));
        let n_threads = config.learner_config().threads;
        let (to_shadow, jobs) = sync_channel(MAX_SHADOW_JOBS);
        let indexes = self.index()?;
        for number in 0..config.serving.workers {
            let scorer = self.scorer()?.with_indexes(Arc::clone(&indexes));
            let mut scorer = scorer.with_candidate(Arc::clone(&self.candidates), Some(to_shadow.clone()));
            let queue = Arc::clone(&queue);
            let number = u16::try_from(number).context("serving.workers is at most 65535")?;
            self.process.supervisor.spawn(Task::Scorer(number), move || {
                set_intra_op_threads(n_threads);
                run_worker(&queue, &mut scorer);
                Ok(())
            })?;
        }
        let mut shadow = self.scorer()?.with_candidate(Arc::clone(&self.candidates), None);
        self.process.supervisor.spawn(Task::Shadow, move || {
            set_intra_op_threads(n_threads);
            run_shadow(&jobs, &mut shadow);
            Ok(())
        })?;
        let published = Arc::clone(&self.published);
        let (run, candidates) = (self.run.clone(), Arc::clone(&self.candidates));
        let (store, remote) = (Arc::clone(&self.store), self.remote.clone());
        let state = ServedState {
            model: Arc::new(move || published.served()),
            status: Arc::new(move || process_state(&run.get(), &candidates, &store, &remote)),
        };
        self.process
            .serve(port, queue, state, events, config.serving.clone())
    }

    /// Starts the task that keeps the lease of the state directory, or watches it.
    fn keep_lease(&mut self, copied: Option<Shutdown>, full: Option<String>) -> anyhow::Result<()> {
        let keeper = Keeper {
            store: Arc::clone(&self.store),
            lease: self.config.snapshot.lease.duration(),
            run: self.run.clone(),
            shutdown: self.process.shutdown.clone(),
            last: self.process.supervisor.last().clone(),
            copied,
            full,
            clock: Arc::clone(&self.clock),
        };
        self.process.supervisor.spawn(Task::Lease, move || keeper.run())
    }

    /// Starts the admin socket.
    fn admin(&mut self, socket: admin::Listener, restarts: Sender<Restart>) -> anyhow::Result<()> {
        let handler = AdminHandler {
            run: self.run.clone(),
            restarts,
            config: Arc::new(self.config.clone()),
            kafka: self.config.kafka_config().ok(),
            store: Arc::clone(&self.store),
            published: Arc::clone(&self.published),
            candidates: Arc::clone(&self.candidates),
            remote: self.remote.clone(),
            clock: Arc::clone(&self.clock),
            started: Instant::now(),
        };
        let shutdown = self.process.shutdown.clone();
        self.process.supervisor.spawn(Task::Admin, move || {
            admin::serve(&socket, &shutdown, |request| handler.answer(request))
        })
    }

    /// The plan log as a writer has it, or as a standby reads it from `position` on.
    fn plan(
        &self,
        log: Option<PlanLog>,
        role: Option<RunRole>,
        backlog: &Arc<Backlog>,
        position: u64,
    ) -> anyhow::Result<Plan> {
        let backlog = Arc::clone(backlog);
        Ok(match (log, role) {
            (Some(log), _) => Plan::Write(PlanWriter::new(log, backlog)),
            (None, Some(role)) => {
                Plan::Follow(PlanReader::new(Arc::clone(&self.store), role, backlog, position))
            }
            (None, None) => bail!("a pipeline on threads has a plan log"),
        })
    }

    /// Starts poll, join, encode, learn and save, each connected to the next.
    fn stages(
        &mut self,
        parts: Parts,
        control: Control,
        from_admin: Receiver<PendingRequest>,
    ) -> anyhow::Result<()> {
        let config = &parts.used.config;
        let status = Arc::clone(&parts.status);
        if !parts.lost.is_empty() {
            // A crash must not need the loss to be accepted again.
            control.requests.request_snapshot();
        }
        let quarantine = QuarantineFile::read(self.store.root())?.texts();
        let role = self.run.get().role.clone();
        let n_threads = config.learner_config().threads;
        let (to_join, from_poll) = channel();
        let (to_learner, from_join) = sync_channel(BATCHES_AHEAD);
        let (to_saver, from_learner) = sync_channel(1);
        let backlog = Arc::new(Backlog::default());

        let saver = Saver {
            store: Arc::clone(&self.store),
            max_deltas: config.snapshot.max_deltas,
            retention: (&config.snapshot).into(),
            control: control.saver,
            status: Arc::clone(&status),
            clock: Arc::clone(&self.clock),
            comparison: role.as_ref().filter(|role| role.is_standby).map(|role| {
                let resumed = parts.resumed_from.zip(parts.resumed_point);
                Comparison::new(Arc::clone(&self.store), role.resync.clone(), resumed)
            }),
        };
        let supervisor = &mut self.process.supervisor;
        supervisor.spawn(Task::Snapshot, move || saver.run(&from_learner))?;

        let (second, second_stage) = SecondPlace::new(Arc::new(config.clone()));
        supervisor.spawn(Task::Second, move || {
            set_intra_op_threads(n_threads);
            second_stage.run()
        })?;
        let outputs = Outputs {
            control: control.learner,
            publisher: Publisher::new(Arc::clone(&self.published), Arc::clone(&self.clock)),
            checkpoints: CheckpointWriter {
                saver: to_saver,
                fingerprint: fingerprint(config),
                provenance: provenance(config, parts.contents.as_ref(), quarantine),
                config: config.recorded().into(),
                used: parts.used.clone(),
                interval_start: parts.interval_start,
                clock: Arc::clone(&self.clock),
            },
            candidates: Arc::clone(&self.candidates),
            second,
        };
        let learn = Learn {
            learner: parts.learner.with_outputs(outputs),
            store: Arc::clone(&self.store),
            requests: from_admin,
            backlog: Arc::clone(&backlog),
            clock: Arc::clone(&self.clock),
        };
        supervisor.spawn(Task::Learner, move || {
            set_intra_op_threads(n_threads);
            learn.run(&from_join)
        })?;

        let encoding = match parts.contents {
            Some(contents) => Some(self.encode(contents, parts.sequencer.stage().features(), n_threads)?),
            None => None,
        };
        let settings = JoinSettings {
            max_reorder_delay: config.order.max_reorder_delay.duration(),
            flush_after: config.learner.flush_after_idle.duration(),
            checkpoint_after: config.snapshot.every.duration(),
        };
        let links = JoinLinks {
            backlog: Arc::clone(&backlog),
            status: Arc::clone(&status),
            control: control.join,
            out: to_learner,
            late: parts.intake.late.clone(),
            encoding,
        };
        let position = parts.sequencer.plan_position();
        let plan = self.plan(parts.plan, role, &backlog, position)?;
        let join = Join::new(parts.sequencer, plan, settings, links);
        let supervisor = &mut self.process.supervisor;
        supervisor.spawn(Task::Join, move || join.run(&from_poll))?;

        let poll = Poll {
            intake: parts.intake,
            backlog,
            out: to_join,
        };
        let (process, stages) = (self.process.shutdown.clone(), self.stop_stages.clone());
        supervisor.spawn(Task::Poll, move || {
            poll.run(&|| process.is_triggered() || stages.is_triggered())
        })
    }

    /// Starts the encode stage. Returns the connection of the join stage to it.
    fn encode(
        &mut self,
        contents: Contents,
        features: &Arc<FeatureState>,
        n_threads: i32,
    ) -> anyhow::Result<Encoding> {
        let (to_encode, from_join) = channel();
        let (to_join, from_encode) = channel();
        let encoding = Encoding {
            to: to_encode,
            from: from_encode,
            store: contents.store(),
            versions: contents.versions(),
        };
        // Items that the previous process did not encode.
        encoding.send(features.items());
        let encode = Encode {
            contents,
            features: Arc::clone(features),
            out: to_join,
        };
        self.process.supervisor.spawn(Task::Encode, move || {
            set_intra_op_threads(n_threads);
            encode.run(&from_join)
        })?;
        Ok(encoding)
    }
}
