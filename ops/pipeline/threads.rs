//! Runs a pipeline on threads, with serving and snapshots: a daemon or a demo.
//!
//! Poll and the listeners react to the shutdown; every other stage ends when its input closes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::time::Instant;

use anyhow::Context;

use ouzel_ingest::EventProducer;
use ouzel_learner::set_intra_op_threads;
use ouzel_sample::{EventTime, FeatureState};
use ouzel_serving::http::EventsApp;
use ouzel_serving::{Published, Queue, Scorer, Version, run_worker};
use ouzel_snapshot::Store;
use ouzel_verify::failpoint::{self, FailPoint};

use super::admin_handler::AdminHandler;
use super::checkpoint::CheckpointWriter;
use super::contents::Contents;
use super::control::{CheckpointRequests, Control, ControlState};
use super::gauges;
use super::learner::Outputs;
use super::process::{HttpPort, Process};
use super::provenance::{fingerprint, provenance};
use super::publisher::Publisher;
use super::spec::{Parts, PipelineSpec};
use super::stages::backlog::Backlog;
use super::stages::encode::{Encode, Encoding};
use super::stages::events::{Events, MAX_WAITING_CALLS};
use super::stages::join::{Join, JoinLinks, JoinSettings, PlanWriter};
use super::stages::learn::{Learn, PendingRequest};
use super::stages::poll::Poll;
use super::stages::save::Saver;
use super::status::PipelineStatus;
use crate::admin;
use crate::config::Config;
use crate::supervisor::{Shutdown, Task};
use crate::telemetry::Metrics;
use crate::telemetry::clock::Clock;

/// Capacity of the channel from join to the learner, batches.
const BATCHES_AHEAD: usize = 16;

/// A pipeline whose threads run.
pub struct Running {
    /// Its threads.
    pub process: Process,
    /// Its figures.
    pub status: Arc<PipelineStatus>,
    /// Its snapshots and lineage.
    pub control: ControlState,
    /// Requests a snapshot now.
    pub requests: CheckpointRequests,
    /// Address of the scoring port.
    pub address: SocketAddr,
    /// Its snapshots on disk.
    pub store: Arc<Store>,
}

/// What the threads of one pipeline share.
struct Threads<'a> {
    config: &'a Config,
    process: Process,
    status: Arc<PipelineStatus>,
    published: Arc<Published<Version>>,
    store: Arc<Store>,
    /// For freshness, the age of snapshots and the audit log. No model depends on it.
    clock: Arc<dyn Clock>,
}

/// Starts every stage. Steps that can fail come before the first thread. `events` writes the events that clients post.
pub fn start(
    spec: PipelineSpec<'_>,
    events: Option<EventProducer>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    shutdown: &Shutdown,
) -> anyhow::Result<Running> {
    let config = spec.config;
    let port = HttpPort::bind(config.serving.listen)?;
    let address = port.address;
    let events_port = match config.serving.events_listen {
        Some(listen) if events.is_some() && listen != config.serving.listen => Some(HttpPort::bind(listen)?),
        _ => None,
    };
    let store = Arc::new(Store::open_on(failpoint::file_system(), &config.snapshot.dir)?);
    failpoint::reach(FailPoint::StoreOpened);
    let parts = spec.build(Some(&store))?;
    let socket = admin::Listener::bind(&config.admin_socket())?;
    failpoint::reach(FailPoint::StateRestored);

    let n_partitions = parts.sequencer.orderer().positions().iter().count();
    let control = Control::new(parts.resumed_from);
    let (state, requests) = (control.state.clone(), control.requests.clone());
    let mut threads = Threads {
        config,
        process: Process::new(shutdown, metrics),
        status: Arc::clone(&parts.status),
        published: Arc::new(Published::new()),
        store: Arc::clone(&store),
        clock,
    };
    // Scoring first: after a crash the last snapshot is served while the pipeline catches up with the log.
    let shared = threads.events(events, events_port)?;
    threads.serve(port, shared, parts.sequencer.stage().features())?;
    let (to_learner, from_admin) = channel();
    threads.admin(socket, &control, to_learner)?;
    threads.stages(parts, control, from_admin)?;
    let (status, clock) = (Arc::clone(&threads.status), Arc::clone(&threads.clock));
    threads.process.report(move || gauges::set(&status, &*clock))?;
    tracing::info!(%address, state = %config.snapshot.dir.display(), partitions = n_partitions, "started");
    Ok(Running {
        process: threads.process,
        status: threads.status,
        control: state,
        requests,
        address,
        store,
    })
}

impl Threads<'_> {
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

    /// Starts the scorers and the HTTP port.
    fn serve(
        &mut self,
        port: HttpPort,
        events: Option<EventsApp>,
        features: &Arc<FeatureState>,
    ) -> anyhow::Result<()> {
        let config = self.config;
        let queue = Arc::new(Queue::new(config.serving.queue_capacity));
        let learner = config.learner_config();
        for number in 0..config.serving.workers {
            let status = Arc::clone(&self.status);
            // A scorer reads features up to and including the newest joined event.
            let now = move || EventTime(status.event_time().0.saturating_add(1));
            let mut scorer = Scorer::new(
                Arc::clone(&self.published),
                Arc::clone(features),
                config.id_space(),
                Arc::new(now),
                learner.device()?,
                config.score_expression()?,
            );
            let (queue, n_threads) = (Arc::clone(&queue), learner.threads);
            let number = u16::try_from(number).context("serving.workers is at most 65535")?;
            self.process.supervisor.spawn(Task::Scorer(number), move || {
                set_intra_op_threads(n_threads);
                run_worker(&queue, &mut scorer);
                Ok(())
            })?;
        }
        let published = Arc::clone(&self.published);
        let served = Arc::new(move || published.served());
        self.process
            .serve(port, queue, served, events, config.serving.clone())
    }

    /// Starts the admin socket.
    fn admin(
        &mut self,
        socket: admin::Listener,
        control: &Control,
        learner: Sender<PendingRequest>,
    ) -> anyhow::Result<()> {
        let handler = AdminHandler {
            status: Arc::clone(&self.status),
            control: control.state.clone(),
            requests: control.requests.clone(),
            store: Arc::clone(&self.store),
            published: Arc::clone(&self.published),
            learner,
            clock: Arc::clone(&self.clock),
            started: Instant::now(),
        };
        let shutdown = self.process.shutdown.clone();
        self.process.supervisor.spawn(Task::Admin, move || {
            admin::serve(&socket, &shutdown, |request| handler.answer(request))
        })
    }

    /// Starts poll, join, encode, learn and save, each connected to the next.
    fn stages(
        &mut self,
        parts: Parts,
        control: Control,
        from_admin: Receiver<PendingRequest>,
    ) -> anyhow::Result<()> {
        let config = self.config;
        let n_threads = config.learner_config().threads;
        let (to_join, from_poll) = channel();
        let (to_learner, from_join) = sync_channel(BATCHES_AHEAD);
        let (to_saver, from_learner) = sync_channel(1);
        let backlog = Arc::new(Backlog::default());

        let saver = Saver {
            store: Arc::clone(&self.store),
            keep: config.snapshot.keep,
            control: control.saver,
            status: Arc::clone(&self.status),
            clock: Arc::clone(&self.clock),
        };
        let supervisor = &mut self.process.supervisor;
        supervisor.spawn(Task::Snapshot, move || saver.run(&from_learner))?;

        let outputs = Outputs {
            control: control.learner,
            publisher: Publisher::new(Arc::clone(&self.published), Arc::clone(&self.clock)),
            checkpoints: CheckpointWriter {
                saver: to_saver,
                fingerprint: fingerprint(config),
                provenance: provenance(config, parts.contents.as_ref()),
                clock: Arc::clone(&self.clock),
            },
        };
        let learn = Learn {
            learner: parts.learner.with_outputs(outputs),
            store: Arc::clone(&self.store),
            requests: from_admin,
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
        let plan = parts.plan.context("a pipeline on threads has a plan log")?;
        let settings = JoinSettings {
            max_reorder_delay: config.order.max_reorder_delay.duration(),
            flush_after: config.learner.flush_after_idle.duration(),
        };
        let links = JoinLinks {
            backlog: Arc::clone(&backlog),
            status: Arc::clone(&self.status),
            control: control.join,
            out: to_learner,
            encoding,
        };
        let plan = PlanWriter::new(plan, Arc::clone(&backlog));
        let join = Join::new(parts.sequencer, plan, settings, links);
        let supervisor = &mut self.process.supervisor;
        supervisor.spawn(Task::Join, move || join.run(&from_poll))?;

        let poll = Poll {
            intake: parts.intake,
            backlog,
            out: to_join,
        };
        let shutdown = self.process.shutdown.clone();
        supervisor.spawn(Task::Poll, move || poll.run(&shutdown))
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
