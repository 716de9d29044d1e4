//! The backward pass of a Fusion-Q-Former: from the gradient of content vectors to that of every weight that makes them.

use ouzel_sample::{MODALITIES, N_MODALITIES};

use super::{FqFormer, FqFormerForward, QueryTerms};
use crate::cpu::kernel::{add, add_scaled, dot, row, row_mut, vectorized};
use crate::cpu::layer_norm::LayerNormGradients;
use crate::cpu::linear::LinearGradients;
use crate::cpu::softmax::softmax_backward;
use crate::cpu::weights::{Learning, NamedGradients};

/// A backward pass under way: gradients by the names that their weights and terms have in [`FqFormer`].
struct Backward<'a> {
    pass: &'a FqFormerForward,
    block: &'a FqFormer,
    terms: QueryTerms,
    /// Of the layer from tokens to scores.
    scores: LinearGradients,
    queries: Vec<f32>,
    query: LinearGradients,
    key: LinearGradients,
    value: LinearGradients,
    out: LinearGradients,
    norm: LayerNormGradients,
    modalities: [LinearGradients; N_MODALITIES],
}

/// Gradients of a modality's tokens.
struct OfTokens {
    /// `[n, width]`
    values: Vec<f32>,
    /// `[n, heads * queries]`
    scores: Vec<f32>,
}

impl FqFormerForward {
    /// Gradients of the weights that learn, from that of the vectors, `[n, queries * width]`.
    pub(crate) fn backward(&self, gradient: &[f32], learning: Learning) -> NamedGradients {
        let block = &*self.block;
        let rows = || vec![0.0; block.sizes.out()];
        let mut back = Backward {
            pass: self,
            block,
            terms: QueryTerms {
                scaled: rows(),
                keys: rows(),
                values: rows(),
                scores: vec![0.0; block.terms.scores.len()],
                bias: Vec::new(),
            },
            scores: LinearGradients::merged(&self.scores),
            queries: rows(),
            query: LinearGradients::merged(&block.query),
            key: LinearGradients::merged(&block.key),
            value: LinearGradients::merged(&block.value),
            out: LinearGradients::merged(&block.out),
            norm: block.norm.zeros(),
            modalities: block.modalities.each_ref().map(|layer| {
                let layer = layer.as_ref();
                layer.map_or_else(LinearGradients::default, LinearGradients::merged)
            }),
        };
        pulp::Arch::new().dispatch(Run(&mut back, gradient));
        back.named(learning)
    }
}

impl Backward<'_> {
    #[inline(always)]
    fn run(&mut self, gradient: &[f32]) {
        let (pass, block) = (self.pass, self.block);
        let (width, n_heads) = (block.sizes.width, block.sizes.n_heads());
        let of_sums = self.norm(gradient);
        for of_sum in of_sums.chunks_exact(block.sizes.out()) {
            add(&mut self.queries, of_sum);
        }
        let mut of_read = vec![0.0; of_sums.len()];
        block.out.backward_merged(&pass.read, &of_sums, &mut self.out);
        block.out.input_gradient(&of_sums, &mut of_read);
        let mut tokens = pass.modalities.each_ref().map(|tokens| OfTokens {
            values: vec![0.0; tokens.tokens.len()],
            scores: vec![0.0; tokens.tokens.len() / width * n_heads],
        });
        for (item, of_read) in of_read.chunks_exact(block.sizes.out()).enumerate() {
            self.attention(item, of_read, &mut tokens);
        }
        for (modality, of_tokens) in tokens.iter().enumerate() {
            self.tokens(modality, of_tokens);
        }
        self.query_terms();
    }

    /// From the outputs of the norm to its inputs, `[n * queries, width]`.
    #[inline(always)]
    fn norm(&mut self, gradient: &[f32]) -> Vec<f32> {
        let (pass, width) = (self.pass, self.block.sizes.width);
        let mut of_sums = vec![0.0; gradient.len()];
        let normalized = pass.normalized.chunks_exact(width).zip(&pass.factors);
        let gradients = gradient.chunks_exact(width).zip(normalized);
        for (out, (gradient, (normalized, factor))) in of_sums.chunks_exact_mut(width).zip(gradients) {
            let output = (normalized, *factor);
            self.block.norm.backward(output, gradient, &mut self.norm, out);
        }
        of_sums
    }

    /// From what the queries of one item read to the scores and values of queries and tokens.
    #[inline(always)]
    fn attention(&mut self, item: usize, of_read: &[f32], tokens: &mut [OfTokens; N_MODALITIES]) {
        let (pass, sizes) = (self.pass, self.block.sizes);
        let (width, queries, n_heads) = (sizes.width, sizes.queries, sizes.n_heads());
        let shares = row(&pass.shares, item, n_heads * sizes.sources());
        let mut of_shares = vec![0.0; sizes.sources()];
        for (at, shares) in shares.chunks_exact(sizes.sources()).enumerate() {
            let (query, head) = sizes.place(at);
            let of_read = &of_read[query * width..][head.clone()];
            of_shares.fill(0.0);
            for source in 0..queries {
                let values = &row(&self.block.terms.values, source, width)[head.clone()];
                of_shares[source] = dot(of_read, values);
                let of_values = &mut row_mut(&mut self.terms.values, source, width)[head.clone()];
                add_scaled(of_values, shares[source], of_read);
            }
            for (modality, place) in pass.places[item].into_iter().enumerate() {
                if let Some(place) = place {
                    let source = queries + modality;
                    let values = &row(&pass.modalities[modality].values, place, width)[head.clone()];
                    of_shares[source] = dot(of_read, values);
                    let of_values = row_mut(&mut tokens[modality].values, place, width);
                    add_scaled(&mut of_values[head.clone()], shares[source], of_read);
                }
            }
            let mut mean = 0.0;
            for (share, of) in shares.iter().zip(&of_shares) {
                mean += share * of;
            }
            softmax_backward(&mut of_shares, shares, mean);
            add(
                row_mut(&mut self.terms.scores, at, queries),
                &of_shares[..queries],
            );
            for (modality, place) in pass.places[item].into_iter().enumerate() {
                if let Some(place) = place {
                    tokens[modality].scores[place * n_heads + at] = of_shares[queries + modality];
                }
            }
        }
    }

    /// From values and scores of a modality's tokens to its layer and to the layers of values and scores.
    #[inline(always)]
    fn tokens(&mut self, modality: usize, of: &OfTokens) {
        let Some(layer) = &self.block.modalities[modality] else {
            return;
        };
        let tokens = &self.pass.modalities[modality];
        let mut of_tokens = vec![0.0; tokens.tokens.len()];
        let value = &self.block.value;
        value.input_gradient(&of.values, &mut of_tokens);
        value.backward_merged(&tokens.tokens, &of.values, &mut self.value);
        let inputs = Some(of_tokens.as_mut_slice());
        self.pass
            .scores
            .backward(&tokens.tokens, &of.scores, &mut self.scores, inputs);
        layer.backward_merged(&tokens.vectors, &of_tokens, &mut self.modalities[modality]);
    }

    /// From the terms that all items share to the queries and their layers.
    #[inline(always)]
    fn query_terms(&mut self) {
        let (block, sizes) = (self.block, self.block.sizes);
        let (width, queries) = (sizes.width, sizes.queries);
        for at in 0..sizes.n_heads() {
            let (query, head) = sizes.place(at);
            let scaled = &row(&block.terms.scaled, query, width)[head.clone()];
            let of_scaled = &mut row_mut(&mut self.terms.scaled, query, width)[head.clone()];
            for other in 0..queries {
                let of_score = self.terms.scores[at * queries + other];
                add_scaled(
                    of_scaled,
                    of_score,
                    &row(&block.terms.keys, other, width)[head.clone()],
                );
                let of_key = &mut row_mut(&mut self.terms.keys, other, width)[head.clone()];
                add_scaled(of_key, of_score, scaled);
            }
            let of_bias = self.scores.bias[at];
            add_scaled(of_scaled, of_bias, &block.key.bias[head.clone()]);
            add_scaled(&mut self.key.bias[head.clone()], of_bias, scaled);
            let of_weight = row(&self.scores.weight, at, width);
            let keys = block.key.weight.chunks_exact(width).skip(head.start);
            let of_keys = self.key.weight.chunks_exact_mut(width).skip(head.start);
            let sides = of_scaled.iter_mut().zip(scaled);
            for ((of_scaled, scaled), (key, of_key)) in sides.zip(keys.zip(of_keys)) {
                *of_scaled += dot(of_weight, key);
                add_scaled(of_key, *scaled, of_weight);
            }
        }
        self.terms.scaled.iter_mut().for_each(|x| *x *= sizes.scale);
        for (layer, gradients, of) in [
            (&block.query, &mut self.query, &self.terms.scaled),
            (&block.key, &mut self.key, &self.terms.keys),
            (&block.value, &mut self.value, &self.terms.values),
        ] {
            layer.backward_merged(&block.queries, of, gradients);
            layer.input_gradient(of, &mut self.queries);
        }
    }

    fn named(self, learning: Learning) -> NamedGradients {
        let block = self.block;
        let mut out = NamedGradients::new();
        if learning.base {
            out.push(("content.queries".to_owned(), self.queries));
            self.norm.add_named("content.layer0.norm", &mut out);
        }
        for (name, layer, gradients) in [
            ("query", &block.query, self.query),
            ("key", &block.key, self.key),
            ("value", &block.value, self.value),
            ("out", &block.out, self.out),
        ] {
            let gradients = gradients.split_merged(layer, learning);
            gradients.add_named(&format!("content.layer0.{name}"), &mut out);
        }
        let modalities = MODALITIES.into_iter().zip(self.modalities);
        for ((name, gradients), layer) in modalities.zip(&block.modalities) {
            if let Some(layer) = layer {
                let gradients = gradients.split_merged(layer, learning);
                gradients.add_named(&format!("content.{name}"), &mut out);
            }
        }
        out
    }
}

vectorized! {
    Run<'a, 'b>(back: &'a mut Backward<'b>, gradient: &'a [f32]) => back.run(gradient)
}
