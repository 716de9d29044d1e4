//! Which ids have rows: admission by occurrences, expiry by event time, removal of deleted items.
//!
//! An id occurs in a sample that is learned from as its item or an attribute of that item, and once per request of a batch as
//! its user or a value of its context. Items in a history do not count: they did when they were shown. All of this is a
//! function of the batches, so a replay creates and removes the same rows.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use ouzel_model::{Fields, Inputs, Key};
use ouzel_sample::{Batch, EventTime, Id, Sample};

use crate::error::Error;
use crate::trainer::Trainer;

/// Minutes of event time between two scans for expired rows.
const SWEEP_EVERY: u32 = 60;
const MINUTE_MS: i64 = 60_000;

/// Event time as the tables record it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowClock {
    /// Latest event time learned from, minutes since 1970.
    pub(crate) now: u32,
    /// Time of the last scan for expired rows, minutes since 1970.
    pub(crate) swept: u32,
}

impl RowClock {
    fn at(now: u32) -> Self {
        Self { now, swept: now }
    }
}

/// Rows of a batch's ids, in the order of [`Inputs`]; none for an id without a row.
#[derive(Debug, Default)]
pub(crate) struct BatchRows {
    pub(crate) rows: Vec<Option<u32>>,
    pub(crate) wide: Vec<Option<u32>>,
    /// Number of ids admitted by this batch.
    pub(crate) n_admitted: usize,
    /// Number of occurrences of ids that still wait.
    pub(crate) n_waiting: usize,
}

impl Trainer {
    /// Creates rows for the ids of a batch that are admitted, but not for `deleted` items.
    pub(crate) fn admit(&mut self, inputs: &Inputs, samples: &[Sample], deleted: &[Id]) -> BatchRows {
        let mut places = BatchRows::default();
        let waits = self.config.rows.waits();
        let weights = &mut self.weights;
        if deleted.is_empty() && waits == [false; 3] {
            places.rows = inputs
                .rows
                .iter()
                .map(|key| Some(weights.rows.insert(*key)))
                .collect();
            places.wide = inputs
                .wide
                .iter()
                .map(|id| Some(weights.wide.insert(*id)))
                .collect();
            return places;
        }
        let refused: HashSet<Key> = deleted.iter().map(|item| Key::item(*item)).collect();
        let waits = |key: &Key| waits[key.feature.index()];
        for (key, user) in occurrences(samples) {
            if !waits(&key) || refused.contains(&key) || weights.rows.find(key).is_some() {
                continue;
            }
            let rules = self.config.rows.rules(key.feature);
            if self
                .admission
                .count(key.id, user, rules.min_samples, rules.min_users)
            {
                weights.rows.insert(key);
                places.n_admitted += 1;
            } else {
                places.n_waiting += 1;
            }
        }
        let place = |key: &Key| match () {
            () if refused.contains(key) => None,
            () if waits(key) => weights.rows.find(*key),
            () => Some(weights.rows.insert(*key)),
        };
        places.rows = inputs.rows.iter().map(place).collect();
        // A wide weight exists as long as its embedding row.
        let mut comes_with: HashMap<Id, Key> = HashMap::new();
        for sample in samples {
            Fields::new(&sample.request, 0).wide(&sample.candidate, |id, key| {
                comes_with.entry(id).or_insert(key);
            });
        }
        let wide = &mut weights.wide;
        let place = |id: &Id| match wide.find(*id) {
            Some(row) => Some(row),
            None => {
                let key = comes_with.get(id)?;
                weights.rows.find(*key)?;
                Some(wide.insert(*id))
            }
        };
        places.wide = inputs.wide.iter().map(place).collect();
        places
    }

    /// Records that the rows of a batch are seen.
    pub(crate) fn mark_seen(&mut self, inputs: &Inputs, places: &BatchRows) {
        let Some(RowClock { now, .. }) = self.age else {
            return;
        };
        for (key, row) in inputs.rows.iter().zip(&places.rows) {
            if let Some(row) = row {
                self.weights.rows.table_mut(key.feature).see(*row, now);
            }
        }
        for row in places.wide.iter().flatten() {
            self.weights.wide.see(*row, now);
        }
    }

    /// Advances event time to that of a batch, if rows expire. Rows without a last-seen time count as seen now.
    pub(crate) fn advance(&mut self, batch: &Batch) {
        let latest = batch.samples.iter().map(|sample| sample.request.ts).max();
        let Some(latest) = latest.filter(|_| self.config.rows.expire_after.ms() > 0) else {
            return;
        };
        let now = minutes(latest);
        let age = self.age.get_or_insert_with(|| RowClock::at(now));
        age.now = age.now.max(now);
        for table in self.weights.tables_mut() {
            table.keep_seen(age.now);
        }
    }

    /// Removes expired rows once per hour of event time. Returns their number.
    pub(crate) fn expire(&mut self) -> Result<usize, Error> {
        let Some(age) = &mut self.age else { return Ok(0) };
        if age.now / SWEEP_EVERY == age.swept / SWEEP_EVERY {
            return Ok(0);
        }
        age.swept = age.now;
        let kept = u32::try_from(self.config.rows.expire_after.ms() / MINUTE_MS).unwrap_or(u32::MAX);
        let oldest = age.now.saturating_sub(kept);
        self.remove_rows(|weights| weights.tables_mut().map(|table| table.expire(oldest)).sum())
    }

    /// Removes the rows of items, their wide weights and their admission counts. Returns the number of rows and weights
    /// removed.
    pub(crate) fn delete_items(&mut self, items: &[Id]) -> Result<usize, Error> {
        if items.is_empty() {
            return Ok(0);
        }
        let ids: Vec<Id> = items.iter().map(|item| Key::item(*item).id).collect();
        for id in &ids {
            self.admission.forget(*id);
        }
        self.remove_rows(|weights| weights.tables_mut().map(|table| table.forget(&ids)).sum())
    }
}

/// Ids that occur in these samples with their users, in order.
fn occurrences(samples: &[Sample]) -> impl Iterator<Item = (Key, Id)> + '_ {
    let mut impressions: HashSet<Id> = HashSet::new();
    samples.iter().flat_map(move |sample| {
        let user = sample.request.user;
        let mut ids = Vec::new();
        if impressions.insert(sample.impression()) {
            ids.push((Key::user(user), user));
            let context = sample.request.context.iter();
            ids.extend(context.map(|value| (Key::attribute(*value), user)));
        }
        Fields::candidate(&sample.candidate, |_, key, _| ids.push((key, user)));
        ids
    })
}

fn minutes(time: EventTime) -> u32 {
    u32::try_from(time.0.max(0) / MINUTE_MS).unwrap_or(u32::MAX)
}
