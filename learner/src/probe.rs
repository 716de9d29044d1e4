//! The probe: scores of fixed requests, recorded with each snapshot, so that a later load can be compared with them.
//!
//! The requests follow from the model's seed, the ids that they read are the oldest rows of the tables. So the scores are
//! a function of the weights alone, without a log or a feature state.

use ouzel_model::{Inputs, Model, Table, Weights};
use ouzel_sample::{
    Candidate, Dense, EventTime, HistoryEntry, Id, N_DENSE, Request, TaskId, VectorId, VectorMap,
};

use crate::error::Error;

const N_REQUESTS: u64 = 4;
const N_CANDIDATES: u64 = 16;
const N_HISTORY: u64 = 8;
/// Milliseconds between two actions of a history.
const STEP_MS: i64 = 60_000;

/// Log-odds of the probe, `[n_candidates, n_tasks]`.
pub(crate) fn scores(model: &mut Model, weights: &Weights) -> Result<Vec<f32>, Error> {
    let mut scores = Vec::new();
    for number in 0..N_REQUESTS {
        scores.extend(model.score(&inputs(weights, number), weights)?);
    }
    Ok(scores)
}

fn inputs(weights: &Weights, number: u64) -> Inputs {
    let seed = weights.config.seed;
    let id = |purpose: u64, n: u64| Id(mix(seed, (purpose << 32) + number * 1000 + n));
    let now = i64::try_from(N_HISTORY).unwrap_or(0) * STEP_MS;
    let entry = |n: u64| HistoryEntry {
        item: id(1, n),
        ts: EventTime(i64::try_from(n).unwrap_or(0) * STEP_MS),
        attribute: id(2, n),
        task: TaskId::default(),
    };
    let request = Request {
        past: vec![(0..N_HISTORY).map(entry).collect()],
        id: id(0, 0),
        user: id(3, 0),
        ts: EventTime(now),
        context: vec![id(4, 0)],
        history: (0..N_HISTORY).map(entry).collect(),
        contents: Vec::new(),
        n_items: 16,
    };
    let candidates: Vec<Candidate> = (0..N_CANDIDATES)
        .map(|n| {
            let mut dense = [0.0; N_DENSE];
            for (value, at) in dense.iter_mut().zip(0..) {
                *value = unit(id(6, 100 * n + at).0);
            }
            Candidate {
                past: Some(0),
                item: id(5, n),
                attributes: Vec::new(),
                position: None,
                dense: Dense::new(dense),
                content: VectorId::NONE,
                predicted: Default::default(),
            }
        })
        .collect();
    let mut inputs = Inputs::of_request(&weights.config, &request, &candidates, &VectorMap::default());
    // What was made up above has no rows: read rows that exist instead, as far as there are enough.
    let skip = usize::try_from(number).unwrap_or(0) * inputs.rows.len();
    let tables = weights.rows.tables().map(Table::name);
    for table in tables.collect::<Vec<_>>() {
        let mut ids = live_ids(
            weights.rows.tables().find(|found| found.name() == table),
            skip,
            inputs.rows.len(),
        );
        let is_of_table = |key: &&mut ouzel_model::Key| weights.rows.table(key.feature).name() == table;
        for (key, id) in inputs.rows.iter_mut().filter(is_of_table).zip(ids.by_ref()) {
            key.id = id;
        }
    }
    let ids = live_ids(Some(&weights.wide), skip, inputs.wide.len());
    for (key, id) in inputs.wide.iter_mut().zip(ids) {
        *key = id;
    }
    inputs
}

/// The ids of `n` rows of a table in the order of its rows, after `skip` others; fewer in a small table.
fn live_ids(table: Option<&Table>, skip: usize, n: usize) -> std::vec::IntoIter<Id> {
    let pages = table.map(Table::pages);
    let ids: Vec<Id> = pages.map_or(Vec::new(), |pages| {
        let rows = pages.ids.iter().flat_map(|page| page.iter().copied()).zip(0u32..);
        let live = rows.filter(|(_, row)| pages.free.binary_search(row).is_err());
        live.map(|(id, _)| id).skip(skip).take(n).collect()
    });
    ids.into_iter()
}

/// The finalizer of splitmix64 over a counter (Steele et al. 2014).
fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number in `[0, 1)` from the upper bits of `random`.
fn unit(random: u64) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "24 bits are exact")]
    let value = (random >> 40) as f32;
    value / 16_777_216.0
}
