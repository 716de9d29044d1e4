//! How much arithmetic a sample takes, and how fast libtorch multiplies matrices.

use tch::{Device, Kind, Tensor};

use ouzel_learner::model::Block;
use ouzel_learner::model::cost::{Flops, costs};
use ouzel_learner::model::{Inputs, ModelConfig};
use ouzel_sample::Batch;

use crate::rate;

/// Rows, depth and columns of the largest product of a batch of 64 requests with 50 past items: those that are distinct,
/// through the layer that takes a picture's vector.
pub(crate) const LARGEST: [i64; 3] = [1536, 512, 64];

/// Floating-point operations a sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needed {
    pub(crate) train: f64,
    pub(crate) score: f64,
}

/// What a batch needs, as far as it goes through weights: forward once, and twice that on the way back, or once through a
/// block that is frozen. Contents of past items are not learned from, and those of a frozen model, or of one that only
/// scores, are there already.
pub(crate) fn of_sample(config: &ModelConfig, batch: &Batch, is_frozen: bool) -> Needed {
    let inputs = Inputs::of_samples(config, &batch.samples, &batch.vectors);
    let (n_requests, n_samples) = (inputs.n_requests() as u64, inputs.n_candidates() as u64);
    let n_past = batch.samples.iter().map(|s| s.request.history.len()).max();
    let (n_items, n_targets) = match &inputs.contents {
        Some(contents) if !is_frozen => (contents.ids.len() as u64, contents.n_targets as u64),
        _ => (0, 0),
    };
    let (mut forward, mut back, mut of_items) = (0, 0, 0);
    for cost in costs(config) {
        let n = cost.history_len.min(n_past.unwrap_or(0));
        let of = |flops: Flops| flops.at(n);
        let once = n_requests * of(cost.request) + n_samples * of(cost.candidate);
        let is_still = is_frozen && matches!(cost.block, Block::Sequence | Block::Interest);
        forward += once;
        back += if is_still { once } else { 2 * once };
        of_items += cost.item * (n_items + 2 * n_targets);
    }
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    let per_sample = |n: u64| n as f64 / n_samples as f64;
    Needed {
        train: per_sample(forward + back + of_items),
        score: per_sample(forward),
    }
}

/// Floating-point operations a second of a product of these sizes.
pub(crate) fn gemm([m, k, n]: [i64; 3], seconds: f64) -> f64 {
    let [a, b] = [[m, k], [k, n]].map(|size| Tensor::ones(size, (Kind::Float, Device::Cpu)));
    #[expect(clippy::cast_precision_loss, reason = "sizes")]
    let flops = 2.0 * (m * k * n) as f64;
    let products = rate(seconds, || {
        let _product = a.matmul(&b);
        1
    });
    flops * products.by_processor
}
