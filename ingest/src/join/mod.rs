//! The joiner: impressions with actions, by request and item, in event time.
//!
//! Read in this order: [`JoinConfig`] (what can be set), [`Clock`] (what time it is), [`Slot`] (what is known
//! of one request), [`LabelPolicy`] (which samples that makes, and when), [`Joiner`] (the state machine).
//!
//! Nothing here reads a wall clock, does IO (a [`JoinStore`] may) or lets the order of a map reach the output:
//! the samples are a function of the events, their order, and the configuration.

mod any_store;
mod clock;
mod config;
mod counters;
mod error;
mod fault;
mod joiner;
mod policy;
mod sled_store;
mod slot;
mod state;
mod step;
pub mod store;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub use any_store::{AnyStore, StoreConfig};
pub use clock::{Clock, Mark};
pub use config::{JoinConfig, LabelPolicy, TaskConfig};
pub use counters::{Counters, IdentityViolation, TaskCounters};
pub use error::JoinError;
pub use joiner::{Captured, Joiner, Outcome, ResolvedEarlyAction};
pub use sled_store::{SledLimits, SledStore};
pub use slot::{Class, Closed, Early, Open, OpenItem, Positive, Slot, Waiting};
pub use store::{JoinStore, MemStore, StoreError};
