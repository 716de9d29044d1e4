//! Made-up requests with histories and contents, and models whose every weight is at work.

use std::sync::Arc;

use ouzel_model::{
    ContentConfig, HeadConfig, HeadKind, Inputs, InterestConfig, Key, LongHistoryConfig, LoraConfig, Model,
    ModelConfig, SequenceConfig, SequenceKind, Weights, normal, weight_specs,
};
use ouzel_sample::{
    Attribute, AttributeField, Candidate, Dense, EventTime, HistoryEntry, Id, ItemVectors, N_DENSE, Request,
    ShownLogits, ShownSlate, Vector, VectorId, VectorMap, VectorTable,
};
use tch::Device;

const DAY_MS: i64 = 86_400_000;

/// Items with contents: some with text, some with a picture, some with both, some with neither.
pub(crate) struct World {
    table: VectorTable,
}

impl World {
    pub(crate) fn new() -> Self {
        let table = VectorTable::default();
        for item in 0..40u64 {
            let vector = |lane: u64, width: u64| {
                let values: Vec<f32> = (0..width).map(|i| normal(5, item, lane + i)).collect();
                Vector::provided(&values)
            };
            let mut vectors = ItemVectors::default();
            if item % 4 != 3 {
                vectors[0] = vector(0, 6);
            }
            if item % 3 != 0 {
                vectors[1] = vector(100, 5);
            }
            table.put(Id(item), vectors);
        }
        Self { table }
    }

    fn content(&self, item: u64) -> VectorId {
        self.table.current(Id(item))
    }

    /// A request of a user with `n_past` actions, with these candidates.
    pub(crate) fn slate(&self, user: u64, n_past: u64, items: &[u64]) -> ShownSlate {
        let now = EventTime(100 * DAY_MS);
        let past = |n: u64| (user * 7 + n * 3) % 40;
        let history: Vec<HistoryEntry> = (0..n_past)
            .map(|n| HistoryEntry {
                item: Id(past(n)),
                ts: EventTime(now.0 - i64::try_from((n_past - n) * (n + 1)).unwrap() * 60_000),
                attribute: Id(1000 + past(n) % 3),
                task: u8::try_from(n % 2).unwrap(),
            })
            .collect();
        let list = |attribute: u64| -> Vec<HistoryEntry> {
            let entries = 0..n_past + attribute;
            entries
                .map(|n| HistoryEntry {
                    item: Id((user * 5 + n * 3 + attribute) % 40),
                    ts: EventTime(now.0 - i64::try_from(n_past + attribute - n).unwrap() * DAY_MS),
                    attribute: Id(1000 + attribute),
                    task: 0,
                })
                .collect()
        };
        let lists = match n_past {
            0 => Vec::new(),
            _ => vec![list(0), list(1)],
        };
        let candidate = |item: &u64| {
            let dense: Vec<f32> = (0..N_DENSE)
                .map(|lane| {
                    if lane % 5 == 4 {
                        0.0
                    } else {
                        normal(9, user * 50 + item, lane as u64)
                    }
                })
                .collect();
            Arc::new(Candidate {
                // Of the third attribute there is no past action.
                past: (n_past > 0 && item % 3 < 2).then(|| u16::try_from(item % 3).unwrap()),
                item: Id(*item),
                attributes: vec![Attribute {
                    field: AttributeField::Category,
                    value: Id(1000 + item % 3),
                }],
                position: None,
                dense: Dense::try_from(dense).unwrap(),
                content: self.content(*item),
                predicted: ShownLogits::default(),
            })
        };
        ShownSlate {
            request: Arc::new(Request {
                past: lists,
                id: Id(user),
                user: Id(user),
                ts: now,
                context: vec![Id(user % 2)],
                contents: (0..n_past).map(|n| self.content(past(n))).collect(),
                history,
                n_items: u16::try_from(items.len()).unwrap(),
            }),
            candidates: items.iter().map(candidate).collect(),
        }
    }

    pub(crate) fn vectors(&self, slates: &[ShownSlate]) -> VectorMap {
        let ids = slates.iter().flat_map(|slate| {
            let of_items = slate.candidates.iter().map(|candidate| candidate.content);
            slate.request.contents.iter().copied().chain(of_items)
        });
        VectorMap::new(&self.table.read(), ids)
    }

    /// Scores `[n_candidates * n_tasks]`, all slates in one batch.
    pub(crate) fn score(&self, model: &mut Model, weights: &Weights, slates: &[ShownSlate]) -> Vec<f32> {
        let inputs = Inputs::of_shown(&weights.config, slates, &self.vectors(slates));
        model.score(&inputs, weights).unwrap()
    }
}

/// Every sequence block and every head, with content and without.
pub(crate) fn models() -> Vec<(String, ModelConfig)> {
    let mut models = Vec::new();
    for sequence in [
        SequenceKind::Mean,
        SequenceKind::Din,
        SequenceKind::Gru,
        SequenceKind::Dien,
        SequenceKind::Sasrec,
        SequenceKind::Bst,
        SequenceKind::Hstu,
        SequenceKind::HstuResearch,
    ] {
        for has_content in [false, true] {
            let head = match (sequence, has_content) {
                (SequenceKind::Din, true) => HeadKind::Mmoe,
                (SequenceKind::Hstu, true) => HeadKind::SharedBottom,
                _ => HeadKind::Single,
            };
            models.push((
                format!("{sequence:?} {head:?} content: {has_content}"),
                model(sequence, head, has_content),
            ));
        }
    }
    // On the CPU a last layer that is also the first runs in plain loops.
    let mut one_layer = model(SequenceKind::Hstu, HeadKind::Single, true);
    one_layer.sequence.layers = 1;
    models.push(("Hstu of one layer".to_owned(), one_layer));
    let mut timed = model(SequenceKind::Din, HeadKind::Single, false);
    timed.sequence.attention_heads = 2;
    timed.sequence.time_buckets = true;
    models.push(("Din of two heads with times".to_owned(), timed));
    for sequence in [SequenceKind::Mean, SequenceKind::Din, SequenceKind::HstuResearch] {
        let mut long = model(sequence, HeadKind::Single, sequence == SequenceKind::Din);
        long.long_history = LongHistoryConfig {
            enabled: true,
            len: 7,
            attention_hidden: [8, 4],
            heads: 2,
        };
        models.push((format!("{sequence:?} with a long history"), long));
    }
    for (senet, ppnet) in [(true, false), (false, true), (true, true)] {
        let gated = ModelConfig {
            senet,
            ppnet,
            ..model(SequenceKind::Din, HeadKind::Single, ppnet)
        };
        models.push((format!("gates of fields: {senet}, of layers: {ppnet}"), gated));
    }
    for kind in [HeadKind::Single, HeadKind::Mmoe] {
        let pooled = ModelConfig {
            pool_slate: true,
            ..model(SequenceKind::Din, kind, true)
        };
        models.push((format!("{kind:?}, pooled over the slate"), pooled));
    }
    models
}

pub(crate) fn model(sequence: SequenceKind, head: HeadKind, has_content: bool) -> ModelConfig {
    ModelConfig {
        dim: 4,
        history_len: 12,
        hidden: vec![16, 8],
        learned_missing: true,
        tasks: vec!["click".into(), "order".into()],
        content: ContentConfig {
            enabled: has_content,
            vector_widths: [6, 5],
            width: 8,
            ..ContentConfig::default()
        },
        interest: InterestConfig {
            enabled: has_content,
            width: 8,
            history_len: 12,
        },
        contrast_width: if has_content { 8 } else { 0 },
        sequence: SequenceConfig {
            kind: sequence,
            history_len: 12,
            width: 8,
            layers: 2,
            heads: 2,
            key_width: 4,
            value_width: 4,
            attention_hidden: [8, 4],
            ..SequenceConfig::default()
        },
        head: HeadConfig {
            kind: head,
            experts: 3,
            expert_width: 8,
            tower_width: 4,
        },
        // Adapters are about as large as the weights below them: rounding is then that of scores.
        lora: LoraConfig {
            alpha: 16.0,
            ..LoraConfig::default()
        },
        ..ModelConfig::default()
    }
}

/// Weights none of which is at a value where it would do nothing.
pub(crate) fn weights(config: &ModelConfig) -> Weights {
    let mut weights = Weights::new(config.clone(), 1, 0.1, 2);
    for (stream, spec) in (0u64..).zip(weight_specs(config)) {
        let array = weights.dense.get_mut(&spec.name).unwrap();
        array.values = array
            .values
            .iter()
            .zip(0u64..)
            .map(|(value, lane)| value + 0.3 * normal(77, stream, lane))
            .collect();
    }
    for item in 0..40u64 {
        for key in [Key::item(Id(item)), Key::attribute(Id(1000 + item % 3))] {
            weights.rows.insert(key);
        }
    }
    weights
}

pub(crate) fn net(weights: &Weights) -> Model {
    tch::set_num_threads(1);
    Model::new(weights, Device::Cpu).unwrap()
}

pub(crate) fn served(weights: &Weights) -> Model {
    tch::set_num_threads(1);
    Model::for_inference(weights, Device::Cpu).unwrap()
}

/// Largest difference of two lists of scores, over `1 + |score|`.
pub(crate) fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs() / (1.0 + b.abs()));
    apart.fold(0.0, f32::max)
}
