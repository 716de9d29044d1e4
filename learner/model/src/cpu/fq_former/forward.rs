//! The forward pass of a Fusion-Q-Former that learns.

use std::sync::Arc;

use ouzel_sample::{ItemVectors, N_MODALITIES};

use super::{FqFormer, frozen_vector};
use crate::config::MatmulPrecision;
use crate::cpu::kernel::{add, add_scaled, row, row_mut, vectorized};
use crate::cpu::layer_norm::LayerNorm;
use crate::cpu::linear::Linear;
use crate::cpu::scratch::ScratchBuffer;
use crate::cpu::softmax::{MASKED, softmax};

/// A forward pass over the candidates' contents.
#[derive(Debug)]
pub(crate) struct FqFormerForward {
    pub(super) block: Arc<FqFormer>,
    /// From a token to the scores of all heads: weight `q W_k [heads * queries, width]`, bias `q b_k`.
    pub(super) scores: Linear,
    pub(super) modalities: [Tokens; N_MODALITIES],
    /// The token of each modality that an item has.
    pub(super) places: Vec<[Option<usize>; N_MODALITIES]>,
    /// Shares of the queries' values and of the tokens, `[n, heads * queries, sources]`.
    pub(super) shares: Vec<f32>,
    /// What the queries read, `[n * queries, width]`.
    pub(super) read: Vec<f32>,
    /// The outputs of the norm before weight and bias, and its factors `[n * queries]`.
    pub(super) normalized: Vec<f32>,
    pub(super) factors: Vec<f32>,
    vectors: Vec<f32>,
}

/// The tokens of one modality, of the items that have it.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// Frozen vectors, `[n, n_in]`.
    pub(super) vectors: ScratchBuffer,
    /// Tokens and their values, `[n, width]` each.
    pub(super) tokens: Vec<f32>,
    pub(super) values: Vec<f32>,
    /// `[n, heads * queries]`
    pub(super) scores: Vec<f32>,
}

impl FqFormer {
    /// The contents of items, with what a backward pass needs.
    pub(crate) fn forward(self: &Arc<Self>, items: &[ItemVectors]) -> FqFormerForward {
        let sizes = self.sizes;
        let mut pass = FqFormerForward {
            block: Arc::clone(self),
            scores: Linear::default(),
            modalities: Default::default(),
            places: vec![[None; N_MODALITIES]; items.len()],
            shares: vec![0.0; items.len() * sizes.n_heads() * sizes.sources()],
            read: vec![0.0; items.len() * sizes.out()],
            normalized: Vec::new(),
            factors: Vec::new(),
            vectors: Vec::new(),
        };
        pulp::Arch::new().dispatch(Forward(&mut pass, items));
        pass
    }

    /// The layer from tokens to the scores of all heads.
    #[inline(always)]
    fn score_layer(&self) -> Linear {
        let (width, n_heads) = (self.sizes.width, self.sizes.n_heads());
        let mut weight = vec![0.0; n_heads * width];
        for (at, out) in weight.chunks_exact_mut(width).enumerate() {
            let (query, head) = self.sizes.place(at);
            let scaled = &row(&self.terms.scaled, query, width)[head.clone()];
            let keys = self.key.weight.chunks_exact(width).skip(head.start);
            for (scaled, key) in scaled.iter().zip(keys) {
                add_scaled(out, *scaled, key);
            }
        }
        Linear::new(weight, width, MatmulPrecision::F32).with_bias(&self.terms.bias)
    }
}

impl FqFormerForward {
    /// The content vectors, `[n, queries * width]`.
    pub(crate) fn vectors(&self) -> &[f32] {
        &self.vectors
    }

    #[inline(always)]
    fn forward_loops(&mut self, items: &[ItemVectors]) {
        let block = Arc::clone(&self.block);
        self.scores = block.score_layer();
        for modality in 0..N_MODALITIES {
            self.tokens(&block, modality, items);
        }
        for item in 0..items.len() {
            self.attend(&block, item);
        }
        let (queries, width) = (block.sizes.queries, block.sizes.width);
        self.normalized = vec![0.0; self.read.len()];
        block.out.forward_merged(&self.read, &mut self.normalized);
        self.vectors = vec![0.0; self.read.len()];
        let outputs = self.vectors.chunks_exact_mut(width);
        let rows = self.normalized.chunks_exact_mut(width).zip(outputs);
        for (at, (sum, out)) in rows.enumerate() {
            add(sum, row(&block.queries, at % queries, width));
            self.factors.push(LayerNorm::normalize(sum));
            block.norm.scale(sum, out);
        }
    }

    /// The tokens of a modality, with their values and scores.
    #[inline(always)]
    fn tokens(&mut self, block: &FqFormer, modality: usize, items: &[ItemVectors]) {
        let Some(layer) = &block.modalities[modality] else {
            return;
        };
        let tokens = &mut self.modalities[modality];
        let vectors = || items.iter().map(|item| frozen_vector(item, modality, layer.n_in));
        let n = vectors().flatten().count();
        tokens.vectors = ScratchBuffer::new(n * layer.n_in);
        let mut next = 0;
        for (vector, place) in vectors().zip(&mut self.places) {
            if let Some(vector) = vector {
                row_mut(&mut tokens.vectors, next, layer.n_in).copy_from_slice(vector);
                place[modality] = Some(next);
                next += 1;
            }
        }
        tokens.tokens = vec![0.0; n * block.sizes.width];
        layer.forward_merged(&tokens.vectors, &mut tokens.tokens);
        tokens.values = vec![0.0; n * block.sizes.width];
        block.value.forward_merged(&tokens.tokens, &mut tokens.values);
        tokens.scores = self.scores.forward(&tokens.tokens);
    }

    /// What the queries read of each other and of an item's tokens.
    #[inline(always)]
    fn attend(&mut self, block: &FqFormer, item: usize) {
        let (sizes, terms) = (block.sizes, &block.terms);
        let (width, n_heads) = (sizes.width, sizes.n_heads());
        let shares = row_mut(&mut self.shares, item, n_heads * sizes.sources());
        let read = row_mut(&mut self.read, item, sizes.out());
        let tokens = || self.modalities.iter().zip(self.places[item]);
        for (at, shares) in shares.chunks_exact_mut(sizes.sources()).enumerate() {
            let (query, head) = sizes.place(at);
            let (own, of_tokens) = shares.split_at_mut(sizes.queries);
            own.copy_from_slice(row(&terms.scores, at, sizes.queries));
            for (share, (tokens, place)) in of_tokens.iter_mut().zip(tokens()) {
                *share = place.map_or(MASKED, |place| tokens.scores[place * n_heads + at]);
            }
            softmax(shares);
            let read = &mut read[query * width..][head.clone()];
            for (share, values) in shares.iter().zip(terms.values.chunks_exact(width)) {
                add_scaled(read, *share, &values[head.clone()]);
            }
            for (share, (tokens, place)) in shares[sizes.queries..].iter().zip(tokens()) {
                if let Some(place) = place {
                    let values = &row(&tokens.values, place, width)[head.clone()];
                    add_scaled(read, *share, values);
                }
            }
        }
    }
}

vectorized! {
    Forward<'a>(pass: &'a mut FqFormerForward, items: &'a [ItemVectors]) => pass.forward_loops(items)
}
