//! The words everyone speaks: ids, event time, positions, events, samples, batches and the feature state.
//!
//! This crate is the floor of the house. It owns the data types that cross a crate boundary and the one
//! structure both training and serving read, the [`FeatureState`]. It does no IO, reads no clock, starts no
//! thread, and knows nothing of Kafka, tensors, files or HTTP.

mod batch;
mod content;
mod event;
mod features;
mod id;
mod item;
mod join_record;
mod labels;
mod ledger;
mod position;
mod sample;
mod time;

pub use batch::{Batch, Batcher};
pub use content::{Content, ContentHash, EncoderVersion, MAX_TEXT_BYTES};
pub use event::{Action, Deletion, Event, Impression, Record, Recorded, Reject, RejectReason, ShownItem};
pub use features::{
    DENSE_NAMES, Dense, FeatureConfig, FeatureQuery, FeatureState, FeatureStateError, ItemVectors,
    MODALITIES, N_DENSE, N_MODALITIES, Origin, Vector, VectorId, VectorList, VectorMap, VectorTable,
    dense_index,
};
pub use id::{Id, IdHasher, IdKind, IdMap, IdSpace, MAX_ID_BYTES};
pub use item::{Attribute, Item, Slot, about};
pub use join_record::{AttributedAction, JoinEvent, JoinRecord, LabeledItem};
pub use labels::{Labels, MAX_TASKS, TaskId};
pub use ledger::Ledger;
pub use position::{PartitionId, Position, Positions, Stream};
pub use sample::{Candidate, HistoryEntry, Kind, Predicted, Request, Sample, Shown};
pub use time::EventTime;
