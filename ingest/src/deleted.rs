//! Items that were deleted on purpose, and their part in each batch.
//!
//! The learner forgets their rows with the next batch. Every batch names the deleted items among its own, since
//! histories still contain a deleted item and samples of it may wait for their windows, until an item event brings it
//! back as a new item.

use std::collections::BTreeMap;

use ouzel_sample::{Batch, EventTime, Id};
use serde::{Deserialize, Serialize};

/// Deleted items that are remembered, 40 bytes each. Beyond it the oldest tenth is forgotten at once; a forgotten item
/// that is still named gets a new row.
const MAX_REMEMBERED: usize = 1 << 20;

/// The items that are deleted at this point of the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeletedItems {
    /// When each was deleted, and its number among all deletions.
    items: BTreeMap<Id, (EventTime, u64)>,
    n_deletions: u64,
    /// Items that no batch has named since their deletion.
    new: Vec<Id>,
}

impl DeletedItems {
    /// True while no item was ever deleted.
    pub(crate) fn is_untouched(&self) -> bool {
        self.n_deletions == 0
    }

    pub(crate) fn has(&self, item: Id) -> bool {
        self.items.contains_key(&item)
    }

    /// Deletes an item by an event of this time.
    pub(crate) fn delete(&mut self, item: Id, ts: EventTime) {
        self.items.insert(item, (ts, self.n_deletions));
        self.n_deletions += 1;
        self.new.push(item);
        if self.items.len() > MAX_REMEMBERED {
            let mut order: Vec<u64> = self.items.values().map(|(_, n)| *n).collect();
            let (_, oldest_kept, _) = order.select_nth_unstable(MAX_REMEMBERED / 10);
            let oldest_kept = *oldest_kept;
            self.items.retain(|_, (_, n)| *n >= oldest_kept);
        }
    }

    /// Brings an item back by an item event of this time. False when the item was deleted later than that.
    pub(crate) fn restore(&mut self, item: Id, ts: EventTime) -> bool {
        if self.items.get(&item).is_some_and(|(deleted, _)| *deleted > ts) {
            return false;
        }
        self.items.remove(&item);
        true
    }

    /// Names the deleted items in a batch. True when items were deleted since the batch before.
    pub(crate) fn add_to(&mut self, batch: &mut Batch) -> bool {
        let is_new = !self.new.is_empty();
        batch.deleted = std::mem::take(&mut self.new);
        if !self.items.is_empty() {
            let named = batch.samples.iter().flat_map(|sample| {
                let history = sample.request.history.iter().map(|entry| entry.item);
                history.chain([sample.candidate.item])
            });
            batch
                .deleted
                .extend(named.filter(|item| self.items.contains_key(item)));
        }
        batch.deleted.sort_unstable();
        batch.deleted.dedup();
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_item_deleted_first_is_forgotten_first() {
        let mut deleted = DeletedItems::default();
        let n = MAX_REMEMBERED as u64 + 1;
        (0..n).for_each(|item| deleted.delete(Id(n - item), EventTime(1)));
        assert!(deleted.has(Id(1)) && !deleted.has(Id(n)));
        assert_eq!(deleted.items.len(), MAX_REMEMBERED + 1 - MAX_REMEMBERED / 10);
    }

    #[test]
    fn an_item_comes_back_by_an_event_that_is_not_older() {
        let mut deleted = DeletedItems::default();
        deleted.delete(Id(1), EventTime(10));
        assert!(!deleted.restore(Id(1), EventTime(9)) && deleted.has(Id(1)));
        assert!(deleted.restore(Id(1), EventTime(10)) && !deleted.has(Id(1)));
        assert!(deleted.restore(Id(2), EventTime(0)), "never deleted");
    }

    use std::sync::Arc;

    use ouzel_sample::settings::Period;
    use ouzel_sample::{
        DecodedRecord, Deletion, Event, FeatureConfig, FeatureQuery, FeatureState, Impression, Item,
        PartitionId, Position, ShownItem, Stream, VectorId,
    };

    use crate::Stage;
    use crate::join::{JoinConfig, LabelPolicy, StoreConfig};

    const MINUTE: i64 = 60_000;

    fn record(stream: Stream, offset: i64, event: Event) -> DecodedRecord {
        let partition = PartitionId { stream, partition: 0 };
        DecodedRecord {
            position: Position { partition, offset },
            timestamp_ms: None,
            event: Ok(event),
        }
    }

    fn item(offset: i64, ts: i64) -> DecodedRecord {
        let item = Item {
            id: Id(7),
            name: "seven".into(),
            ts: EventTime(ts),
            attributes: vec![],
            tag_names: vec![],
            numbers: vec![],
            has_title: false,
            texts: vec![],
            image: None,
            vectors: vec![("text".into(), vec![0.5, 1.0])],
        };
        record(Stream::Items, offset, Event::Item(Box::new(item)))
    }

    fn deletion(offset: i64, ts: i64) -> DecodedRecord {
        let deletion = Deletion {
            item: Id(7),
            ts: EventTime(ts),
        };
        record(Stream::Items, offset, Event::Deletion(deletion))
    }

    /// A slate of the item and another, its window closed by the next.
    fn impression(n: i64) -> DecodedRecord {
        let shown = |item| ShownItem::new(Id(item), None);
        let impression = Impression {
            request: Id(n.unsigned_abs()),
            user: Id(1),
            ts: EventTime(n * 20 * MINUTE),
            items: vec![shown(7), shown(8)],
            context: vec![],
            numbers: Vec::new(),
            known_actions: None,
        };
        record(Stream::Impressions, n, Event::Impression(impression))
    }

    fn join_config() -> JoinConfig {
        JoinConfig {
            label_policy: LabelPolicy::Eager,
            max_time_jump: Period::TEN_YEARS,
            ..JoinConfig::default()
        }
    }

    fn config() -> FeatureConfig {
        FeatureConfig {
            history_contents: 5,
            ..FeatureConfig::default()
        }
    }

    fn stage() -> Stage {
        let partitions = [Stream::Impressions].map(|stream| PartitionId { stream, partition: 0 });
        let features = Arc::new(FeatureState::new(config()));
        Stage::new(&StoreConfig::Memory, &join_config(), partitions, features, 2).unwrap()
    }

    /// The deleted items of the batches that a record fills.
    fn deleted_of(stage: &mut Stage, recorded: &DecodedRecord) -> Vec<Vec<Id>> {
        let mut batches = Vec::new();
        stage.take(recorded, &mut batches).unwrap();
        batches.into_iter().map(|batch| batch.deleted).collect()
    }

    #[test]
    fn a_deleted_item_is_forgotten_at_its_place_in_the_log_and_named_until_it_is_back() {
        let mut stage = stage();
        let records = [
            (item(0, 1), vec![]),
            (impression(1), vec![]),
            (impression(2), vec![vec![]]),
            (deletion(1, 0), vec![]),
            (impression(3), vec![vec![]]),
            (deletion(2, 50 * MINUTE), vec![]),
            // The batch of the impression from before names it.
            (impression(4), vec![vec![Id(7)]]),
            (impression(5), vec![vec![Id(7)]]),
            // Of an older version, and then of a new one.
            (item(3, 49 * MINUTE), vec![]),
            (impression(6), vec![vec![Id(7)]]),
            (item(4, 110 * MINUTE), vec![]),
            (impression(7), vec![vec![]]),
        ];
        let mut is_known = Vec::new();
        for (recorded, expected) in &records {
            // A stage restored from a checkpoint before any record does the same.
            let checkpoint = stage.checkpoint().unwrap();
            let restored = Stage::restore(&StoreConfig::Memory, &join_config(), config(), &checkpoint.bytes);
            let mut restored = restored.unwrap();
            assert_eq!(&deleted_of(&mut stage, recorded), expected, "{recorded:?}");
            assert_eq!(&deleted_of(&mut restored, recorded), expected, "{recorded:?}");
            let (after, again) = (stage.checkpoint().unwrap(), restored.checkpoint().unwrap());
            assert_eq!(after.bytes, again.bytes);
            is_known.push(stage.features().item(Id(7)).is_some());
            assert_eq!(
                stage.features().vectors().current(Id(7)) != VectorId::NONE,
                is_known[is_known.len() - 1]
            );
        }
        let expected = [&[true; 5][..], &[false; 5], &[true; 2]].concat();
        assert_eq!(is_known, expected);
    }

    #[test]
    fn a_deleted_item_reads_like_an_item_never_seen() {
        let mut stage = stage();
        for recorded in [item(0, 1), impression(1), deletion(1, 30 * MINUTE)] {
            stage.take(&recorded, &mut Vec::new()).unwrap();
        }
        let shown = [7, 9].map(|item| ShownItem::new(Id(item), None));
        let (_, candidates) = stage.features().read(&FeatureQuery {
            request: Id(5),
            user: Id(2),
            ts: EventTime(31 * MINUTE),
            context: &[],
            numbers: &[],
            items: &shown,
            slate_size: None,
        });
        let [deleted, unknown] = &candidates[..] else {
            panic!()
        };
        assert_eq!(deleted.dense.to_vec(), unknown.dense.to_vec());
        assert_eq!((deleted.content, deleted.attributes.len()), (VectorId::NONE, 0));
        // Vectors that were encoded meanwhile come too late.
        stage.use_vectors(Id(7), Default::default());
        assert_eq!(stage.features().vectors().current(Id(7)), VectorId::NONE);
    }
}
