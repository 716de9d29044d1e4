//! The join tier: many processes join for one learner.
//!
//! ```text
//! impressions[p], actions[p] -> PartitionJoiner p -> samples, keyed by user -> JoinResultReceiver -> Stage, learner
//! ```
//!
//! Records of both streams are keyed by request, or by user with `join.by = "user_item"`, so partition p of impressions
//! meets partition p of actions and no other: a [`PartitionJoiner`] joins that pair, in any process. A consumer group ([`Group`]) only decides which process
//! owns which pair. A new owner rebuilds the join state from the log ([`StartPoint`]) and reports some outcomes again,
//! which the learner drops ([`JoinResultReceiver`]). So nothing depends on a commit, on a clean rebalance, or on a pair
//! having one owner at a time: the first report of an outcome counts, and there always is one.
//!
//! The records are JSON, one [`JoinRecord`](ouzel_sample::JoinRecord) each, described in `wire.rs`.

mod config;
mod group;
mod ledger;
mod partition_joiner;
mod receiver;
mod start;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

pub use config::TierConfig;
pub use group::Group;
pub use partition_joiner::{OutgoingRecord, PartitionJoiner, PartitionJoinerError};
pub use receiver::JoinResultReceiver;
pub use start::{ReportProgress, StartPoint};
pub use wire::Wire;
pub use writer::Writer;
