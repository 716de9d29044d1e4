//! Streams from Kafka, read by explicit offsets.
//!
//! Each stream has its own consumer, because an end-of-partition event names the partition number and not the
//! topic. No consumer group takes part in reading: partitions are assigned at given offsets, nothing is committed,
//! and a partition that a topic gains is read from its first record.
//!
//! An unreachable broker is not an error: it is counted, logged once, and polling continues. A log that no longer
//! holds the next record is always an error, never a silent skip.

mod check;
mod client_log;
mod config;
mod connect;
mod cursor;
mod diagnosis;
mod new_partitions;
pub(crate) mod properties;
mod range;
mod reader;
mod source;

pub use check::check_properties;
pub(crate) use client_log::ClientLog;
pub use config::KafkaConfig;
pub(crate) use connect::{REQUEST_TIMEOUT, connect_consumer, once_led, partitions_of, unreachable};
pub use range::{ReplayBound, ReplayRange};
pub use source::KafkaSource;
