//! SASRec and BST against the blocks as libtorch differentiates them.

use super::*;
use crate::blocks::transformer;
use crate::config::{LoraConfig, SequenceConfig};
use crate::cpu::testing::{AGES, Case, LEN, LENS, REQUEST_OF, Tolerance, history_of, history_tokens};

fn config(kind: SequenceKind, (dim, width, layers): (usize, usize, usize), on: &[&str]) -> ModelConfig {
    ModelConfig {
        dim,
        sequence: SequenceConfig {
            kind,
            // Shorter than the longest history: the oldest entries share a position.
            history_len: LEN - 1,
            width,
            layers,
            heads: 2,
            key_width: 5,
            value_width: 6,
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
    let case = Case::of_model(config, |name| name.starts_with("sequence."))
        .with("tokens", &[LENS.len(), LEN, token], history_tokens(token))
        .input("target", &[n, token]);
    let (history, layout) = history_of(case.tensor("tokens"));
    let expected = transformer::forward(
        case.params(),
        &config.sequence,
        case.tensor("target"),
        &history,
        &layout,
    )
    .unwrap();
    let block = Transformer::new(BlockWeights::new(&case, config), config).unwrap();
    let inputs = HistoryInputs {
        target: case.values("target"),
        tokens: case.values("tokens"),
        lens: &LENS,
        ages: &AGES,
        request_of: &REQUEST_OF,
        len: LEN,
    };
    let pass = block.forward(inputs, GradMode::Weights);
    for mode in [GradMode::Inputs, GradMode::None] {
        let other = block.forward(inputs, mode);
        assert!(other.output == pass.output, "what is kept changes the bits");
    }
    let direction = case.direction(&expected);
    let all = Learning {
        contents: true,
        base: true,
        adapters: true,
    };
    let of = block.backward(inputs, &pass, &direction, all);
    let mut gradients = of.weights.clone();
    gradients.extend([("tokens".to_owned(), of.tokens), ("target".to_owned(), of.target)]);
    case.check(&expected, &pass.output, &gradients, Tolerance::F32);

    let none = Learning {
        base: false,
        adapters: false,
        ..all
    };
    let fixed = block.backward(inputs, &pass, &direction, none);
    assert!(fixed.weights.is_empty());
    let mut gradients = of.weights;
    gradients.extend([
        ("tokens".to_owned(), fixed.tokens),
        ("target".to_owned(), fixed.target),
    ]);
    case.check(&expected, &pass.output, &gradients, Tolerance::F32);
}

#[test]
fn the_loops_are_the_blocks_and_their_gradients() {
    for kind in [SequenceKind::Sasrec, SequenceKind::Bst] {
        for sizes in [(4, 16, 1), (3, 5, 2), (8, 32, 3)] {
            check(&config(kind, sizes, &[]));
        }
    }
}

#[test]
fn adapters_learn_through_merged_layers() {
    let on = [
        "sequence.token",
        "sequence.layer0.query",
        "sequence.layer0.key_value",
        "sequence.layer0.out",
        "sequence.layer1.expand",
        "sequence.layer1.contract",
    ];
    for kind in [SequenceKind::Sasrec, SequenceKind::Bst] {
        check(&config(kind, (4, 6, 2), &on));
        check(&config(kind, (4, 6, 2), &on[2..3]));
    }
}
