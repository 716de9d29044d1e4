//! The pooled head: what a candidate's last hidden layer differs in from the mean and from the maximum of its slate.
//!
//! What [`crate::blocks::slate_pool`] computes. The head then reads `[h, h - mean, h - max]`, its last two parts through a
//! weight of their own. A slate is the members of a request in the batch.

use super::gemm::{Lhs, add_product};
use super::kernel::{add, index, row, row_mut};
use super::linear::Linear;
use super::weights::BlockWeights;
use crate::config::{MatmulPrecision, ModelConfig};
use crate::error::Error;

/// The weight that reads both differences.
#[derive(Debug)]
pub(super) struct SlatePool {
    /// Width of the last hidden layer.
    width: usize,
    /// `[n_tasks, 2 * width]`
    layer: Linear,
}

/// A forward pass.
#[derive(Debug, Default)]
pub(super) struct SlatePoolForward {
    /// Mean, then maximum, of each slate, `[n_requests, 2 * width]`.
    stats: Vec<f32>,
    /// Members of a slate, `[n_requests]`.
    counts: Vec<f32>,
    /// Members that have the maximum, `[n_requests, width]`.
    ties: Vec<f32>,
    /// Differences from mean and maximum, `[n_candidates, 2 * width]`.
    read: Vec<f32>,
}

/// The slates of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slates<'a> {
    /// Whether a candidate counts in its slate.
    pub(super) members: &'a [bool],
    /// The request of each candidate.
    pub(super) request_of: &'a [i64],
    pub(super) n_requests: usize,
}

impl Slates<'_> {
    /// The candidates that count in their slates, with their requests.
    #[inline(always)]
    fn members(&self) -> impl Iterator<Item = (usize, usize)> {
        let candidates = self.request_of.iter().zip(self.members).enumerate();
        candidates
            .filter_map(|(candidate, (request, is_member))| is_member.then_some((candidate, index(*request))))
    }
}

impl SlatePool {
    /// The pooled head of a model that has one.
    pub(super) fn new(weights: BlockWeights<'_>, config: &ModelConfig) -> Result<Self, Error> {
        let width = config.hidden.last().copied().unwrap_or(1);
        Ok(Self {
            width,
            layer: Linear::new(weights.get("pool.weight")?, 2 * width, MatmulPrecision::F32),
        })
    }

    /// Adds what the differences contribute to the logits, `[n_candidates, n_tasks]`, of candidates with this last `hidden`
    /// layer, `[n_candidates, width]`.
    #[inline(always)]
    pub(super) fn forward(&self, hidden: &[f32], slates: Slates<'_>, logits: &mut [f32]) -> SlatePoolForward {
        let (width, n) = (self.width, slates.request_of.len());
        let mut pass = SlatePoolForward {
            stats: vec![0.0; slates.n_requests * 2 * width],
            counts: vec![0.0; slates.n_requests],
            ties: vec![0.0; slates.n_requests * width],
            read: vec![0.0; n * 2 * width],
        };
        self.pool(hidden, slates, &mut pass);
        let rows = pass.read.chunks_exact_mut(2 * width).zip(slates.request_of);
        for ((read, request), hidden) in rows.zip(hidden.chunks_exact(width)) {
            let stats = row(&pass.stats, index(*request), 2 * width);
            for (read, stats) in read.chunks_exact_mut(width).zip(stats.chunks_exact(width)) {
                for ((out, x), of_slate) in read.iter_mut().zip(hidden).zip(stats) {
                    *out = x - of_slate;
                }
            }
        }
        let size = [n, 2 * width, self.layer.n_out];
        add_product(logits, Lhs::Matrix(&pass.read), &self.layer.transposed, size);
        pass
    }

    /// Computes mean and maximum of each slate.
    #[inline(always)]
    fn pool(&self, hidden: &[f32], slates: Slates<'_>, pass: &mut SlatePoolForward) {
        let width = self.width;
        for (candidate, request) in slates.members() {
            let hidden = row(hidden, candidate, width);
            let (mean, max) = row_mut(&mut pass.stats, request, 2 * width).split_at_mut(width);
            add(mean, hidden);
            if pass.counts[request] == 0.0 {
                max.copy_from_slice(hidden);
            }
            for (max, x) in max.iter_mut().zip(hidden) {
                *max = max.max(*x);
            }
            pass.counts[request] += 1.0;
        }
        for (stats, count) in pass.stats.chunks_exact_mut(2 * width).zip(&pass.counts) {
            stats[..width].iter_mut().for_each(|mean| *mean /= count.max(1.0));
        }
        for (candidate, request) in slates.members() {
            let max = &row(&pass.stats, request, 2 * width)[width..];
            let ties = row_mut(&mut pass.ties, request, width);
            for ((ties, max), x) in ties.iter_mut().zip(max).zip(row(hidden, candidate, width)) {
                *ties += if x >= max { 1.0 } else { 0.0 };
            }
        }
    }

    /// The gradients of the weight, `[n_tasks, 2 * width]`, and of the hidden layer, `[n_candidates, width]`, from those of the
    /// logits. Members that share a maximum share its gradient.
    #[inline(always)]
    pub(super) fn backward(
        &self,
        hidden: &[f32],
        slates: Slates<'_>,
        pass: &SlatePoolForward,
        of_logits: &[f32],
    ) -> [Vec<f32>; 2] {
        let (width, n) = (self.width, slates.request_of.len());
        let mut of_weight = vec![0.0; self.layer.weight.len()];
        let size = [self.layer.n_out, n, 2 * width];
        add_product(&mut of_weight, Lhs::Transposed(of_logits), &pass.read, size);
        let mut of_read = vec![0.0; n * 2 * width];
        self.layer.input_gradient(of_logits, &mut of_read);
        let mut of_stats = vec![0.0; pass.stats.len()];
        let mut of_hidden = vec![0.0; n * width];
        let rows = of_read.chunks_exact(2 * width).zip(slates.request_of);
        for ((of_read, request), of_hidden) in rows.zip(of_hidden.chunks_exact_mut(width)) {
            add(row_mut(&mut of_stats, index(*request), 2 * width), of_read);
            let (of_mean, of_max) = of_read.split_at(width);
            for ((out, mean), max) in of_hidden.iter_mut().zip(of_mean).zip(of_max) {
                *out = mean + max;
            }
        }
        for (candidate, request) in slates.members() {
            let (of_mean, of_max) = row(&of_stats, request, 2 * width).split_at(width);
            let max = &row(&pass.stats, request, 2 * width)[width..];
            let ties = row(&pass.ties, request, width);
            let hidden = row(hidden, candidate, width);
            let of_slate = of_mean.iter().zip(of_max).zip(max.iter().zip(ties));
            let out = row_mut(&mut of_hidden, candidate, width).iter_mut().zip(hidden);
            for ((out, x), ((of_mean, of_max), (max, ties))) in out.zip(of_slate) {
                *out -= of_mean / pass.counts[request];
                if x >= max {
                    *out -= of_max / ties;
                }
            }
        }
        [of_weight, of_hidden]
    }
}
