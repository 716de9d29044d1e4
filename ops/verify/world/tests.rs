use std::collections::BTreeMap;
use std::sync::Arc;

use ouzel_ingest::join::StoreConfig;
use ouzel_ingest::order::Orderer;
use ouzel_ingest::{Decoder, Stage};
use ouzel_sample::{FeatureState, PartitionId, Position, Positions, Record};

use super::*;
use crate::verify::settings::settings;

const N_PARTITIONS: u64 = 3;

/// The world's records by partition, as keys would spread them.
fn log(world: &World) -> BTreeMap<PartitionId, Vec<Record>> {
    let mut log: BTreeMap<PartitionId, Vec<Record>> = BTreeMap::new();
    for event in &world.events {
        let hash = u64::from(blake3::hash(event.key.as_bytes()).as_bytes()[0]);
        let partition = PartitionId {
            stream: event.stream,
            partition: i32::try_from(hash % N_PARTITIONS).unwrap(),
        };
        let records = log.entry(partition).or_default();
        records.push(Record {
            position: Position {
                partition,
                offset: i64::try_from(records.len()).unwrap(),
            },
            timestamp_ms: Some(event.record_ms),
            payload: Some(event.payload.clone()),
        });
    }
    log
}

/// Joins the log in the merged order, or taking partitions by `dice`; returns the counters and the ledger.
fn join(world: &World, dice: Option<Dice>) -> (Counters, String) {
    let config = settings();
    let mut log = log(world);
    let decoder = Decoder::new(config.id_space(), config.task_names(), config.events.clone());
    let timed: Vec<_> = log
        .keys()
        .copied()
        .filter(|id| id.stream != Stream::Items)
        .collect();
    let features = Arc::new(FeatureState::new(config.feature_config()));
    let mut stage = Stage::new(&StoreConfig::Memory, &config.join, timed, features, 32).unwrap();
    let mut batches = Vec::new();
    match dice {
        None => {
            let start: Positions = log.keys().map(|id| (*id, 0)).collect();
            let mut orderer = Orderer::new(&start, true);
            for (id, records) in &log {
                for record in records {
                    orderer.push(decoder.decode(record)).unwrap();
                }
                orderer.finish(*id);
            }
            while let Some(recorded) = orderer.next(false).unwrap() {
                stage.take(&recorded, &mut batches).unwrap();
            }
        }
        Some(mut dice) => {
            for records in log.values_mut() {
                records.reverse();
            }
            while !log.is_empty() {
                let id = *log.keys().nth(dice.index(log.len())).unwrap();
                for _ in 0..dice.index(40) {
                    if let Some(record) = log.get_mut(&id).and_then(Vec::pop) {
                        stage.take(&decoder.decode(&record), &mut batches).unwrap();
                    }
                }
                log.retain(|_, records| !records.is_empty());
            }
        }
    }
    stage.audit().unwrap();
    (stage.counters().clone(), stage.ledger().hex())
}

#[test]
fn the_world_knows_what_becomes_of_its_records_in_any_order_of_partitions() {
    for seed in 0..4 {
        let world = World::new(seed, 1500, false);
        let (merged, ledger) = join(&world, None);
        assert_eq!(world.expected.differences(&merged), Vec::<String>::new());
        let (mixed, other) = join(&world, Some(Dice::new(seed, "order")));
        assert_eq!(world.expected.differences(&mixed), Vec::<String>::new());
        assert_ne!(ledger, other, "another order makes other samples");
        for outcome in world.expected.impressions.iter().chain(&world.expected.actions) {
            assert!(*outcome > 0, "{:?} has every outcome", world.expected);
        }
    }
}

#[test]
fn stragglers_make_late_impressions_and_keep_the_sums() {
    let world = World::new(1, 1500, true);
    let (counters, _) = join(&world, None);
    assert_eq!(world.expected.differences(&counters), Vec::<String>::new());
    assert!(counters.late_impressions > 0, "{counters:?}");
}

#[test]
fn one_outcome_too_many_or_too_few_is_named() {
    let world = World::new(2, 200, false);
    let (counters, _) = join(&world, None);
    let mut lost = counters.clone();
    lost.matched -= 1;
    assert_eq!(world.expected.differences(&lost).len(), 1);
    let mut twice = counters;
    twice.tasks[0].positive += 1;
    assert!(world.expected.differences(&twice)[0].starts_with("positives of a task"));
}

#[test]
fn a_seed_decides_every_record() {
    let events = |seed| World::new(seed, 100, true).events;
    assert_eq!(events(3), events(3));
    assert_ne!(events(3), events(4));
}
