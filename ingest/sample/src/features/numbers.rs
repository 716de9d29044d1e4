//! Numbers as categorical values: each name has a sketch of its values, and a value is the id of its bucket.
//!
//! A bucket is read as of the impression and counted afterwards, like every other feature. The model and the counters see
//! its id as any categorical value.

#[cfg(test)]
pub(crate) mod oracle;
mod sketch;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::number::MAX_NUMBER_NAMES;
use crate::{Id, Number};
use sketch::Sketch;

/// The bucket of items or requests that lack a number which others have, mixed with the name.
const MISSING: Id = Id(u64::MAX);

/// The sketches of all numbers of items, or of requests: at most `256 * 2.2` KiB.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NumberTable {
    sketches: BTreeMap<Id, Sketch>,
    /// Shown items or requests counted.
    n_counted: u64,
    /// Values of names beyond [`MAX_NUMBER_NAMES`].
    n_unlearned: u64,
}

impl NumberTable {
    /// Counts the numbers of one shown item or request, sorted by name.
    pub(crate) fn add(&mut self, numbers: &[Number]) {
        for Number { name, value } in numbers {
            let is_full = self.sketches.len() >= MAX_NUMBER_NAMES;
            if is_full && !self.sketches.contains_key(name) {
                self.n_unlearned += 1;
                continue;
            }
            let since = self.n_counted;
            let sketch = self.sketches.entry(*name).or_insert_with(|| Sketch::new(since));
            sketch.add(*name, *value);
        }
        self.n_counted += 1;
    }

    /// Calls `add` with the buckets of `numbers`, sorted by name, and with the missing bucket of each common name that
    /// they lack. A name that was never counted has no bucket.
    pub(crate) fn buckets(&self, numbers: &[Number], mut add: impl FnMut(Id)) {
        let mut numbers = numbers.iter().peekable();
        for (name, sketch) in &self.sketches {
            while numbers.next_if(|number| number.name < *name).is_some() {}
            match numbers.next_if(|number| number.name == *name) {
                Some(number) => sketch.buckets(*name, number.value).into_iter().for_each(&mut add),
                None if sketch.is_common(self.n_counted) => add(name.pair(MISSING)),
                None => {}
            }
        }
    }

    /// Number of values that were not learned because of their name.
    pub(crate) fn n_unlearned(&self) -> u64 {
        self.n_unlearned
    }
}

/// Numbers of two sources, sorted by name: `precedent` and the others of `known`, as of an item and of the request that
/// shows it.
pub(crate) fn merged(known: &[Number], precedent: &[Number]) -> SmallVec<[Number; 8]> {
    let is_given = |name: Id| {
        precedent
            .binary_search_by_key(&name, |number| number.name)
            .is_ok()
    };
    let others = known.iter().filter(|number| !is_given(number.name));
    let mut numbers: SmallVec<[Number; 8]> = others.chain(precedent).copied().collect();
    numbers.sort_unstable_by_key(|number| number.name);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(name: u64, value: f32) -> Number {
        Number {
            name: Id(name),
            value,
        }
    }

    fn buckets(table: &NumberTable, numbers: &[Number]) -> Vec<Id> {
        let mut found = Vec::new();
        table.buckets(numbers, |id| found.push(id));
        found
    }

    #[test]
    fn names_beyond_the_limit_are_counted_and_have_no_bucket() {
        let mut table = NumberTable::default();
        for name in 0..300 {
            table.add(&[number(name, 1.0)]);
        }
        assert_eq!(
            (table.sketches.len(), table.n_unlearned()),
            (MAX_NUMBER_NAMES, 44)
        );
        // Each name was on one of 300 items: none is common.
        assert_eq!(buckets(&table, &[number(299, 1.0)]), []);
        assert_eq!(buckets(&table, &[number(7, 1.0)]).len(), 2);
    }

    #[test]
    fn an_item_without_a_common_number_has_its_missing_bucket() {
        let mut table = NumberTable::default();
        for n in 0..40u8 {
            table.add(&[number(1, f32::from(n)), number(2, 1.0)]);
        }
        let [missing] = buckets(&table, &[number(1, 0.5)])[2..] else {
            panic!("one bucket of name 2")
        };
        assert_eq!(missing, Id(2).pair(MISSING));
        assert_eq!(buckets(&table, &[]), [Id(1).pair(MISSING), missing]);
        assert_eq!(buckets(&NumberTable::default(), &[number(1, 0.5)]), []);
    }

    #[test]
    fn a_number_of_the_request_precedes_that_of_the_item() {
        let numbers = merged(
            &[number(1, 1.0), number(3, 3.0)],
            &[number(2, 20.0), number(3, 30.0)],
        );
        assert_eq!(numbers[..], [number(1, 1.0), number(2, 20.0), number(3, 30.0)]);
    }
}
