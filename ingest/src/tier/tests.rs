//! The tier against itself and against one process that does everything, over random logs of one unit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ouzel_sample::{
    Batch, DecodedRecord, Event, FeatureConfig, FeatureState, Id, IdSpace, JoinEvent, PartitionId, Position,
    Record, Sample, Stream,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::begin::Held;
use super::partition_joiner::pair;
use super::*;
use crate::join::{JoinConfig, LabelPolicy, StoreConfig};
use crate::{Decoder, Limits, Stage};

mod world;

use world::{config, drafts, end, log};

const BATCH: usize = 5;
/// Partitions of the topic.
const LANES: i32 = 2;

fn whole() -> Begin {
    Begin {
        from: [0, 0],
        told_until: None,
    }
}

/// What a unit tells at each record, and how far it was after it.
fn run(config: &JoinConfig, log: &[DecodedRecord], begin: &Begin) -> Vec<(Vec<Tell>, Progress, bool)> {
    let mut unit = PartitionJoiner::new(config.clone(), 0, begin).unwrap();
    for recorded in log {
        unit.push(recorded.clone()).unwrap();
    }
    pair(0).iter().for_each(|id| unit.at_end(*id));
    let mut steps = Vec::new();
    loop {
        let mut tells = Vec::new();
        let was_warm = !unit.is_warming_up();
        if unit.step(true, &mut tells).unwrap().is_none() {
            unit.joiner().audit().unwrap();
            return steps;
        }
        steps.push((tells, unit.progress(), was_warm || !unit.is_warming_up()));
    }
}

/// The same with partitions that run ahead of each other as `turns` say.
fn run_mixed(
    config: &JoinConfig,
    log: &[DecodedRecord],
    begin: &Begin,
    turns: &[u8],
) -> Vec<(Vec<Tell>, Progress)> {
    let mut unit = PartitionJoiner::new(config.clone(), 0, begin).unwrap();
    let of = |id: PartitionId| {
        log.iter()
            .filter(move |recorded| recorded.position.partition == id)
    };
    let mut lanes = pair(0).map(of);
    let mut steps = Vec::new();
    let mut turns = turns.iter().cycle();
    loop {
        let [lane, n] = [0, 1].map(|_| usize::from(*turns.next().unwrap()));
        // Once one is read to its end, it is the other's turn.
        let is_over = lanes[lane % 2].clone().next().is_none();
        for recorded in lanes[(lane + usize::from(is_over)) % 2].by_ref().take(n + 1) {
            unit.push(recorded.clone()).unwrap();
        }
        let is_over = lanes.iter().all(|lane| lane.clone().next().is_none());
        // To a unit that has caught up, what was not pushed yet is not written yet.
        if is_over || !unit.is_warming_up() {
            pair(0).iter().for_each(|id| unit.at_end(*id));
        }
        loop {
            let mut tells = Vec::new();
            if unit.step(true, &mut tells).unwrap().is_none() {
                break;
            }
            steps.push((tells, unit.progress()));
        }
        if is_over {
            return steps;
        }
    }
}

/// First offsets of records from `ms` on, and what the log holds.
fn find(log: &[DecodedRecord], ms: i64) -> ([i64; 2], [Held; 2]) {
    let of = |id: PartitionId| {
        log.iter()
            .filter(move |recorded| recorded.position.partition == id)
    };
    let found = pair(0).map(|id| {
        let later = of(id).find(|recorded| recorded.timestamp_ms >= Some(ms));
        later.map_or(of(id).count() as i64, |recorded| recorded.position.offset)
    });
    let held = pair(0).map(|id| Held {
        low: 0,
        high: of(id).count() as i64,
    });
    (found, held)
}

fn features() -> Arc<FeatureState> {
    Arc::new(FeatureState::new(FeatureConfig::default()))
}

fn wire(config: &JoinConfig) -> (Wire, Decoder) {
    let tasks: Vec<String> = config.tasks.iter().map(|task| task.name.clone()).collect();
    let ids = IdSpace::new(7);
    (
        Wire::new(ids, tasks.clone()),
        Decoder::new(ids, tasks, Limits::default()),
    )
}

/// A stage behind the tier that hears `tells` as the records of the topic, restarted from a cut after each of
/// `restarts`.
fn hear<'a>(
    config: &JoinConfig,
    tells: impl IntoIterator<Item = &'a Tell>,
    restarts: &[usize],
) -> (Stage, Vec<Batch>) {
    let (wire, decoder) = wire(config);
    let mut stage = Stage::behind_tier(config, features(), BATCH);
    let mut batches = Vec::new();
    let mut next = [0i64; LANES as usize];
    for (index, tell) in tells.into_iter().enumerate() {
        let lane = usize::try_from(tell.told.user.0).unwrap() % next.len();
        let recorded = decoder.decode(&Record {
            position: Position {
                partition: PartitionId {
                    stream: Stream::Samples,
                    partition: i32::try_from(lane).unwrap(),
                },
                offset: next[lane],
            },
            timestamp_ms: tell.timestamp_ms,
            payload: Some(wire.encode(&tell.told)),
        });
        next[lane] += 1;
        let Ok(Event::JoinRecord(told)) = &recorded.event else {
            panic!("{:?}", recorded.event)
        };
        assert_eq!(**told, tell.told, "it reads as it was written");
        stage.take(&recorded, &mut batches).unwrap();
        if restarts.contains(&index) {
            let cut = stage.checkpoint().unwrap();
            stage =
                Stage::restore(&StoreConfig::Memory, config, FeatureConfig::default(), &cut.bytes).unwrap();
        }
        stage.audit().unwrap();
    }
    batches.extend(stage.flush());
    (stage, batches)
}

/// The samples by batch. What was shown since the batch before serves validation alone and is in no cut.
fn samples(batches: Vec<Batch>) -> Vec<Vec<Sample>> {
    batches.into_iter().map(|batch| batch.samples).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(300), ..ProptestConfig::default() })]

    #[test]
    fn a_unit_that_moves_tells_what_it_would_have_told(config in config(), drafts in drafts(), cut in 0..250usize) {
        let log = log(&drafts);
        let stayed = run(&config, &log, &whole());
        let cut = cut % stayed.len();
        let committed = stayed[cut].1;
        // The delays of this world are all into the past.
        let (found, held) = match committed.warm_up_ms(&config, 0) {
            Some(ms) => (Some(find(&log, ms).0), find(&log, ms).1),
            None => (None, find(&log, 0).1),
        };
        let (begin, trouble) = Begin::plan(held, Some(committed), found);
        prop_assert_eq!(trouble, None);
        let moved = run(&config, &log, &begin);
        let told = |steps: &[(Vec<Tell>, Progress, bool)]| steps.iter().flat_map(|step| step.0.clone()).collect::<Vec<_>>();
        let (before, after): (Vec<_>, Vec<_>) = moved.into_iter().partition(|step| !step.2);
        // It may wait longer for an action that was given up before.
        prop_assert_eq!(unsettled(told(&after)), unsettled(told(&stayed[cut + 1..])));
        let is_late = |tell: &Tell| matches!(tell.told.event, JoinEvent::Late { .. });
        prop_assert!(told(&before).iter().all(is_late));
    }

    #[test]
    fn what_is_told_again_is_learned_once(
        config in config(),
        drafts in drafts(),
        (again, dies) in (0..1000usize, 0..1000usize),
        turns in vec(any::<bool>(), 64),
        restarts in vec(0..500usize, 0..4),
    ) {
        let steps = run(&config, &log(&drafts), &whole());
        let tells: Vec<Tell> = steps.into_iter().flat_map(|step| step.0).collect();
        let (once, batches) = hear(&config, &tells, &[]);
        prop_assert_eq!(once.counters().actions, acted(&tells).len() as u64);
        // One process dies after `dies`; another one has begun at `again` meanwhile, and both tell.
        let dies = dies % (tells.len() + 1);
        let again = again % (dies + 1);
        let (mut first, mut second) = (tells[again..dies].iter(), tells[again..].iter());
        let mut both: Vec<&Tell> = tells[..again].iter().collect();
        for is_first in turns.iter().cycle() {
            let next = if *is_first { first.next() } else { second.next() };
            both.extend(next);
            if first.len() == 0 {
                both.extend(second);
                break;
            }
            if second.len() == 0 {
                both.extend(first);
                break;
            }
        }
        let (twice, batches_twice) = hear(&config, both, &restarts);
        prop_assert_eq!(samples(batches), samples(batches_twice));
        prop_assert_eq!(once.counters(), twice.counters());
        let (once, twice) = (once.checkpoint().unwrap(), twice.checkpoint().unwrap());
        prop_assert_eq!(once.ledger, twice.ledger);
        prop_assert_eq!(once.bytes.join, twice.bytes.join);
        prop_assert_eq!(once.bytes.features, twice.bytes.features);
    }

    #[test]
    fn whoever_runs_a_unit_in_whatever_order_each_impression_on_time_has_one_outcome(
        config in config(),
        drafts in drafts(),
        (commits, dies) in (0..250usize, 0..250usize),
        turns in [vec(0..9u8, 40), vec(0..9u8, 40)],
    ) {
        let mut drafts = drafts;
        for draft in &mut drafts {
            draft.delay = draft.delay.min(config.lateness_ms);
        }
        let config = JoinConfig { policy: LabelPolicy::Wait, ..config };
        let mut log = log(&drafts);
        log.extend(end(&log));
        // The clock of the one who dies lets partitions run ahead of each other in another way than the next one's.
        let first = run_mixed(&config, &log, &whole(), &turns[0]);
        let dies = dies % first.len();
        let committed = first[commits % (dies + 1)].1;
        let found = committed.warm_up_ms(&config, 0).map(|ms| find(&log, ms).0);
        let (begin, _) = Begin::plan(find(&log, 0).1, Some(committed), found);
        let second = run_mixed(&config, &log, &begin, &turns[1]);
        let tells: Vec<Tell> = first.into_iter().take(dies + 1).chain(second).flat_map(|step| step.0).collect();
        let (_, batches) = hear(&config, &tells, &[]);

        let mut shown = BTreeMap::new();
        for recorded in &log {
            if let Ok(Event::Impression(impression)) = &recorded.event {
                shown.entry(impression.request).or_insert((recorded.position, impression.items.len()));
            }
        }
        shown.remove(&Id(9_999));
        let mut expected: Vec<_> = shown
            .values()
            .flat_map(|(at, n)| (0..*n as u64).flat_map(move |item| [0, 1].map(|task| (*at, Id(item), task))))
            .collect();
        expected.sort_unstable();
        let found: Vec<_> =
            outcomes(&samples(batches)).into_iter().map(|(at, item, _, task, _)| (at, item, task)).collect();
        let missing: Vec<_> = expected.iter().filter(|outcome| !found.contains(outcome)).collect();
        let more: Vec<_> = found.iter().filter(|outcome| !expected.contains(outcome)).collect();
        prop_assert!(missing.is_empty() && more.is_empty(), "missing {missing:?}, more {more:?}");
        prop_assert_eq!(found.len(), expected.len());
    }

    #[test]
    fn whoever_runs_a_unit_in_whatever_order_no_action_is_counted_twice(
        config in config(),
        drafts in drafts(),
        (commits, dies) in (0..250usize, 0..250usize),
        turns in [vec(0..9u8, 40), vec(0..9u8, 40)],
        restarts in vec(0..500usize, 0..4),
    ) {
        let log = log(&drafts);
        let first = run_mixed(&config, &log, &whole(), &turns[0]);
        let dies = dies % first.len();
        let committed = first[commits % (dies + 1)].1;
        let found = committed.warm_up_ms(&config, 0).map(|ms| find(&log, ms).0);
        let (begin, _) = Begin::plan(find(&log, 0).1, Some(committed), found);
        let second = run_mixed(&config, &log, &begin, &turns[1]);
        let tells: Vec<Tell> = first.into_iter().take(dies + 1).chain(second).flat_map(|step| step.0).collect();
        let (stage, _) = hear(&config, &tells, &restarts);
        // What one of them calls late was an orphan or a duplicate to the other now and then: then it may be left out.
        let (counted, told) = (stage.counters().actions, acted(&tells).len() as u64);
        prop_assert!(counted <= told, "{counted} of {told}");
    }

    #[test]
    fn a_learner_behind_the_tier_learns_what_one_process_would(config in config(), drafts in drafts()) {
        let mut log = log(&drafts);
        log.extend(end(&log));
        let mut stage = Stage::new(&StoreConfig::Memory, &config, pair(0), features(), BATCH).unwrap();
        let mut batches = Vec::new();
        for recorded in &log {
            stage.take(recorded, &mut batches).unwrap();
        }
        batches.extend(stage.flush());
        // The unit merges by record timestamp, which is the order of this log up to ties.
        let tells: Vec<Tell> = in_order(&config, &log);
        let (behind, batches_behind) = hear(&config, &tells, &[]);
        let told = |stage: &Stage| {
            let counters = stage.counters();
            (counters.accepted, counters.late_impressions, counters.matched)
        };
        prop_assert_eq!(told(&stage), told(&behind));
        let (batches, batches_behind) = (samples(batches), samples(batches_behind));
        prop_assert_eq!(outcomes(&batches), outcomes(&batches_behind));
        // Under `eager`, while the log starts, one process holds positives back by the time of its first impression
        // and task by task, the learner by the first window it hears closed: the same samples in another order.
        if config.policy != LabelPolicy::Eager {
            prop_assert_eq!(batches, batches_behind);
            prop_assert_eq!(stage.ledger(), behind.ledger());
            prop_assert_eq!(stage.checkpoint().unwrap().bytes.features, behind.checkpoint().unwrap().bytes.features);
        }
    }
}

/// The same without what is said of actions still waiting.
fn unsettled(mut tells: Vec<Tell>) -> Vec<Tell> {
    for tell in &mut tells {
        if let JoinEvent::Outcome { settled, .. } | JoinEvent::LateAction { settled, .. } =
            &mut tell.told.event
        {
            *settled = 0;
        }
    }
    tells
}

/// The offsets of all actions that are told.
fn acted(tells: &[Tell]) -> BTreeSet<i64> {
    let of = |tell: &Tell| match &tell.told.event {
        JoinEvent::Outcome { acted, .. } => acted.iter().map(|acted| acted.offset).collect(),
        JoinEvent::LateAction { .. } => vec![tell.told.at.offset],
        _ => Vec::new(),
    };
    tells.iter().flat_map(of).collect()
}

/// What became known, label by label, in no order.
fn outcomes(batches: &[Vec<Sample>]) -> Vec<(Position, Id, u8, u8, bool)> {
    let mut outcomes: Vec<_> = batches
        .iter()
        .flatten()
        .flat_map(|sample| {
            let label = |task| Some((task, sample.labels.get(task)?));
            let labels = (0..2).filter_map(label);
            let (at, item, kind) = (sample.shown_at, sample.candidate.item, sample.kind as u8);
            labels.map(move |(task, is_positive)| (at, item, kind, task, is_positive))
        })
        .collect();
    outcomes.sort_unstable();
    outcomes
}

/// What a unit tells when it is given the records one by one.
fn in_order(config: &JoinConfig, log: &[DecodedRecord]) -> Vec<Tell> {
    let mut unit = PartitionJoiner::new(config.clone(), 0, &whole()).unwrap();
    let mut tells = Vec::new();
    for recorded in log {
        unit.push(recorded.clone()).unwrap();
        pair(0).iter().for_each(|id| unit.at_end(*id));
        unit.step(true, &mut tells).unwrap();
    }
    tells
}
