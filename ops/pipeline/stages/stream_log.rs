//! Messages about streams that cannot be learned as they are, each at most once a minute.

use std::time::{Duration, Instant};

use ouzel_ingest::Decoder;
use ouzel_ingest::accounts::Accounts;
use ouzel_ingest::join::Counters;

use crate::log_problems::{CAUSES, listed, rejected_problem, unmatched_problem};

/// Time between two looks at the counts.
const EVERY: Duration = Duration::from_secs(60);
/// Fewer records in a minute say nothing.
const FEWEST: u64 = 20;

/// Watches what the decoder rejects.
#[derive(Debug)]
pub(crate) struct ReadLog {
    looked: Instant,
    seen: Accounts,
}

impl Default for ReadLog {
    fn default() -> Self {
        Self {
            looked: Instant::now(),
            seen: Accounts::default(),
        }
    }
}

impl ReadLog {
    /// Looks at the counts once a minute: streams of which more than half was rejected since the last look, and names
    /// of fields and actions that were not seen before.
    pub(crate) fn watch(&mut self, decoder: &Decoder) {
        if self.looked.elapsed() < EVERY {
            return;
        }
        self.looked = Instant::now();
        let accounts = decoder.accounts();
        if let Err(error) = accounts.check() {
            tracing::error!("{error}; this is a bug of ouzel");
        }
        for (stream, account) in &accounts.0 {
            let new = account.since(&self.seen.of(*stream));
            if new.read >= FEWEST
                && let Some(problem) = rejected_problem(*stream, &new)
            {
                tracing::warn!("within a minute {problem}");
            }
            if !new.unused_actions.is_empty() {
                let actions = listed(&new.unused_actions);
                tracing::warn!(%actions, "no task learns these actions, which are counted; [[join.tasks]] lists the tasks");
            }
            if !new.unread_fields.is_empty() {
                let fields = listed(&new.unread_fields);
                tracing::info!(%stream, %fields, "nothing reads these fields; [events.{stream}] says what is learned from");
            }
        }
        self.seen = accounts;
    }
}

/// Watches whether actions find their impressions.
#[derive(Debug)]
pub(crate) struct MatchLog {
    looked: Instant,
    /// Matched and unmatched actions at the last look.
    seen: Option<(u64, [u64; CAUSES.len()])>,
}

impl Default for MatchLog {
    fn default() -> Self {
        Self {
            looked: Instant::now(),
            seen: None,
        }
    }
}

impl MatchLog {
    /// Looks at the counters once a minute.
    pub(crate) fn watch(&mut self, counters: &Counters) {
        if self.looked.elapsed() < EVERY {
            return;
        }
        self.looked = Instant::now();
        let unmatched = [
            counters.before_shown,
            counters.late_actions,
            counters.orphans,
            counters.unattributed,
        ];
        // The first look only notes the counts, which a restored lineage has from its snapshot.
        let before = self.seen.replace((counters.matched, unmatched));
        let Some((matched, unmatched_before)) = before else {
            return;
        };
        let mut new = unmatched;
        new.iter_mut()
            .zip(unmatched_before)
            .for_each(|(new, before)| *new -= before);
        if new.iter().sum::<u64>() >= FEWEST
            && let Some(problem) = unmatched_problem(counters.matched - matched, new)
        {
            tracing::warn!("within a minute {problem}");
        }
    }
}
