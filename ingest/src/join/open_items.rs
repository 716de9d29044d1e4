//! The open items by user: the impression that an action without a request belongs to.

use std::collections::BTreeSet;

use ouzel_sample::{EventTime, Id, PartitionId, Position, Stream};

use crate::join::slot::OpenImpression;

/// An impression that showed an item, ordered by user, item, time and position.
type ShownItemKey = (Id, Id, EventTime, Position, Id);

/// Every item with an open window, by user: 50 bytes each. It follows from the slots and is in no checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenItems {
    shown: BTreeSet<ShownItemKey>,
}

impl OpenItems {
    /// Adds the items of an impression.
    pub(crate) fn insert(&mut self, open: &OpenImpression) {
        self.shown.extend(keys(open));
    }

    /// Drops the items of an impression.
    pub(crate) fn remove(&mut self, open: &OpenImpression) {
        for key in keys(open) {
            self.shown.remove(&key);
        }
    }

    /// The impressions that showed `item` to `user` from `from` to `to`, oldest first: request and position.
    pub(crate) fn shown(
        &self,
        user: Id,
        item: Id,
        from: EventTime,
        to: EventTime,
    ) -> impl DoubleEndedIterator<Item = (Id, Position)> + '_ {
        let at = |ts| (user, item, ts, FIRST_POSITION, Id(0));
        let range = self.shown.range(at(from)..at(to.plus_ms(1).max(from)));
        range.map(|(_, _, _, position, request)| (*request, *position))
    }
}

/// Before every position of an impression.
const FIRST_POSITION: Position = Position {
    partition: PartitionId {
        stream: Stream::Items,
        partition: i32::MIN,
    },
    offset: i64::MIN,
};

fn keys(open: &OpenImpression) -> impl Iterator<Item = ShownItemKey> + '_ {
    let request = &open.request;
    open.items.iter().map(move |item| {
        (
            request.user,
            item.candidate.item,
            request.ts,
            open.shown_at,
            request.id,
        )
    })
}
