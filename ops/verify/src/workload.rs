//! A generated site: a catalog, profiles of users, slates shown to users, and actions, with every kind of disorder.
//!
//! Events are late and out of order, requests come in parts, impressions and actions are duplicated, actions precede their
//! impression, have none or name no request, a few clocks are far ahead, and some records are malformed. The seed decides all of it. The generator counts the outcome of every record
//! without a join: [`Expected`].

mod generator;

use ouzel_ingest::join::Counters;
use ouzel_sample::Stream;

/// Window of the first task, `click`, ms.
pub(crate) const CLICK_MS: i64 = 30_000;
/// Window of the second task, `order`, ms.
pub(crate) const ORDER_MS: i64 = 120_000;
/// Allowed lateness, ms: records of one partition are not further out of order, except for stragglers.
pub(crate) const LATENESS_MS: i64 = 10_000;
/// How far before its impression an action may be dated, ms.
pub(crate) const SKEW_MS: i64 = 5_000;

/// Counters that do not depend on the order across partitions.
const ORDER_INDEPENDENT: [&str; 5] = [
    "impressions",
    "rejected_impressions",
    "items",
    "actions",
    "rejected_actions",
];

/// A record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) stream: Stream,
    pub(crate) key: String,
    /// Timestamp of the record, ms.
    pub(crate) record_ms: i64,
    pub(crate) payload: Vec<u8>,
    /// When the record reaches the log, ms.
    arrives_ms: i64,
}

/// The records of a generated site, in the order of their arrival, and their outcomes.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) events: Vec<Event>,
    pub(crate) expected: Expected,
    /// Whether many actions name no request and are joined by user and item: so with every odd seed.
    pub(crate) has_bare_actions: bool,
}

/// The outcome of every record, for any order across partitions and any number of crashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    counters: Counters,
    /// False with stragglers: outcomes then depend on the order across partitions, and only sums are known.
    is_exact: bool,
}

impl Expected {
    /// The counters in which `found` differs, one line each.
    ///
    /// # Panics
    /// Never: counters are always JSON.
    pub(crate) fn differences(&self, found: &Counters) -> Vec<String> {
        let to_json = |counters| serde_json::to_value(counters).expect("counters are JSON");
        let (expected, found) = (to_json(&self.counters), to_json(found));
        let is_known = |name: &str| match self.is_exact {
            // How many samples an outcome makes is the matter of the label policy, and how many events are ahead of
            // their partition is that of the order.
            true => !["samples", "time_jumps_held"].contains(&name),
            false => ORDER_INDEPENDENT.contains(&name),
        };
        let counters = expected.as_object().into_iter().flatten();
        counters
            .filter(|(name, count)| is_known(name) && found[name.as_str()] != **count)
            .map(|(name, count)| format!("{name} = {}, expected {count}", found[name.as_str()]))
            .collect()
    }
}

#[cfg(test)]
mod tests;
