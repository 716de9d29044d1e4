//! The Fusion-Q-Former against the block as libtorch differentiates it.

use std::sync::Arc;

use ouzel_sample::Vector;
use tch::Tensor;

use super::*;
use crate::blocks::fq_former::{self, Frozen};
use crate::config::{InterestConfig, LoraConfig};
use crate::cpu::testing::{Case, Tolerance, close, made_up, tensor};
use crate::cpu::weights::Learning;

/// Queries, heads, width, and widths of the frozen vectors.
const SIZES: [(usize, usize, usize, [usize; N_MODALITIES]); 4] = [
    (2, 4, 64, [384, 512]),
    (1, 1, 8, [5, 0]),
    (3, 2, 10, [7, 20]),
    (4, 8, 16, [0, 33]),
];

fn config(at: usize, on: &[&str]) -> ModelConfig {
    let (queries, heads, width, widths) = SIZES[at];
    ModelConfig {
        content: ContentConfig {
            enabled: true,
            vector_widths: widths,
            queries,
            heads,
            width,
            ..ContentConfig::default()
        },
        interest: InterestConfig {
            enabled: true,
            ..InterestConfig::default()
        },
        lora: LoraConfig {
            rank: 2,
            alpha: 2.0,
            layers: on.iter().map(|layer| (*layer).to_owned()).collect(),
        },
        ..ModelConfig::default()
    }
}

/// Items with both modalities, one or none, and some whose vector has another width than the model reads.
fn items(n: u64, widths: [usize; N_MODALITIES]) -> Vec<ItemVectors> {
    let vector = |item: u64, modality: usize| {
        let width = match (item + modality as u64) % 5 {
            0 => return None,
            1 if item.is_multiple_of(7) => 3,
            _ => widths[modality],
        };
        Vector::provided(&made_up(200 + 2 * item + modality as u64, width))
    };
    (0..n).map(|item| [vector(item, 0), vector(item, 1)]).collect()
}

/// The vectors as the torch block takes them.
fn frozen(items: &[ItemVectors], widths: [usize; N_MODALITIES]) -> Frozen {
    let mut present = vec![0.0; items.len() * N_MODALITIES];
    let mut vectors = [const { None }; N_MODALITIES];
    for (modality, width) in widths.into_iter().enumerate().filter(|(_, width)| *width > 0) {
        let mut values = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let vector = frozen_vector(item, modality, width);
            present[at * N_MODALITIES + modality] = f32::from(u8::from(vector.is_some()));
            values.extend_from_slice(vector.unwrap_or(&vec![0.0; width]));
        }
        vectors[modality] = Some(tensor(&values, &[items.len(), width]));
    }
    Frozen {
        vectors,
        present: tensor(&present, &[items.len(), N_MODALITIES]),
    }
}

fn expected(case: &Case, config: &ModelConfig, items: &[ItemVectors]) -> Tensor {
    let frozen = frozen(items, config.content.vector_widths);
    fq_former::forward(case.params(), &config.content, &frozen).unwrap()
}

fn block(case: &Case, config: &ModelConfig) -> Arc<FqFormer> {
    Arc::new(FqFormer::new(BlockWeights::new(case, config), config).unwrap())
}

#[test]
fn the_loops_are_the_block_and_its_gradients() {
    let adapted = ["content.text", "content.layer0.key", "content.layer0.out"];
    for (at, on) in [(0, &[][..]), (1, &[]), (2, &[]), (3, &[]), (2, &adapted)] {
        let config = config(at, on);
        let case = Case::of_model(&config, |name| name.starts_with("content."));
        let with_key = Case::of_model(&config, |_| true);
        let items = items(40, config.content.vector_widths);
        let expected = expected(&case, &config, &items);
        let pass =
            Arc::new(FqFormer::new(BlockWeights::new(&with_key, &config), &config).unwrap()).forward(&items);
        let learning = Learning {
            contents: true,
            base: true,
            adapters: true,
        };
        let gradients = pass.backward(&case.direction(&expected), learning);
        case.check(&expected, pass.vectors(), &gradients, Tolerance::F32);
    }
}

#[test]
fn the_folded_loops_are_the_block() {
    let adapted = ["content.image", "content.layer0.query", "content.layer0.value"];
    for (at, on) in [(0, &[][..]), (1, &[]), (2, &[]), (3, &[]), (0, &adapted)] {
        let config = config(at, on);
        let case = Case::of_model(&config, |_| true);
        let items = items(150, config.content.vector_widths);
        let expected = expected(&case, &config, &items);
        let block = block(&case, &config);
        let vectors = block.fold().forward(&items.iter().collect::<Vec<_>>());
        close("vectors", &vectors, &expected, Tolerance::F32);
        let keys = case.params().base("interest.key", &expected).unwrap();
        close("keys", &block.interest_keys(&vectors), &keys, Tolerance::F32);
    }
}

#[test]
fn an_item_has_the_same_bits_beside_any_others() {
    let config = config(0, &[]);
    let case = Case::of_model(&config, |_| true);
    let block = block(&case, &config);
    let folded = block.fold();
    let items = items(150, config.content.vector_widths);
    let together = folded.forward(&items.iter().collect::<Vec<_>>());
    let keys = block.interest_keys(&together);
    let learned = block.forward(&items);
    let (out, width) = (config.content.out(), config.interest.width);
    for (at, item) in items.iter().enumerate() {
        let alone = folded.forward(&[item]);
        assert!(alone[..] == together[at * out..(at + 1) * out], "item {at}");
        let key = block.interest_keys(&alone);
        assert!(key[..] == keys[at * width..(at + 1) * width], "key of item {at}");
        let alone = block.forward(std::slice::from_ref(item));
        let beside = &learned.vectors()[at * out..(at + 1) * out];
        assert!(alone.vectors() == beside, "item {at} that learns");
    }
}
