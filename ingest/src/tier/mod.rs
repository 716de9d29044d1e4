//! The join tier: many processes join what one learner learns.
//!
//! ```text
//! impressions[p], actions[p] -> Unit p -> samples, keyed by user -> Slates -> features, batches, learner
//! ```
//!
//! Records of both streams are keyed by request, so partition p of the one meets partition p of the other and no
//! other: a [`Unit`] joins that pair, wherever it runs. A consumer group ([`Group`]) decides who runs which unit,
//! and that is all it decides: a unit that moves is built anew from the log ([`Begin`]), and what it tells a second
//! time the learner drops ([`Slates`]). So nothing rests on a commit, on a rebalance being clean, or on only one
//! process running a unit at a time: the first telling of an outcome counts, and there always is one.
//!
//! The records are JSON, one [`Told`](ouzel_sample::Told) each, described in `wire.rs`.

mod begin;
mod group;
mod slates;
mod unit;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

pub use begin::{Begin, Progress};
pub use group::{Group, GroupConfig};
pub use slates::Slates;
pub use unit::{Tell, Unit, UnitError};
pub use wire::Wire;
pub use writer::Writer;

pub(crate) use slates::Heard;
