//! Where records come from: one trait, one closed answer.
//!
//! A source hands out records of one partition at a time, in offset order and without repeating any. It
//! decides nothing about order between partitions (that is [`crate`]'s order stage) and decodes nothing.

mod file;
pub(crate) mod kafka;
mod lanes;
mod lines;
mod memory;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ouzel_sample::{PartitionId, Record};

use crate::Error;

pub use file::FileSource;
pub use kafka::{KafkaConfig, KafkaSource, Range, RangeBound};
pub(crate) use lanes::{Lane, Lanes};
pub(crate) use lines::Lines;
pub use memory::MemorySource;

/// What one call of [`Source::poll`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Polled {
    /// The next records of one partition, in offset order; never empty.
    Records(Vec<Record>),
    /// Everything that the partition held just now has been handed out. A live partition may go on later; one
    /// of a bounded source will not.
    AtEnd(PartitionId),
    /// The log has gained this partition; it is handed out from its first offset, 0.
    Added(PartitionId),
    /// Nothing came within the timeout.
    Idle,
    /// A bounded source has handed out everything; every later call says so again.
    Finished,
}

/// One partition of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// Which.
    pub id: PartitionId,
    /// Topic or file, for messages.
    pub name: String,
    /// First offset the log held when the source was opened.
    pub low: i64,
    /// Offset after the last one the log held when the source was opened; unknown for a file.
    pub high: Option<i64>,
    /// Next offset to be handed out.
    pub next: i64,
}

/// A reader of the three streams.
pub trait Source {
    /// Waits up to `timeout` for the next thing to tell. Paused partitions stay silent; polling goes on.
    ///
    /// # Errors
    /// Only for what nobody recovers from by waiting: a log that lost what was to be read next, a file that
    /// cannot be read. A broker that is away is [`Polled::Idle`].
    fn poll(&mut self, timeout: Duration) -> Result<Polled, Error>;

    /// Stops handing out records of `partitions`. Unknown ones are ignored.
    ///
    /// # Errors
    /// When the client library refuses.
    fn pause(&mut self, partitions: &[PartitionId]) -> Result<(), Error>;

    /// Takes `partitions` up again where they were paused.
    ///
    /// # Errors
    /// When the client library refuses.
    fn resume(&mut self, partitions: &[PartitionId]) -> Result<(), Error>;

    /// Every partition this source reads, in order.
    fn partitions(&self) -> Vec<PartitionState>;
}
