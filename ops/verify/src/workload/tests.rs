use std::collections::BTreeMap;
use std::sync::Arc;

use ouzel_ingest::join::{JoinConfig, StoreConfig};
use ouzel_ingest::order::Orderer;
use ouzel_ingest::{Decoder, EventConfig, Stage};
use ouzel_sample::{FeatureState, IdSpace, PartitionId, Position, Positions, Record};

use super::*;
use crate::rng::SeededRng;
use crate::settings::DaemonSettings;

const N_PARTITIONS: u64 = 3;

/// The records of the workload by partition; the key decides the partition.
fn partitions(workload: &Workload) -> BTreeMap<PartitionId, Vec<Record>> {
    let mut partitions: BTreeMap<PartitionId, Vec<Record>> = BTreeMap::new();
    for event in &workload.events {
        let hash = u64::from(blake3::hash(event.key.as_bytes()).as_bytes()[0]);
        let partition = PartitionId {
            stream: event.stream,
            partition: i32::try_from(hash % N_PARTITIONS).unwrap(),
        };
        let records = partitions.entry(partition).or_default();
        records.push(Record {
            position: Position {
                partition,
                offset: i64::try_from(records.len()).unwrap(),
            },
            timestamp_ms: Some(event.record_ms),
            payload: Some(event.payload.clone()),
            metadata: None,
        });
    }
    partitions
}

/// Joins the records in the merged order, or with partitions in an order that `rng` decides. Returns the counters and
/// the ledger.
fn join(workload: &Workload, rng: Option<SeededRng>) -> (Counters, String) {
    let settings = DaemonSettings::new("").of_workload(workload);
    let join: JoinConfig = settings.section("join").unwrap();
    let mut partitions = partitions(workload);
    let decoder = Decoder::new(IdSpace::new(0), join.task_names(), EventConfig::default()).unwrap();
    let timed = partitions.keys().copied().filter(|id| !id.stream.is_catalog());
    let features = Arc::new(FeatureState::new(settings.section("features").unwrap()));
    let mut stage = Stage::new(&StoreConfig::Memory, &join, timed, features, 32).unwrap();
    let mut batches = Vec::new();
    match rng {
        None => {
            let start: Positions = partitions.keys().map(|id| (*id, 0)).collect();
            let mut orderer = Orderer::new(&start, true);
            for (id, records) in &partitions {
                for record in records {
                    orderer.push(decoder.decode(record)).unwrap();
                }
                orderer.finish(*id);
            }
            while let Some(recorded) = orderer.next(false).unwrap() {
                stage.take(&recorded, &mut batches).unwrap();
            }
        }
        Some(mut rng) => {
            for records in partitions.values_mut() {
                records.reverse();
            }
            while !partitions.is_empty() {
                let id = *partitions.keys().nth(rng.index(partitions.len())).unwrap();
                for _ in 0..rng.index(40) {
                    if let Some(record) = partitions.get_mut(&id).and_then(Vec::pop) {
                        stage.take(&decoder.decode(&record), &mut batches).unwrap();
                    }
                }
                partitions.retain(|_, records| !records.is_empty());
            }
        }
    }
    stage.audit().unwrap();
    (stage.counters().clone(), stage.ledger().hex())
}

#[test]
fn the_expected_outcomes_hold_for_any_order_across_partitions() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..4 {
        let workload = Workload::new(seed, 1500, false);
        let (merged, ledger) = join(&workload, None);
        assert_eq!(workload.expected.differences(&merged), Vec::<String>::new());
        let (mixed, other) = join(&workload, Some(SeededRng::new(seed, "order")));
        assert_eq!(workload.expected.differences(&mixed), Vec::<String>::new());
        assert_ne!(ledger, other, "another order makes other samples");
        let found = &workload.expected.counters;
        let is_bare = |event: &&Event| {
            let payload: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
            event.stream == Stream::Actions && payload["request_id"].is_null()
        };
        let n_bare = workload.events.iter().filter(is_bare).count() as u64;
        for (outcome, count) in [
            ("actions joined by user and item", n_bare - found.unattributed),
            ("duplicate impressions", found.duplicate_impressions),
            ("rejected impressions", found.rejected_impressions),
            ("duplicate actions", found.duplicate_actions),
            ("late actions", found.late_actions),
            ("orphans", found.orphans),
            ("unattributed", found.unattributed),
            ("items shown again", found.duplicate_items),
            ("rejected actions", found.rejected_actions),
        ] {
            *seen.entry(outcome).or_default() += count;
        }
    }
    assert!(seen.values().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn stragglers_make_late_impressions_and_preserve_sums() {
    let workload = Workload::new(1, 1500, true);
    let (counters, _) = join(&workload, None);
    assert_eq!(workload.expected.differences(&counters), Vec::<String>::new());
    assert!(counters.late_impressions > 0, "{counters:?}");
}

#[test]
fn a_missing_or_additional_outcome_is_named() {
    let workload = Workload::new(2, 200, false);
    let (counters, _) = join(&workload, None);
    let mut missing = counters.clone();
    missing.matched -= 1;
    assert_eq!(workload.expected.differences(&missing).len(), 1);
    let mut additional = counters;
    additional.tasks[0].positive += 1;
    assert!(workload.expected.differences(&additional)[0].starts_with("tasks = "));
}

#[test]
fn the_seed_decides_every_record() {
    let events = |seed| Workload::new(seed, 100, true).events;
    assert_eq!(events(3), events(3));
    assert_ne!(events(3), events(4));
}
