//! What a decoder has counted since it last reported.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use metrics::counter;
use ouzel_sample::{RejectReason, Stream};

use crate::metrics::{EVENTS, IGNORED_FIELDS, REJECTED, UNKNOWN_FIELDS};

/// Counts of one stream. Relaxed atomics: a decoder is shared by reference and a count guards nothing.
#[derive(Debug, Default)]
struct Counts {
    events: AtomicU64,
    unknown: AtomicU64,
    ignored: AtomicU64,
    // Rare enough for a lock.
    rejected: Mutex<BTreeMap<RejectReason, u64>>,
}

/// Counts by stream.
#[derive(Debug, Default)]
pub(super) struct Tally([Counts; Stream::WITH_SAMPLES.len()]);

impl Tally {
    pub(super) fn event(&self, stream: Stream, unknown: u64, ignored: u64) {
        let counts = self.of(stream);
        counts.events.fetch_add(1, Ordering::Relaxed);
        if unknown + ignored > 0 {
            counts.unknown.fetch_add(unknown, Ordering::Relaxed);
            counts.ignored.fetch_add(ignored, Ordering::Relaxed);
        }
    }

    pub(super) fn reject(&self, stream: Stream, reason: RejectReason) {
        let mut rejected = self
            .of(stream)
            .rejected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *rejected.entry(reason).or_default() += 1;
    }

    pub(super) fn report(&self) {
        for stream in Stream::WITH_SAMPLES {
            let counts = self.of(stream);
            for (name, count) in [
                (EVENTS, &counts.events),
                (UNKNOWN_FIELDS, &counts.unknown),
                (IGNORED_FIELDS, &counts.ignored),
            ] {
                let n = count.swap(0, Ordering::Relaxed);
                if n > 0 {
                    counter!(name, "stream" => stream.name()).increment(n);
                }
            }
            let rejected =
                std::mem::take(&mut *counts.rejected.lock().unwrap_or_else(PoisonError::into_inner));
            for (reason, n) in rejected {
                counter!(REJECTED, "stream" => stream.name(), "reason" => reason.name()).increment(n);
            }
        }
    }

    fn of(&self, stream: Stream) -> &Counts {
        &self.0[match stream {
            Stream::Items => 0,
            Stream::Impressions => 1,
            Stream::Actions => 2,
            Stream::Samples => 3,
        }]
    }
}
