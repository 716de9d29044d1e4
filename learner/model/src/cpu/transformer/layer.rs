//! A layer of attention and a feed-forward network, each behind its norm.

use super::Readers;
use super::attention::{Heads, Projected};
use crate::config::SequenceConfig;
use crate::cpu::activation::{relu, relu_backward};
use crate::cpu::kernel::{add, row, row_mut};
use crate::cpu::layer_norm::{LayerNorm, NormalizedRows};
use crate::cpu::linear::{Linear, add_named, input_gradients};
use crate::cpu::weights::{BlockWeights, Learning, NamedGradients};
use crate::error::Error;

/// The layer with the weights of one moment, adapters merged.
#[derive(Debug)]
pub(super) struct Layer {
    heads: Heads,
    width: usize,
    norm: LayerNorm,
    query: Linear,
    key_value: Linear,
    out: Linear,
    ffn_norm: LayerNorm,
    expand: Linear,
    contract: Linear,
}

/// What a forward pass keeps; rows are those that the layer computes unless stated.
#[derive(Debug)]
pub(super) struct LayerForward {
    /// All rows, normalised, and what the projections read of them.
    norm: NormalizedRows,
    normed: Vec<f32>,
    /// The same of the rows that the layer computes.
    active: Vec<f32>,
    query: Vec<f32>,
    /// Of all rows.
    key_value: Vec<f32>,
    shares: Vec<f32>,
    read: Vec<f32>,
    ffn_norm: NormalizedRows,
    ffn_normed: Vec<f32>,
    hidden: Vec<f32>,
}

impl Layer {
    pub(super) fn new(
        weights: BlockWeights<'_>,
        sequence: &SequenceConfig,
        index: usize,
    ) -> Result<Self, Error> {
        let (width, heads) = (sequence.width, sequence.heads);
        let name = |part: &str| format!("sequence.layer{index}.{part}");
        let linear = |part: &str, n_in: usize| -> Result<Linear, Error> {
            Ok(weights.linear(&name(part), n_in)?.merged())
        };
        Ok(Self {
            heads: Heads {
                n: heads,
                key: sequence.key_width,
                value: sequence.value_width,
            },
            width,
            norm: weights.layer_norm(&name("norm"))?,
            query: linear("query", width)?,
            key_value: linear("key_value", width)?,
            out: linear("out", heads * sequence.value_width)?,
            ffn_norm: weights.layer_norm(&name("ffn_norm"))?,
            expand: linear("expand", width)?,
            contract: linear("contract", width)?,
        })
    }

    /// Whether an adapter learns through the layer's weights.
    pub(super) fn has_adapter(&self) -> bool {
        [
            &self.query,
            &self.key_value,
            &self.out,
            &self.expand,
            &self.contract,
        ]
        .iter()
        .any(|layer| layer.adapter.is_some())
    }

    /// The rows that `readers` names after the layer, `[n_active, width]`, from all rows before it, `x [n, width]`.
    #[inline(always)]
    pub(super) fn forward(&self, x: &[f32], readers: &Readers) -> (LayerForward, Vec<f32>) {
        let width = self.width;
        let mut norm = NormalizedRows::default();
        norm.fill(x, width);
        let normed = norm.scaled(&self.norm);
        let active = gather(&normed, &readers.active, width);
        let (query, key_value) = (outputs(&self.query, &active), outputs(&self.key_value, &normed));
        let projected = Projected {
            query: &query,
            key_value: &key_value,
        };
        let (shares, read) = self.heads.forward(&readers.groups, projected);
        let mut y = gather(x, &readers.active, width);
        add(&mut y, &outputs(&self.out, &read));
        let mut ffn_norm = NormalizedRows::default();
        ffn_norm.fill(&y, width);
        let ffn_normed = ffn_norm.scaled(&self.ffn_norm);
        let mut hidden = outputs(&self.expand, &ffn_normed);
        relu(&mut hidden);
        add(&mut y, &outputs(&self.contract, &hidden));
        let kept = LayerForward {
            norm,
            normed,
            active,
            query,
            key_value,
            shares,
            read,
            ffn_norm,
            ffn_normed,
            hidden,
        };
        (kept, y)
    }

    /// The gradient of all rows before the layer, `[n, width]`, from that of the computed rows behind it. Adds those of the
    /// weights that learn.
    #[inline(always)]
    pub(super) fn backward(
        &self,
        pass: &LayerForward,
        readers: &Readers,
        gradient: &[f32],
        (name, learning, learns): (&str, Learning, bool),
        weights: &mut NamedGradients,
    ) -> Vec<f32> {
        let width = self.width;
        let mut of_hidden = vec![0.0; pass.hidden.len()];
        let of_contract = input_gradients(&self.contract, &pass.hidden, gradient, learns, &mut of_hidden);
        relu_backward(&mut of_hidden, &pass.hidden);
        let mut of_ffn = vec![0.0; pass.ffn_normed.len()];
        let of_expand = input_gradients(&self.expand, &pass.ffn_normed, &of_hidden, learns, &mut of_ffn);
        let mut of_y = vec![0.0; gradient.len()];
        let mut of_ffn_norm = self.ffn_norm.zeros();
        pass.ffn_norm
            .backward_scaled(&self.ffn_norm, &of_ffn, &mut of_ffn_norm, &mut of_y);
        add(&mut of_y, gradient);

        let mut of_read = vec![0.0; pass.read.len()];
        let of_out = input_gradients(&self.out, &pass.read, &of_y, learns, &mut of_read);
        let projected = Projected {
            query: &pass.query,
            key_value: &pass.key_value,
        };
        let of = self
            .heads
            .backward(&readers.groups, projected, &pass.shares, &of_read);
        let mut of_normed = vec![0.0; pass.normed.len()];
        let of_key_value = input_gradients(
            &self.key_value,
            &pass.normed,
            &of.key_value,
            learns,
            &mut of_normed,
        );
        let mut of_active = vec![0.0; pass.active.len()];
        let of_query = input_gradients(&self.query, &pass.active, &of.query, learns, &mut of_active);
        scatter(&of_active, &readers.active, width, &mut of_normed);
        let mut of_x = vec![0.0; pass.normed.len()];
        let mut of_norm = self.norm.zeros();
        pass.norm
            .backward_scaled(&self.norm, &of_normed, &mut of_norm, &mut of_x);
        scatter(&of_y, &readers.active, width, &mut of_x);

        if learning.base {
            of_norm.add_named(&format!("{name}.norm"), weights);
            of_ffn_norm.add_named(&format!("{name}.ffn_norm"), weights);
        }
        let part = |part: &str| format!("{name}.{part}");
        add_named(
            [
                (part("query").as_str(), &self.query, of_query),
                (part("key_value").as_str(), &self.key_value, of_key_value),
                (part("out").as_str(), &self.out, of_out),
                (part("expand").as_str(), &self.expand, of_expand),
                (part("contract").as_str(), &self.contract, of_contract),
            ],
            (learning, learns),
            weights,
        );
        of_x
    }
}

/// The outputs of a merged layer.
#[inline(always)]
fn outputs(layer: &Linear, x: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len() / layer.n_in.max(1) * layer.n_out];
    layer.forward_merged(x, &mut out);
    out
}

#[inline(always)]
fn gather(x: &[f32], places: &[usize], width: usize) -> Vec<f32> {
    let rows = places.iter().map(|at| row(x, *at, width));
    rows.flatten().copied().collect()
}

/// Adds rows to those at `places`.
#[inline(always)]
fn scatter(rows: &[f32], places: &[usize], width: usize, out: &mut [f32]) {
    for (of, at) in rows.chunks_exact(width).zip(places) {
        add(row_mut(out, *at, width), of);
    }
}
