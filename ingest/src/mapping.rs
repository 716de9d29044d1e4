//! Mappings: how the records of other systems become events, by configuration alone.
//!
//! A section `[events.<stream>]` says where a record holds each field. [`Mapping::apply`] turns a record, as a JSON
//! value, into events of the contract (docs/events.md), which the decoder then checks like any other. The default
//! mapping is the contract itself, with what producers often write otherwise: one item per record, ids that are
//! numbers, times as text.

mod apply;
mod compile;
mod config;
mod fields;
mod path;
mod presets;
#[cfg(test)]
mod tests;
mod time;

pub use apply::{Mapped, Mapping, RecordContext};
pub use config::{
    ActionMapping, ActionNames, Conditions, EventTimeSource, FieldSource, ImpressionMapping, ItemMapping,
    NamedPaths, Texts, UserMapping,
};
pub(crate) use path::text_of;
pub use path::{Metadata, RecordPath};
pub use presets::READY_MADE;
pub use time::TimeUnit;
