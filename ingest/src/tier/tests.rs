//! The join tier compared with other owners and with one process that joins alone, over random logs of one pair.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ouzel_sample::{
    Action, Batch, DecodedRecord, Event, FeatureChange, FeatureConfig, FeatureState, Id, IdKind, IdSpace,
    JoinEvent, JoinRecord, PartitionId, Position, ProfileUpdate, Record, Reject, RejectReason, Sample,
    Stream,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::partition_joiner::pair;
use super::start::LogRange;
use super::*;
use crate::join::{JoinConfig, LabelPolicy, StoreConfig};
use crate::{Decoder, EventConfig, Quarantine, QuarantineRule, Stage};

mod quarantine;
mod world;

use world::{config, drafts, end, log};

const BATCH: usize = 5;
/// Partitions of the samples topic.
const N_TOPIC_PARTITIONS: i32 = 2;

fn whole() -> StartPoint {
    StartPoint {
        offsets: [0, 0],
        reported: None,
    }
}

/// The join records at each record, the progress after it, and whether the warm-up was over.
fn run(
    config: &JoinConfig,
    log: &[DecodedRecord],
    start: &StartPoint,
) -> Vec<(Vec<OutgoingRecord>, ReportProgress, bool)> {
    let mut joiner = PartitionJoiner::new(config.clone(), 0, start).unwrap();
    for recorded in log {
        joiner.push(recorded.clone()).unwrap();
    }
    pair(0).iter().for_each(|id| joiner.at_end(*id));
    let mut steps = Vec::new();
    loop {
        let mut records = Vec::new();
        let was_warm = !joiner.is_warming_up();
        if joiner.step(true, &mut records).unwrap().is_none() {
            joiner.joiner().audit().unwrap();
            return steps;
        }
        steps.push((records, joiner.progress(), was_warm || !joiner.is_warming_up()));
    }
}

/// As above, with partitions read alternately in runs of the lengths in `turns`.
fn run_mixed(
    config: &JoinConfig,
    log: &[DecodedRecord],
    start: &StartPoint,
    turns: &[u8],
) -> Vec<(Vec<OutgoingRecord>, ReportProgress)> {
    let mut joiner = PartitionJoiner::new(config.clone(), 0, start).unwrap();
    let of = |id: PartitionId| {
        log.iter()
            .filter(move |recorded| recorded.position.partition == id)
    };
    let mut partitions = pair(0).map(of);
    let mut steps = Vec::new();
    let mut turns = turns.iter().cycle();
    loop {
        let [partition, n] = [0, 1].map(|_| usize::from(*turns.next().unwrap()));
        // After the end of one partition the other one is read.
        let is_over = partitions[partition % 2].clone().next().is_none();
        for recorded in partitions[(partition + usize::from(is_over)) % 2]
            .by_ref()
            .take(n + 1)
        {
            joiner.push(recorded.clone()).unwrap();
        }
        let is_over = partitions
            .iter()
            .all(|partition| partition.clone().next().is_none());
        // For a joiner that has caught up, a record that was not pushed yet is not written yet.
        if is_over || !joiner.is_warming_up() {
            pair(0).iter().for_each(|id| joiner.at_end(*id));
        }
        loop {
            let mut records = Vec::new();
            if joiner.step(true, &mut records).unwrap().is_none() {
                break;
            }
            steps.push((records, joiner.progress()));
        }
        if is_over {
            return steps;
        }
    }
}

/// First offsets of records from `ms` on, and the offsets that the log holds.
fn find(log: &[DecodedRecord], ms: i64) -> ([i64; 2], [LogRange; 2]) {
    let of = |id: PartitionId| {
        log.iter()
            .filter(move |recorded| recorded.position.partition == id)
    };
    let found = pair(0).map(|id| {
        let later = of(id).find(|recorded| recorded.timestamp_ms >= Some(ms));
        later.map_or(of(id).count() as i64, |recorded| recorded.position.offset)
    });
    let held = pair(0).map(|id| LogRange {
        low: 0,
        high: of(id).count() as i64,
    });
    (found, held)
}

/// The features of a learner that has read the users' profiles: of some users, a category and a number that requests
/// have, too.
fn features() -> Arc<FeatureState> {
    let state = FeatureState::new(FeatureConfig::default());
    for user in 0..3 {
        state.update_profile(ProfileUpdate {
            user: Id(user),
            features: vec![
                (Id(70), FeatureChange::Values(vec![Id(700 + user)])),
                (Id(77), FeatureChange::Number(user as f32)),
            ],
            ..ProfileUpdate::default()
        });
    }
    Arc::new(state)
}

fn wire(config: &JoinConfig) -> (Wire, Decoder) {
    let tasks = config.task_names();
    let ids = IdSpace::new(7);
    (
        Wire::new(ids, tasks.clone()),
        Decoder::new(ids, tasks, EventConfig::default()).unwrap(),
    )
}

/// A stage behind the tier that reads `records` from the topic, restarted from a checkpoint after each of
/// `restarts`.
fn receive<'a>(
    config: &JoinConfig,
    records: impl IntoIterator<Item = &'a OutgoingRecord>,
    restarts: &[usize],
) -> (Stage, Vec<Batch>) {
    let (wire, decoder) = wire(config);
    receive_by(config, (&wire, &decoder), records, restarts)
}

fn receive_by<'a>(
    config: &JoinConfig,
    (wire, decoder): (&Wire, &Decoder),
    records: impl IntoIterator<Item = &'a OutgoingRecord>,
    restarts: &[usize],
) -> (Stage, Vec<Batch>) {
    let mut stage = Stage::behind_tier(config, features(), BATCH);
    let mut batches = Vec::new();
    let mut next = [0i64; N_TOPIC_PARTITIONS as usize];
    for (index, outgoing) in records.into_iter().enumerate() {
        let partition = usize::try_from(outgoing.record.user.0).unwrap() % next.len();
        let recorded = decoder.decode(&Record {
            position: Position {
                partition: PartitionId {
                    stream: Stream::Samples,
                    partition: i32::try_from(partition).unwrap(),
                },
                offset: next[partition],
            },
            timestamp_ms: outgoing.timestamp_ms,
            payload: Some(wire.encode(&outgoing.record)),
            metadata: None,
        });
        next[partition] += 1;
        match &recorded.event {
            Ok(Event::JoinRecord(reported)) => {
                // A quarantine removes items of a slate.
                let is_cut = n_shown(reported) < n_shown(&outgoing.record);
                assert!(
                    is_cut || **reported == outgoing.record,
                    "it reads as it was written"
                );
            }
            other => assert!(matches!(other, Err(reject) if reject.reason == RejectReason::Quarantined)),
        }
        stage.take(&recorded, &mut batches).unwrap();
        if restarts.contains(&index) {
            let checkpoint = stage.checkpoint().unwrap();
            stage = Stage::restore(
                &StoreConfig::Memory,
                config,
                FeatureConfig::default(),
                &checkpoint.bytes,
            )
            .unwrap();
        }
        stage.audit().unwrap();
    }
    batches.extend(stage.flush());
    (stage, batches)
}

/// The samples by batch. Slates shown since the batch before serve validation alone and are in no checkpoint.
fn samples(batches: Vec<Batch>) -> Vec<Vec<Sample>> {
    batches.into_iter().map(|batch| batch.samples).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(300), ..ProptestConfig::default() })]

    #[test]
    fn a_pair_that_moves_is_reported_as_if_it_had_not_moved(config in config(), drafts in drafts(), moved_at in 0..250usize) {
        let log = log(&drafts);
        let stayed = run(&config, &log, &whole());
        let moved_at = moved_at % stayed.len();
        let committed = stayed[moved_at].1;
        // The delays of this world are all into the past.
        let (found, held) = match committed.warm_up_ms(&config, 0) {
            Some(ms) => (Some(find(&log, ms).0), find(&log, ms).1),
            None => (None, find(&log, 0).1),
        };
        let (start, trouble) = StartPoint::choose(held, Some(committed), found);
        prop_assert_eq!(trouble, None);
        let moved = run(&config, &log, &start);
        let reported = |steps: &[(Vec<OutgoingRecord>, ReportProgress, bool)]| steps.iter().flat_map(|step| step.0.clone()).collect::<Vec<_>>();
        let (before, after): (Vec<_>, Vec<_>) = moved.into_iter().partition(|step| !step.2);
        // The new owner may wait longer for an action that was given up before.
        prop_assert_eq!(without_resolved(reported(&after)), without_resolved(reported(&stayed[moved_at + 1..])));
        let is_late = |outgoing: &OutgoingRecord| matches!(outgoing.record.event, JoinEvent::Late { .. });
        prop_assert!(reported(&before).iter().all(is_late));
    }

    #[test]
    fn a_repeated_report_is_learned_once(
        config in config(),
        drafts in drafts(),
        (again, dies) in (0..1000usize, 0..1000usize),
        turns in vec(any::<bool>(), 64),
        restarts in vec(0..500usize, 0..4),
    ) {
        let steps = run(&config, &log(&drafts), &whole());
        let records: Vec<OutgoingRecord> = steps.into_iter().flat_map(|step| step.0).collect();
        let (once, batches) = receive(&config, &records, &[]);
        prop_assert_eq!(once.counters().actions, reported_actions(&records).len() as u64);
        // One process dies after `dies`; meanwhile another one has started at `again`, and both write.
        let dies = dies % (records.len() + 1);
        let again = again % (dies + 1);
        let (mut first, mut second) = (records[again..dies].iter(), records[again..].iter());
        let mut both: Vec<&OutgoingRecord> = records[..again].iter().collect();
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
        let (twice, batches_twice) = receive(&config, both, &restarts);
        prop_assert_eq!(samples(batches), samples(batches_twice));
        prop_assert_eq!(once.counters(), twice.counters());
        let (once, twice) = (once.checkpoint().unwrap(), twice.checkpoint().unwrap());
        prop_assert_eq!(once.ledger, twice.ledger);
        prop_assert_eq!(once.bytes.join, twice.bytes.join);
        prop_assert_eq!(once.bytes.features, twice.bytes.features);
    }

    #[test]
    fn each_impression_on_time_has_one_outcome_under_any_owners_and_any_order(
        config in config(),
        drafts in drafts(),
        (commits, dies) in (0..250usize, 0..250usize),
        turns in [vec(0..9u8, 40), vec(0..9u8, 40)],
    ) {
        let mut drafts = drafts;
        for draft in &mut drafts {
            draft.delay = draft.delay.min(config.allowed_lateness.ms());
        }
        let config = JoinConfig { label_policy: LabelPolicy::Wait, ..config };
        let mut log = log(&drafts);
        log.extend(end(&log));
        // The two owners interleave the partitions differently.
        let first = run_mixed(&config, &log, &whole(), &turns[0]);
        let dies = dies % first.len();
        let committed = first[commits % (dies + 1)].1;
        let found = committed.warm_up_ms(&config, 0).map(|ms| find(&log, ms).0);
        let (start, _) = StartPoint::choose(find(&log, 0).1, Some(committed), found);
        let second = run_mixed(&config, &log, &start, &turns[1]);
        let records: Vec<OutgoingRecord> = first.into_iter().take(dies + 1).chain(second).flat_map(|step| step.0).collect();
        let (_, batches) = receive(&config, &records, &[]);

        let mut shown = BTreeMap::new();
        for recorded in &log {
            if let Ok(Event::Impression(impression)) = &recorded.event {
                for item in &impression.items {
                    shown.entry((impression.request, item.item)).or_insert(recorded.position);
                }
            }
        }
        shown.remove(&(Id(9_999), Id(0)));
        let mut expected: Vec<_> =
            shown.iter().flat_map(|((_, item), at)| [0, 1].map(|task| (*at, *item, task))).collect();
        expected.sort_unstable();
        let found: Vec<_> =
            outcomes(&samples(batches)).into_iter().map(|(at, item, _, task, _)| (at, item, task)).collect();
        let missing: Vec<_> = expected.iter().filter(|outcome| !found.contains(outcome)).collect();
        let more: Vec<_> = found.iter().filter(|outcome| !expected.contains(outcome)).collect();
        prop_assert!(missing.is_empty() && more.is_empty(), "missing {missing:?}, more {more:?}");
        prop_assert_eq!(found.len(), expected.len());
    }

    #[test]
    fn no_action_is_counted_twice_under_any_owners_and_any_order(
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
        let (start, _) = StartPoint::choose(find(&log, 0).1, Some(committed), found);
        let second = run_mixed(&config, &log, &start, &turns[1]);
        let records: Vec<OutgoingRecord> = first.into_iter().take(dies + 1).chain(second).flat_map(|step| step.0).collect();
        let (stage, _) = receive(&config, &records, &restarts);
        // An action that is late for one owner may be an orphan or a duplicate for the other, which then omits it.
        let (counted, reported) = (stage.counters().actions, reported_actions(&records).len() as u64);
        prop_assert!(counted <= reported, "{counted} of {reported}");
    }

    #[test]
    fn a_learner_behind_the_tier_learns_what_one_process_learns(config in config(), drafts in drafts()) {
        let mut log = log(&drafts);
        log.extend(end(&log));
        let mut stage = Stage::new(&StoreConfig::Memory, &config, pair(0), features(), BATCH).unwrap();
        let mut batches = Vec::new();
        for recorded in &log {
            stage.take(recorded, &mut batches).unwrap();
        }
        batches.extend(stage.flush());
        // The joiner merges by record timestamp, which is the order of this log up to ties.
        let records: Vec<OutgoingRecord> = in_order(&config, &log);
        let (behind, batches_behind) = receive(&config, &records, &[]);
        let reported = |stage: &Stage| {
            let counters = stage.counters();
            (counters.accepted, counters.late_impressions, counters.matched)
        };
        prop_assert_eq!(reported(&stage), reported(&behind));
        let (batches, batches_behind) = (samples(batches), samples(batches_behind));
        prop_assert_eq!(outcomes(&batches), outcomes(&batches_behind));
        // Under `eager`, while the log starts, one process holds positives back by the time of its first impression
        // and task by task, the learner by the first window reported closed: the same samples in another order.
        if config.label_policy != LabelPolicy::Eager {
            prop_assert_eq!(batches, batches_behind);
            prop_assert_eq!(stage.ledger(), behind.ledger());
            prop_assert_eq!(stage.checkpoint().unwrap().bytes.features, behind.checkpoint().unwrap().bytes.features);
        }
    }
}

/// Items of an accepted impression.
fn n_shown(record: &JoinRecord) -> usize {
    match &record.event {
        JoinEvent::Shown { impression, .. } => impression.items.len(),
        _ => 0,
    }
}

/// The same without the offsets of resolved actions.
fn without_resolved(mut records: Vec<OutgoingRecord>) -> Vec<OutgoingRecord> {
    for outgoing in &mut records {
        if let JoinEvent::Outcome { resolved_before, .. } | JoinEvent::LateAction { resolved_before, .. } =
            &mut outgoing.record.event
        {
            *resolved_before = 0;
        }
    }
    records
}

/// The offsets of all reported actions, and their places in their records.
fn reported_actions(records: &[OutgoingRecord]) -> BTreeSet<(i64, u16)> {
    let of = |outgoing: &OutgoingRecord| match &outgoing.record.event {
        JoinEvent::Outcome { actions, .. } => actions
            .iter()
            .map(|action| (action.offset, action.part))
            .collect(),
        JoinEvent::LateAction { part, .. } => vec![(outgoing.record.at.offset, *part)],
        _ => Vec::new(),
    };
    records.iter().flat_map(of).collect()
}

/// Every label of the batches, sorted.
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

/// The join records of a joiner that reads the records one by one.
fn in_order(config: &JoinConfig, log: &[DecodedRecord]) -> Vec<OutgoingRecord> {
    let mut joiner = PartitionJoiner::new(config.clone(), 0, &whole()).unwrap();
    let mut records = Vec::new();
    for recorded in log {
        joiner.push(recorded.clone()).unwrap();
        pair(0).iter().for_each(|id| joiner.at_end(*id));
        joiner.step(true, &mut records).unwrap();
    }
    records
}
