//! GRU and DIEN against the blocks as libtorch differentiates them.

use super::*;
use crate::blocks::dien;
use crate::config::{LoraConfig, SequenceConfig};
use crate::cpu::testing::{AGES, Case, LEN, LENS, REQUEST_OF, Tolerance, history_of, history_tokens};

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
    let tokens = history_tokens(token);
    let mut case = Case::of_model(config, |name| name.starts_with("sequence.")).with(
        "tokens",
        &[LENS.len(), LEN, token],
        tokens,
    );
    let is_dien = config.sequence.kind == SequenceKind::Dien;
    if is_dien {
        case = case.input("target", &[n, token]);
    }
    let (history, layout) = history_of(case.tensor("tokens"));
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
        ages: &AGES,
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
    let mut learned = block.backward(inputs, &pass, (&direction, None), all);
    let weights = std::mem::take(&mut learned.weights);
    let gradients = with_inputs(learned, weights.clone());
    case.check(&expected, &pass.output, &gradients, Tolerance::F32);

    let none = Learning {
        base: false,
        adapters: false,
        ..all
    };
    let fixed = block.forward(inputs, GradMode::Inputs);
    let of = block.backward(inputs, &fixed, (&direction, None), none);
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

/// The gradients of the auxiliary loss beside those of the output.
#[test]
fn the_auxiliary_loss_has_the_gradients_of_the_block() {
    let config = config(SequenceKind::Dien, 4, 6, &["sequence.attention"]);
    let (n, token) = (REQUEST_OF.len(), TOKEN_FIELDS * config.dim);
    let case = Case::of_model(&config, |name| name.starts_with("sequence."))
        .with("tokens", &[LENS.len(), LEN, token], history_tokens(token))
        .input("target", &[n, token]);
    let (history, layout) = history_of(case.tensor("tokens"));
    // An entry without a candidate against it, and candidates against several.
    let negatives: Vec<Option<usize>> = (0..LENS.len() * LEN)
        .map(|place| {
            let at = place % LEN;
            (at > 0 && at < LENS[place / LEN] && place != 4).then_some(place * 5 % n)
        })
        .collect();
    let pairs: Vec<(i64, i64)> = (0i64..)
        .zip(&negatives)
        .filter_map(|(place, negative)| Some((place, i64::try_from((*negative)?).unwrap())))
        .collect();
    assert_eq!(pairs.len(), 7);
    let expected = dien::forward(case.params(), case.tensor("target"), &history, &layout).unwrap();
    let loss = dien::next_entry_loss(case.params(), case.tensor("target"), &history, &pairs).unwrap();
    // The loss as one more output, whose gradient is its weight.
    let both = tch::Tensor::cat(&[&expected.flatten(0, -1), &loss.view([1])], 0);
    let direction = case.direction(&both);
    let (of_output, weight) = direction.split_at(direction.len() - 1);

    let block = Dien::new(BlockWeights::new(&case, &config), &config).unwrap();
    let inputs = HistoryInputs {
        target: case.values("target"),
        tokens: case.values("tokens"),
        lens: &LENS,
        ages: &AGES,
        request_of: &REQUEST_OF,
        len: LEN,
    };
    let pass = block.forward(inputs, GradMode::Weights);
    let loss = NextEntryLoss {
        weight: weight[0],
        negatives: &negatives,
    };
    let all = Learning {
        contents: true,
        base: true,
        adapters: true,
    };
    let of = block.backward(inputs, &pass, (of_output, Some(loss)), all);
    let mut gradients = of.weights;
    gradients.extend([("tokens".to_owned(), of.tokens), ("target".to_owned(), of.target)]);
    let value = crate::host_slice::to_vec(&both).unwrap()[of_output.len()];
    let output = [pass.output.as_slice(), &[value]].concat();
    case.check(&both, &output, &gradients, Tolerance::F32);
}
