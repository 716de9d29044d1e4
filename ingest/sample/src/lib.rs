//! Shared data types: ids, event time, log positions, events, samples, batches and the feature state.
//!
//! Every other crate of the workspace builds on this one. It owns the types that cross a crate boundary and the
//! [`FeatureState`], which training and serving both read. It does no IO, reads no clock and starts no thread.

mod batch;
mod content;
mod event;
mod features;
mod id;
mod item;
mod item_update;
mod join_record;
mod labels;
mod ledger;
mod metric_names;
mod named_features;
mod number;
mod position;
mod profile;
mod record;
mod sample;
pub mod settings;
mod task_map;
mod time;
mod user_share;

pub use batch::{Batch, Batcher, ReadTotals};
pub use content::{Content, ContentHash, EncoderVersion, MAX_TEXT_BYTES};
pub use event::{Action, Deletion, Impression, KnownAction, ShownFeatures, ShownItem};
pub use features::{
    DENSE_NAMES, Dense, FeatureConfig, FeatureMigration, FeatureQuery, FeatureState, FeatureStateError,
    ItemVectors, MODALITIES, N_DENSE, N_MODALITIES, Vector, VectorId, VectorMap, VectorOrigin,
    VectorReadGuard, VectorTable, centred_pairs, dense_index,
};
pub use id::{Id, IdHasher, IdKind, IdMap, IdSpace, MAX_ID_BYTES};
pub use item::{Attribute, AttributeField, Item, primary_attribute};
pub use item_update::{ItemUpdate, UpdateOutcome};
pub use join_record::{AttributedAction, JoinEvent, JoinRecord, LabeledItem};
pub use labels::{Labels, MAX_TASKS, TaskId};
pub use ledger::Ledger;
pub use named_features::FeatureChange;
pub use number::{
    MAX_NUMBER_NAMES, Number, NumberScope, REQUEST_FIELDS, finite_f32, is_category_name, sort_numbers,
};
pub use position::{PartitionId, Position, Positions, Stream};
pub use profile::ProfileUpdate;
pub use record::{DecodedRecord, Event, Record, RecordMetadata, Reject, RejectReason};
pub use sample::{Candidate, HistoryEntry, Request, Sample, SampleKind, ShownLogits, ShownSlate};
pub use task_map::TaskMap;
pub use time::EventTime;
pub use user_share::UserShare;
