//! Messages about events that are far ahead of their time, at most one a minute.

use std::time::{Duration, Instant};

use ouzel_ingest::join::TimeJump;
use ouzel_sample::settings::Period;

/// Time between two messages.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// When the last message was written.
#[derive(Debug, Default)]
pub(crate) struct TimeJumpLog {
    logged: Option<Instant>,
}

impl TimeJumpLog {
    /// Writes a message about the event that `take` returns, unless one was written within the last minute.
    pub(crate) fn log(&mut self, take: impl FnOnce() -> Option<TimeJump>) {
        if self.logged.is_some_and(|logged| logged.elapsed() < LOG_EVERY) {
            return;
        }
        let Some(jump) = take() else { return };
        self.logged = Some(Instant::now());
        tracing::warn!(
            position = %jump.position,
            ahead = %Period::from_ms(jump.ahead_ms),
            "an event is dated far after the newest one of its partition: event time follows when four requests agree, which \
             is normal after a silence; join.max_time_jump sets how far is far"
        );
    }
}
