//! DIN's attention unit, against DeepCTR-Torch's `AttentionSequencePoolingLayer`.

use ouzel_model::Params;
use ouzel_model::blocks::din;
use tch::Tensor;

use super::case::{Case, Given, LAYER, history, layout};

fn forward(params: &Params, given: &Given) -> Tensor {
    din::forward(params, &given["candidate"], &history(given), &layout(given)).unwrap()
}

#[test]
fn din_is_that_of_deepctr() {
    Case::load("din").check(LAYER, forward);
}

#[test]
fn din_with_its_difference_turned_round_is_far_off() {
    let case = Case::load("din");
    // k - q instead of q - k is the third block of the first layer with the other sign.
    let turned = |name: &str, tensor: Tensor| match name {
        "sequence.first.weight" => {
            let width = tensor.size()[1] / 4;
            let blocks = tensor.split(width, 1);
            Tensor::cat(&[&blocks[0], &blocks[1], &(-&blocks[2]), &blocks[3]], 1)
        }
        _ => tensor,
    };
    let out = case.run(turned, forward);
    case.check_far("out", &out);
    case.check_near("wrong.order", &out, LAYER);
}

#[test]
fn din_that_reads_padding_is_far_off() {
    let case = Case::load("din");
    let everywhere = |name: &str, tensor: Tensor| match name {
        "in.valid" => tensor.ones_like(),
        _ => tensor,
    };
    let out = case.run(everywhere, forward);
    case.check_far("out", &out);
    case.check_near("wrong.no_mask", &out, LAYER);
}
