use std::sync::Arc;

use ouzel_sample::{EventTime, HistoryEntry, Id, Request};
use tch::{Kind, Tensor};

use super::*;
use crate::config::{ContentConfig, RetrievalConfig};
use crate::cpu::testing::{Case, Tolerance, close, made_up, tensor};
use crate::inputs::TowerItem;

fn config(hidden: usize, vector_widths: [usize; 2]) -> ModelConfig {
    ModelConfig {
        retrieval: RetrievalConfig {
            width: 6,
            hidden,
            temperature: 0.2,
            own_rows: true,
        },
        content: ContentConfig {
            vector_widths,
            ..ContentConfig::default()
        },
        ..ModelConfig::default()
    }
}

fn request(user: u64, history: &[u64]) -> Request {
    let entry = |item: &u64| HistoryEntry {
        item: Id(*item),
        ts: EventTime(0),
        attribute: Id(0),
        task: 0,
    };
    Request {
        past: Vec::new(),
        id: Id(user),
        user: Id(user),
        ts: EventTime(1),
        context: vec![Id(70), Id(71)],
        history: history.iter().map(entry).collect(),
        contents: Vec::new(),
        n_items: 1,
    }
}

fn inputs(config: &ModelConfig) -> TowerInputs {
    let mut inputs = TowerInputs::default();
    inputs.add_user(config, &request(1, &[1, 2, 3, 4, 5, 6, 7]));
    inputs.add_user(config, &request(2, &[]));
    inputs.add_user(config, &request(3, &[2]));
    for (item, attributes) in [(1, vec![50, 51]), (2, vec![]), (3, vec![50]), (9, vec![52])] {
        let content = |modality: u64, width: usize| -> Option<Arc<[f32]>> {
            // One item without any vector, one with a vector of another width.
            match (item, modality) {
                (2, _) => None,
                (9, 0) => Some(made_up(item, width + 1).into()),
                _ => Some(made_up(item + 10 * modality, width).into()),
            }
        };
        let [text, image] = config.content.vector_widths;
        inputs.add_item(&TowerItem {
            item: Id(item),
            attributes: attributes.into_iter().map(Id).collect(),
            contents: [content(0, text), content(1, image)],
        });
    }
    inputs
}

fn softmax() -> SampledSoftmax {
    SampledSoftmax {
        positives: vec![0, 3, 1],
        corrections: vec![0.3, -0.7, 1.1, 0.2],
        masked: vec![vec![1], Vec::new(), vec![2, 3]],
    }
}

/// The pooled fields of `pool` as a product with the rows, so that autograd reaches them.
fn pooled(pool: &crate::inputs::Pool, rows: &Tensor, n_fields: i64) -> Tensor {
    let n_rows = usize::try_from(rows.size()[0]).unwrap();
    let mut matrix = vec![0.0f32; pool.len() * n_rows];
    for (at, segment) in pool.segments().enumerate() {
        for (row, coefficient) in segment {
            matrix[at * n_rows + row] += coefficient;
        }
    }
    let segments = tensor(&matrix, &[pool.len(), n_rows]).matmul(rows);
    segments.reshape([-1, n_fields * rows.size()[1]])
}

/// The towers in tensors.
fn tower(case: &Case, name: &str, x: &Tensor) -> Tensor {
    let get = |part: &str| case.tensor(&format!("retrieval.{name}.{part}"));
    let mut z = x.matmul(&get("linear.weight").tr()) + get("linear.bias");
    if case.find(&format!("retrieval.{name}.out.weight")).is_some() {
        let hidden = (x.matmul(&get("hidden.weight").tr()) + get("hidden.bias")).silu();
        z += hidden.matmul(&get("out.weight").tr());
    }
    let length = z.square().sum_dim_intlist(1, true, Kind::Float).sqrt();
    z / length
}

#[test]
fn the_loss_and_its_gradients_are_those_of_autograd() {
    for (hidden, widths) in [(0, [0, 0]), (5, [0, 0]), (5, [4, 3])] {
        let config = config(hidden, widths);
        let inputs = inputs(&config);
        let n_keys = inputs.keys().len();
        let case = Case::of_model(&config, |name| name.starts_with(PREFIX)).input("rows", &[n_keys, 6]);
        let towers = Towers::new(&case, &config).unwrap();
        let (rows, softmax) = (case.values("rows"), softmax());
        let found = towers.learn(&inputs, rows, &softmax);

        let users = tower(&case, "user", &pooled(&inputs.users, case.tensor("rows"), 4));
        let mut fields = vec![pooled(&inputs.items, case.tensor("rows"), 2)];
        for (modality, name) in MODALITIES.iter().enumerate().filter(|(at, _)| widths[*at] > 0) {
            let width = widths[modality];
            let padded = inputs.contents.iter().flat_map(|item| {
                let vector = item[modality].as_ref().filter(|vector| vector.len() == width);
                vector.map_or(vec![0.0; width], |vector| vector.to_vec())
            });
            let vectors = tensor(&padded.collect::<Vec<f32>>(), &[4, width]);
            let weight = case.tensor(&format!("retrieval.content.{name}.weight"));
            fields.push(vectors.matmul(&weight.tr()));
        }
        let items = tower(&case, "item", &Tensor::cat(&fields, 1));
        close("users", &towers.users(&inputs, rows), &users, Tolerance::F32);
        close("items", &towers.items(&inputs, rows), &items, Tolerance::F32);

        // The corrections of positives are 0, and masked items are far below all others.
        let mut added = Vec::new();
        for (positive, masked) in softmax.positives.iter().zip(&softmax.masked) {
            added.extend((0..4).map(|item| match () {
                () if item == *positive => 0.0,
                () if masked.contains(&item) => -1e9,
                () => softmax.corrections[item],
            }));
        }
        let logits = users.matmul(&items.tr()) / f64::from(config.retrieval.temperature);
        let logits = logits + tensor(&added, &[3, 4]);
        let positives = Tensor::from_slice(&[0i64, 3, 1]);
        let loss = logits.cross_entropy_loss::<Tensor>(&positives, None, tch::Reduction::Mean, -100, 0.0);
        // `check` compares the gradients of the output times a direction.
        let direction = case.direction(&loss)[0];
        let mut gradients = found.dense.clone();
        gradients.push(("rows".to_owned(), found.rows.clone()));
        for (_, gradient) in &mut gradients {
            gradient.iter_mut().for_each(|g| *g *= direction);
        }
        #[expect(clippy::cast_possible_truncation, reason = "compared as f32")]
        let output = [found.loss as f32];
        case.check(&loss, &output, &gradients, Tolerance::F32);
    }
}

/// In a small world the mean gradient over many samples is that of the softmax over all items.
#[test]
fn corrected_samples_give_the_gradient_of_the_whole_softmax() {
    let scores = [1.2f32, -0.4, 0.3, 2.0, -1.5, 0.8];
    let share = [0.35f32, 0.05, 0.2, 0.1, 0.25, 0.05];
    let (positive, n_draws) = (3, 200u16);
    let whole = {
        let sum: f32 = scores.iter().map(|s| s.exp()).sum();
        scores.map(|s| s.exp() / sum)
    };
    let (mut corrected, mut plain) = ([0.0f64; 6], [0.0f64; 6]);
    let n_rounds = 2000u16;
    for round in 0..u64::from(n_rounds) {
        let mut counts = [0u16; 6];
        for draw in 0..u64::from(n_draws) {
            let mut left = crate::random::uniform(5, round, draw);
            let drawn = share.iter().position(|share| {
                left -= share;
                left < 0.0
            });
            counts[drawn.unwrap_or(5)] += 1;
        }
        for (sum, is_corrected) in [(&mut corrected, true), (&mut plain, false)] {
            let corrections = counts.iter().zip(share).map(|(count, share)| {
                let log_count = f32::from(*count).ln();
                log_count
                    - if is_corrected {
                        (f32::from(n_draws) * share).ln()
                    } else {
                        0.0
                    }
            });
            let softmax = SampledSoftmax {
                positives: vec![positive],
                corrections: corrections.collect(),
                masked: vec![Vec::new()],
            };
            let mut logits = scores.to_vec();
            softmax.gradient(&mut logits, 6);
            for (sum, gradient) in sum.iter_mut().zip(logits) {
                *sum += f64::from(gradient) / f64::from(n_rounds);
            }
        }
    }
    let error = |found: &[f64; 6]| {
        let expected = (0..6).map(|at| f64::from(whole[at]) - if at == positive { 1.0 } else { 0.0 });
        found
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max)
    };
    assert!(error(&corrected) < 0.005, "{corrected:?} {whole:?}");
    assert!(error(&plain) > 0.05, "without the correction: {plain:?}");
}
