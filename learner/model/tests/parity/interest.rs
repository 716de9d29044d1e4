//! Content interest, against torch's `scaled_dot_product_attention`; adapters, against the merged weight.

use ouzel_model::Params;
use ouzel_model::blocks::interest::{self, Contents};
use tch::{Kind, Tensor};

use super::case::{Case, Given, LAYER, layout};

fn forward(params: &Params, given: &Given) -> Tensor {
    let (n_requests, len, _) = given["history"].size3().unwrap();
    let vectors = given["history"].flatten(0, 1);
    let past = Contents {
        keys: params.base("interest.key", &vectors).unwrap(),
        vectors,
        of_history: Tensor::arange(n_requests * len, (Kind::Int64, tch::Device::Cpu)).view([n_requests, len]),
        valid: given["valid"].to_kind(Kind::Float),
    };
    interest::forward(params, &given["candidate"], &past, &layout(given)).unwrap()
}

fn adapted() -> Case {
    let case = Case::load("interest_lora");
    let scale = case.number("alpha") / case.number("rank");
    case.with_lora_scale(scale)
}

#[test]
fn content_interest_is_torchs_attention_and_0_without_content() {
    Case::load("interest").check(LAYER, forward);
}

#[test]
fn adapters_add_their_scaled_product_to_frozen_weights() {
    adapted().check(LAYER, forward);
}

#[test]
fn adapters_without_their_scale_are_far_off() {
    let case = adapted().with_lora_scale(1.0);
    let out = case.run(|_, tensor| tensor, forward);
    case.check_far("out", &out);
    case.check_near("wrong.no_scale", &out, LAYER);
}

#[test]
fn content_interest_in_padding_is_far_off() {
    let case = Case::load("interest");
    let everywhere = |name: &str, tensor: Tensor| match name {
        "in.valid" => tensor.ones_like(),
        _ => tensor,
    };
    let out = case.run(everywhere, forward);
    case.check_far("out", &out);
    case.check_near("wrong.no_mask", &out, LAYER);
}
