//! Random worlds for the property tests: configurations, events, and the run of a joiner over them.

mod run;

use std::collections::BTreeMap;

use ouzel_sample::settings::Period;
use ouzel_sample::{
    Action, Candidate, DecodedRecord, Dense, Event, EventTime, Id, Impression, KnownAction, N_DENSE,
    PartitionId, Position, Reject, RejectReason, Request, Sample, ShownItem, ShownLogits, Stream, VectorId,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::join::planted_bug::PlantedBug;
use crate::join::*;

pub(super) use run::{apply, emitted, joined};

/// One event of a world. Times and ids are small numbers; its index is its offset.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum WorldEvent {
    Shown {
        partition: PartitionId,
        request: u64,
        ts: i64,
        items: Vec<u64>,
        known_actions: Option<Vec<(u64, u8)>>,
    },
    Acted {
        partition: PartitionId,
        request: Option<u64>,
        user: u64,
        item: u64,
        task: u8,
        ts: i64,
        value: Option<i8>,
    },
    Advanced(PartitionId, i64),
    Idle(PartitionId),
    Active(PartitionId),
    Broken(PartitionId),
}

/// The cap of the values of every task.
pub(super) const VALUE_CAP: f32 = 10.0;

/// The user of a request.
pub(super) fn user_of(request: u64) -> u64 {
    70 + request % 2
}

/// The value of an action on `item` that is known with its impression.
pub(super) fn known_value(item: u64) -> f32 {
    [2.5, 12.0, -1.0][usize::try_from(item).unwrap()]
}

/// The record timestamp of an action dated `ts`.
pub(super) fn record_ms(ts: i64) -> i64 {
    ts + 1_000
}

/// A sample, without its features.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EmittedSample {
    pub(super) request: u64,
    /// Offset of the impression.
    pub(super) shown_at: i64,
    pub(super) item: u64,
    pub(super) kind: u8,
    pub(super) labels: Vec<(u8, bool)>,
    /// By task, in bits.
    pub(super) values: Vec<(u8, u32)>,
    pub(super) action_ms: Option<i64>,
}

/// Everything that a joiner reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Report {
    /// For each event, its outcome.
    pub(super) outcomes: Vec<&'static str>,
    pub(super) groups: Vec<Vec<EmittedSample>>,
    /// Orphans, matches, late and unattributed actions in the end, those that waited included.
    pub(super) fates: [u64; 4],
    /// Late, positive and negative items of each task in the end.
    pub(super) labels: Vec<[u64; 3]>,
    /// Impressions closed, actions given up and impressions forgotten by a cap.
    pub(super) early: [u64; 3],
    /// Shown items that had been shown before.
    pub(super) duplicate_items: u64,
    /// Positives whose value was outside the cap.
    pub(super) clamped: u64,
    /// The watermark after each event.
    pub(super) watermarks: Vec<i64>,
}

/// A configuration, the events, and the events after which the joiner is restarted from its export.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) config: JoinConfig,
    pub(super) partitions: Vec<PartitionId>,
    pub(super) events: Vec<WorldEvent>,
    pub(super) restarts: Vec<bool>,
}

pub(super) fn config() -> impl Strategy<Value = JoinConfig> {
    let policy = prop_oneof![
        3 => Just(LabelPolicy::Eager),
        1 => Just(LabelPolicy::Wait),
        1 => Just(LabelPolicy::Fnw),
        1 => Just(LabelPolicy::Fnc),
        1 => Just(LabelPolicy::EsDfm),
        2 => Just(LabelPolicy::Defer),
    ];
    let cap = |small: std::ops::Range<usize>| prop_oneof![3 => Just(1_000), 1 => small];
    let caps = (cap(1..8), cap(1..4), cap(1..4));
    let max_jump = prop_oneof![1 => Just(600_000), 2 => 10..80i64, 2 => Just(Period::TEN_YEARS.ms())];
    let bounds = (0..15i64, 0..4i64, prop_oneof![Just(0), 0..40i64], max_jump);
    let by = prop_oneof![Just(JoinBy::Request), Just(JoinBy::UserItem)];
    let policy = (policy, 0..30i64, by);
    (vec(1..40i64, 1..=3), bounds, caps, policy).prop_map(
        |(windows, bounds, caps, (label_policy, wait_ms, by))| {
            let longest = windows.iter().copied().max().unwrap_or(0);
            let (lateness_ms, skew_ms, more, max_jump_ms) = bounds;
            let (max_pending_items, max_early_actions, max_closed_requests) = caps;
            JoinConfig {
                tasks: windows
                    .iter()
                    .enumerate()
                    .map(|(task, window)| TaskConfig {
                        value: [ValueUse::Weight, ValueUse::Ignore, ValueUse::Target][task],
                        value_cap: Some(VALUE_CAP),
                        ..TaskConfig::new(format!("task {task}"), *window)
                    })
                    .collect(),
                by,
                label_policy,
                label_wait: Period::from_ms(wait_ms),
                allowed_lateness: Period::from_ms(lateness_ms),
                max_time_jump: Period::from_ms(max_jump_ms),
                max_clock_skew: Period::from_ms(skew_ms),
                dedup_window: Some(Period::from_ms(longest + lateness_ms + skew_ms + more)),
                max_pending_items,
                max_early_actions,
                max_closed_requests,
                ..JoinConfig::default()
            }
        },
    )
}

/// The next event, relative to the time of the stream so far.
#[derive(Clone, Debug)]
pub(super) enum Draft {
    Shown {
        request: u64,
        mask: u8,
        /// Shows its first item twice.
        repeats: bool,
        jitter: i64,
        second: bool,
        known_actions: Option<u8>,
    },
    Acted {
        request: u64,
        /// The action does not name its request.
        is_bare: bool,
        value: Option<i8>,
        item: u64,
        task: u8,
        jitter: i64,
        second: bool,
    },
    Again(prop::sample::Index),
    Advanced {
        second: bool,
        actions: bool,
    },
    Marked {
        second: bool,
        actions: bool,
        idle: bool,
    },
    Broken {
        actions: bool,
    },
}

pub(super) fn draft() -> impl Strategy<Value = Draft> {
    // Mostly a little out of order, now and then far beyond any lateness or window in both directions, or ahead as a wrong
    // clock is.
    let jitter = || prop_oneof![80 => -8..=8i64, 20 => -60..=20i64, 4 => 0..=3_000i64];
    let known_actions = prop_oneof![9 => Just(None), 1 => any::<u8>().prop_map(Some)];
    prop_oneof![
        6 => (0..6u64, (1..8u8, prop::bool::weighted(0.1)), jitter(), any::<bool>(), known_actions).prop_map(
            |(request, (mask, repeats), jitter, second, known_actions)| {
                Draft::Shown { request, mask, repeats, jitter, second, known_actions }
            }
        ),
        8 => ((0..6u64, prop::bool::weighted(0.3), proptest::option::of(-2..14i8)), 0..3u64, 0..3u8, jitter(), any::<bool>()).prop_map(
            |((request, is_bare, value), item, task, jitter, second)| {
                Draft::Acted { request, is_bare, value, item, task, jitter, second }
            }
        ),
        3 => any::<prop::sample::Index>().prop_map(Draft::Again),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(second, actions)| Draft::Advanced { second, actions }),
        1 => (any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(second, actions, idle)| Draft::Marked { second, actions, idle }),
        1 => any::<bool>().prop_map(|actions| Draft::Broken { actions }),
    ]
}

pub(super) fn partition_of(actions: bool, second: bool) -> PartitionId {
    let stream = if actions {
        Stream::Actions
    } else {
        Stream::Impressions
    };
    PartitionId {
        stream,
        partition: i32::from(second),
    }
}

pub(super) fn events(
    config: &JoinConfig,
    two_partitions: bool,
    drafts: Vec<(Draft, i64)>,
) -> Vec<WorldEvent> {
    let n_tasks = u8::try_from(config.n_tasks()).unwrap();
    let mut clock = 1_000;
    let mut all: Vec<WorldEvent> = Vec::with_capacity(drafts.len());
    for (draft, step) in drafts {
        clock += step;
        all.push(match draft {
            Draft::Shown {
                request,
                mask,
                repeats,
                jitter,
                second: which,
                known_actions,
            } => WorldEvent::Shown {
                partition: partition_of(false, which && two_partitions),
                request,
                ts: clock + jitter,
                items: {
                    let mut items: Vec<u64> = (0..3).filter(|item| mask & (1 << item) != 0).collect();
                    items.extend(items.first().copied().filter(|_| repeats));
                    items
                },
                known_actions: known_actions.map(|bits| {
                    let pairs = (0..3u64).flat_map(|item| (0..n_tasks).map(move |task| (item, task)));
                    pairs
                        .filter(|(item, task)| bits >> ((item + u64::from(*task) * 3) % 8) & 1 != 0)
                        .collect()
                }),
            },
            Draft::Acted {
                request,
                is_bare,
                value,
                item,
                task,
                jitter,
                second: which,
            } => WorldEvent::Acted {
                partition: partition_of(true, which && two_partitions),
                request: (!is_bare).then_some(request),
                user: user_of(request),
                value,
                item,
                task: task % n_tasks,
                ts: clock + jitter,
            },
            Draft::Again(which) if !all.is_empty() => all[which.index(all.len())].clone(),
            Draft::Again(_) => WorldEvent::Advanced(partition_of(true, false), clock),
            Draft::Advanced {
                second: which,
                actions,
            } => WorldEvent::Advanced(partition_of(actions, which && two_partitions), clock),
            Draft::Marked {
                second: which,
                actions,
                idle,
            } => {
                let partition = partition_of(actions, which && two_partitions);
                if idle {
                    WorldEvent::Idle(partition)
                } else {
                    WorldEvent::Active(partition)
                }
            }
            Draft::Broken { actions } => WorldEvent::Broken(partition_of(actions, false)),
        });
    }
    all
}

pub(super) fn world(n_events: usize) -> impl Strategy<Value = World> {
    let drafts = vec((draft(), prop_oneof![4 => 0..6i64, 1 => 0..40i64]), 0..n_events);
    let restart = prop_oneof![6 => Just(false), 1 => Just(true)];
    (config(), any::<bool>(), drafts, vec(restart, n_events)).prop_map(
        |(config, two_partitions, drafts, restarts)| {
            let both = [false, true].into_iter().take(1 + usize::from(two_partitions));
            World {
                partitions: both
                    .flat_map(|which| [partition_of(false, which), partition_of(true, which)])
                    .collect(),
                events: events(&config, two_partitions, drafts),
                config,
                restarts,
            }
        },
    )
}

/// The events without impressions of an item that another impression of its request has shown: only copies repeat.
pub(super) fn without_repeats<'a>(events: impl Iterator<Item = &'a WorldEvent>) -> Vec<WorldEvent> {
    let mut shown = BTreeMap::new();
    let mut is_first = |event: &&'a WorldEvent| match event {
        WorldEvent::Shown { request, items, .. } => {
            let by_another = |item| shown.get(&(*request, item)).is_some_and(|other| other != event);
            let is_repeat = items.iter().any(|item| by_another(*item));
            if !is_repeat {
                shown.extend(items.iter().map(|item| ((*request, *item), *event)));
            }
            !is_repeat
        }
        _ => true,
    };
    events.filter(|event| is_first(event)).cloned().collect()
}

/// Features that depend on the impression alone, so that every derivation of a state has the same.
pub(super) fn capture(impression: &Impression) -> Captured {
    let candidate = |shown: &ShownItem| Candidate {
        past: None,
        item: shown.item,
        attributes: Vec::new(),
        position: shown.position,
        dense: Dense::new([0.5; N_DENSE]),
        content: VectorId::NONE,
        predicted: ShownLogits::default(),
    };
    let request = Request {
        past: Vec::new(),
        id: impression.request,
        user: impression.user,
        ts: impression.ts,
        context: impression.context.clone(),
        history: Vec::new(),
        contents: Vec::new(),
        n_items: u16::try_from(impression.items.len()).unwrap(),
    };
    Captured::from((request, impression.items.iter().map(candidate).collect()))
}

pub(super) fn recorded(offset: usize, event: &WorldEvent) -> Option<DecodedRecord> {
    let (partition, timestamp_ms, event) = match event {
        WorldEvent::Shown {
            partition,
            request,
            ts,
            items,
            known_actions,
        } => {
            let items = items.iter().map(|item| ShownItem::new(Id(*item), None));
            let impression = Impression {
                request: Id(*request),
                user: Id(user_of(*request)),
                ts: EventTime(*ts),
                items: items.collect(),
                context: Vec::new(),
                numbers: Vec::new(),
                known_actions: known_actions.as_ref().map(|list| {
                    let known = |(item, task): &(u64, u8)| KnownAction {
                        item: Id(*item),
                        task: *task,
                        value: Some(known_value(*item)),
                    };
                    list.iter().map(known).collect()
                }),
            };
            (*partition, *ts, Ok(Event::Impression(impression)))
        }
        WorldEvent::Acted {
            partition,
            request,
            user,
            item,
            task,
            ts,
            value,
        } => {
            let action = Action {
                request: request.map(Id),
                item: Id(*item),
                user: Id(*user),
                ts: EventTime(*ts),
                task: *task,
                value: value.map(f32::from),
            };
            (*partition, record_ms(*ts), Ok(Event::Action(action)))
        }
        WorldEvent::Broken(partition) => (*partition, 0, Err(Reject::new(RejectReason::NullValue, ""))),
        _ => return None,
    };
    Some(DecodedRecord {
        position: Position {
            partition,
            offset: i64::try_from(offset).unwrap(),
        },
        timestamp_ms: Some(timestamp_ms),
        event,
    })
}
