//! Sentences about a log that cannot be learned as it is, with the likely cause.

use std::collections::BTreeMap;

use ouzel_ingest::accounts::StreamAccount;
use ouzel_sample::{RejectReason, Stream};

/// Most names printed of a list.
const MAX_PRINTED: usize = 8;

/// Why an action belongs to no impression, and what to do.
pub(crate) const CAUSES: [(&str, &str); 4] = [
    (
        "before_shown",
        "are stamped before their impression by more than join.max_clock_skew; raise it if the clocks or the rounding of the two \
         streams differ",
    ),
    (
        "late",
        "came after the window of their task; raise `window` in [[join.tasks]], or join.allowed_lateness if the streams are out \
         of order",
    ),
    (
        "orphan",
        "belong to no impression: no impression has their request_id and shows their item, or the request was forgotten \
         (join.dedup_window)",
    ),
    (
        "unattributed",
        "belong to no impression: they name no request, so set join.by = \"user_item\" to find it by user and item; with that, \
         no impression showed their item to their user within the window",
    ),
];

/// The sentence about actions of which more belong to no impression than to one. `unmatched` are the numbers by
/// [`CAUSES`].
pub(crate) fn unmatched_problem(matched: u64, unmatched: [u64; CAUSES.len()]) -> Option<String> {
    let all: u64 = unmatched.iter().sum();
    if all <= matched {
        return None;
    }
    let (most, (_, cause)) = unmatched.into_iter().zip(CAUSES).max_by_key(|(n, _)| *n)?;
    Some(format!("{most} of {} actions {cause}", all + matched))
}

/// The sentence about a stream of which more than half was rejected.
pub(crate) fn rejected_problem(stream: Stream, account: &StreamAccount) -> Option<String> {
    let needed = account.read - account.n_unneeded();
    let rejected = account.n_rejected() - account.n_unneeded();
    if rejected * 2 <= needed || needed == 0 {
        return None;
    }
    let unneeded = [
        RejectReason::UnknownAction,
        RejectReason::NotSelected,
        RejectReason::Quarantined,
    ]
    .map(RejectReason::name);
    let reasons = account
        .rejected
        .iter()
        .filter(|(reason, _)| !unneeded.contains(*reason));
    let (reason, most) = reasons.max_by_key(|(_, rejected)| rejected.count)?;
    Some(format!(
        "{rejected} of {needed} records of {stream} cannot be used, {} of them as {reason}, the first {}",
        most.count, most.first
    ))
}

/// Names with their counts, the largest first: `a (3), b (1)`.
pub(crate) fn listed(counts: &BTreeMap<String, u64>) -> String {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    let mut parts: Vec<String> = counts
        .iter()
        .take(MAX_PRINTED)
        .map(|(name, n)| format!("{name} ({n})"))
        .collect();
    if counts.len() > MAX_PRINTED {
        parts.push(format!("and {} more", counts.len() - MAX_PRINTED));
    }
    parts.join(", ")
}
