//! Decoding of records into events.
//!
//! A [`Decoder`] is pure: the same record under the same configuration gives the same event or the same rejection.
//! It knows nothing of brokers, files or clocks; event time is compared only with the record's own timestamp.
//!
//! A record that has the form of the contract (docs/events.md) is parsed at once. Any other goes through the mapping of
//! its stream, which makes events of the contract; the same checks follow.
//!
//! Details of the contract: `null` means absent; an empty string is not a value of an attribute; an item's title precedes
//! its texts; a number alone is numeric, unless its name ends in `_id`.

mod classify;
mod config;
mod counters;
mod decoder;
mod events;
mod feature_changes;
mod immediate_labels;
mod number_names;
mod profiles;
#[cfg(test)]
mod tests;
mod wire;

pub use config::EventConfig;
pub use decoder::Decoder;
pub use immediate_labels::{ActionCounts, ImmediateLabels};
