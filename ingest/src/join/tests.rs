//! The rules of the join, one by one.

use ouzel_sample::settings::Period;
use ouzel_sample::{
    Action, EventTime, Id, Impression, KnownAction, PartitionId, Position, Sample, SampleKind, ShownItem,
    Stream,
};

use crate::join::world::capture;
use crate::join::*;

mod policies;
mod time;

const SHOWN: PartitionId = PartitionId {
    stream: Stream::Impressions,
    partition: 0,
};
const ACTED: PartitionId = PartitionId {
    stream: Stream::Actions,
    partition: 0,
};
const REQUEST: u64 = 9;
/// The items of every slate in these tests.
const ITEMS: [u64; 2] = [1, 2];
const CLICK: u8 = 0;
const ORDER: u8 = 1;

/// Clicks within 100 ms, orders within 1,000; events up to 10 late, clocks 5 apart.
fn config(policy: LabelPolicy) -> JoinConfig {
    JoinConfig {
        tasks: vec![TaskConfig::new("click", 100), TaskConfig::new("order", 1_000)],
        allowed_lateness: Period::from_ms(10),
        max_clock_skew: Period::from_ms(5),
        label_policy: policy,
        label_wait: Period::from_ms(if policy.is_at_once() { 15 } else { 50 }),
        ..JoinConfig::default()
    }
}

struct Bench {
    joiner: Joiner<MemStore>,
    out: Vec<Vec<Sample>>,
}

impl Bench {
    /// A join in the middle of its log.
    fn new(config: JoinConfig) -> Self {
        let mut bench = Self::at_the_start(config);
        bench.joiner.first_shown = Some(EventTime::MIN);
        bench
    }

    /// A join at the start of its log.
    fn at_the_start(config: JoinConfig) -> Self {
        Self {
            joiner: Joiner::new(config, [SHOWN, ACTED], MemStore::default()).unwrap(),
            out: Vec::new(),
        }
    }

    fn with(policy: LabelPolicy) -> Self {
        Self::new(config(policy))
    }

    fn impression_of(request: u64, ts: i64) -> Impression {
        Impression {
            request: Id(request),
            user: Id(1),
            ts: EventTime(ts),
            items: ITEMS.map(|item| ShownItem::new(Id(item), None)).to_vec(),
            context: Vec::new(),
            numbers: Vec::new(),
            known_actions: None,
        }
    }

    fn show(&mut self, request: u64, ts: i64) -> Outcome {
        self.impression(ts, &Self::impression_of(request, ts))
    }

    fn show_items(&mut self, ts: i64, items: &[u64]) -> Outcome {
        let shown = |item: &u64| ShownItem::new(Id(*item), None);
        let impression = Impression {
            items: items.iter().map(shown).collect(),
            ..Self::impression_of(REQUEST, ts)
        };
        self.impression(ts, &impression)
    }

    fn impression(&mut self, offset: i64, impression: &Impression) -> Outcome {
        let position = Position {
            partition: SHOWN,
            offset,
        };
        let effects = self.joiner.impression(position, impression, &mut capture);
        let effects = effects.unwrap();
        self.out.append(&mut effects.groups);
        effects.outcome
    }

    fn act(&mut self, item: u64, task: u8, ts: i64) -> Outcome {
        self.act_on(REQUEST, item, task, ts)
    }

    fn act_on(&mut self, request: u64, item: u64, task: u8, ts: i64) -> Outcome {
        self.act_with(Some(request), item, task, ts)
    }

    fn act_with(&mut self, request: Option<u64>, item: u64, task: u8, ts: i64) -> Outcome {
        let action = Action {
            request: request.map(Id),
            item: Id(item),
            user: Id(1),
            ts: EventTime(ts),
            task,
            value: None,
        };
        let position = Position {
            partition: ACTED,
            offset: ts,
        };
        let effects = self.joiner.action(position, Some(ts + 7), &action);
        let effects = effects.unwrap();
        self.out.append(&mut effects.groups);
        effects.outcome
    }

    /// Advances both streams so that the watermark becomes `watermark`.
    fn pass(&mut self, watermark: i64) {
        for partition in [SHOWN, ACTED] {
            let effects = self.joiner.advance(partition, EventTime(watermark + 10));
            let effects = effects.unwrap();
            self.out.append(&mut effects.groups);
        }
        self.joiner.audit().unwrap();
    }

    /// The samples since the last call, as `item kind labels @record`, groups apart by `|`.
    fn emitted(&mut self) -> String {
        let sample = |sample: &Sample| {
            let kind = match sample.kind {
                SampleKind::Final => "final",
                SampleKind::EarlyNegative => "early",
                SampleKind::LatePositive => "late",
                SampleKind::RealCopy => "copy",
                SampleKind::Correction => "correction",
            };
            let label = |task: u8, name: &str| match sample.labels.get(task) {
                Some(label) => format!(" {name}={}", u8::from(label)),
                None => String::new(),
            };
            let at = sample
                .action_record_ms
                .map(|ms| format!(" @{ms}"))
                .unwrap_or_default();
            format!(
                "{} {kind}{}{}{at}",
                sample.candidate.item.0,
                label(CLICK, "click"),
                label(ORDER, "order")
            )
        };
        let group = |group: &Vec<Sample>| group.iter().map(sample).collect::<Vec<_>>().join(", ");
        let emitted = self.out.iter().map(group).collect::<Vec<_>>().join(" | ");
        self.out.clear();
        emitted
    }
}

#[test]
fn an_action_counts_from_the_skew_before_the_impression_to_the_end_of_its_window() {
    let cases = [
        (-6, Outcome::BeforeShown),
        (-5, Outcome::Matched),
        (100, Outcome::Matched),
        (101, Outcome::LateAction),
    ];
    for (at, expected) in cases {
        let mut bench = Bench::with(LabelPolicy::Eager);
        bench.show(REQUEST, 1_000);
        let outcome = bench.act(1, CLICK, 1_000 + at);
        assert_eq!(outcome, expected, "{at} ms after the impression");
    }
}

#[test]
fn a_window_closes_when_no_on_time_action_can_come_any_more() {
    let mut bench = Bench::with(LabelPolicy::Eager);
    bench.show(REQUEST, 0);
    bench.pass(100);
    assert_eq!(bench.emitted(), "", "an action of 100 ms would be on time");
    assert!(bench.act(1, CLICK, 100) == Outcome::Matched);
    bench.emitted();
    bench.pass(101);
    assert_eq!(bench.emitted(), "2 final click=0");
    assert_eq!(bench.act(2, CLICK, 100), Outcome::LateAction);
    assert_eq!(bench.act(1, CLICK, 100), Outcome::DuplicateAction);
}

#[test]
fn an_action_waits_for_its_impression() {
    let mut bench = Bench::with(LabelPolicy::Eager);
    assert_eq!(bench.act(1, CLICK, 50), Outcome::Early);
    assert_eq!(bench.act(1, CLICK, 50), Outcome::DuplicateAction);
    assert_eq!(bench.show(REQUEST, 40), Outcome::Accepted);
    assert_eq!(bench.emitted(), "1 final click=1 @57");

    let mut bench = Bench::with(LabelPolicy::Eager);
    bench.act(1, CLICK, 50);
    bench.pass(65);
    assert_eq!(bench.joiner.counters().waiting, 1);
    bench.pass(66);
    assert_eq!(bench.joiner.counters().orphans, 1);
    assert_eq!(
        bench.act(1, CLICK, 50),
        Outcome::Orphan,
        "no impression can be expected for it"
    );
}

#[test]
fn a_further_impression_adds_the_items_that_are_new() {
    let mut bench = Bench::with(LabelPolicy::Eager);
    assert_eq!(
        bench.show_items(0, &[1, 2, 1]),
        Outcome::Accepted,
        "1 is shown once"
    );
    assert_eq!(bench.act(3, CLICK, 61), Outcome::Early, "3 may be shown yet");
    assert_eq!(bench.show_items(60, &[2, 3]), Outcome::Accepted);
    assert_eq!(bench.emitted(), "3 final click=1 @68");
    assert_eq!(bench.show_items(70, &[3, 1]), Outcome::Duplicate);
    let counters = bench.joiner.counters();
    assert_eq!((counters.duplicate_impressions, counters.duplicate_items), (1, 4));
    // Each item has the window of the impression that showed it.
    assert_eq!(bench.act(2, CLICK, 101), Outcome::LateAction);
    bench.pass(101);
    assert_eq!(bench.emitted(), "1 final click=0, 2 final click=0");
    assert_eq!(bench.act(3, ORDER, 1_050), Outcome::Matched);
    bench.pass(1_001);
    assert_eq!(
        bench.emitted(),
        "3 final order=1 @1057 | 1 final order=0, 2 final order=0"
    );
    // Closed impressions remember what they showed.
    assert_eq!(bench.show_items(950, &[4, 2]), Outcome::Accepted);
    assert_eq!(bench.act(1, CLICK, 5), Outcome::LateAction);
    bench.joiner.audit().unwrap();
    let bytes = bench.joiner.export().unwrap();
    bench.joiner = Joiner::import(config(LabelPolicy::Eager), MemStore::default(), &bytes).unwrap();
    assert_eq!(bench.show_items(960, &[1, 2, 3, 4]), Outcome::Duplicate);
    bench.pass(1_951);
    assert_eq!(bench.emitted(), "4 final click=0 | 4 final order=0");
}

#[test]
fn an_action_whose_item_is_never_shown_is_an_orphan_in_the_end() {
    let mut bench = Bench::with(LabelPolicy::Eager);
    bench.show(REQUEST, 0);
    assert_eq!(bench.act(3, CLICK, 1), Outcome::Early);
    bench.pass(17);
    assert_eq!(bench.joiner.counters().orphans, 1);
    assert_eq!(bench.act(3, CLICK, 1), Outcome::Orphan);
}

#[test]
fn a_request_that_has_shown_too_much_takes_no_further_impression() {
    let mut bench = Bench::with(LabelPolicy::Eager);
    let many: Vec<u64> = (0..16_384).collect();
    assert_eq!(bench.show_items(0, &many), Outcome::Accepted);
    assert_eq!(bench.show_items(1, &[20_000]), Outcome::Excess);
    let counters = bench.joiner.counters();
    assert_eq!((counters.excess_impressions, counters.excess_items), (1, 1));
    bench.joiner.audit().unwrap();
}

#[test]
fn an_action_without_a_request_belongs_to_the_last_impression_of_its_item() {
    let mut bench = Bench::new(JoinConfig {
        by: JoinBy::UserItem,
        ..config(LabelPolicy::Eager)
    });
    bench.show(1, 0);
    bench.show(2, 60);
    assert_eq!(bench.act_with(None, 1, CLICK, 90), Outcome::Matched);
    assert_eq!(bench.emitted(), "1 final click=1 @97");
    assert_eq!(bench.joiner.effects().actions[0].action.request, Some(Id(2)));
    // Before the second impression was shown, and a copy of it.
    assert_eq!(bench.act_with(None, 1, CLICK, 50), Outcome::Matched);
    assert_eq!(bench.act_with(None, 1, CLICK, 50), Outcome::DuplicateAction);
    assert_eq!(bench.joiner.effects().actions.len(), 0);
    // Early: it waits for an impression of the item, and is taken by the first that fits.
    assert_eq!(bench.act_with(None, 2, CLICK, 400), Outcome::Early);
    let bytes = bench.joiner.export().unwrap();
    let config = bench.joiner.config().clone();
    bench.joiner = Joiner::import(config, MemStore::default(), &bytes).unwrap();
    bench.emitted();
    bench.show(3, 410);
    assert!(!bench.emitted().contains("click=1"), "dated too long before");
    bench.show(4, 390);
    assert!(bench.emitted().contains("2 final click=1 @407"));
    assert_eq!(bench.joiner.counters().waiting, 0);
    // Nothing fits in the end: its user did it all the same.
    assert_eq!(bench.act_with(None, 9, CLICK, 450), Outcome::Early);
    bench.pass(466);
    let late: Vec<_> = bench
        .joiner
        .effects()
        .actions
        .iter()
        .map(|a| (a.action.item, a.is_late))
        .collect();
    assert_eq!(late, [(Id(9), true)]);
    assert_eq!(bench.joiner.counters().unattributed, 1);
    assert_eq!(bench.act_with(None, 9, CLICK, 450), Outcome::Unattributed);
    bench.joiner.audit().unwrap();

    let mut bench = Bench::with(LabelPolicy::Eager);
    bench.show(1, 0);
    assert_eq!(bench.act_with(None, 1, CLICK, 50), Outcome::Unattributed);
    assert_eq!(bench.joiner.effects().actions.len(), 1);
    assert_eq!(bench.joiner.effects().actions[0].action.request, None);
}

#[test]
fn a_late_impression_keeps_the_tasks_it_is_not_late_for() {
    let mut bench = Bench::with(LabelPolicy::Eager);
    bench.pass(500);
    assert_eq!(bench.show(REQUEST, 399), Outcome::Accepted);
    assert_eq!(bench.act(1, CLICK, 450), Outcome::LateAction);
    assert!(bench.act(1, ORDER, 450) == Outcome::Matched);
    let tasks = &bench.joiner.counters().tasks;
    assert_eq!(
        (tasks[0].late, tasks[1].late, tasks[1].positive, tasks[1].pending),
        (2, 0, 1, 1)
    );

    bench.pass(2_000);
    assert_eq!(bench.show(REQUEST + 1, 900), Outcome::Late);
    bench.joiner.audit().unwrap();
}

#[test]
fn known_actions_make_final_samples_at_once() {
    let mut bench = Bench::with(LabelPolicy::Defer);
    let impression = Impression {
        known_actions: Some(
            [2, 77]
                .map(|item| KnownAction {
                    item: Id(item),
                    task: CLICK,
                    value: None,
                })
                .to_vec(),
        ),
        ..Bench::impression_of(REQUEST, 0)
    };
    bench.impression(0, &impression);
    assert_eq!(
        bench.emitted(),
        "1 final click=0 order=0, 2 final click=1 order=0"
    );
    assert_eq!(
        bench.act(2, CLICK, 30),
        Outcome::Matched,
        "the action itself follows"
    );
    assert_eq!(bench.act(2, CLICK, 31), Outcome::DuplicateAction);
    assert_eq!(bench.act(1, CLICK, 30), Outcome::LateAction);
    bench.joiner.audit().unwrap();
    assert_eq!(bench.emitted(), "");
}

#[test]
fn beyond_the_cap_the_oldest_requests_close_first_and_are_counted() {
    let mut bench = Bench::new(JoinConfig {
        max_pending_items: 4,
        ..config(LabelPolicy::Eager)
    });
    bench.show(REQUEST, 30);
    bench.show(2, 10);
    assert_eq!(bench.emitted(), "");
    bench.show(3, 20);
    assert_eq!(
        bench.emitted(),
        "1 early click=0 order=0, 2 early click=0 order=0"
    );
    let counters = bench.joiner.counters();
    assert_eq!((counters.closed_early, counters.pending_items), (1, 4));
    assert!(
        bench.act(1, CLICK, 40) == Outcome::Matched,
        "request 2 was closed, not this one"
    );
    assert_eq!(
        bench.show(2, 10),
        Outcome::Duplicate,
        "a closed request is remembered"
    );
}

#[test]
fn a_forgotten_request_is_late_and_never_joined_twice() {
    let mut bench = Bench::new(JoinConfig {
        max_pending_items: 1,
        max_closed_requests: 2,
        ..config(LabelPolicy::Eager)
    });
    for request in 0..5 {
        assert_eq!(
            bench.show(request, 10 + i64::try_from(request).unwrap()),
            Outcome::Accepted
        );
    }
    assert_eq!(bench.joiner.counters().forgotten_early, 3);
    assert_eq!(bench.show(0, 10), Outcome::Late);
    assert_eq!(bench.show(4, 14), Outcome::Duplicate);
    bench.joiner.audit().unwrap();
}
