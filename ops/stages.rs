//! The pipeline's stages: one loop a thread, joined by channels.
//!
//! [`poll`] reads and decodes, [`join`] orders, joins and batches, [`encode`] turns contents into vectors, [`learn`] steps and publishes, [`save`]
//! writes snapshots. Each ends when its input closes; only poll hears the shutdown. The state machines they
//! drive live in the rooms below and know nothing of threads.

pub mod backlog;
pub mod encode;
pub mod idle;
pub mod join;
pub mod join_worker;
pub mod learn;
pub mod poll;
pub mod save;

use ouzel_ingest::StageCheckpoint;
use ouzel_sample::{Batch, DecodedRecord, PartitionId};

/// From poll to join.
#[derive(Debug)]
pub enum Read {
    /// Decoded records of one partition, in offset order.
    Records(Vec<DecodedRecord>),
    /// A partition was read to its end.
    AtEnd(PartitionId),
    /// The log has gained a partition, which is read from offset 0.
    Added(PartitionId),
    /// A bounded source is exhausted.
    Finished,
}

/// From join to the learner.
#[derive(Debug)]
pub enum Joined {
    /// The next batch.
    Batch(Batch),
    /// The stage's state after the last batch: to be completed with the weights and written.
    Checkpoint(Box<JoinCheckpoint>),
}

/// The join side of a snapshot.
#[derive(Debug)]
pub struct JoinCheckpoint {
    /// The stage.
    pub stage: StageCheckpoint,
    /// Plan entries that are in it.
    pub plan_position: u64,
    /// Requests for a cut that this one answers, by [`PipelineStatus::take_cut_wanted`](crate::live::PipelineStatus).
    pub answers: Option<u64>,
    /// The last one before the end.
    pub is_last: bool,
}
