//! Decoding of records into events.
//!
//! A [`Decoder`] is pure: the same record under the same configuration gives the same event or the same rejection.
//! It knows nothing of brokers, files or clocks; event time is compared only with the record's own timestamp.
//!
//! Details of the event format (docs/events.md): `null` means absent; an empty string is not a value of an
//! attribute; an item's title precedes its texts; attributes are categorical, and numeric features of an item are
//! checked but not used yet.

mod classify;
mod counters;
mod decoder;
mod events;
mod immediate_labels;
mod limits;
#[cfg(test)]
mod tests;
mod wire;

pub use decoder::Decoder;
pub use immediate_labels::ImmediateLabels;
pub use limits::EventLimits;
