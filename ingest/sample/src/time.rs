//! Event time: the clock in the payload, never the wall clock.

use serde::{Deserialize, Serialize};

/// Event time: milliseconds since the Unix epoch, UTC, as the payload states them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventTime(pub i64);

impl EventTime {
    /// Earlier than every event.
    pub const MIN: EventTime = EventTime(i64::MIN);
    /// Later than every event.
    pub const MAX: EventTime = EventTime(i64::MAX);

    /// This time plus `ms` milliseconds, saturating.
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time, saturating; negative when `earlier` is later.
    #[must_use]
    pub fn since_ms(self, earlier: EventTime) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}
