//! The data flow, in one file: every stage, every channel, every thread.
//!
//! ```text
//! source -> poll -> join -> learner -> snapshot (disk)
//!                   ^|         \-> published -> scorers <- HTTP
//!            encode <-/\-> feature state ---------^
//! ```
//!
//! poll decodes; join puts records in order, writes that order to the plan log, joins, and owns the feature
//! state; encode turns new items' contents into vectors and gives them back to join; the learner scores and learns each batch, publishes versions, and completes the cuts that join takes;
//! the saver writes them. Shutdown is data flow: poll and the listeners hear the signal, every other stage ends
//! when its input closes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use ouzel_ingest::plan::PlanLog;
use ouzel_ingest::{DeadLetters, Decoder, Sequencer, Source, Stage};
use ouzel_learner::set_intra_op_threads;
use ouzel_learner::validation::ScoreLog;
use ouzel_sample::{EventTime, FeatureState, PartitionId, Positions};
use ouzel_serving::{Published, Queue, Scorer, Version, http, run_worker};
use ouzel_snapshot::Store;

use crate::admin;
use crate::cli::ErrorExt;
use crate::clock::Clock;
use crate::config::Config;
use crate::contents::Contents;
use crate::control::AdminHandler;
use crate::failpoint::{self, FailPoint};
use crate::gauges;
use crate::live::PipelineStatus;
use crate::resume::{ResumePoint, provenance};
use crate::stages::backlog::Backlog;
use crate::stages::encode::{Encode, Encoding};
use crate::stages::join::{Join, JoinLinks, JoinSettings, PlanWriter};
use crate::stages::learn::Learn;
use crate::stages::poll::Poll;
use crate::stages::save::Saver;
use crate::supervisor::{Shutdown, Supervisor, Task};
use crate::telemetry::Metrics;

/// Batches on the way from join to the learner.
const BATCHES_AHEAD: usize = 16;
/// How often gauges that nobody else sets are brought up to date.
const GAUGES_EVERY: Duration = Duration::from_millis(500);

/// A source that poll's thread can own.
pub type AnySource = Box<dyn Source + Send>;

/// Opens a source at positions.
pub type Open<'a> = dyn FnOnce(&Positions) -> anyhow::Result<AnySource> + 'a;

/// What differs between a daemon and a demo.
pub struct PipelineSpec<'a> {
    /// Everything that can be set.
    pub config: &'a Config,
    /// Opens the source at the positions given.
    pub open: Box<Open<'a>>,
    /// Where unusable records go.
    pub letters: DeadLetters,
    /// Prepares the state of a first start, as by seeding histories.
    pub seed: Box<dyn FnOnce(&FeatureState) + 'a>,
    /// Tells freshness and the age of snapshots, and nothing that a model depends on.
    pub clock: Arc<dyn Clock>,
    /// Keeps every score, for exact figures at the end.
    pub scores: Option<Arc<Mutex<ScoreLog>>>,
}

/// A pipeline whose threads run.
pub struct Running {
    /// Its threads.
    pub supervisor: Supervisor,
    /// Its figures.
    pub live: Arc<PipelineStatus>,
    /// Where it answers.
    pub address: SocketAddr,
    /// Its snapshots.
    pub store: Arc<Store>,
}

/// Starts every stage. `recorder` renders the metrics page.
pub fn start(plan: PipelineSpec<'_>, recorder: Metrics, shutdown: &Shutdown) -> anyhow::Result<Running> {
    let config = plan.config;
    let dir = &config.snapshot.dir;
    let clock = plan.clock;

    // What can be refused is tried first, before any thread runs.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_name("ouzel-http")
        .build()
        .context("cannot start the HTTP runtime")?;
    let listener = match runtime.block_on(http::bind(&config.serving.listen.to_string())) {
        Ok(listener) => listener,
        Err(error) => {
            let hint = error.hint();
            return Err(error).hint(hint);
        }
    };
    let address = listener
        .local_addr()
        .context("cannot read the address listened on")?;
    let store = Arc::new(Store::open_on(failpoint::file_system(), dir)?);
    failpoint::reach(FailPoint::StoreOpened);
    let found = ResumePoint::in_store(&store)?;
    let source = (plan.open)(&found.positions()?)?;
    let partitions = source.partitions();
    let ids: Vec<PartitionId> = partitions.iter().map(|partition| partition.id).collect();
    let contents = Contents::open(config)?;
    let begin = found.start(config, contents.as_ref(), &ids)?;
    let (plan_log, replay) = plan_log(dir, found.plan_position())?;
    let admin = admin::Listener::bind(&config.admin_socket())?;
    if begin.snapshot.is_none() {
        (plan.seed)(begin.stage.features());
    }

    failpoint::reach(FailPoint::Restored);
    let live = Arc::new(PipelineStatus::default());
    if let Some(id) = begin.snapshot {
        live.saved(id, live.lineage());
        let n_learned = begin.stage.ledger().n_samples() - begin.stage.n_open() as u64;
        live.samples.store(n_learned, Ordering::Relaxed);
        live.batches.store(begin.trainer.next_batch(), Ordering::Relaxed);
        tracing::info!(snapshot = %id, plan_entries = replay.len(), "resuming");
    }
    publish_positions(&live, &begin.stage);
    let features = Arc::clone(begin.stage.features());
    let start = partitions
        .iter()
        .map(|partition| (partition.id, partition.next))
        .collect();
    let sequencer = Sequencer::new(
        begin.stage,
        &start,
        found.plan_position(),
        replay,
        config.snapshot.every_batches,
    );

    let backlog = Arc::new(Backlog::default());
    let published = Arc::new(Published::<Version>::new());
    let queue = Arc::new(Queue::new(config.serving.queue_capacity));
    let (to_join, from_poll) = channel();
    let (to_learner, from_join) = sync_channel(BATCHES_AHEAD);
    let (to_saver, from_learner) = sync_channel(1);
    let (to_control, from_admin) = channel();
    let mut supervisor = Supervisor::new(shutdown.clone());

    let threads = config.learner_config().threads;
    // Scoring first: after a crash the last snapshot is served while the log is still being caught up with.
    for number in 0..config.serving.workers {
        let now_of = Arc::clone(&live);
        // A reader sees everything up to and including the newest event joined.
        let now = Arc::new(move || EventTime(now_of.event_time().0.saturating_add(1)));
        let mut scorer = Scorer::new(
            Arc::clone(&published),
            Arc::clone(&features),
            config.id_space(),
            now,
            config.learner_config().device()?,
        );
        let queue = Arc::clone(&queue);
        let number = u16::try_from(number).context("serving.workers is at most 65535")?;
        supervisor.spawn(Task::Scorer(number), move || {
            set_intra_op_threads(threads);
            run_worker(&queue, &mut scorer);
            Ok(())
        })?;
    }
    let app = http::App {
        queue: Arc::clone(&queue),
        model: {
            let published = Arc::clone(&published);
            Arc::new(move || published.served())
        },
        metrics: {
            let recorder = recorder.clone();
            Arc::new(move || recorder.render())
        },
        config: config.serving.clone(),
    };
    let hears = shutdown.clone();
    supervisor.spawn(Task::Http, move || {
        let served = runtime.block_on(http::serve(listener, app, async move { hears.triggered().await }));
        Ok(served?)
    })?;

    let saver = Saver {
        store: Arc::clone(&store),
        keep: config.snapshot.keep,
        live: Arc::clone(&live),
        clock: Arc::clone(&clock),
    };
    supervisor.spawn(Task::Snapshot, move || saver.run(&from_learner))?;

    // Tensors are made on the thread that uses them; the trainer moves there whole.
    let learn = Learn {
        trainer: begin.trainer,
        progressive: begin.progressive,
        scores: plan.scores,
        published: Arc::clone(&published),
        store: Arc::clone(&store),
        saver: to_saver,
        control: from_admin,
        live: Arc::clone(&live),
        clock: Arc::clone(&clock),
        provenance: provenance(config, contents.as_ref()),
        unserved: Vec::new(),
        note: None,
        buckets_told: None,
    };
    supervisor.spawn(Task::Learner, move || {
        set_intra_op_threads(threads);
        learn.run(&from_join)
    })?;

    let settings = JoinSettings {
        max_reorder_delay: config.order.max_reorder_delay.duration(),
        flush_after: config.learner.flush_after_idle.duration(),
    };
    let encoding = match contents {
        None => None,
        Some(contents) => {
            let (to_encode, from_join) = channel();
            let (to_join, from_encode) = channel();
            let encoding = Encoding {
                to: to_encode,
                from: from_encode,
                store: contents.store(),
                versions: contents.versions(),
            };
            // What the process before this one had not come to.
            encoding.ask(features.items());
            let encode = Encode {
                contents,
                features,
                out: to_join,
            };
            supervisor.spawn(Task::Encode, move || {
                set_intra_op_threads(threads);
                encode.run(&from_join)
            })?;
            Some(encoding)
        }
    };
    let join = Join::new(
        sequencer,
        PlanWriter::new(plan_log, Arc::clone(&backlog)),
        settings,
        JoinLinks {
            backlog: Arc::clone(&backlog),
            status: Arc::clone(&live),
            out: to_learner,
            encoding,
        },
    );
    supervisor.spawn(Task::Join, move || join.run(&from_poll))?;

    let poll = Poll {
        source,
        decoder: Decoder::new(config.id_space(), config.task_names(), config.events.clone()),
        letters: plan.letters,
        backlog,
        out: to_join,
    };
    let hears = shutdown.clone();
    supervisor.spawn(Task::Poll, move || poll.run(&hears))?;

    let desk = AdminHandler::new(
        Arc::clone(&live),
        Arc::clone(&store),
        Arc::clone(&published),
        to_control,
        Arc::clone(&clock),
    );
    let hears = shutdown.clone();
    supervisor.spawn(Task::Admin, move || {
        admin::serve(&admin, &hears, |request| desk.answer(request))
    })?;

    let (hears, figures) = (shutdown.clone(), Arc::clone(&live));
    supervisor.spawn(Task::Telemetry, move || {
        while !hears.wait_timeout(GAUGES_EVERY) {
            gauges::set(&figures, &*clock);
            recorder.upkeep();
        }
        Ok(())
    })?;
    tracing::info!(%address, state = %dir.display(), partitions = ids.len(), "started");
    Ok(Running {
        supervisor,
        live,
        address,
        store,
    })
}

/// Opens the plan log and reads what lies beyond the snapshot.
fn plan_log(
    dir: &Path,
    position: u64,
) -> anyhow::Result<(PlanLog, std::collections::VecDeque<ouzel_ingest::plan::PlanEntry>)> {
    let (log, recovery) = PlanLog::open(&dir.join("plan"), position)?;
    if recovery.dropped_bytes > 0 {
        tracing::warn!(
            bytes = recovery.dropped_bytes,
            "the plan log ended in a torn entry, which was dropped"
        );
    }
    let entries = log.read_from(position)?;
    Ok((log, entries))
}

fn publish_positions(live: &PipelineStatus, stage: &Stage) {
    live.joined(stage);
}
