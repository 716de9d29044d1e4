//! Sources of records: Kafka topics, files, data folders and memory.
//!
//! A [`Source`] delivers the records of one partition at a time, in offset order, each once. The order between
//! partitions is the order stage's decision, and payloads are the decoder's.

mod api;
mod bounded;
mod file;
pub(crate) mod kafka;
mod lines;
mod memory;
#[cfg(test)]
mod tests;

pub use api::{PartitionState, Polled, Source};
pub(crate) use bounded::{BoundedSource, PartitionReader};
pub use file::FileSource;
pub use kafka::{KafkaConfig, KafkaSource, ReplayBound, ReplayRange, check_properties};
pub(crate) use lines::{LineReader, open_unpacked};
pub use memory::MemorySource;
