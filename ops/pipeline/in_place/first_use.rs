//! Which items a replay encodes, and when: those that an impression needs, just before it is joined.
//!
//! An impression needs the contents of its items and of its user's past. Encoders are fast on many contents at once, so the
//! items of the impressions ahead are encoded with them, in the order in which they are shown. Items that no impression
//! needs are never encoded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ouzel_sample::{DecodedRecord, Event, FeatureState, Id, Impression, Item};

/// Items encoded at once, as far as that many are needed soon.
pub(super) const CHUNK: usize = 256;

/// Items without vectors, and the order in which they will be needed.
#[derive(Default)]
pub(super) struct FirstUse {
    unencoded: BTreeMap<Id, Arc<Item>>,
    /// Items of impressions that were read and not yet joined, as shown.
    ahead: VecDeque<Id>,
    /// Whether items are needed that no impression shows.
    needs_all: bool,
}

impl FirstUse {
    pub(super) fn new(needs_all: bool) -> Self {
        Self {
            needs_all,
            ..Self::default()
        }
    }

    /// Adds a new version of an item.
    pub(super) fn add(&mut self, item: Arc<Item>) {
        self.unencoded.insert(item.id, item);
    }

    /// Number of items without vectors.
    pub(super) fn n_unencoded(&self) -> usize {
        self.unencoded.len()
    }

    /// Notes the items of records that will be joined later.
    pub(super) fn look_ahead(&mut self, records: &[DecodedRecord]) {
        for record in records {
            if let Ok(Event::Impression(impression)) = &record.event {
                self.ahead.extend(impression.items.iter().map(|shown| shown.item));
            }
        }
    }

    /// The items to encode before this event is joined; empty if it needs none.
    pub(super) fn before(&mut self, event: &Event, features: &FeatureState) -> Vec<Arc<Item>> {
        if matches!(event, Event::Item(_) | Event::ItemUpdate(_) | Event::Profile(_)) {
            return Vec::new();
        }
        if self.needs_all {
            return std::mem::take(&mut self.unencoded).into_values().collect();
        }
        let Event::Impression(impression) = event else {
            return Vec::new();
        };
        let mut needed = self.needed(impression, features);
        if !needed.is_empty() {
            while needed.len() < CHUNK
                && let Some(item) = self.ahead.pop_front()
            {
                needed.extend(self.unencoded.remove(&item));
            }
        }
        while self
            .ahead
            .front()
            .is_some_and(|item| !self.unencoded.contains_key(item))
        {
            self.ahead.pop_front();
        }
        needed
    }

    /// The items of an impression and of its user's past that have no vectors.
    fn needed(&mut self, impression: &Impression, features: &FeatureState) -> Vec<Arc<Item>> {
        if self.unencoded.is_empty() {
            return Vec::new();
        }
        let shown = impression.items.iter().map(|shown| shown.item);
        let items = shown.chain(features.past_items(impression.user));
        items.filter_map(|item| self.unencoded.remove(&item)).collect()
    }
}

#[cfg(test)]
mod tests {
    use ouzel_sample::{EventTime, FeatureConfig, PartitionId, ShownFeatures, ShownItem, Stream};

    use super::*;

    fn impression(user: u64, items: &[u64]) -> Event {
        let shown = items.iter().map(|item| ShownItem {
            item: Id(*item),
            position: None,
            features: ShownFeatures::default(),
        });
        Event::Impression(Impression {
            request: Id(user),
            user: Id(user),
            ts: EventTime(1),
            items: shown.collect(),
            context: Vec::new(),
            numbers: Vec::new(),
            known_actions: None,
        })
    }

    fn item(id: u64) -> Arc<Item> {
        Arc::new(Item {
            id: Id(id),
            name: id.to_string(),
            ts: EventTime(0),
            attributes: Vec::new(),
            tag_names: Vec::new(),
            numbers: Vec::new(),
            texts: vec!["a title".to_owned()],
            has_title: true,
            image: None,
            vectors: Vec::new(),
        })
    }

    fn ids(items: &[Arc<Item>]) -> Vec<u64> {
        items.iter().map(|item| item.id.0).collect()
    }

    #[test]
    fn contents_are_encoded_with_the_first_impression_that_needs_them_and_no_others() {
        let features = FeatureState::new(FeatureConfig::default());
        features.seed_history(Id(1), &[Id(7)], EventTime(0));
        let mut first_use = FirstUse::default();
        for id in 1..=9 {
            first_use.add(item(id));
        }
        let events = [
            impression(1, &[2, 3]),
            impression(2, &[3, 4]),
            impression(3, &[9]),
        ];
        let record = |(offset, event): (i64, &Event)| DecodedRecord {
            position: PartitionId::new(Stream::Impressions, 0).at(offset),
            timestamp_ms: None,
            event: Ok(event.clone()),
        };
        let records: Vec<DecodedRecord> = (0..).zip(&events).map(record).collect();
        first_use.look_ahead(&records[..2]);
        // The items of the impression, its user's past, and those of the impressions that were read.
        assert_eq!(ids(&first_use.before(&events[0], &features)), [2, 3, 7, 4]);
        assert_eq!(ids(&first_use.before(&events[1], &features)), [] as [u64; 0]);
        first_use.look_ahead(&records[2..]);
        assert_eq!(ids(&first_use.before(&events[2], &features)), [9]);
        assert_eq!(first_use.n_unencoded(), 4);
        assert!(first_use.ahead.is_empty());

        let mut all = FirstUse::new(true);
        all.add(item(1));
        assert_eq!(all.before(&events[0], &features).len(), 1);
    }
}
