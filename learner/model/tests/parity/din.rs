//! DIN's attention unit, against DeepCTR-Torch's `AttentionSequencePoolingLayer`.

use ouzel_model::Params;
use ouzel_model::blocks::din;
use tch::Tensor;

use super::case::{Case, Given, LAYER, history, layout};

fn forward(params: &Params, given: &Given) -> Tensor {
    din::forward(
        params,
        "sequence",
        &given["candidate"],
        &history(given),
        &layout(given),
    )
    .unwrap()
}

#[test]
fn din_is_that_of_deepctr() {
    Case::load("din").check(LAYER, forward);
}

/// A head is the block with a score of its own, and a time is part of the entry.
#[test]
fn heads_and_times_are_the_block_of_one_head_on_entries_with_their_times() {
    let case = Case::load("din");
    let out = case.get("out");
    let doubled = |name: &str, tensor: Tensor| match name {
        "sequence.score.weight" | "sequence.score.bias" => Tensor::cat(&[&tensor, &(&tensor * 2.0)], 0),
        _ => tensor,
    };
    let both = Tensor::cat(&[&out, &(&out * 2.0)], 1);
    let heads = case.run(doubled, forward);
    let off = f64::try_from((heads - both).abs().max()).unwrap();
    assert!(off <= LAYER, "{off}");

    let width = case.get("in.history").size()[2];
    let times = Tensor::from_slice(
        &(0..129 * width)
            .map(|lane| ouzel_model::normal(31, 0, lane.unsigned_abs()))
            .collect::<Vec<f32>>(),
    )
    .view([129, width]);
    let ages: Vec<f32> = (0..21u8).map(|at| 1.9f32.powi(i32::from(at))).collect();
    #[expect(clippy::cast_possible_truncation, reason = "a bucket below 129")]
    let buckets: Vec<i64> = ages.iter().map(|age| (age.ln() / 0.301).floor() as i64).collect();
    let of_entries = times
        .index_select(0, &Tensor::from_slice(&buckets))
        .view([3, 7, width]);
    let added = |name: &str, tensor: Tensor| match name {
        "in.history" => tensor + &of_entries,
        _ => tensor,
    };
    let expected = case.run(added, forward);
    let found = case.run(
        |_, tensor| tensor,
        |params, given| {
            let weights = params
                .iter()
                .map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
            let timed = [("sequence.time".to_owned(), times.shallow_clone())];
            let params = Params::new(weights.chain(timed), 1.0);
            let mut given: Given = given
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
                .collect();
            given.insert("ages".to_owned(), Tensor::from_slice(&ages).view([3, 7]));
            forward(&params, &given)
        },
    );
    let off = f64::try_from((&found - expected).abs().max()).unwrap();
    assert!(off <= LAYER, "{off}");
    case.check_far("out", &found);
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
