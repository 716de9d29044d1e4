//! The join tier: many processes join what one learner learns.
//!
//! ```text
//! impressions[p], actions[p] -> PartitionJoiner p -> samples, keyed by user -> JoinResultReceiver -> features, batches, learner
//! ```
//!
//! Records of both streams are keyed by request, so partition p of the one meets partition p of the other and no
//! other: a [`PartitionJoiner`] joins that pair, wherever it runs. A consumer group ([`Group`]) decides who runs which unit,
//! and that is all it decides: a unit that moves is built anew from the log ([`Begin`]), and what it tells a second
//! time the learner drops ([`JoinResultReceiver`]). So nothing rests on a commit, on a rebalance being clean, or on only one
//! process running a unit at a time: the first event of an outcome counts, and there always is one.
//!
//! The records are JSON, one [`JoinRecord`](ouzel_sample::JoinRecord) each, described in `wire.rs`.

mod begin;
mod group;
mod partition_joiner;
mod receiver;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

pub use begin::{Begin, Progress};
pub use group::{Group, GroupConfig};
pub use partition_joiner::{PartitionJoiner, PartitionJoinerError, Tell};
pub use receiver::JoinResultReceiver;
pub use wire::Wire;
pub use writer::Writer;

pub(crate) use receiver::ReceiveEffect;
