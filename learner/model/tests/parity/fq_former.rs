//! The Fusion-Q-Former, against layers of `torch.nn.MultiheadAttention`.

use ouzel_model::blocks::fq_former::{self, Frozen};
use ouzel_model::{ContentConfig, Params};
use ouzel_sample::MODALITIES;
use tch::{Kind, Tensor};

use super::case::{Case, Given, LAYER, STACK};

fn forward(case: &Case, params: &Params, given: &Given) -> Tensor {
    let config = ContentConfig {
        layers: case.size("layers"),
        heads: case.size("heads"),
        ..ContentConfig::default()
    };
    let present = MODALITIES.map(|name| given[&format!("has_{name}")].to_kind(Kind::Float));
    let frozen = Frozen {
        vectors: MODALITIES.map(|name| Some(given[name].squeeze_dim(1))),
        present: Tensor::cat(&present, 1),
    };
    fq_former::forward(params, &config, &frozen).unwrap()
}

#[test]
fn a_fusion_q_former_is_torchs_attention_between_norms() {
    for (name, tolerance) in [("fq_former_1", LAYER), ("fq_former_2", STACK)] {
        let case = Case::load(name);
        case.check(tolerance, |params, given| forward(&case, params, given));
    }
}

#[test]
fn a_fusion_q_former_that_attends_to_absent_content_is_far_off() {
    let case = Case::load("fq_former_2");
    let everywhere = |name: &str, tensor: Tensor| {
        if name.starts_with("in.has_") {
            tensor.ones_like()
        } else {
            tensor
        }
    };
    let out = case.run(everywhere, |params, given| forward(&case, params, given));
    case.check_far("out", &out);
    case.check_near("wrong.no_mask", &out, STACK);
}
