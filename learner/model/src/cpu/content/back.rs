//! The way back of [`ContentPass`]: from the gradient of content vectors to that of every weight that makes them.

use pulp::{Arch, NullaryFnOnce};

use ouzel_sample::MODALITIES;

use super::Linear;
use super::pass::{Block, ContentPass};
use crate::cpu::gemm::{Lhs, add_product};
use crate::cpu::kernel::{add, add_scaled, dot, total};

/// Gradients of a layer.
#[derive(Debug, Default)]
struct OfLinear {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Gradients of what is the same for all items.
struct OfShared {
    asked: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    asks: Vec<f32>,
    asks_bias: Vec<f32>,
    own: Vec<f32>,
}

/// Gradients of the block's weights.
struct Back<'a> {
    pass: &'a ContentPass,
    shared: OfShared,
    start: Vec<f32>,
    query: OfLinear,
    key: OfLinear,
    value: OfLinear,
    out: OfLinear,
    norm: [Vec<f32>; 2],
    modalities: Vec<(&'static str, OfLinear)>,
}

impl ContentPass {
    /// From the gradient of the vectors, `[n, queries * width]`, to those of the weights, by name.
    #[must_use]
    pub(crate) fn backward(&self, of_vectors: &[f32]) -> Vec<(String, Vec<f32>)> {
        let Block {
            queries, width, norm, ..
        } = &self.block;
        let Block {
            query,
            key,
            value,
            out,
            ..
        } = &self.block;
        let rows = || vec![0.0; queries * width];
        let n_asks = self.shared.asks_bias.len();
        let mut back = Back {
            pass: self,
            shared: OfShared {
                asked: rows(),
                keys: rows(),
                values: rows(),
                asks: vec![0.0; n_asks * width],
                asks_bias: vec![0.0; n_asks],
                own: vec![0.0; n_asks * queries],
            },
            start: rows(),
            query: OfLinear::of(query),
            key: OfLinear::of(key),
            value: OfLinear::of(value),
            out: OfLinear::of(out),
            norm: [vec![0.0; norm[0].len()], vec![0.0; norm[1].len()]],
            modalities: Vec::new(),
        };
        Arch::new().dispatch(Backward(&mut back, of_vectors));
        back.named()
    }
}

impl Back<'_> {
    #[inline(always)]
    fn backward_loops(&mut self, of_vectors: &[f32]) {
        let pass = self.pass;
        let Block {
            queries,
            width,
            heads,
            ..
        } = pass.block;
        let n = pass.places.len() * queries;
        let of_sums = self.of_norm(of_vectors);
        let size = [width, n, width];
        add_product(&mut self.out.weight, Lhs::Columns(&of_sums), &pass.read, size);
        for of_sum in of_sums.chunks_exact(queries * width) {
            add(&mut self.start, of_sum);
        }
        for of_sum in of_sums.chunks_exact(width) {
            add(&mut self.out.bias, of_sum);
        }
        let mut of_read = vec![0.0; n * width];
        let size = [n, width, width];
        add_product(&mut of_read, Lhs::Rows(&of_sums), &pass.block.out.weight, size);

        let n_asks = heads * queries;
        let tokens = pass
            .modalities
            .each_ref()
            .map(|tokens| tokens.tokens.len() / width);
        let mut of_values = tokens.map(|n| vec![0.0; n * width]);
        let mut of_scores = tokens.map(|n| vec![0.0; n * n_asks]);
        for (item, of_read) in of_read.chunks_exact(queries * width).enumerate() {
            self.of_attention(item, of_read, &mut of_values, &mut of_scores);
        }
        for (modality, (of_values, of_scores)) in of_values.iter().zip(&of_scores).enumerate() {
            self.of_tokens(modality, of_values, of_scores);
        }
        self.of_shared();
    }

    /// Through the norm: the gradient of its input, `[n * queries, width]`.
    #[inline(always)]
    fn of_norm(&mut self, of_vectors: &[f32]) -> Vec<f32> {
        let pass = self.pass;
        let width = pass.block.width;
        let mut of_sums = vec![0.0; of_vectors.len()];
        #[expect(clippy::cast_precision_loss, reason = "a layer's width")]
        let n = width as f32;
        let rows = of_vectors
            .chunks_exact(width)
            .zip(pass.normed.chunks_exact(width));
        for (out, ((of, normed), factor)) in of_sums.chunks_exact_mut(width).zip(rows.zip(&pass.factors)) {
            let [of_weight, of_bias] = &mut self.norm;
            let sums = of_weight.iter_mut().zip(of_bias);
            for ((of, x), (of_weight, of_bias)) in of.iter().zip(normed).zip(sums) {
                *of_weight = of.mul_add(*x, *of_weight);
                *of_bias += of;
            }
            for ((out, of), weight) in out.iter_mut().zip(of).zip(&pass.block.norm[0]) {
                *out = of * weight;
            }
            let (mean, along) = (total(out) / n, dot(out, normed) / n);
            for (out, x) in out.iter_mut().zip(normed) {
                *out = factor * (*out - mean - along * x);
            }
        }
        of_sums
    }

    /// Through what one item's heads read.
    #[inline(always)]
    fn of_attention(
        &mut self,
        item: usize,
        of_read: &[f32],
        of_values: &mut [Vec<f32>],
        of_scores: &mut [Vec<f32>],
    ) {
        let pass = self.pass;
        let Block {
            queries,
            width,
            heads,
            ..
        } = pass.block;
        let (head, sources, n_asks) = (pass.block.head(), pass.block.sources(), heads * queries);
        let shares = &pass.shares[item * n_asks * sources..][..n_asks * sources];
        let mut of_shares = vec![0.0; sources];
        for (ask, shares) in shares.chunks_exact(sources).enumerate() {
            let (h, q) = (ask / queries, ask % queries);
            let part = h * head..(h + 1) * head;
            let of_read = &of_read[q * width..][part.clone()];
            of_shares.fill(0.0);
            for source in 0..queries {
                let at = source * width + part.start..source * width + part.end;
                of_shares[source] = dot(of_read, &pass.shared.values[at.clone()]);
                add_scaled(&mut self.shared.values[at], shares[source], of_read);
            }
            for (modality, row) in pass.places[item].into_iter().enumerate() {
                if let Some(row) = row {
                    let at = row * width + part.start..row * width + part.end;
                    let values = &pass.modalities[modality].values[at.clone()];
                    of_shares[queries + modality] = dot(of_read, values);
                    add_scaled(&mut of_values[modality][at], shares[queries + modality], of_read);
                }
            }
            let mut mean = 0.0;
            for (share, of) in shares.iter().zip(&of_shares) {
                mean += share * of;
            }
            for (of, share) in of_shares.iter_mut().zip(shares) {
                *of = share * (*of - mean);
            }
            add(
                &mut self.shared.own[ask * queries..(ask + 1) * queries],
                &of_shares[..queries],
            );
            for (modality, row) in pass.places[item].into_iter().enumerate() {
                if let Some(row) = row {
                    of_scores[modality][row * n_asks + ask] = of_shares[queries + modality];
                }
            }
        }
    }

    /// Through a modality's tokens, to its layer, the values' and what is asked.
    #[inline(always)]
    fn of_tokens(&mut self, modality: usize, of_values: &[f32], of_scores: &[f32]) {
        let pass = self.pass;
        let Some(layer) = &pass.block.modalities[modality] else {
            return;
        };
        let (width, n_asks) = (pass.block.width, self.shared.asks_bias.len());
        let (tokens, n) = (&pass.modalities[modality], of_values.len() / width);
        let mut of_tokens = vec![0.0; n * width];
        let size = [n, width, width];
        add_product(
            &mut of_tokens,
            Lhs::Rows(of_values),
            &pass.block.value.weight,
            size,
        );
        let size = [n, n_asks, width];
        add_product(&mut of_tokens, Lhs::Rows(of_scores), &pass.shared.asks, size);
        let size = [width, n, width];
        add_product(
            &mut self.value.weight,
            Lhs::Columns(of_values),
            &tokens.tokens,
            size,
        );
        let size = [n_asks, n, width];
        add_product(
            &mut self.shared.asks,
            Lhs::Columns(of_scores),
            &tokens.tokens,
            size,
        );
        for of_values in of_values.chunks_exact(width) {
            add(&mut self.value.bias, of_values);
        }
        for of_scores in of_scores.chunks_exact(n_asks) {
            add(&mut self.shared.asks_bias, of_scores);
        }
        let mut of_layer = OfLinear::of(layer);
        let size = [width, n, layer.weight.len() / width];
        add_product(
            &mut of_layer.weight,
            Lhs::Columns(&of_tokens),
            &tokens.vectors,
            size,
        );
        for of_token in of_tokens.chunks_exact(width) {
            add(&mut of_layer.bias, of_token);
        }
        self.modalities.push((MODALITIES[modality], of_layer));
    }

    /// Through what the queries are, whatever the item.
    #[inline(always)]
    fn of_shared(&mut self) {
        let pass = self.pass;
        let Block { queries, width, .. } = pass.block;
        let head = pass.block.head();
        for ask in 0..self.shared.asks_bias.len() {
            let (h, q) = (ask / queries, ask % queries);
            let part = q * width + h * head..q * width + (h + 1) * head;
            let asked = &pass.shared.asked[part.clone()];
            let of_asked = &mut self.shared.asked[part];
            for other in 0..queries {
                let at = other * width + h * head..other * width + (h + 1) * head;
                let of_own = self.shared.own[ask * queries + other];
                add_scaled(of_asked, of_own, &pass.shared.keys[at.clone()]);
                add_scaled(&mut self.shared.keys[at], of_own, asked);
            }
            let of_bias = self.shared.asks_bias[ask];
            add_scaled(of_asked, of_bias, &pass.block.key.bias[h * head..(h + 1) * head]);
            add_scaled(&mut self.key.bias[h * head..(h + 1) * head], of_bias, asked);
            let of_ask = &self.shared.asks[ask * width..(ask + 1) * width];
            let rows = h * head * width..(h + 1) * head * width;
            let weights = pass.block.key.weight[rows.clone()].chunks_exact(width);
            let of_weights = self.key.weight[rows].chunks_exact_mut(width);
            for ((of_asked, asked), (weight, of_weight)) in
                of_asked.iter_mut().zip(asked).zip(weights.zip(of_weights))
            {
                *of_asked += dot(of_ask, weight);
                add_scaled(of_weight, *asked, of_ask);
            }
        }
        for of in &mut self.shared.asked {
            *of *= pass.block.scale;
        }
        let layers = [
            (&mut self.query, &pass.block.query, &self.shared.asked),
            (&mut self.key, &pass.block.key, &self.shared.keys),
            (&mut self.value, &pass.block.value, &self.shared.values),
        ];
        for (of_layer, layer, of) in layers {
            let size = [width, queries, width];
            add_product(&mut of_layer.weight, Lhs::Columns(of), &pass.block.start, size);
            for of in of.chunks_exact(width) {
                add(&mut of_layer.bias, of);
            }
            add_product(
                &mut self.start,
                Lhs::Rows(of),
                &layer.weight,
                [queries, width, width],
            );
        }
    }

    fn named(self) -> Vec<(String, Vec<f32>)> {
        let mut named = vec![("content.queries".to_owned(), self.start)];
        let layers = [
            ("query", self.query),
            ("key", self.key),
            ("value", self.value),
            ("out", self.out),
        ];
        let of_layer = layers.map(|(name, of)| (format!("content.layer0.{name}"), of));
        let of_modalities = self.modalities.into_iter();
        let of_modalities = of_modalities.map(|(name, of)| (format!("content.{name}"), of));
        for (name, OfLinear { weight, bias }) in of_layer.into_iter().chain(of_modalities) {
            named.push((format!("{name}.weight"), weight));
            named.push((format!("{name}.bias"), bias));
        }
        let [weight, bias] = self.norm;
        named.push(("content.layer0.norm.weight".to_owned(), weight));
        named.push(("content.layer0.norm.bias".to_owned(), bias));
        named
    }
}

impl OfLinear {
    fn of(layer: &Linear) -> Self {
        Self {
            weight: vec![0.0; layer.weight.len()],
            bias: vec![0.0; layer.bias.len()],
        }
    }
}

struct Backward<'a, 'b>(&'a mut Back<'b>, &'a [f32]);

impl NullaryFnOnce for Backward<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.backward_loops(self.1);
    }
}
