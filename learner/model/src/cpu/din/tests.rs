//! The loops against the block as libtorch runs it.

use tch::{Device, Kind, Tensor};

use super::*;
use crate::blocks::{History, din};
use crate::groups::{Groups, Layout};
use crate::normal;
use crate::params::Params;

fn made_up(stream: u64, n: usize) -> Vec<f32> {
    (0..n as u64).map(|lane| normal(11, stream, lane)).collect()
}

/// Outputs and all gradients are those that libtorch finds by itself, for histories of all lengths.
#[test]
fn the_loops_are_the_block_and_its_gradients() {
    for sizes in [(8, 16, 4), (6, 20, 5), (64, 64, 16)] {
        holds(sizes, MatmulPrecision::F32, 2e-5);
    }
    // Factors of 8 bits of mantissa.
    holds((64, 64, 16), MatmulPrecision::Bf16, 2e-2);
}

/// Within so much of the largest number of each output and gradient.
fn holds((width, first, second): (usize, usize, usize), products: MatmulPrecision, share: f32) {
    let (len, lens, request_of) = (7, vec![7, 0, 3, 1], vec![0i64, 0, 0, 1, 2, 2, 3, 0]);
    let n = request_of.len();
    let names = [
        "first.weight",
        "first.bias",
        "second.weight",
        "second.bias",
        "score.weight",
        "score.bias",
    ];
    let shapes = [
        vec![first, 4 * width],
        vec![first],
        vec![second, first],
        vec![second],
        vec![1, second],
        vec![1],
    ];
    let values: Vec<Vec<f32>> = (0..)
        .zip(&shapes)
        .map(|(i, s)| made_up(i, s.iter().product()))
        .collect();
    let (target, mut tokens) = (made_up(20, n * width), made_up(21, 4 * len * width));
    let mut valid = vec![0.0f32; 4 * len];
    for (request, filled) in lens.iter().enumerate() {
        valid[request * len..request * len + filled].fill(1.0);
        tokens[(request * len + filled) * width..(request + 1) * len * width].fill(0.0);
    }
    let direction = made_up(22, n * width);

    let tensor = |values: &[f32], shape: &[usize]| {
        let shape: Vec<i64> = shape.iter().map(|n| i64::try_from(*n).unwrap()).collect();
        Tensor::from_slice(values).reshape(&shape)
    };
    let tracked: Vec<Tensor> = values
        .iter()
        .zip(&shapes)
        .map(|(values, shape)| tensor(values, shape).set_requires_grad(true))
        .collect();
    let params = names
        .iter()
        .zip(&tracked)
        .map(|(name, t)| (format!("sequence.{name}"), t.shallow_clone()));
    let params = Params::new(params, 1.0);
    let q = tensor(&target, &[n, width]).set_requires_grad(true);
    let history = History {
        tokens: tensor(&tokens, &[4, len, width]).set_requires_grad(true),
        valid: tensor(&valid, &[4, len]),
        tasks: Tensor::zeros([4, 7], (Kind::Int64, Device::Cpu)),
        ages: Tensor::zeros([4, 7], (Kind::Float, Device::Cpu)),
    };
    let layout = Layout::new(&Groups::new(&request_of, 4), Device::Cpu).unwrap();
    let read = din::forward(&params, &q, &history, &layout).unwrap();
    let sum = (&read * tensor(&direction, &[n, width])).sum(Kind::Float);
    let mut leaves: Vec<&Tensor> = tracked.iter().collect();
    leaves.extend([&q, &history.tokens]);
    let expected = Tensor::run_backward(&[&sum], &leaves, false, false);

    let part = |i: usize| -> [&[f32]; 2] { [&values[2 * i], &values[2 * i + 1]] };
    let block = Din::new(part(0), part(1), part(2), products);
    let inputs = DinInputs {
        target: &target,
        tokens: &tokens,
        lens: &lens,
        request_of: &request_of,
        len,
    };
    let pass = block.forward(inputs, GradMode::Weights);
    close("read", &pass.read, &read, share);
    let still = block.forward(inputs, GradMode::Inputs);
    for other in [&still, &block.forward(inputs, GradMode::None)] {
        assert!(other.read == pass.read, "the same bits, kept or not");
    }
    let found = block.backward(inputs, &pass, &direction, true);
    let score_bias = [found.score_bias];
    let found: [(&str, &[f32]); 8] = [
        ("first.weight", &found.first_weight),
        ("first.bias", &found.first_bias),
        ("second.weight", &found.second_weight),
        ("second.bias", &found.second_bias),
        ("score.weight", &found.score_weight),
        ("score.bias", &score_bias),
        ("target", &found.target),
        ("tokens", &found.tokens),
    ];
    for ((name, found), expected) in found.into_iter().zip(&expected) {
        close(name, found, expected, share);
    }
    let still = block.backward(inputs, &still, &direction, false);
    close(
        "target of weights that stand still",
        &still.target,
        &expected[6],
        share,
    );
    close(
        "tokens of weights that stand still",
        &still.tokens,
        &expected[7],
        share,
    );
}

fn close(what: &str, found: &[f32], expected: &Tensor, share: f32) {
    let expected = Vec::<f32>::try_from(expected.detach().flatten(0, -1)).unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    let most = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!(
            (found - expected).abs() <= share * most + 1e-6,
            "{what}: {found} {expected} of {most}"
        );
    }
}
