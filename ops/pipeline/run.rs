//! One run of the stages, and the request to end it and start another from a changed store.
//!
//! Going back in the log replaces the join state, the feature state and the source. So the stages end as in a shutdown,
//! with a last snapshot, the store is changed by the code that changes it without a daemon, and new stages resume from
//! it. Scorers, listeners and metrics go on: they read the handles of the newest run.

use std::sync::mpsc::{Sender, SyncSender, channel};
use std::sync::{Arc, PoisonError, RwLock};

use ouzel_ingest::join::StoreConfig;
use ouzel_sample::FeatureState;
use ouzel_serving::{Published, Version};
use ouzel_snapshot::{Alias, Store};

use super::contents::Contents;
use super::control::{CheckpointRequests, Control, ControlState};
use super::resume::ResumePoint;
use super::spec::Parts;
use super::stages::learn::PendingRequest;
use super::standby::RunRole;
use super::status::PipelineStatus;
use crate::config::Config;
use crate::supervisor::Task;

/// The tasks of one run, in the order in which they end.
pub(crate) const STAGES: [Task; 6] = [
    Task::Poll,
    Task::Join,
    Task::Encode,
    Task::Learner,
    Task::Second,
    Task::Snapshot,
];

/// What the rest of the process reads of one run of the stages.
#[derive(Debug)]
pub struct RunHandles {
    /// Its figures.
    pub status: Arc<PipelineStatus>,
    /// Its snapshots and lineage.
    pub control: ControlState,
    /// Requests a snapshot now.
    pub requests: CheckpointRequests,
    /// The feature state that its join stage writes.
    pub features: Arc<FeatureState>,
    /// Takes the requests to its learner.
    pub(crate) learner: Sender<PendingRequest>,
    /// Why the log cannot be read, if nothing is learned.
    pub no_log: Option<String>,
    /// How it stands to the other daemons of the state directory; `None` while there are no stages.
    pub(crate) role: Option<RunRole>,
}

impl RunHandles {
    /// The handles of a run that is about to start.
    pub(crate) fn new(
        parts: &Parts,
        control: &Control,
        learner: Sender<PendingRequest>,
        restarts: &Sender<Restart>,
    ) -> Self {
        let is_standby = parts.plan.is_none();
        Self {
            status: Arc::clone(&parts.status),
            control: control.state.clone(),
            requests: control.requests.clone(),
            features: Arc::clone(parts.sequencer.stage().features()),
            learner,
            no_log: None,
            role: Some(RunRole::new(is_standby, parts.operator.clone(), restarts.clone())),
        }
    }

    /// Why nothing is learned, if neither an operator nor a gate has stopped it: the log cannot be read, or nothing can be
    /// written.
    pub(crate) fn not_learning(&self) -> Option<String> {
        let unwritable = || self.role.as_ref().and_then(RunRole::unwritable);
        self.no_log.clone().or_else(unwritable)
    }
}

/// The handles of the newest run, shared by cloning.
#[derive(Clone, Debug)]
pub struct CurrentRun(Arc<RwLock<Arc<RunHandles>>>);

impl CurrentRun {
    /// A process whose first run has these handles.
    pub(crate) fn new(handles: RunHandles) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(handles))))
    }

    /// The handles of the newest run.
    pub fn get(&self) -> Arc<RunHandles> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes `handles` those of the newest run.
    pub(crate) fn set(&self, handles: RunHandles) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(handles);
    }
}

/// What serves while the log cannot be read: the pinned snapshot, or else the newest valid one of `store`.
///
/// `None` if there is no snapshot.
pub(crate) fn without_log(
    config: &Config,
    store: &Store,
    published: &Published<Version>,
    why: String,
) -> anyhow::Result<Option<RunHandles>> {
    let contents = Contents::open(config)?;
    let (contents, memory) = (contents.as_ref(), &StoreConfig::Memory);
    let resume = match store.alias(Alias::Pinned)? {
        Some(pinned) => ResumePoint::at(store.read(pinned)?, config, contents, memory)?,
        None => ResumePoint::newest(store, config, contents, memory)?,
    };
    let Some(id) = resume.id() else {
        return Ok(None);
    };
    let (stage, mut trainer, _, _) = resume.into_state(config, contents, &[], memory)?;
    let status = Arc::new(PipelineStatus::default());
    status.joined(&stage);
    published.publish(Arc::new(Version::new(&id.to_string(), trainer.weights()?)?));
    let control = Control::new(Some(id));
    Ok(Some(RunHandles {
        status,
        control: control.state,
        requests: control.requests,
        features: Arc::clone(stage.features()),
        learner: channel().0,
        no_log: Some(why),
        role: None,
    }))
}

/// A change of the store that no stage may see half-way.
///
/// Returns what it changed besides, a sentence each.
pub(crate) type StoreChange = Box<dyn FnOnce(&Store) -> anyhow::Result<Vec<String>> + Send>;

/// Ends the stages, changes the store and starts the stages again.
pub(crate) struct Restart {
    /// If it fails, the stages resume from the unchanged store.
    pub(crate) change: StoreChange,
    /// Takes the result once the new stages have started.
    pub(crate) reply: SyncSender<anyhow::Result<Vec<String>>>,
}
