//! Counts of decoded and rejected records since the last report.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::counter;
use ouzel_sample::{RejectReason, Stream};

use super::wire::SkippedFields;
use crate::metrics::{EVENTS, IGNORED_FIELDS, REJECTED, UNKNOWN_FIELDS};

/// Counts of one stream. Relaxed atomics: a decoder is shared by reference and no count guards other data.
#[derive(Debug, Default)]
struct StreamCounters {
    events: AtomicU64,
    unknown: AtomicU64,
    ignored: AtomicU64,
    // Rejections are rare enough for a lock.
    rejected: Mutex<BTreeMap<RejectReason, u64>>,
}

impl StreamCounters {
    fn rejected(&self) -> MutexGuard<'_, BTreeMap<RejectReason, u64>> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts by stream.
#[derive(Debug, Default)]
pub(super) struct DecodeCounters([StreamCounters; Stream::WITH_SAMPLES.len()]);

impl DecodeCounters {
    pub(super) fn add_event(&self, stream: Stream, skipped: SkippedFields) {
        let counters = self.stream(stream);
        counters.events.fetch_add(1, Ordering::Relaxed);
        if skipped.unknown + skipped.ignored > 0 {
            counters.unknown.fetch_add(skipped.unknown, Ordering::Relaxed);
            counters.ignored.fetch_add(skipped.ignored, Ordering::Relaxed);
        }
    }

    pub(super) fn add_reject(&self, stream: Stream, reason: RejectReason) {
        *self.stream(stream).rejected().entry(reason).or_default() += 1;
    }

    /// Adds the counts to the process's metrics and resets them.
    pub(super) fn report(&self) {
        for stream in Stream::WITH_SAMPLES {
            let counters = self.stream(stream);
            for (name, count) in [
                (EVENTS, &counters.events),
                (UNKNOWN_FIELDS, &counters.unknown),
                (IGNORED_FIELDS, &counters.ignored),
            ] {
                let n = count.swap(0, Ordering::Relaxed);
                if n > 0 {
                    counter!(name, "stream" => stream.name()).increment(n);
                }
            }
            for (reason, n) in std::mem::take(&mut *counters.rejected()) {
                counter!(REJECTED, "stream" => stream.name(), "reason" => reason.name()).increment(n);
            }
        }
    }

    fn stream(&self, stream: Stream) -> &StreamCounters {
        &self.0[stream as usize]
    }
}
