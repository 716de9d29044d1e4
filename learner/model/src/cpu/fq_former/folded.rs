//! The Fusion-Q-Former folded into one matrix a modality, for contents that take no gradient.

use std::sync::Arc;

use pulp::Arch;

use ouzel_sample::{ItemVectors, N_MODALITIES};

use super::{FqFormer, frozen_vector};
use crate::cpu::activation::exp;
use crate::cpu::gemm::{Lhs, add_product};
use crate::cpu::kernel::{add_scaled, row, vectorized};
use crate::cpu::layer_norm::LayerNorm;
use crate::cpu::linear::Linear;

/// Items whose vectors are copied side by side at a time, so that they stay in the cache.
const PIECE: usize = 64;

/// A block whose layers are folded, with the weights of one moment.
#[derive(Debug)]
pub(crate) struct FoldedFqFormer {
    block: Arc<FqFormer>,
    /// None for a modality that the model does not read.
    modalities: [Option<FoldedLayer>; N_MODALITIES],
    /// The bias of the output layer added to the queries, `[queries, width]`.
    start: Vec<f32>,
}

/// From a frozen vector to the scores of all heads and the value of its token.
#[derive(Debug)]
struct FoldedLayer {
    n_in: usize,
    /// `[n_in, heads * queries + width]`
    matrix: Vec<f32>,
    /// `[heads * queries + width]`
    offset: Vec<f32>,
}

impl FqFormer {
    /// Folds the layers; worth it for many more items than a batch has candidates, or for fixed weights.
    pub(crate) fn fold(self: &Arc<Self>) -> FoldedFqFormer {
        let (width, n_heads) = (self.sizes.width, self.sizes.n_heads());
        let columns = n_heads + width;
        // What turns a token into scores and value, `[width, columns]`: the heads' `q W_k` beside the layer of values.
        let mut of_token = vec![0.0; width * columns];
        for at in 0..n_heads {
            let (query, head) = self.sizes.place(at);
            let scaled = &row(&self.terms.scaled, query, width)[head.clone()];
            for (scaled, key) in scaled
                .iter()
                .zip(self.key.weight.chunks_exact(width).skip(head.start))
            {
                for (out, key) in of_token.chunks_exact_mut(columns).zip(key) {
                    out[at] += scaled * key;
                }
            }
        }
        let values = self.value.transposed.chunks_exact(width);
        for (out, values) in of_token.chunks_exact_mut(columns).zip(values) {
            out[n_heads..].copy_from_slice(values);
        }
        let offset = [&*self.terms.bias, &self.value.bias].concat();
        let fold = |layer: &Linear| {
            let mut folded = FoldedLayer {
                n_in: layer.n_in,
                matrix: vec![0.0; layer.n_in * columns],
                offset: offset.clone(),
            };
            let size = [layer.n_in, width, columns];
            add_product(
                &mut folded.matrix,
                Lhs::Transposed(&layer.weight),
                &of_token,
                size,
            );
            let bias = Lhs::Matrix(&layer.bias);
            add_product(&mut folded.offset, bias, &of_token, [1, width, columns]);
            folded
        };
        let start = self.queries.chunks_exact(width);
        FoldedFqFormer {
            block: Arc::clone(self),
            modalities: self.modalities.each_ref().map(|layer| layer.as_ref().map(fold)),
            start: start
                .flat_map(|query| query.iter().zip(&self.out.bias))
                .map(|(query, bias)| query + bias)
                .collect(),
        }
    }
}

impl FoldedFqFormer {
    /// The block as it is.
    pub(crate) fn block(&self) -> &FqFormer {
        &self.block
    }

    /// Content vectors, `[n, queries * width]`.
    pub(crate) fn forward(&self, items: &[&ItemVectors]) -> Vec<f32> {
        let out = self.block.sizes.out();
        let mut vectors = vec![0.0; items.len() * out];
        for (items, vectors) in items.chunks(PIECE).zip(vectors.chunks_mut(PIECE * out)) {
            Arch::new().dispatch(Forward(self, items, vectors));
        }
        vectors
    }

    #[inline(always)]
    fn forward_loops(&self, items: &[&ItemVectors], vectors: &mut [f32]) {
        let (sizes, out) = (self.block.sizes, self.block.sizes.out());
        let columns = sizes.n_heads() + sizes.width;
        let tokens = self.tokens(items, columns);
        let mut read = vec![0.0; items.len() * out];
        for (at, (item, read)) in items.iter().zip(read.chunks_exact_mut(out)).enumerate() {
            let mut present = [None; N_MODALITIES];
            let mut n_tokens = 0;
            for (modality, layer) in self.modalities.iter().enumerate() {
                if let Some(layer) = layer
                    && frozen_vector(item, modality, layer.n_in).is_some()
                {
                    present[n_tokens] = Some(row(&tokens[modality], at, columns));
                    n_tokens += 1;
                }
            }
            self.attend(present.into_iter().flatten(), read);
        }
        for rows in vectors.chunks_exact_mut(out) {
            rows.copy_from_slice(&self.start);
        }
        let size = [items.len() * sizes.queries, sizes.width, sizes.width];
        add_product(vectors, Lhs::Matrix(&read), &self.block.out.transposed, size);
        for row in vectors.chunks_exact_mut(sizes.width) {
            LayerNorm::normalize(row);
            self.block.norm.scale_in_place(row);
        }
    }

    /// Scores and values of the items' tokens by modality, `[n, columns]`; those of a missing vector are not read.
    #[inline(always)]
    fn tokens(&self, items: &[&ItemVectors], columns: usize) -> [Vec<f32>; N_MODALITIES] {
        let mut tokens = [const { Vec::new() }; N_MODALITIES];
        let mut side_by_side = Vec::new();
        for ((tokens, layer), modality) in tokens.iter_mut().zip(&self.modalities).zip(0..) {
            let Some(layer) = layer else { continue };
            side_by_side.clear();
            for item in items {
                match frozen_vector(item, modality, layer.n_in) {
                    Some(values) => side_by_side.extend_from_slice(values),
                    None => side_by_side.resize(side_by_side.len() + layer.n_in, 0.0),
                }
                tokens.extend_from_slice(&layer.offset);
            }
            let size = [items.len(), layer.n_in, columns];
            add_product(tokens, Lhs::Matrix(&side_by_side), &layer.matrix, size);
        }
        tokens
    }

    /// Adds what each head of the queries reads of the queries and of an item's tokens to `read [queries, width]`.
    #[inline(always)]
    fn attend<'a>(&self, tokens: impl Iterator<Item = &'a [f32]> + Clone, read: &mut [f32]) {
        let (sizes, terms) = (self.block.sizes, &self.block.terms);
        for at in 0..sizes.n_heads() {
            let (query, head) = sizes.place(at);
            let own = row(&terms.scores, at, sizes.queries);
            let scores = || own.iter().copied().chain(tokens.clone().map(|token| token[at]));
            let largest = scores().fold(f32::MIN, f32::max);
            let share = 1.0 / scores().map(|score| exp(score - largest)).sum::<f32>();
            let values = terms.values.chunks_exact(sizes.width);
            let of_tokens = tokens.clone().map(|token| &token[sizes.n_heads()..]);
            let read = &mut read[query * sizes.width..][head.clone()];
            for (score, value) in scores().zip(values.chain(of_tokens)) {
                add_scaled(read, share * exp(score - largest), &value[head.clone()]);
            }
        }
    }
}

vectorized! {
    Forward<'a>(block: &'a FoldedFqFormer, items: &'a [&'a ItemVectors], vectors: &'a mut [f32])
        => block.forward_loops(items, vectors)
}
