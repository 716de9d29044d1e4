//! How much memory a pending impression takes, counted at the allocator.

#[path = "../../tests/support/counting_allocator.rs"]
mod counting_allocator;
#[path = "support/pending.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod pending;

use counting_allocator::bytes_in_use;
use ouzel_ingest::join::MemStore;
use pending::{capture, fill, impression, joiner};

#[test]
fn a_pending_impression_takes_at_most_290_bytes_without_its_features() {
    // 120,000 is just past the point where the table doubles: its worst moment.
    for (n, n_items) in [(100_000, 1), (120_000, 1), (100_000, 5), (120_000, 4)] {
        let features = features_bytes(n_items);
        let before = bytes_in_use();
        let mut joiner = joiner(MemStore::default());
        fill(&mut joiner, n, n_items, 0);
        let each = (bytes_in_use() - before) / usize::try_from(n).unwrap() - features;
        assert!(
            (100..=290).contains(&each),
            "{each} bytes per impression of {n_items} items, {n} of them"
        );
    }
}

/// Bytes of the features of one impression, which the joiner shares.
fn features_bytes(n_items: u64) -> usize {
    let captured = capture(&impression(0, n_items), 0);
    let list = captured.candidates.into_boxed_slice();
    let before = bytes_in_use();
    let pointers = size_of_val(&*list);
    drop((captured.request, list));
    before - bytes_in_use() - pointers
}
