//! The buckets of numbers, computed from the list of all values: slow and plain.

use std::collections::BTreeMap;

use crate::{Id, Number};

/// The values of all numbers of items, or of requests; at most 512 of a name, which a sketch holds whole.
#[derive(Default)]
pub(crate) struct NumberOracle {
    values: BTreeMap<Id, Vec<f32>>,
    /// Shown items or requests counted before the first value of each name.
    before: BTreeMap<Id, usize>,
    n_counted: usize,
}

impl NumberOracle {
    pub(crate) fn add(&mut self, numbers: &BTreeMap<Id, f32>) {
        for (name, value) in numbers {
            self.before.entry(*name).or_insert(self.n_counted);
            self.values.entry(*name).or_default().push(*value);
        }
        self.n_counted += 1;
    }

    pub(crate) fn buckets(&self, numbers: &BTreeMap<Id, f32>) -> Vec<Id> {
        let mut found = Vec::new();
        for (name, values) in &self.values {
            match numbers.get(name) {
                Some(value) => found.extend(bucket(values, *value).into_iter().map(|at| name.pair(Id(at)))),
                None if 16 * values.len() >= self.n_counted - self.before[name] => {
                    found.push(name.pair(Id(u64::MAX)));
                }
                None => {}
            }
        }
        found
    }
}

fn bucket(values: &[f32], value: f32) -> Vec<u64> {
    assert!(values.len() <= 512);
    // Buckets are those of the first 32, 64, 128, .. values.
    let mut n = 32;
    while 2 * n <= values.len() {
        n *= 2;
    }
    let mut known = values.get(..n).unwrap_or_default().to_vec();
    known.sort_by(f32::total_cmp);
    let mut distinct = known.clone();
    distinct.dedup();
    if !known.is_empty() && distinct.len() <= 16 {
        let lower = distinct.iter().rev().find(|known| **known <= value);
        return vec![(3 << 32) + u64::from(lower.unwrap_or(&distinct[0]).to_bits())];
    }
    let quantiles = (1..16).filter_map(|i| known.get(i * known.len() / 16));
    let below = quantiles.filter(|quantile| **quantile < value).count() as u64;
    vec![(1 << 32) + below, (2 << 32) + below / 4]
}

pub(crate) fn by_name<'a>(numbers: impl IntoIterator<Item = &'a Number>) -> BTreeMap<Id, f32> {
    let numbers = numbers.into_iter();
    numbers.map(|number| (number.name, number.value)).collect()
}
