//! Sources, wire decoding, order, the pure joiner.
//!
//! Bytes come in by a [`Source`] (Kafka, files, a data folder, memory), become events by a [`Decoder`] or dead
//! letters by [`DeadLetters`], and are put in one order and joined into samples by [`order`], [`plan`] and
//! [`join`]; or, where one process is not enough for that, joined by a [`tier`] of them. Nothing here knows of models, snapshots or the wall clock.

mod data_dir;
mod decode;
mod deleted;
mod dlq;
mod embedded;
mod error;
mod feeder;
pub mod join;
pub mod metrics;
pub mod order;
pub mod plan;
mod sequencer;
mod source;
mod stage;
pub mod tier;
pub mod topics;

pub use data_dir::{DataDir, DataEvent, DataSource, DataSummary};
pub use decode::{Decoder, Limits, Reveal};
pub use dlq::{DEFAULT_PREFIX_BYTES, DeadLetters};
pub use embedded::{EMBEDDED_PARTITION_BYTES, Embedded};
pub use error::Error;
pub use feeder::Feeder;
pub use sequencer::{Effects, Next, Sequencer};
pub use source::{
    FileSource, KafkaConfig, KafkaSource, MemorySource, PartitionState, Polled, Range, RangeBound, Source,
};
pub use stage::{Stage, StageBytes, StageCheckpoint, StageError, seed_histories};
pub use topics::Topics;
