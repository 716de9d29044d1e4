//! The live features of a log agree with their formulas, computed elsewhere, and are the same in training and serving.
//!
//! `tests/peers/recipe2_features.py` computes the formulas in double precision and says how to compare other logs.
//! `OUZEL_RECIPE2` names the folder that it wrote; the default is a small made-up log.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use ouzel_ingest::join::{JoinConfig, StoreConfig};
use ouzel_ingest::{DataDir, Decoder, EventConfig, ImmediateLabels, ReadOptions, Stage, seed_histories};
use ouzel_sample::{
    Candidate, Event, EventTime, FeatureConfig, FeatureQuery, FeatureState, Id, IdKind, IdSpace, Impression,
    PartitionId, Stream, dense_index,
};
use serde::Deserialize;

/// Largest difference, of the larger of 1 and the expected value.
const TOLERANCE: f64 = 1e-5;

/// A line of `expected.jsonl`: each feature with its values in slate order.
#[derive(Deserialize)]
struct Expected {
    request_id: String,
    features: HashMap<String, Vec<f64>>,
}

fn served(features: &FeatureState, slate: &Impression) -> Vec<Candidate> {
    let query = FeatureQuery::of(slate);
    features.read(&query).1
}

/// The stage before the first record of a log.
fn stage(data: &DataDir, ids: IdSpace) -> Stage {
    let partitions =
        [Stream::Impressions, Stream::Actions].map(|stream| PartitionId { stream, partition: 0 });
    // Bounds that no user of a log reaches: the formulas have none.
    let features = FeatureState::new(FeatureConfig {
        value_capacity: 100_000,
        word_capacity: 100_000,
        ..FeatureConfig::default()
    });
    let histories = data.histories().iter().map(|(user, items)| {
        let items = items.iter().map(|item| ids.id(IdKind::Item, item));
        (ids.id(IdKind::User, user), items.collect())
    });
    seed_histories(&features, histories, EventTime(data.summary().first_ts - 1));
    let join = JoinConfig::default();
    Stage::new(&StoreConfig::Memory, &join, partitions, Arc::new(features), 1).expect("a memory store opens")
}

/// Panics unless the values agree with the formulas.
fn compare(expected: &Expected, candidates: &[Candidate]) {
    for (name, values) in &expected.features {
        let at = dense_index(name).unwrap_or_else(|| panic!("no feature is named {name}"));
        assert_eq!(values.len(), candidates.len(), "{}", expected.request_id);
        for (place, (value, candidate)) in values.iter().zip(candidates).enumerate() {
            let found = f64::from(candidate.dense[at]);
            assert!(
                (found - value).abs() <= TOLERANCE * value.abs().max(1.0),
                "{name} of item {place} of {}: {found}, expected {value}",
                expected.request_id
            );
        }
    }
}

#[test]
fn features_agree_with_their_formulas_and_are_the_same_in_training_and_serving() {
    let folder = std::env::var_os("OUZEL_RECIPE2").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/recipe2"),
        PathBuf::from,
    );
    let ids = IdSpace::new(1);
    let decoder = Decoder::new(ids, vec!["click".to_owned()], EventConfig::default()).unwrap();
    let data = DataDir::open(&folder, &decoder, &mut ReadOptions::default()).unwrap();
    let mut labels = ImmediateLabels::collect(&decoder, data.records(Stream::Actions));
    let lines = fs::read_to_string(folder.join("expected.jsonl")).unwrap();
    let expected = lines.lines().map(|line| {
        let expected: Expected = serde_json::from_str(line).unwrap();
        (ids.id(IdKind::Request, &expected.request_id), expected)
    });
    let mut expected: HashMap<Id, Expected> = expected.collect();
    let mut stage = stage(&data, ids);
    let mut batches = Vec::new();
    for record in data.records(Stream::Items) {
        stage.take(&decoder.decode(&record), &mut batches).unwrap();
    }
    for record in data.records(Stream::Impressions) {
        let record = labels.apply(decoder.decode(&record)).unwrap();
        let Ok(Event::Impression(slate)) = &record.event else {
            panic!("the record {:?} is no impression", record.position);
        };
        let served = served(stage.features(), slate);
        stage.take(&record, &mut batches).unwrap();
        let samples = batches.drain(..).flat_map(|batch| batch.samples);
        let learned: Vec<Candidate> = samples.map(|sample| (*sample.candidate).clone()).collect();
        for (served, learned) in served.iter().zip(&learned) {
            let bits = |of: &Candidate| of.dense.map(f32::to_bits);
            assert_eq!((served.item, bits(served)), (learned.item, bits(learned)));
        }
        compare(&expected.remove(&slate.request).unwrap(), &learned);
    }
    assert!(expected.is_empty(), "{} requests were not read", expected.len());
}
