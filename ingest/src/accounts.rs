//! Accounts of what became of the records of each stream, by name: nothing is dropped in silence.

use std::collections::BTreeMap;

use ouzel_sample::{Reject, RejectReason, Stream};
use serde::Serialize;

/// Most names that are counted apart; further ones are counted together.
const MAX_NAMES: usize = 64;

/// The name under which names beyond the bound are counted.
pub const OTHER_NAMES: &str = "(others)";

/// Rejected records of one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Number of records.
    pub count: u64,
    /// Coordinates and detail of the first one.
    pub first: String,
}

/// The records of one stream by what became of them when they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StreamAccount {
    /// Records read.
    pub read: u64,
    /// Records that became events.
    pub used: u64,
    /// Rows of a file that repeat an earlier row.
    pub repeated: u64,
    /// Records that became no event, by reason.
    pub rejected: BTreeMap<&'static str, Rejected>,
    /// Fields that nothing reads, by name, with the number of records that have them.
    pub unread_fields: BTreeMap<String, u64>,
    /// Actions of no task, by name.
    pub unused_actions: BTreeMap<String, u64>,
}

impl StreamAccount {
    /// Counts a record that became events.
    pub(crate) fn add_used(&mut self, n: u64) {
        self.read += n;
        self.used += n;
    }

    /// Counts a row that repeats an earlier one.
    pub(crate) fn add_repeated(&mut self) {
        self.read += 1;
        self.repeated += 1;
    }

    /// Counts a rejected record with coordinates `at`.
    pub(crate) fn add_rejected(&mut self, reject: &Reject, at: impl FnOnce() -> String) {
        self.read += 1;
        let rejected = self.rejected.entry(reject.reason.name()).or_default();
        if rejected.count == 0 {
            rejected.first = format!("{}: {}", at(), reject.detail);
        }
        rejected.count += 1;
        if let Some(action) = &reject.action {
            add_name(&mut self.unused_actions, action);
        }
    }

    /// Counts a field that nothing reads.
    pub(crate) fn add_unread(&mut self, field: &str) {
        add_name(&mut self.unread_fields, field);
    }

    /// Number of rejected records of all reasons.
    pub fn n_rejected(&self) -> u64 {
        self.rejected.values().map(|rejected| rejected.count).sum()
    }

    /// Number of rejected records that are valid and not needed: other streams' records, actions of no task, and
    /// quarantined ones.
    pub fn n_unneeded(&self) -> u64 {
        let unneeded = [
            RejectReason::UnknownAction,
            RejectReason::NotSelected,
            RejectReason::Quarantined,
        ];
        let counts = unneeded
            .iter()
            .filter_map(|reason| self.rejected.get(reason.name()));
        counts.map(|rejected| rejected.count).sum()
    }

    /// What was counted after `before`, an earlier state of this account. The first examples are those of all time.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let rejected = self.rejected.iter().map(|(reason, now)| {
            let count = now.count - before.rejected.get(reason).map_or(0, |before| before.count);
            (*reason, Rejected { count, ..now.clone() })
        });
        Self {
            read: self.read - before.read,
            used: self.used - before.used,
            repeated: self.repeated - before.repeated,
            rejected: rejected.collect(),
            unread_fields: new_names(&self.unread_fields, &before.unread_fields),
            unused_actions: new_names(&self.unused_actions, &before.unused_actions),
        }
    }

    /// The identity: every record read has one fate.
    ///
    /// # Errors
    /// A sentence with both sides.
    pub fn check(&self, stream: Stream) -> Result<(), String> {
        let fates = self.used + self.repeated + self.n_rejected();
        if self.read == fates {
            return Ok(());
        }
        Err(format!(
            "the reader lost count of {stream}: {} records read, but used + repeated + rejected = {fates}",
            self.read
        ))
    }
}

/// The accounts of all streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Accounts(pub BTreeMap<Stream, StreamAccount>);

impl Accounts {
    /// The account of `stream`.
    pub fn of(&self, stream: Stream) -> StreamAccount {
        self.0.get(&stream).cloned().unwrap_or_default()
    }

    pub(crate) fn entry(&mut self, stream: Stream) -> &mut StreamAccount {
        self.0.entry(stream).or_default()
    }

    /// Checks the identity of every stream.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&self) -> Result<(), String> {
        self.0
            .iter()
            .try_for_each(|(stream, account)| account.check(*stream))
    }
}

/// The names that `before` does not have.
fn new_names(now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let new = now.iter().filter(|(name, _)| !before.contains_key(*name));
    new.map(|(name, n)| (name.clone(), *n)).collect()
}

/// Counts `name`, apart while there are few names.
fn add_name(names: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = names.get_mut(name) {
        *count += 1;
    } else {
        let name = if names.len() < MAX_NAMES {
            name
        } else {
            OTHER_NAMES
        };
        *names.entry(name.to_owned()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_has_one_fate_and_the_first_of_each_reason_is_named() {
        let mut account = StreamAccount::default();
        account.add_used(2);
        account.add_repeated();
        for n in 0..3 {
            let reject = Reject::new(RejectReason::TooOld, format!("detail {n}"));
            account.add_rejected(&reject, || format!("file:{n}"));
        }
        assert_eq!(account.check(Stream::Impressions), Ok(()));
        assert_eq!(account.rejected["too_old"].count, 3);
        assert_eq!(account.rejected["too_old"].first, "file:0: detail 0");
        account.read += 1;
        assert!(
            account
                .check(Stream::Impressions)
                .unwrap_err()
                .contains("7 records read")
        );
    }

    #[test]
    fn a_difference_has_the_growth_and_the_new_names() {
        let mut account = StreamAccount::default();
        account.add_used(5);
        account.add_unread("a");
        let before = account.clone();
        account.add_rejected(&Reject::new(RejectReason::TooOld, "x"), || "at".to_owned());
        account.add_unread("a");
        account.add_unread("b");
        let since = account.since(&before);
        assert_eq!((since.read, since.used, since.n_rejected()), (1, 0, 1));
        assert_eq!(since.unread_fields, [("b".to_owned(), 1)].into());
    }

    #[test]
    fn names_are_bounded() {
        let mut account = StreamAccount::default();
        for n in 0..100 {
            account.add_unread(&format!("field {n}"));
        }
        account.add_unread("field 3");
        assert_eq!(account.unread_fields.len(), MAX_NAMES + 1);
        assert_eq!(account.unread_fields["field 3"], 2);
        assert_eq!(account.unread_fields[OTHER_NAMES], 36);
    }
}
