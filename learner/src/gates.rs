//! Gates: checks of the data before more of it is learned, and of a version before it serves.
//!
//! The [`Breaker`] watches what is learned: click rate, event rates, missing features, and the figures of predictions made
//! before learning, in intervals of samples, against their own moving averages. The [`VersionGate`] checks a version
//! against a good one of a few batches before: finite, of plausible norms, and with scores on the [`Probe`], recent real slates, that agree.
//!
//! Both only read. The breaker is a function of the log and is in every snapshot; a learner that stops by it and goes on
//! later has the weights of one that never stopped. The gate of versions decides what serves, nothing that is learned.

mod breaker;
mod compare;
mod config;
mod interval;
mod moments;
mod previous;
mod probe;
mod restored;
mod scores;
mod signal;
mod slices;
mod version;
mod weights;

pub use breaker::{Breaker, BreakerEvent};
pub use config::{GatesConfig, OnBreach};
pub use previous::{IntervalVerdict, PreviousVersion};
pub use probe::Probe;
pub use restored::check_restored;
pub use signal::{Breach, Signal};
pub use version::{Learned, Measured, REFERENCE_EVERY, VersionGate};
