//! Retention: which snapshots a garbage collection keeps, each with the reason.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Alias, SnapshotEntry, Store};
use crate::{Error, Manifest, SnapshotConfig, SnapshotId};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How many snapshots a garbage collection keeps, besides those that an alias or a tag names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The newest, at least one.
    pub last: usize,
    /// The last one of each hour that has one, for this many of the newest hours.
    pub hourly: usize,
    /// The last one of each day (UTC) that has one, for this many of the newest days.
    pub daily: usize,
}

impl Retention {
    /// Keeps the newest snapshots only.
    pub fn newest(last: usize) -> Self {
        Self {
            last,
            hourly: 0,
            daily: 0,
        }
    }
}

impl From<&SnapshotConfig> for Retention {
    fn from(config: &SnapshotConfig) -> Self {
        Self {
            last: config.keep,
            hourly: config.keep_hourly,
            daily: config.keep_daily,
        }
    }
}

/// What a garbage collection does with one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetentionDecision {
    /// The snapshot.
    pub id: SnapshotId,
    /// Size on disk, bytes.
    pub bytes: u64,
    /// True when it stays.
    pub is_kept: bool,
    /// Why it stays or goes.
    pub reason: String,
}

impl Store {
    /// Says what [`Store::gc`] would do with each snapshot, oldest first. Changes nothing.
    ///
    /// # Errors
    /// [`Error::Damaged`] when an alias or a tag cannot be read, because the snapshot it protects is not known;
    /// [`Error::Io`].
    pub fn retention(&self, rules: Retention) -> Result<Vec<RetentionDecision>, Error> {
        let mut protected: BTreeMap<SnapshotId, String> = BTreeMap::new();
        for (tag, id) in self.tags()? {
            protected.insert(id, format!("tag {tag}"));
        }
        for alias in Alias::ALL {
            if let Some(id) = self.alias(alias)? {
                protected.insert(id, alias.name().to_owned());
            }
        }
        Ok(decide(&self.list()?, &protected, rules))
    }
}

/// Decides by the rules. `listed` is oldest first.
pub(crate) fn decide(
    listed: &[SnapshotEntry],
    protected: &BTreeMap<SnapshotId, String>,
    rules: Retention,
) -> Vec<RetentionDecision> {
    let mut kept: BTreeMap<SnapshotId, String> = BTreeMap::new();
    let is_intact = |entry: &&SnapshotEntry| {
        entry.manifest.as_ref().is_some_and(|m| m.failed_gate().is_none()) && entry.fault.is_none()
    };
    let sound: Vec<&SnapshotEntry> = listed
        .iter()
        .rev()
        .filter(|entry| is_intact(entry) && !entry.is_rolled_back)
        .collect();
    let newest = &sound[..sound.len().min(rules.last.max(1))];
    for (period_ms, n, reason) in [
        (DAY_MS, rules.daily, "last of its day"),
        (HOUR_MS, rules.hourly, "last of its hour"),
    ] {
        let mut periods = BTreeSet::new();
        for entry in &sound {
            let created = entry.manifest.as_ref().map_or(0, |manifest| manifest.created_ms);
            let period = created.div_euclid(period_ms);
            if periods.len() < n && periods.insert(period) {
                kept.insert(entry.id, reason.to_owned());
            }
        }
    }
    for entry in newest {
        kept.insert(entry.id, format!("among the newest {}", rules.last.max(1)));
    }
    // Not even a rollback of everything leaves the store without weights that passed their checks.
    if let Some(entry) = listed.iter().rev().find(is_intact) {
        kept.entry(entry.id)
            .or_insert_with(|| "newest that passed its checks".to_owned());
    }
    kept.extend(protected.iter().map(|(id, name)| (*id, name.clone())));
    // Without a sound snapshot nothing is known to be superseded.
    let oldest_of_newest = newest.last().map(|entry| entry.id);
    for entry in listed {
        if oldest_of_newest.is_none_or(|oldest| entry.id > oldest) {
            kept.entry(entry.id)
                .or_insert_with(|| "newer than the oldest of those".to_owned());
        }
    }
    keep_independent(&sound, &mut kept);
    // Newest first: what a base itself needs is older.
    for entry in listed.iter().rev().filter(|entry| entry.manifest.is_some()) {
        if kept.contains_key(&entry.id) {
            for base in entry.manifest.iter().flat_map(Manifest::bases) {
                kept.entry(base)
                    .or_insert_with(|| format!("base of {}", entry.id.number()));
            }
        }
    }
    let decisions = listed.iter().map(|entry| {
        let reason = kept.get(&entry.id).cloned();
        RetentionDecision {
            id: entry.id,
            bytes: entry.bytes,
            is_kept: reason.is_some(),
            reason: reason.unwrap_or_else(|| why_removed(entry)),
        }
    });
    decisions.collect()
}

/// Keeps the newest sound snapshot that shares no file with the newest one: damage to a base leaves one to resume from.
fn keep_independent(sound: &[&SnapshotEntry], kept: &mut BTreeMap<SnapshotId, String>) {
    let bases = |entry: &SnapshotEntry| entry.manifest.as_ref().map(Manifest::bases).unwrap_or_default();
    let root = |entry: &SnapshotEntry| {
        let (mut root, mut next) = (entry.id, bases(entry).first().copied());
        while let Some(base) = next {
            root = base;
            let found = sound.iter().find(|entry| entry.id == base);
            next = found
                .and_then(|entry| bases(entry).first().copied())
                .filter(|next| *next < base);
        }
        root
    };
    let Some(newest) = sound.first() else { return };
    let root_of_newest = root(newest);
    if root_of_newest == newest.id && bases(newest).is_empty() {
        return;
    }
    if let Some(entry) = sound.iter().find(|entry| root(entry) != root_of_newest) {
        kept.entry(entry.id)
            .or_insert_with(|| format!("needs no file of {}", newest.id.number()));
    }
}

fn why_removed(entry: &SnapshotEntry) -> String {
    let gate = entry
        .manifest
        .as_ref()
        .and_then(|manifest| manifest.failed_gate());
    match (entry.is_rolled_back, &entry.fault, gate) {
        (true, _, _) => "rolled back, and older than the newest that count".to_owned(),
        (_, Some(_), _) => "damaged, and older than the newest that count".to_owned(),
        (_, _, Some(gate)) => format!("failed the check `{gate}`, and older than the newest that count"),
        _ => "no rule keeps it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::GateResult;
    use crate::format::manifest_tests::manifest;

    fn entry(id: u64, created_ms: i64) -> SnapshotEntry {
        let mut manifest = manifest(id);
        manifest.created_ms = created_ms;
        SnapshotEntry {
            id: SnapshotId::new(id),
            bytes: 1,
            aliases: Vec::new(),
            tags: Vec::new(),
            is_rolled_back: false,
            manifest: Some(manifest),
            fault: None,
        }
    }

    fn kept(listed: &[SnapshotEntry], rules: Retention) -> Vec<u64> {
        let decisions = decide(listed, &BTreeMap::new(), rules);
        let kept = decisions.iter().filter(|decision| decision.is_kept);
        kept.map(|decision| decision.id.number()).collect()
    }

    #[test]
    fn the_last_of_each_hour_and_day_is_kept() {
        // A snapshot every 10 minutes of 9 days.
        let listed: Vec<_> = (0..9 * 144)
            .map(|n| entry(n, i64::try_from(n).unwrap() * HOUR_MS / 6))
            .collect();
        let rules = Retention {
            last: 3,
            hourly: 4,
            daily: 7,
        };
        let last_of_day = |day: u64| day * 144 + 143;
        let mut expected: Vec<u64> = (2..8).map(last_of_day).collect();
        expected.extend([1277, 1283, 1289, 1293, 1294, 1295]);
        assert_eq!(kept(&listed, rules), expected);
        // Nothing was written for a month: the hours and days that have snapshots count.
        let mut later = listed;
        later.push(entry(1296, 40 * DAY_MS));
        let expected = [575, 719, 863, 1007, 1151, 1283, 1289, 1294, 1295, 1296];
        assert_eq!(kept(&later, rules), expected);
    }

    #[test]
    fn rolled_back_damaged_and_failed_snapshots_go_before_good_ones() {
        let mut listed: Vec<_> = (0..8).map(|n| entry(n, 0)).collect();
        listed[1].is_rolled_back = true;
        listed[2].fault = Some("damaged".to_owned());
        listed[3].manifest.as_mut().unwrap().gates.insert(
            "auc".to_owned(),
            GateResult {
                passed: false,
                figure: None,
                limit: None,
            },
        );
        listed[6].is_rolled_back = true;
        assert_eq!(kept(&listed, Retention::newest(3)), [4, 5, 6, 7]);
        let decisions = decide(&listed, &BTreeMap::new(), Retention::newest(3));
        let reasons: Vec<&str> = decisions
            .iter()
            .map(|decision| decision.reason.as_str())
            .collect();
        assert_eq!(reasons[0], "no rule keeps it");
        assert!(reasons[1].starts_with("rolled back") && reasons[2].starts_with("damaged"));
        assert!(reasons[3].starts_with("failed the check `auc`"));
        assert_eq!(reasons[4], "among the newest 3");
        for entry in &mut listed[..6] {
            entry.is_rolled_back = true;
        }
        for entry in &mut listed[6..] {
            entry.fault = Some("damaged".to_owned());
        }
        assert!(
            kept(&listed, Retention::newest(1)).contains(&5),
            "the last that can be loaded"
        );
    }

    proptest! {
        #[test]
        fn what_is_kept_is_kept_again(
            times in prop::collection::vec(0i64..20 * DAY_MS, 1..60),
            (last, hourly, daily) in (1usize..5, 0usize..6, 0usize..9),
        ) {
            let mut times = times;
            times.sort_unstable();
            let listed: Vec<_> = (0..).zip(times).map(|(n, at)| entry(n, at)).collect();
            let rules = Retention { last, hourly, daily };
            let first = kept(&listed, rules);
            prop_assert!(first.len() <= last + hourly + daily);
            let left: Vec<_> = listed.into_iter().filter(|entry| first.contains(&entry.id.number())).collect();
            prop_assert_eq!(kept(&left, rules), first);
        }
    }
}
