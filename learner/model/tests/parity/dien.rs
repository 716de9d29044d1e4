//! The recurrent blocks: their GRU against libtorch's own, and DIEN against its equations in plain double precision.

use std::collections::BTreeMap;

use ouzel_model::blocks::dien;
use ouzel_model::{Params, normal};
use tch::{Device, Kind, Tensor};

use super::case::{Given, history, layout};

const TOKEN: usize = 6;
const WIDTH: usize = 5;
const LEN: usize = 7;
/// Of one number after seven steps in `f32`.
const TOLERANCE: f64 = 5e-6;

fn drawn(stream: u64, shape: &[i64]) -> Tensor {
    let n: i64 = shape.iter().product();
    let values: Vec<f32> = (0..n.unsigned_abs())
        .map(|lane| normal(23, stream, lane))
        .collect();
    Tensor::from_slice(&values).reshape(shape)
}

fn weights() -> BTreeMap<String, Tensor> {
    let (token, width) = (TOKEN as i64, WIDTH as i64);
    let layers = [
        ("sequence.extract.input.weight", vec![3 * width, token]),
        ("sequence.extract.input.bias", vec![3 * width]),
        ("sequence.extract.state.weight", vec![3 * width, width]),
        ("sequence.extract.state.bias", vec![3 * width]),
        ("sequence.attention.weight", vec![width, token]),
        ("sequence.evolve.input.weight", vec![3 * width, width]),
        ("sequence.evolve.input.bias", vec![3 * width]),
        ("sequence.evolve.state.weight", vec![3 * width, width]),
        ("sequence.evolve.state.bias", vec![3 * width]),
    ];
    layers
        .into_iter()
        .zip(1..)
        .map(|((name, shape), stream)| (name.to_owned(), drawn(stream, &shape) * 0.5))
        .collect()
}

/// Three requests: a full history, a short one and none, with 3, 1 and 4 candidates.
fn given() -> Given {
    let valid: Vec<f32> = [7, 3, 0]
        .iter()
        .flat_map(|n| (0..LEN).map(move |at| f32::from(u8::from(at < *n))))
        .collect();
    let inputs = [
        ("history", drawn(40, &[3, LEN as i64, TOKEN as i64])),
        ("candidate", drawn(41, &[8, TOKEN as i64])),
        ("valid", Tensor::from_slice(&valid).reshape([3, LEN as i64])),
        ("request_of", Tensor::from_slice(&[0i64, 0, 0, 1, 2, 2, 2, 2])),
    ];
    inputs
        .into_iter()
        .map(|(name, tensor)| (name.to_owned(), tensor))
        .collect()
}

fn params(weights: &BTreeMap<String, Tensor>) -> Params {
    let shared = weights
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
    Params::new(shared, 1.0)
}

/// Rows as the block reads them.
fn normalized(rows: &Tensor) -> Tensor {
    rows.layer_norm([TOKEN as i64], None::<&Tensor>, None::<&Tensor>, 1e-5, false)
}

#[track_caller]
fn near(what: &str, ours: &Tensor, theirs: &Tensor) {
    assert_eq!(ours.size(), theirs.size(), "{what}");
    let scale = f64::try_from(theirs.abs().max()).unwrap().max(1.0);
    let off = f64::try_from((ours - theirs).abs().max()).unwrap() / scale;
    println!("{what}: off by {off:.1e}");
    assert!(off <= TOLERANCE, "{what}: off by {off:e}");
}

#[test]
fn the_extracting_gru_is_that_of_libtorch() {
    let (weights, given) = (weights(), given());
    let leaves: Vec<Tensor> = ["input.weight", "state.weight", "input.bias", "state.bias"]
        .iter()
        .map(|part| weights[&format!("sequence.extract.{part}")].set_requires_grad(true))
        .collect();
    let ours = dien::last_state(&params(&weights), &history(&given), &layout(&given)).unwrap();
    for (request, candidate, n) in [(0, 0, 7), (1, 3, 3)] {
        let entries = normalized(&given["history"])
            .get(request)
            .narrow(0, 0, n)
            .unsqueeze(0);
        let start = Tensor::zeros([1, 1, WIDTH as i64], (Kind::Float, Device::Cpu));
        let (_, last) = entries.gru(&start, &leaves, true, 1, 0.0, false, false, true);
        let theirs = last.reshape([WIDTH as i64]);
        near("last state", &ours.get(candidate), &theirs);
        let direction = drawn(50, &[WIDTH as i64]);
        let of_ours = Tensor::run_backward(
            &[(ours.get(candidate) * &direction).sum(Kind::Float)],
            &leaves,
            true,
            false,
        );
        let of_theirs = Tensor::run_backward(&[(theirs * &direction).sum(Kind::Float)], &leaves, true, false);
        for (ours, theirs) in of_ours.iter().zip(&of_theirs) {
            near("gradient", ours, theirs);
        }
    }
    // Without a history there is no state.
    let largest = f64::try_from(ours.narrow(0, 4, 4).abs().max()).unwrap();
    assert!(largest < f64::MIN_POSITIVE, "{largest}");
}

/// A matrix times a vector, plus a bias.
fn affine(weights: &BTreeMap<String, Tensor>, layer: &str, x: &[f64]) -> Vec<f64> {
    let read = |part: &str| {
        weights
            .get(&format!("{layer}.{part}"))
            .map(|tensor| Vec::<f64>::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap())
    };
    let weight = read("weight").unwrap();
    let bias = read("bias").unwrap_or_else(|| vec![0.0; weight.len() / x.len()]);
    weight
        .chunks_exact(x.len())
        .zip(bias)
        .map(|(row, bias)| bias + row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>())
        .collect()
}

/// A step of equations 2 and 5 of the paper; without attention, of a GRU in libtorch's orientation.
fn step(of_input: &[f64], of_state: &[f64], state: &[f64], attention: Option<f64>) -> Vec<f64> {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    (0..WIDTH)
        .map(|at| {
            let reset = sigmoid(of_input[at] + of_state[at]);
            let update = sigmoid(of_input[WIDTH + at] + of_state[WIDTH + at]);
            let new = (of_input[2 * WIDTH + at] + reset * of_state[2 * WIDTH + at]).tanh();
            match attention {
                Some(attention) => (1.0 - attention * update) * state[at] + attention * update * new,
                None => (1.0 - update) * new + update * state[at],
            }
        })
        .collect()
}

fn evolved(weights: &BTreeMap<String, Tensor>, entries: &[Vec<f64>], candidate: &[f64]) -> Vec<f64> {
    let mut state = vec![0.0; WIDTH];
    let mut interests = Vec::new();
    for entry in entries {
        let of_input = affine(weights, "sequence.extract.input", entry);
        let of_state = affine(weights, "sequence.extract.state", &state);
        state = step(&of_input, &of_state, &state, None);
        interests.push(state.clone());
    }
    let query = affine(weights, "sequence.attention", candidate);
    let shares: Vec<f64> = interests
        .iter()
        .map(|interest| interest.iter().zip(&query).map(|(a, b)| a * b).sum::<f64>().exp())
        .collect();
    let sum: f64 = shares.iter().sum();
    let mut state = vec![0.0; WIDTH];
    for (interest, share) in interests.iter().zip(shares) {
        let of_input = affine(weights, "sequence.evolve.input", interest);
        let of_state = affine(weights, "sequence.evolve.state", &state);
        state = step(&of_input, &of_state, &state, Some(share / sum));
    }
    state
}

#[test]
fn dien_is_its_equations() {
    let (weights, given) = (weights(), given());
    let ours = dien::forward(
        &params(&weights),
        &given["candidate"],
        &history(&given),
        &layout(&given),
    )
    .unwrap();
    let read = |tensor: Tensor| Vec::<f64>::try_from(tensor.to_kind(Kind::Double)).unwrap();
    for (candidate, (request, n)) in [(0, 7), (0, 7), (0, 7), (1, 3), (2, 0), (2, 0)]
        .into_iter()
        .enumerate()
    {
        let candidate = i64::try_from(candidate).unwrap();
        let entries: Vec<Vec<f64>> = (0..n)
            .map(|at| read(normalized(&given["history"]).get(request).get(at)))
            .collect();
        let theirs = evolved(
            &weights,
            &entries,
            &read(normalized(&given["candidate"]).get(candidate)),
        );
        let theirs = Tensor::from_slice(&theirs).to_kind(Kind::Float);
        near("evolved interest", &ours.get(candidate), &theirs);
    }
}

/// Equation 7 of the paper with the attention's matrix between state and entry.
#[test]
fn the_auxiliary_loss_is_its_equation() {
    let (weights, given) = (weights(), given());
    let read = |tensor: Tensor| Vec::<f64>::try_from(tensor.to_kind(Kind::Double)).unwrap();
    let entry = |request: i64, at: i64| read(normalized(&given["history"]).get(request).get(at));
    let pairs = [(1i64, 4i64), (2, 0), (6, 7), (8, 4)];
    let ours =
        dien::next_entry_loss(&params(&weights), &given["candidate"], &history(&given), &pairs).unwrap();
    let mut theirs = 0.0;
    for (place, negative) in pairs {
        let (request, at) = (place / LEN as i64, place % LEN as i64);
        let mut state = vec![0.0; WIDTH];
        for before in 0..at {
            let of_input = affine(&weights, "sequence.extract.input", &entry(request, before));
            let of_state = affine(&weights, "sequence.extract.state", &state);
            state = step(&of_input, &of_state, &state, None);
        }
        let logit = |item: &[f64]| -> f64 {
            let item = affine(&weights, "sequence.attention", item);
            item.iter().zip(&state).map(|(a, b)| a * b).sum()
        };
        let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
        let other = logit(&read(normalized(&given["candidate"]).get(negative)));
        theirs -= sigmoid(logit(&entry(request, at))).ln() + (1.0 - sigmoid(other)).ln();
    }
    let theirs = theirs / pairs.len() as f64;
    near(
        "auxiliary loss",
        &ours,
        &Tensor::from(theirs).to_kind(Kind::Float),
    );
}

#[test]
fn an_update_gate_of_the_other_orientation_is_far_off() {
    let (mut weights, given) = (weights(), given());
    let run = |weights: &BTreeMap<String, Tensor>| {
        dien::forward(
            &params(weights),
            &given["candidate"],
            &history(&given),
            &layout(&given),
        )
        .unwrap()
    };
    let ours = run(&weights);
    for part in ["input.weight", "input.bias", "state.weight", "state.bias"] {
        let name = format!("sequence.evolve.{part}");
        let tensor = weights[&name].copy();
        let mut update = tensor.narrow(0, WIDTH as i64, WIDTH as i64);
        let _negated = update.neg_();
        weights.insert(name, tensor);
    }
    let off = f64::try_from((ours - run(&weights)).abs().max()).unwrap();
    assert!(off > 0.1, "{off}");
}
