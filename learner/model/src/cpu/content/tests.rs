use ouzel_sample::Vector;
use tch::Device;

use super::*;
use crate::blocks::fq_former;
use crate::config::InterestConfig;
use crate::normal;
use crate::shapes::weight_specs;
use crate::torch::gather_frozen as frozen;
use tch::Tensor;

fn config(queries: usize, heads: usize, width: usize, widths: [usize; N_MODALITIES]) -> ModelConfig {
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
        ..ModelConfig::default()
    }
}

/// Weights of all sizes, biases and norms included.
fn params(config: &ModelConfig) -> Params {
    let made = (0..).zip(weight_specs(config)).map(|(stream, spec)| {
        let n: usize = spec.shape.iter().product();
        let values: Vec<f32> = (0..n as u64).map(|lane| 0.4 * normal(5, stream, lane)).collect();
        let extents: Vec<i64> = spec.shape.iter().map(|n| i64::try_from(*n).unwrap()).collect();
        (spec.name, Tensor::from_slice(&values).reshape(&extents))
    });
    Params::new(made, 1.0)
}

/// Some with both modalities, some with one or none, some of another width than the model reads.
fn items(n: u64, widths: [usize; N_MODALITIES]) -> Vec<ItemVectors> {
    let made = |item: u64, modality: usize| {
        let width = match (item + modality as u64) % 5 {
            0 => return None,
            1 if item.is_multiple_of(7) => 3,
            _ => widths[modality],
        };
        let values: Vec<f32> = (0..width as u64)
            .map(|lane| normal(item, modality as u64, lane))
            .collect();
        Vector::provided(&values)
    };
    (0..n).map(|item| [made(item, 0), made(item, 1)]).collect()
}

#[test]
fn the_loops_are_the_block() {
    for (queries, heads, width, widths) in [
        (2, 4, 64, [384, 512]),
        (1, 1, 8, [5, 0]),
        (3, 2, 10, [7, 20]),
        (4, 8, 16, [0, 33]),
    ] {
        let config = config(queries, heads, width, widths);
        let (params, items) = (params(&config), items(150, widths));
        let tensors = frozen(&items, &config.content, Device::Cpu).unwrap();
        let expected = fq_former::forward(&params, &config.content, &tensors).unwrap();
        let expected_keys = params.base("interest.key", &expected).unwrap();
        let block = FqFormer::new(&params, &config).unwrap();
        let found = block.forward(&items.iter().collect::<Vec<_>>());
        let keys = block.keys(&found);
        for (found, expected) in [(found, expected), (keys, expected_keys)] {
            let expected = to_vec(&expected).unwrap();
            assert_eq!(found.len(), expected.len());
            let most = expected.iter().fold(1.0f32, |most, x| most.max(x.abs()));
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() <= 1e-5 * most,
                    "{widths:?}: {found} {expected}"
                );
            }
        }
    }
}

/// Contents and the gradients of all weights are those that libtorch finds by itself.
#[test]
fn contents_that_learn_are_the_block_and_its_gradients() {
    for (queries, heads, width, widths) in [
        (2, 4, 64, [384, 512]),
        (1, 1, 8, [5, 0]),
        (3, 2, 10, [7, 20]),
        (4, 8, 16, [0, 33]),
    ] {
        let config = config(queries, heads, width, widths);
        let (params, items) = (params(&config), items(40, widths));
        let names: Vec<&str> = params.iter().map(|(name, _)| name).collect();
        let names: Vec<&str> = names
            .into_iter()
            .filter(|name| name.starts_with("content."))
            .collect();
        let weights: Vec<Tensor> = names
            .iter()
            .map(|name| params.get(name).unwrap().set_requires_grad(true))
            .collect();
        let tensors = frozen(&items, &config.content, Device::Cpu).unwrap();
        let made = fq_former::forward(&params, &config.content, &tensors).unwrap();
        let direction: Vec<f32> = (0..made.numel() as u64).map(|lane| normal(6, 0, lane)).collect();
        let sum = (&made * Tensor::from_slice(&direction).view_as(&made)).sum(tch::Kind::Float);
        let expected = Tensor::run_backward(&[&sum], &weights, false, false);

        let pass = ContentPass::new(&params, &config, &items).unwrap();
        let close = |what: &str, found: &[f32], expected: &Tensor| {
            let expected = to_vec(expected).unwrap();
            assert_eq!(found.len(), expected.len(), "{what}");
            let most = expected.iter().fold(1.0f32, |most, x| most.max(x.abs()));
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() <= 2e-5 * most,
                    "{what} of {widths:?}: {found} {expected}"
                );
            }
        };
        close("contents", pass.vectors(), &made);
        let found = pass.backward(&direction);
        assert_eq!(found.len(), names.len());
        for (name, expected) in names.iter().zip(&expected) {
            let (_, found) = found.iter().find(|(found, _)| found == name).unwrap();
            close(name, found, expected);
        }
    }
}

#[test]
fn an_item_has_the_same_bits_in_any_company() {
    let config = config(2, 4, 64, [384, 512]);
    let block = FqFormer::new(&params(&config), &config).unwrap();
    let items = items(150, [384, 512]);
    let together = block.forward(&items.iter().collect::<Vec<_>>());
    let keys = block.keys(&together);
    for (at, item) in items.iter().enumerate() {
        let alone = block.forward(&[item]);
        assert!(alone[..] == together[at * 128..(at + 1) * 128], "item {at}");
        let width = keys.len() / items.len();
        assert!(
            block.keys(&alone)[..] == keys[at * width..(at + 1) * width],
            "key of item {at}"
        );
    }
}
