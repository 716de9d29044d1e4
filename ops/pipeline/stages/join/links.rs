//! The settings of the join stage, and its connections to the other stages.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use crate::pipeline::control::JoinControl;
use crate::pipeline::status::PipelineStatus;
use crate::stages::Joined;
use crate::stages::backlog::Backlog;
use crate::stages::encode::Encoding;

/// Times that shape the stage without changing what a given order means.
#[derive(Clone, Copy, Debug)]
pub struct JoinSettings {
    /// How long a record may be held for earlier ones of other partitions.
    pub max_reorder_delay: Duration,
    /// How long a batch may stay open; zero is for ever.
    pub flush_after: Duration,
}

/// The connections to the other stages.
pub struct JoinLinks {
    /// Counts the records on the way from poll.
    pub backlog: Arc<Backlog>,
    /// The pipeline's figures.
    pub status: Arc<PipelineStatus>,
    /// Requests for checkpoints, and what the plan log must keep.
    pub control: JoinControl,
    /// To the learner.
    pub out: SyncSender<Joined>,
    /// To the encoder and back, where contents are encoded.
    pub encoding: Option<Encoding>,
}

/// The learner has ended before its input did. Its own task says why.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("cannot hand over to the learner: it has ended")]
pub(super) struct LearnerGone;

impl JoinLinks {
    /// Hands over to the learner, waiting while it is busy.
    pub(super) fn send(&self, joined: Joined) -> Result<(), LearnerGone> {
        self.out.send(joined).map_err(|_| LearnerGone)
    }
}
