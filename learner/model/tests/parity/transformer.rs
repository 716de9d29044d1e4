//! SASRec and BST against PyTorch's `nn.TransformerEncoder`, and the causality of the states.

use ouzel_model::blocks::transformer;
use ouzel_model::{Params, SequenceConfig, SequenceKind};
use tch::{Kind, Tensor};

use super::case::{Case, Given, LAYER, STACK, history, layout};

fn config(case: &Case, kind: SequenceKind) -> SequenceConfig {
    let (width, heads) = (case.size("width"), case.size("heads"));
    SequenceConfig {
        kind,
        width,
        heads,
        history_len: case.size("history_len"),
        layers: case.size("layers"),
        key_width: width / heads,
        value_width: width / heads,
        ..SequenceConfig::default()
    }
}

fn forward(config: &SequenceConfig, params: &Params, given: &Given) -> Tensor {
    transformer::forward(
        params,
        config,
        &given["candidate"],
        &history(given),
        &layout(given),
    )
    .unwrap()
}

const CASES: [(&str, SequenceKind, f64); 4] = [
    ("sasrec_1", SequenceKind::Sasrec, LAYER),
    ("sasrec_2", SequenceKind::Sasrec, STACK),
    ("bst_1", SequenceKind::Bst, LAYER),
    ("bst_2", SequenceKind::Bst, STACK),
];

#[test]
fn sasrec_and_bst_are_the_encoder_of_pytorch() {
    for (name, kind, tolerance) in CASES {
        let case = Case::load(name);
        let config = config(&case, kind);
        case.check(tolerance, |params, given| forward(&config, params, given));
    }
}

#[test]
fn a_transformer_that_reads_padding_is_far_off() {
    for (name, kind, tolerance) in CASES {
        let case = Case::load(name);
        let config = config(&case, kind);
        let everywhere = |name: &str, tensor: Tensor| match name {
            "in.valid" => tensor.ones_like(),
            _ => tensor,
        };
        let out = case.run(everywhere, |params, given| forward(&config, params, given));
        case.check_far("out", &out);
        case.check_near("wrong.no_mask", &out, tolerance);
    }
}

#[test]
fn a_state_depends_on_no_later_entry() {
    let case = Case::load("bst_2");
    let config = config(&case, SequenceKind::Bst);
    let states = |changed: Option<i64>| {
        let change = |name: &str, tensor: Tensor| match changed.filter(|_| name == "in.history") {
            Some(at) => {
                let _doubled = tensor.narrow(1, at, 1).g_mul_scalar_(2.0);
                tensor
            }
            None => tensor,
        };
        case.run(change, |params, given| {
            transformer::states(params, &config, &history(given)).unwrap()
        })
    };
    let before = states(None);
    let n = before.size()[1];
    for at in 0..n {
        let apart = (states(Some(at)) - &before)
            .abs()
            .amax([0i64, 2].as_slice(), false)
            .to_kind(Kind::Double);
        let apart = Vec::<f64>::try_from(apart).unwrap();
        for (entry, apart) in (0..n).zip(apart) {
            match entry < at {
                true => assert!(apart < f64::MIN_POSITIVE, "{at} changes {entry} by {apart}"),
                false => assert!(apart > 1e-3, "{at} does not reach {entry}: {apart}"),
            }
        }
    }
}
