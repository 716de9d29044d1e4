//! Counts of decoded and rejected records: the accounts of a process, and their metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::counter;
use ouzel_sample::{Reject, Stream};

use crate::accounts::Accounts;
use crate::metrics::{EVENTS, REJECTED, UNREAD_FIELDS, UNUSED_ACTIONS};

/// Counts by stream since the decoder was made.
#[derive(Debug, Default)]
pub(super) struct DecodeCounters {
    /// Relaxed atomics: a decoder is shared by reference and no count guards other data.
    events: [AtomicU64; Stream::WITH_SAMPLES.len()],
    // Rejections and unread fields are rare enough for a lock.
    others: Mutex<Others>,
}

#[derive(Debug, Default)]
struct Others {
    accounts: Accounts,
    /// The accounts that the metrics have.
    reported: Accounts,
    is_changed: bool,
}

impl DecodeCounters {
    pub(super) fn add_event(&self, stream: Stream, unread: &[String]) {
        self.events[stream as usize].fetch_add(1, Ordering::Relaxed);
        if !unread.is_empty() {
            let mut others = self.others();
            others.is_changed = true;
            let account = others.accounts.entry(stream);
            unread.iter().for_each(|field| account.add_unread(field));
        }
    }

    pub(super) fn add_reject(&self, stream: Stream, reject: &Reject, at: impl FnOnce() -> String) {
        let mut others = self.others();
        others.is_changed = true;
        others.accounts.entry(stream).add_rejected(reject, at);
    }

    /// Everything counted so far.
    pub(super) fn accounts(&self) -> Accounts {
        let mut others = self.others();
        self.collect(&mut others);
        others.accounts.clone()
    }

    /// Adds the counts since the last call to the process's metrics.
    pub(super) fn report(&self) {
        let mut others = self.others();
        self.collect(&mut others);
        if !std::mem::take(&mut others.is_changed) {
            return;
        }
        let Others {
            accounts, reported, ..
        } = &mut *others;
        for (stream, account) in &accounts.0 {
            let before = reported.of(*stream);
            for (reason, rejected) in &account.rejected {
                let n = rejected.count - before.rejected.get(reason).map_or(0, |before| before.count);
                if n > 0 {
                    counter!(REJECTED, "stream" => stream.name(), "reason" => *reason).increment(n);
                }
            }
            for (name, n) in since(&account.unread_fields, &before.unread_fields) {
                counter!(UNREAD_FIELDS, "stream" => stream.name(), "field" => name.clone()).increment(n);
            }
            for (name, n) in since(&account.unused_actions, &before.unused_actions) {
                counter!(UNUSED_ACTIONS, "action" => name.clone()).increment(n);
            }
        }
        *reported = accounts.clone();
    }

    /// Moves the counts of events to the accounts and the metrics.
    fn collect(&self, others: &mut Others) {
        for stream in Stream::WITH_SAMPLES {
            let n = self.events[stream as usize].swap(0, Ordering::Relaxed);
            if n > 0 {
                others.accounts.entry(stream).add_used(n);
                counter!(EVENTS, "stream" => stream.name()).increment(n);
            }
        }
    }

    fn others(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names whose count has grown, with the growth.
fn since<'a>(
    now: &'a BTreeMap<String, u64>,
    before: &'a BTreeMap<String, u64>,
) -> impl Iterator<Item = (&'a String, u64)> {
    let grown = now
        .iter()
        .map(|(name, n)| (name, n - before.get(name).copied().unwrap_or(0)));
    grown.filter(|(_, n)| *n > 0)
}
