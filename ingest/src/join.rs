//! The joiner: matches impressions with actions, by request and item or by user and item, in event time.
//!
//! Read in this order: [`JoinConfig`] (the settings), [`EventClock`] (event time), [`RequestSlot`] (the state of one
//! request), [`LabelPolicy`] (which samples that makes, and when), [`Joiner`] (the state machine), [`JoinEffects`] (its
//! output).
//!
//! Nothing here reads a wall clock or does IO (a [`JoinStore`] may), and the order of a map never reaches the output:
//! the samples are a function of the events, their order, and the configuration.

mod any_store;
mod clock;
mod config;
mod counters;
mod effects;
mod error;
mod joiner;
mod migrate;
mod open_items;
mod planted_bug;
mod policy;
mod remembered;
mod sled_store;
mod slot;
mod state;
mod step;
pub mod store;

#[cfg(test)]
mod clock_oracle;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub use any_store::{AnyStore, StoreConfig};
pub(crate) use clock::passed;
pub use clock::{EventClock, Mark};
pub use config::{JoinBy, JoinConfig, JoinSource, LabelPolicy, StoreKind, TaskConfig, ValueUse};
pub use counters::{Counters, IdentityViolation, TaskCounters};
pub use effects::{Captured, ClosedImpression, CountedAction, FeatureSource, JoinEffects, Outcome, TimeJump};
pub use error::JoinError;
pub use joiner::Joiner;
pub(crate) use migrate::is_of_another_version;
pub use migrate::{JoinMigration, TaskOutcome, migrate_join};
pub use remembered::RememberedImpression;
pub use sled_store::{SledLimits, SledStore};
pub use slot::{EarlyAction, EarlyActions, OpenImpression, OpenItem, PositiveValue, RequestSlot, SlotClass};
pub use store::{JoinStore, MemStore, StoreError};
