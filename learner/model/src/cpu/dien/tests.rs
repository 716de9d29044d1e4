//! GRU and DIEN against the blocks as libtorch differentiates them.

use tch::{Device, Kind, Tensor};

use super::*;
use crate::blocks::{History, dien};
use crate::config::{LoraConfig, SequenceConfig};
use crate::cpu::testing::{Case, Tolerance, made_up, tensor};
use crate::groups::{Groups, Layout};

const LEN: usize = 7;
const LENS: [usize; 4] = [7, 0, 3, 1];
const REQUEST_OF: [i64; 8] = [0, 0, 0, 1, 2, 2, 3, 0];

fn config(kind: SequenceKind, dim: usize, width: usize, on: &[&str]) -> ModelConfig {
    ModelConfig {
        dim,
        sequence: SequenceConfig {
            kind,
            width,
            ..SequenceConfig::default()
        },
        lora: LoraConfig {
            rank: 2,
            alpha: 3.0,
            layers: on.iter().map(|layer| (*layer).to_owned()).collect(),
        },
        ..ModelConfig::default()
    }
}

/// Outputs and gradients, with learning weights and with fixed ones, for histories of all lengths.
#[track_caller]
fn check(config: &ModelConfig) {
    let (n, token) = (REQUEST_OF.len(), TOKEN_FIELDS * config.dim);
    let mut tokens = made_up(21, LENS.len() * LEN * token);
    let mut valid = vec![0.0f32; LENS.len() * LEN];
    for (request, filled) in LENS.iter().enumerate() {
        valid[request * LEN..request * LEN + filled].fill(1.0);
        tokens[(request * LEN + filled) * token..(request + 1) * LEN * token].fill(0.0);
    }
    let mut case = Case::of_model(config, |name| name.starts_with("sequence.")).with(
        "tokens",
        &[LENS.len(), LEN, token],
        tokens,
    );
    let is_dien = config.sequence.kind == SequenceKind::Dien;
    if is_dien {
        case = case.input("target", &[n, token]);
    }
    let history = History {
        tokens: case.tensor("tokens").shallow_clone(),
        valid: tensor(&valid, &[LENS.len(), LEN]),
        tasks: Tensor::zeros([4, 7], (Kind::Int64, Device::Cpu)),
        ages: Tensor::zeros([4, 7], (Kind::Float, Device::Cpu)),
    };
    let layout = Layout::new(&Groups::new(&REQUEST_OF, LENS.len()), Device::Cpu).unwrap();
    let (expected, target) = match is_dien {
        true => (
            dien::forward(case.params(), case.tensor("target"), &history, &layout).unwrap(),
            case.values("target").to_vec(),
        ),
        false => (
            dien::last_state(case.params(), &history, &layout).unwrap(),
            vec![0.0; n * token],
        ),
    };

    let block = Dien::new(BlockWeights::new(&case, config), config).unwrap();
    let inputs = HistoryInputs {
        target: &target,
        tokens: case.values("tokens"),
        lens: &LENS,
        request_of: &REQUEST_OF,
        len: LEN,
    };
    let pass = block.forward(inputs, GradMode::Weights);
    let direction = case.direction(&expected);
    for mode in [GradMode::Inputs, GradMode::None] {
        let other = block.forward(inputs, mode);
        assert!(other.output == pass.output, "what is kept changes the bits");
    }
    let with_inputs = |of: DienGradients, weights: NamedGradients| {
        let mut gradients = weights;
        gradients.push(("tokens".to_owned(), of.tokens));
        if is_dien {
            gradients.push(("target".to_owned(), of.target));
        }
        gradients
    };
    let all = Learning {
        contents: true,
        base: true,
        adapters: true,
    };
    let mut learned = block.backward(inputs, &pass, &direction, all);
    let weights = std::mem::take(&mut learned.weights);
    let gradients = with_inputs(learned, weights.clone());
    case.check(&expected, &pass.output, &gradients, Tolerance::F32);

    let none = Learning {
        base: false,
        adapters: false,
        ..all
    };
    let fixed = block.forward(inputs, GradMode::Inputs);
    let of = block.backward(inputs, &fixed, &direction, none);
    assert!(of.weights.is_empty());
    case.check(&expected, &pass.output, &with_inputs(of, weights), Tolerance::F32);
}

#[test]
fn the_loops_are_the_blocks_and_their_gradients() {
    for kind in [SequenceKind::Gru, SequenceKind::Dien] {
        for (dim, width) in [(4, 16), (3, 5), (8, 32)] {
            check(&config(kind, dim, width, &[]));
        }
    }
}

#[test]
fn adapters_learn_through_merged_layers() {
    let on = [
        "sequence.extract.input",
        "sequence.extract.state",
        "sequence.attention",
        "sequence.evolve.input",
        "sequence.evolve.state",
    ];
    check(&config(SequenceKind::Dien, 4, 6, &on));
    check(&config(SequenceKind::Dien, 4, 6, &on[2..3]));
    check(&config(SequenceKind::Gru, 4, 6, &on[..2]));
}
