//! DIN against the block as libtorch differentiates it.

use super::*;
use crate::blocks::din;
use crate::config::{LongHistoryConfig, LoraConfig, SequenceConfig, SequenceKind};
use crate::cpu::testing::{AGES, Case, LEN, LENS, REQUEST_OF, Tolerance, history_of, history_tokens};
use crate::cpu::weights::Learning;

const ALL: Learning = Learning {
    contents: true,
    base: true,
    adapters: true,
};

fn config(dim: usize, unit: [usize; 2], on: &[&str]) -> ModelConfig {
    ModelConfig {
        dim,
        sequence: SequenceConfig {
            kind: SequenceKind::Din,
            attention_hidden: unit,
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
fn check(config: &ModelConfig, tolerance: Tolerance) {
    check_shape(config, config.sequence.din(), tolerance);
}

/// The same for a block of another shape.
#[track_caller]
fn check_shape(config: &ModelConfig, shape: DinShape, tolerance: Tolerance) {
    let (n, width) = (REQUEST_OF.len(), TOKEN_FIELDS * config.dim);
    let tokens = history_tokens(width);
    let case = Case::of_model(config, |name| name.starts_with(&format!("{}.", shape.prefix)))
        .input("target", &[n, width])
        .with("tokens", &[LENS.len(), LEN, width], tokens);
    let (history, layout) = history_of(case.tensor("tokens"));
    let expected = din::forward(
        case.params(),
        shape.prefix,
        case.tensor("target"),
        &history,
        &layout,
    )
    .unwrap();

    let block = Din::new(BlockWeights::new(&case, config), config, shape).unwrap();
    let inputs = HistoryInputs {
        target: case.values("target"),
        tokens: case.values("tokens"),
        lens: &LENS,
        ages: &AGES,
        request_of: &REQUEST_OF,
        len: LEN,
    };
    let pass = block.forward(inputs, GradMode::Weights);
    let direction = case.direction(&expected);
    let learned = block.backward(inputs, &pass, &direction, ALL);
    let inputs_of = |target, tokens| [("target".to_owned(), target), ("tokens".to_owned(), tokens)];
    let mut gradients = learned.weights;
    let weights = gradients.clone();
    gradients.extend(inputs_of(learned.target, learned.tokens));
    case.check(&expected, &pass.output, &gradients, tolerance);

    let fixed = block.forward(inputs, GradMode::Inputs);
    for other in [&fixed, &block.forward(inputs, GradMode::None)] {
        assert!(other.output == pass.output, "what is kept changes the bits");
    }
    let none = Learning {
        contents: true,
        base: false,
        adapters: false,
    };
    let of = block.backward(inputs, &fixed, &direction, none);
    assert!(of.weights.is_empty());
    let mut gradients = weights;
    gradients.extend(inputs_of(of.target, of.tokens));
    case.check(&expected, &pass.output, &gradients, tolerance);
}

#[test]
fn the_loops_are_the_block_and_its_gradients() {
    for (dim, unit) in [(4, [16, 4]), (3, [20, 5]), (32, [64, 16])] {
        check(&config(dim, unit, &[]), Tolerance::F32);
    }
    let on = ["sequence.first", "sequence.second", "sequence.score"];
    check(&config(4, [16, 4], &on), Tolerance::F32);
    check(&config(3, [9, 5], &on[1..2]), Tolerance::F32);
}

#[test]
fn heads_and_times_have_the_gradients_of_the_block() {
    for (attention_heads, time_buckets) in [(3, false), (1, true), (2, true)] {
        let mut config = config(4, [16, 4], &["sequence.score"]);
        config.sequence = SequenceConfig {
            attention_heads,
            time_buckets,
            ..config.sequence
        };
        check(&config, Tolerance::F32);
    }
}

#[test]
fn the_search_unit_of_the_long_past_has_the_gradients_of_the_block() {
    for heads in [1, 2] {
        let mut config = config(4, [16, 4], &["long.first", "long.score"]);
        config.long_history = LongHistoryConfig {
            enabled: true,
            attention_hidden: [12, 5],
            heads,
            ..LongHistoryConfig::default()
        };
        check_shape(&config, config.long_history.din(), Tolerance::F32);
    }
}

#[test]
fn products_in_bf16_are_near_those_of_the_block() {
    let config = ModelConfig {
        matmul_precision: MatmulPrecision::Bf16,
        ..config(32, [64, 16], &[])
    };
    check(&config, Tolerance::Bf16);
}
