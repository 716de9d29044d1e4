//! What the configuration sections of all crates share: durations, sizes and range checks.

mod check;
mod units;

pub use check::{KeyError, allowed_range, out_of_range, schema_of};
pub use units::{ByteSize, Period, UnitError, auto_period};
