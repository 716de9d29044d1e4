//! Memory per row with everything that belongs to it, counted by the allocator.
#![allow(
    clippy::unwrap_used,
    reason = "a step that fails while setting a test up fails the test"
)]

#[path = "../../tests/support/counting_allocator.rs"]
mod counting_allocator;

use counting_allocator::bytes_in_use;
use ouzel_learner::model::{Key, ModelConfig, Rows};
use ouzel_learner::{FeatureRules, LearnerConfig, ROW_STATE, RowRules, Trainer};
use ouzel_sample::{Id, IdKind, IdSpace};

const N_ROWS: usize = 1_000_000;
const DIM: usize = 32;

/// What `make` has allocated and not given back when it is done, bytes.
fn kept<T>(make: impl FnOnce() -> T) -> (T, usize) {
    let before = bytes_in_use();
    let made = make();
    (made, bytes_in_use() - before)
}

#[test]
fn a_row_of_32_floats_costs_at_most_40_bytes_more_than_its_weights() {
    let model = ModelConfig {
        dim: DIM,
        // The start values are not what is measured.
        row_init_std: 0.0,
        ..ModelConfig::default()
    };
    let ids = IdSpace::new(7);
    let (rows, of_rows) = kept(|| {
        let mut rows = Rows::new(&model, ROW_STATE, 0.1);
        rows.tables_mut().for_each(|table| table.keep_seen(0));
        for n in 0..N_ROWS {
            let key = Key::item(ids.id(IdKind::Item, &n.to_string()));
            let row = rows.insert(key);
            rows.table_mut(key.feature).see(row, 1);
        }
        rows
    });
    assert_eq!(
        rows.tables()
            .map(ouzel_learner::model::Table::n_live)
            .sum::<usize>(),
        N_ROWS
    );
    assert!(rows.find(Key::item(Id(1))).is_none());

    let trainer = |min_samples| {
        let item = FeatureRules {
            min_samples,
            ..FeatureRules::default()
        };
        let rules = RowRules {
            item,
            ..RowRules::default()
        };
        let config = LearnerConfig {
            rows: rules,
            ..LearnerConfig::default()
        };
        kept(|| Trainer::new(model.clone(), config).unwrap()).1
    };
    let of_sightings = trainer(5) - trainer(1);
    assert!(
        of_sightings > 6_000_000,
        "the counters of 262,144 ids: {of_sightings}"
    );

    let each = (of_rows + of_sightings).div_ceil(N_ROWS);
    println!(
        "{each} bytes a row of {DIM} floats: {:.1} of the table, {:.1} of admission",
        of_rows as f64 / N_ROWS as f64,
        of_sightings as f64 / N_ROWS as f64
    );
    assert!(each <= 4 * DIM + 40, "{each}");

    // A second version shares it all but the pointers to its pages.
    let (version, of_version) = kept(|| rows.clone());
    assert!(of_version < N_ROWS, "{of_version}");
    assert_eq!(version.pages(), rows.pages());
}
