//! HSTU: its research form against Torch-RecHub's `HSTUBlock`, its production form against the equations.

use ouzel_model::blocks::hstu;
use ouzel_model::{Params, SequenceConfig, SequenceKind};
use tch::Tensor;

use super::case::{Case, Given, LAYER, STACK, history, layout};

fn config(case: &Case, kind: SequenceKind) -> SequenceConfig {
    SequenceConfig {
        kind,
        history_len: case.size("n"),
        layers: case.size("layers"),
        heads: case.size("heads"),
        key_width: case.size("dqk"),
        value_width: case.size("dv"),
        ..SequenceConfig::default()
    }
}

fn forward(config: &SequenceConfig, params: &Params, given: &Given) -> Tensor {
    let (history, layout) = (history(given), layout(given));
    hstu::forward(params, config, &given["candidate"], &history, &layout).unwrap()
}

fn check(name: &'static str, kind: SequenceKind, tolerance: f64) {
    let case = Case::load(name);
    let config = config(&case, kind);
    case.check(tolerance, |params, given| forward(&config, params, given));
}

#[test]
fn the_research_form_is_that_of_rechub() {
    check("hstu_research_1", SequenceKind::HstuResearch, LAYER);
    check("hstu_research_2", SequenceKind::HstuResearch, STACK);
}

#[test]
fn the_production_form_is_its_equations() {
    check("hstu_production_1", SequenceKind::Hstu, LAYER);
    check("hstu_production_2", SequenceKind::Hstu, STACK);
}

#[test]
fn scores_divided_by_the_longest_history_of_a_batch_are_far_off() {
    let case = Case::load("hstu_production_2");
    let config = SequenceConfig {
        history_len: 7,
        ..config(&case, SequenceKind::Hstu)
    };
    let out = case.run(
        |_, tensor| tensor,
        |params, given| forward(&config, params, given),
    );
    case.check_far("out", &out);
    case.check_near("wrong.n_of_batch", &out, STACK);
}

#[test]
fn silu_on_all_four_is_far_from_the_production_form() {
    for name in ["hstu_production_1", "hstu_production_2"] {
        let case = Case::load(name);
        let config = config(&case, SequenceKind::Hstu);
        let out = case.run(
            |_, tensor| tensor,
            |params, given| forward(&config, params, given),
        );
        case.check_far("wrong.silu_on_all", &out);
    }
}
