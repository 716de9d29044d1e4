//! The interface of a source.

use std::time::Duration;

use ouzel_sample::{PartitionId, Record};

use crate::error::Error;

/// The result of one [`Source::poll`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Polled {
    /// The next records of one partition, in offset order; never empty.
    Records(Vec<Record>),
    /// Everything that the partition holds now has been delivered. A live partition may continue later.
    AtEnd(PartitionId),
    /// The topic gained this partition; it is delivered from offset 0.
    Added(PartitionId),
    /// Nothing arrived within the timeout.
    Idle,
    /// A bounded source has delivered everything; every later call returns this again.
    Finished,
}

/// The state of one partition of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// The partition.
    pub id: PartitionId,
    /// Topic or file, for messages.
    pub name: String,
    /// First offset of the log when the source was opened.
    pub low: i64,
    /// Offset after the last record when the source was opened; `None` for a file.
    pub high: Option<i64>,
    /// Next offset to deliver.
    pub next: i64,
}

/// A reader of streams.
pub trait Source {
    /// Waits up to `timeout` for the next result. Paused partitions deliver nothing; polling continues.
    ///
    /// # Errors
    /// When waiting cannot help: the log lost the next record, a file cannot be read. An unreachable broker is
    /// [`Polled::Idle`].
    fn poll(&mut self, timeout: Duration) -> Result<Polled, Error>;

    /// Stops delivering records of `partitions`. Unknown partitions are ignored.
    ///
    /// # Errors
    /// When the client library refuses.
    fn pause(&mut self, partitions: &[PartitionId]) -> Result<(), Error>;

    /// Resumes `partitions` where they were paused.
    ///
    /// # Errors
    /// When the client library refuses.
    fn resume(&mut self, partitions: &[PartitionId]) -> Result<(), Error>;

    /// Every partition of this source, sorted.
    fn partitions(&self) -> Vec<PartitionState>;
}
