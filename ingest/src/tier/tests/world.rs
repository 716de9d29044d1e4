//! Random logs of one pair of partitions.

use std::collections::BTreeMap;

use ouzel_sample::settings::Period;
use ouzel_sample::{
    Action, DecodedRecord, Event, EventTime, Id, Impression, Number, Position, ShownItem, Stream,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::partition_joiner::pair;
use crate::join::{JoinBy, JoinConfig, LabelPolicy, TaskConfig, ValueUse};

/// The next event of the log.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// Time since the event before, ms.
    after: i64,
    /// How much older it is than its record, ms.
    pub(super) delay: i64,
    request: u64,
    /// Of an impression: the part of its request that it shows, where that comes in two parts.
    part: u64,
    action: Option<(u64, u8)>,
    /// Further actions of the same record.
    more: Vec<(u64, u8)>,
    /// The action does not name its request.
    is_bare: bool,
    value: Option<i8>,
}

pub(super) fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let delay = prop_oneof![4 => Just(0i64), 2 => 0..8i64, 1 => 0..120i64];
    let after = prop_oneof![8 => 0..6i64, 1 => 0..60i64];
    let action = proptest::option::weighted(0.6, (0..3u64, 0..2u8));
    let bare = (proptest::bool::weighted(0.2), proptest::option::of(-2..14i8));
    let more = prop_oneof![3 => Just(Vec::new()), 1 => vec((0..3u64, 0..2u8), 0..4)];
    let draft = (after, delay, 0..6u64, 0..2u64, action, (bare, more)).prop_map(
        |(after, delay, request, part, action, ((is_bare, value), more))| Draft {
            after,
            delay,
            request,
            part,
            action,
            more,
            is_bare,
            value,
        },
    );
    vec(draft, 1..250)
}

pub(super) fn config() -> impl Strategy<Value = JoinConfig> {
    let policy = prop_oneof![
        3 => Just(LabelPolicy::Eager),
        1 => Just(LabelPolicy::Wait),
        1 => Just(LabelPolicy::Fnw),
        1 => Just(LabelPolicy::EsDfm),
        1 => Just(LabelPolicy::Defer),
    ];
    let times = (0..15i64, 0..4i64, 0..30i64);
    let rules = (policy, prop_oneof![Just(JoinBy::Request), Just(JoinBy::UserItem)]);
    (vec(1..40i64, 2), times, rules).prop_map(
        |(windows, (lateness_ms, skew_ms, wait_ms), (label_policy, by))| {
            let task = |(task, window): (usize, &i64)| TaskConfig {
                value: ValueUse::Weight,
                value_cap: Some(10.0),
                ..TaskConfig::new(format!("task {task}"), *window)
            };
            JoinConfig {
                tasks: windows.iter().enumerate().map(task).collect(),
                label_policy,
                by,
                label_wait: Period::from_ms(wait_ms),
                allowed_lateness: Period::from_ms(lateness_ms),
                max_clock_skew: Period::from_ms(skew_ms),
                // A new owner learns the time from a few events, not from four requests and all that was held.
                max_time_jump: Period::TEN_YEARS,
                ..JoinConfig::default()
            }
        },
    )
}

/// The records of the two partitions, in the order in which they were written.
pub(super) fn log(drafts: &[Draft]) -> Vec<DecodedRecord> {
    let mut next = [0, 0];
    let mut now = 1_000_000;
    let mut log = Vec::new();
    let mut shown = BTreeMap::new();
    for (index, draft) in (0u64..).zip(drafts) {
        now += draft.after;
        let ts = EventTime(now - draft.delay);
        // Some requests are repeated, and each one ends.
        let request = Id(draft.request + index / 12 * 6);
        let user = Id(request.0 % 5);
        let stream = usize::from(draft.action.is_some());
        // A repeated impression is the same as the first.
        // Half of the requests come in two parts.
        let (part, items) = match (request.0 % 2, draft.part) {
            (0, _) => (0, 0..=request.0 % 3),
            (_, 0) => (0, 0..=0),
            (_, _) => (1, 1..=2),
        };
        let shown_ts = match draft.action {
            None => *shown.entry((request, part)).or_insert(ts),
            Some(_) => ts,
        };
        let event = match draft.action {
            None => Event::Impression(Impression {
                request,
                user,
                ts: shown_ts,
                items: items.map(|item| shown_item(request, item)).collect(),
                context: vec![Id(request.0 % 2)],
                numbers: (request.0 % 2 == 1)
                    .then(|| number(request))
                    .into_iter()
                    .collect(),
                known_actions: None,
            }),
            Some(first) => {
                let action = |(item, task): &(u64, u8)| Action {
                    request: (!draft.is_bare).then_some(request),
                    item: Id(*item),
                    user,
                    ts,
                    task: *task,
                    value: draft.value.map(f32::from),
                };
                match draft.more.is_empty() {
                    true => Event::Action(action(&first)),
                    false => Event::Actions([first].iter().chain(&draft.more).map(action).collect()),
                }
            }
        };
        log.push(DecodedRecord {
            position: Position {
                partition: pair(0)[stream],
                offset: next[stream],
            },
            timestamp_ms: Some(now),
            event: Ok(event),
        });
        next[stream] += 1;
    }
    log
}

/// An item, in some requests with features of its own.
fn shown_item(request: Id, item: u64) -> ShownItem {
    let mut shown = ShownItem::new(Id(item), None);
    if request.0.is_multiple_of(3) && item != 1 {
        shown.features.values = vec![Id(item)];
        shown.features.numbers = vec![number(request)];
    }
    shown
}

/// A number that a short decimal fraction does not equal.
fn number(request: Id) -> Number {
    Number {
        name: Id(77),
        value: request.0 as f32 / 3.0,
    }
}

/// Two much later records, which close every window.
pub(super) fn end(log: &[DecodedRecord]) -> Vec<DecodedRecord> {
    pair(0)
        .into_iter()
        .map(|partition| {
            let of = log
                .iter()
                .filter(|recorded| recorded.position.partition == partition);
            let (request, user, ts) = (Id(9_999), Id(9), EventTime(2_000_000));
            let event = match partition.stream {
                Stream::Impressions => Event::Impression(Impression {
                    request,
                    user,
                    ts,
                    items: vec![ShownItem::new(Id(0), None)],
                    context: Vec::new(),
                    numbers: Vec::new(),
                    known_actions: None,
                }),
                _ => Event::Action(Action {
                    request: Some(Id(9_998)),
                    item: Id(0),
                    user,
                    ts,
                    task: 0,
                    value: None,
                }),
            };
            DecodedRecord {
                position: Position {
                    partition,
                    offset: of.count() as i64,
                },
                timestamp_ms: Some(2_000_000),
                event: Ok(event),
            }
        })
        .collect()
}
