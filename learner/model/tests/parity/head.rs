//! Heads of several tasks, against DeepCTR-Torch's `MMOE` and `SharedBottom`.

use ouzel_model::blocks::head;
use ouzel_model::{HeadConfig, HeadKind, Params};
use tch::Tensor;

use super::case::{Case, Given, LAYER};

fn forward(case: &Case, config: HeadConfig, params: &Params, given: &Given) -> Tensor {
    head::forward(params, &config, case.size("tasks"), &given["trunk"]).unwrap()
}

#[test]
fn gated_experts_are_those_of_deepctr() {
    let case = Case::load("mmoe");
    let config = HeadConfig {
        kind: HeadKind::Mmoe,
        experts: case.size("experts"),
        ..HeadConfig::default()
    };
    case.check(LAYER, |params, given| forward(&case, config, params, given));
}

#[test]
fn towers_on_a_shared_bottom_are_those_of_deepctr() {
    let case = Case::load("shared_bottom");
    let config = HeadConfig {
        kind: HeadKind::SharedBottom,
        ..HeadConfig::default()
    };
    case.check(LAYER, |params, given| forward(&case, config, params, given));
}
