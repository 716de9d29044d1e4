//! Joiners filled with pending impressions.
#![allow(clippy::unwrap_used, reason = "part of a test")]

use ouzel_ingest::join::{Captured, JoinConfig, JoinStore, Joiner, LabelPolicy, Outcome, TaskConfig};
use ouzel_sample::{
    Candidate, Dense, EventTime, HistoryEntry, Id, Impression, N_DENSE, PartitionId, Position, Request,
    ShownItem, ShownLogits, Stream, VectorId,
};

pub(crate) const SHOWN: PartitionId = PartitionId {
    stream: Stream::Impressions,
    partition: 0,
};
pub(crate) const ACTED: PartitionId = PartitionId {
    stream: Stream::Actions,
    partition: 0,
};

/// A hash, like the ids in production.
pub(crate) fn id(n: u64) -> Id {
    Id(n.wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9))
}

pub(crate) fn impression(n: u64, n_items: u64) -> Impression {
    Impression {
        request: id(n),
        user: id(n % 1_000),
        ts: EventTime(i64::try_from(n).unwrap()),
        items: (0..n_items).map(|item| ShownItem::new(id(item), None)).collect(),
        context: Vec::new(),
        numbers: Vec::new(),
        known_actions: None,
    }
}

pub(crate) fn capture(impression: &Impression, history: usize) -> Captured {
    let entry = HistoryEntry {
        item: id(7),
        ts: impression.ts,
        attribute: Id(0),
        task: 0,
    };
    let request = Request {
        past: Vec::new(),
        id: impression.request,
        user: impression.user,
        ts: impression.ts,
        context: Vec::new(),
        history: vec![entry; history],
        contents: Vec::new(),
        n_items: u16::try_from(impression.items.len()).unwrap(),
    };
    let candidates = impression.items.iter().map(|shown| Candidate {
        past: None,
        item: shown.item,
        attributes: Vec::new(),
        position: shown.position,
        dense: Dense::new([1.5; N_DENSE]),
        content: VectorId::NONE,
        predicted: ShownLogits::default(),
    });
    Captured::from((request, candidates.collect()))
}

pub(crate) fn joiner<S: JoinStore>(store: S) -> Joiner<S> {
    let config = JoinConfig {
        tasks: vec![TaskConfig::new("click", 1_000_000_000)],
        max_pending_items: usize::MAX,
        label_policy: LabelPolicy::Eager,
        ..JoinConfig::default()
    };
    Joiner::new(config, [SHOWN, ACTED], store).unwrap()
}

/// Joins `n` impressions of `n_items` items, all of which stay pending.
pub(crate) fn fill<S: JoinStore>(joiner: &mut Joiner<S>, n: u64, n_items: u64, history: usize) {
    for n in 0..n {
        let position = Position {
            partition: SHOWN,
            offset: i64::try_from(n).unwrap(),
        };
        let mut features = |impression: &Impression| capture(impression, history);
        let effects = joiner
            .impression(position, &impression(n, n_items), &mut features)
            .unwrap();
        assert_eq!(effects.outcome, Outcome::Accepted);
        assert!(effects.groups.is_empty());
    }
    assert_eq!(joiner.counters().pending_items, n * n_items);
}
