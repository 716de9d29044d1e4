//! The messages between the stages of a pipeline.

use ouzel_ingest::StageCheckpoint;
use ouzel_sample::{Batch, DecodedRecord, PartitionId};

/// From poll to join.
#[derive(Debug)]
pub enum Read {
    /// Decoded records of one partition, in offset order.
    Records(Vec<DecodedRecord>),
    /// The end of a partition was reached.
    AtEnd(PartitionId),
    /// A new partition, which is read from offset 0.
    Added(PartitionId),
    /// A bounded source is exhausted.
    Finished,
}

/// From join to the learner.
#[derive(Debug)]
pub enum Joined {
    /// The next batch.
    Batch(Batch),
    /// The join side of a checkpoint after the last batch, to be completed with the weights.
    Checkpoint(Box<JoinCheckpoint>),
}

/// The join side of a checkpoint.
#[derive(Debug)]
pub struct JoinCheckpoint {
    /// The state of the join stage.
    pub stage: StageCheckpoint,
    /// Number of plan log entries before the checkpoint.
    pub plan_position: u64,
    /// The newest request that it answers; see [`JoinControl::take_request`](super::control::JoinControl::take_request).
    pub answers: Option<u64>,
    /// True for the last checkpoint before the end.
    pub is_last: bool,
    /// True if another process takes this checkpoint too, and writes it: it is compared, not written.
    pub is_followed: bool,
}
