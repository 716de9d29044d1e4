//! From bytes to samples: sources, decoding, merge order, joining.
//!
//! A [`Source`] (Kafka, files, a data folder, memory) reads records. A [`Decoder`] turns them into events;
//! [`DeadLetters`] keeps the rejected ones. [`order`] and [`plan`] merge the partitions into one recorded order, and
//! [`join`] makes samples of the events, in this process or in a [`tier`] of joining processes. Nothing here knows of
//! models or snapshots or reads the wall clock.

pub mod accounts;
mod data_dir;
mod dead_letters;
mod decode;
mod deleted;
mod embedded_broker;
mod error;
mod event_producer;
mod feeder;
mod formats;
pub mod join;
mod late_records;
pub mod mapping;
pub mod metrics;
pub mod order;
pub mod plan;
mod producer;
mod quarantine;
mod sequencer;
mod source;
mod stage;
pub mod tier;
pub mod topics;

pub use data_dir::source::DataSource;
pub use data_dir::{DataDir, DataEvent, DataSummary, ReadOptions, RejectedRow, first_rows};
pub use dead_letters::DeadLetters;
pub use decode::{ActionCounts, Decoder, EventConfig, ImmediateLabels};
pub use embedded_broker::{EMBEDDED_PARTITION_BYTES, EmbeddedBroker};
pub use error::Error;
pub use event_producer::{CheckedEvent, Delivery, EventProducer};
pub use feeder::Feeder;
pub use formats::{PayloadFormat, RecordFormats, RegistryConfig};
pub use late_records::LateRecords;
pub use quarantine::{Quarantine, QuarantineRule};
pub use sequencer::{Effects, NextInput, Sequencer};
pub use source::{
    FileSource, KafkaConfig, KafkaSource, MemorySource, PartitionState, Polled, ReplayBound, ReplayRange,
    Source, check_properties,
};
pub use stage::{
    CatalogCounts, NewStage, Stage, StageBytes, StageCheckpoint, StageError, StageMigration, seed_histories,
};
pub use topics::Topics;
