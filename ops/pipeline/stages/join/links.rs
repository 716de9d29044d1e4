//! The settings of the join stage, and its connections to the other stages.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use ouzel_ingest::LateRecords;

use crate::pipeline::control::JoinControl;
use crate::pipeline::stages::Joined;
use crate::pipeline::stages::backlog::Backlog;
use crate::pipeline::stages::encode::Encoding;
use crate::pipeline::status::PipelineStatus;

/// Time limits of the stage.
#[derive(Clone, Copy, Debug)]
pub struct JoinSettings {
    /// How long a record may wait for earlier records of other partitions.
    pub max_reorder_delay: Duration,
    /// How long a batch may stay open; zero is no limit.
    pub flush_after: Duration,
    /// Time from one checkpoint to the next; zero for only those that are due by batches.
    pub checkpoint_after: Duration,
}

/// The connections to the other stages.
pub struct JoinLinks {
    /// Records in the channel from poll.
    pub backlog: Arc<Backlog>,
    /// The status of the pipeline.
    pub status: Arc<PipelineStatus>,
    /// Requested checkpoints, and the first plan log entry to keep.
    pub control: JoinControl,
    /// To the learner.
    pub out: SyncSender<Joined>,
    /// Receives copies of late records, if they are wanted.
    pub late: Option<Arc<LateRecords>>,
    /// The encode stage, if there are encoders.
    pub encoding: Option<Encoding>,
}

/// The learner has ended before its input. Its task reports why.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("cannot send to the learner: it has ended")]
pub(super) struct LearnerGone;

impl JoinLinks {
    /// Sends to the learner; waits while the channel is full.
    pub(super) fn send(&self, joined: Joined) -> Result<(), LearnerGone> {
        self.out.send(joined).map_err(|_| LearnerGone)
    }
}
