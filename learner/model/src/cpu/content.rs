//! Contents of many items, forward only: what [`crate::blocks::fq_former`] computes with one layer, and the keys of content
//! interest, item by item in plain loops.
//!
//! A token is linear in its frozen vector, and what the layer asks of a token and reads from it is linear in the token. So
//! both are folded into one matrix a modality, by which a vector is multiplied once; the queries among themselves are
//! the same for every item and computed once a version. An item's bits do not depend on the items beside it.

use pulp::{Arch, NullaryFnOnce};

use ouzel_sample::{ItemVectors, MODALITIES, N_MODALITIES};

use super::gemm::{Lhs, add_product, set_product};
use super::kernel::{add_scaled, dot, exp, total, transpose};
use crate::config::{ContentConfig, ModelConfig};
use crate::error::Error;
use crate::host_slice::to_vec;
use crate::params::Params;

mod back;
mod pass;

pub(super) use pass::ContentPass;

/// Items whose vectors are laid side by side at a time, so that they stay in the cache.
const PIECE: usize = 64;
const EPSILON: f32 = 1e-5;

/// The block with the weights of one moment.
#[derive(Debug)]
pub(crate) struct FqFormer {
    queries: usize,
    heads: usize,
    width: usize,
    /// None for a modality that the model does not read.
    modalities: [Option<Folded>; N_MODALITIES],
    /// Scores of the queries among themselves, `[heads, queries, queries]`.
    own: Vec<f32>,
    /// What queries read of each other, `[queries, width]`.
    values: Vec<f32>,
    /// The layer's last matrix, `[width, width]` as `[in, out]`, and what is added: its bias and the query.
    out: Vec<f32>,
    rest: Vec<f32>,
    norm: [Vec<f32>; 2],
    /// `interest.key` as `[in, out]`, and its width; empty without that block.
    key: Vec<f32>,
    key_width: usize,
}

/// What is asked of a modality's vector and read from it, `[n_in, heads * queries + width]`, and what is added.
#[derive(Debug)]
struct Folded {
    n_in: usize,
    matrix: Vec<f32>,
    offset: Vec<f32>,
}

impl FqFormer {
    /// The block with the weights of this moment.
    pub(crate) fn new(params: &Params, config: &ModelConfig) -> Result<Self, Error> {
        let get = |name: &str| -> Result<Vec<f32>, Error> { Ok(to_vec(params.get(name)?)?) };
        let &ContentConfig {
            queries,
            heads,
            width,
            vector_widths: widths,
            ..
        } = &config.content;
        let layer = |part: &str| -> Result<Linear, Error> {
            let name = format!("content.layer0.{part}");
            Ok(Linear {
                weight: get(&format!("{name}.weight"))?,
                bias: get(&format!("{name}.bias"))?,
            })
        };
        let [query, key, value, out] = [layer("query")?, layer("key")?, layer("value")?, layer("out")?];
        let start = get("content.queries")?;
        let head = width / heads.max(1);
        #[expect(clippy::cast_precision_loss, reason = "a head's width")]
        let scale = 1.0 / (head as f32).sqrt();
        let asked: Vec<f32> = query.rows(&start).into_iter().map(|x| x * scale).collect();
        let keys = key.rows(&start);
        let part = |of: &[f32], row: usize, h: usize| of[row * width + h * head..][..head].to_vec();

        // `[width, heads * queries]`: what a query's head asks of a token, and what the key's bias adds to it.
        let n_asks = heads * queries;
        let (mut asks, mut asks_bias, mut own) = (vec![0.0; width * n_asks], vec![], vec![]);
        for h in 0..heads {
            for q in 0..queries {
                let asked = part(&asked, q, h);
                for (i, asked) in asked.iter().enumerate() {
                    let row = &key.weight[(h * head + i) * width..][..width];
                    for (at, key) in row.iter().enumerate() {
                        asks[at * n_asks + h * queries + q] += asked * key;
                    }
                }
                asks_bias.push(dot(&asked, &key.bias[h * head..][..head]));
                own.extend((0..queries).map(|other| dot(&asked, &part(&keys, other, h))));
            }
        }
        // `[width, n_asks + width]`: asks beside values.
        let values = transpose(&value.weight, width, width);
        let columns = n_asks + width;
        let mut of_token = Vec::with_capacity(width * columns);
        for (asks, values) in asks.chunks_exact(n_asks).zip(values.chunks_exact(width)) {
            of_token.extend_from_slice(asks);
            of_token.extend_from_slice(values);
        }
        let offset_of_token = [asks_bias, value.bias.clone()].concat();
        let mut modalities = [const { None }; N_MODALITIES];
        for ((folded, name), n_in) in modalities.iter_mut().zip(MODALITIES).zip(widths) {
            if n_in == 0 {
                continue;
            }
            let weight = get(&format!("content.{name}.weight"))?;
            let bias = get(&format!("content.{name}.bias"))?;
            let mut matrix = vec![0.0; n_in * columns];
            add_product(
                &mut matrix,
                Lhs::Columns(&weight),
                &of_token,
                [n_in, width, columns],
            );
            let mut offset = offset_of_token.clone();
            add_product(&mut offset, Lhs::Rows(&bias), &of_token, [1, width, columns]);
            *folded = Some(Folded { n_in, matrix, offset });
        }
        let rest = start.chunks_exact(width).flat_map(|query| {
            let sum = query.iter().zip(&out.bias);
            sum.map(|(a, b)| a + b).collect::<Vec<_>>()
        });
        let (key, key_width) = match config.interest.enabled {
            true => {
                let width = config.interest.width;
                let key = get("interest.key.weight")?;
                (transpose(&key, width, config.content.out()), width)
            }
            false => (Vec::new(), 0),
        };
        Ok(Self {
            queries,
            heads,
            width,
            modalities,
            own,
            values: value.rows(&start),
            rest: rest.collect(),
            out: transpose(&out.weight, width, width),
            norm: [
                get("content.layer0.norm.weight")?,
                get("content.layer0.norm.bias")?,
            ],
            key,
            key_width,
        })
    }

    /// Content vectors, `[n, queries * width]`.
    pub(crate) fn forward(&self, items: &[&ItemVectors]) -> Vec<f32> {
        let out = self.queries * self.width;
        let mut vectors = vec![0.0; items.len() * out];
        for (items, vectors) in items.chunks(PIECE).zip(vectors.chunks_mut(PIECE * out)) {
            Arch::new().dispatch(Forward(self, items, vectors));
        }
        vectors
    }

    /// Keys of content interest without their adapter, `[n, key_width]`.
    pub(crate) fn keys(&self, vectors: &[f32]) -> Vec<f32> {
        let out = self.queries * self.width;
        let n = vectors.len() / out.max(1);
        let mut keys = vec![0.0; n * self.key_width];
        add_product(&mut keys, Lhs::Rows(vectors), &self.key, [n, out, self.key_width]);
        keys
    }

    #[inline(always)]
    fn forward_loops(&self, items: &[&ItemVectors], vectors: &mut [f32]) {
        let (queries, width, n_asks) = (self.queries, self.width, self.heads * self.queries);
        let columns = n_asks + width;
        let mut found = [const { Vec::new() }; N_MODALITIES];
        let mut side_by_side = Vec::new();
        for ((found, folded), modality) in found.iter_mut().zip(&self.modalities).zip(0..) {
            let Some(folded) = folded else { continue };
            side_by_side.clear();
            for item in items {
                match vector(item, modality, folded.n_in) {
                    Some(values) => side_by_side.extend_from_slice(values),
                    None => side_by_side.resize(side_by_side.len() + folded.n_in, 0.0),
                }
                found.extend_from_slice(&folded.offset);
            }
            let size = [items.len(), folded.n_in, columns];
            add_product(found, Lhs::Rows(&side_by_side), &folded.matrix, size);
        }
        let mut read = vec![0.0; items.len() * queries * width];
        for (at, (item, read)) in items
            .iter()
            .zip(read.chunks_exact_mut(queries * width))
            .enumerate()
        {
            let mut tokens = [None; N_MODALITIES];
            let mut n_tokens = 0;
            for (modality, folded) in self.modalities.iter().enumerate() {
                if let Some(folded) = folded
                    && vector(item, modality, folded.n_in).is_some()
                {
                    tokens[n_tokens] = Some(&found[modality][at * columns..][..columns]);
                    n_tokens += 1;
                }
            }
            self.attend(tokens.into_iter().flatten(), read);
        }
        for rows in vectors.chunks_exact_mut(queries * width) {
            rows.copy_from_slice(&self.rest);
        }
        add_product(
            vectors,
            Lhs::Rows(&read),
            &self.out,
            [items.len() * queries, width, width],
        );
        for row in vectors.chunks_exact_mut(width) {
            self.layer_norm(row);
        }
    }

    /// What the queries read of each other and of an item's tokens, `[queries, width]`.
    #[inline(always)]
    fn attend<'a>(&self, tokens: impl Iterator<Item = &'a [f32]> + Clone, read: &mut [f32]) {
        let (queries, width, n_asks) = (self.queries, self.width, self.heads * self.queries);
        let head = width / self.heads;
        for ask in 0..n_asks {
            let (h, q) = (ask / queries, ask % queries);
            let own = &self.own[ask * queries..][..queries];
            let scores = || own.iter().copied().chain(tokens.clone().map(|token| token[ask]));
            let most = scores().fold(f32::MIN, f32::max);
            let share = 1.0 / scores().map(|score| exp(score - most)).sum::<f32>();
            let part = h * head..(h + 1) * head;
            let values = self
                .values
                .chunks_exact(width)
                .map(|values| &values[part.clone()]);
            let of_tokens = tokens.clone().map(|token| &token[n_asks..][part.clone()]);
            let read = &mut read[q * width..][part.clone()];
            for (score, value) in scores().zip(values.chain(of_tokens)) {
                add_scaled(read, share * exp(score - most), value);
            }
        }
    }

    /// Layer normalisation of a row.
    #[inline(always)]
    fn layer_norm(&self, row: &mut [f32]) {
        normalise(row);
        for ((x, weight), bias) in row.iter_mut().zip(&self.norm[0]).zip(&self.norm[1]) {
            *x = x.mul_add(*weight, *bias);
        }
    }
}

/// Takes a row to mean 0 and variance 1. Returns what it was multiplied by.
#[inline(always)]
fn normalise(row: &mut [f32]) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a layer's width")]
    let n = row.len() as f32;
    let mean = total(row) / n;
    for x in row.iter_mut() {
        *x -= mean;
    }
    let factor = 1.0 / (dot(row, row) / n + EPSILON).sqrt();
    for x in row.iter_mut() {
        *x *= factor;
    }
    factor
}

/// An item's vector of a modality; one of another width than the model reads counts as missing.
fn vector(item: &ItemVectors, modality: usize, width: usize) -> Option<&[f32]> {
    let vector = item[modality].as_ref()?;
    (vector.values.len() == width).then_some(&*vector.values)
}

/// A layer as plain numbers, `[out, in]`.
#[derive(Debug)]
struct Linear {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Linear {
    /// The layer applied to rows.
    fn rows(&self, x: &[f32]) -> Vec<f32> {
        let (n_out, n_in) = (self.bias.len(), self.weight.len() / self.bias.len().max(1));
        let n = x.len() / n_in.max(1);
        let mut out = vec![0.0; n * n_out];
        let transposed = transpose(&self.weight, n_out, n_in);
        set_product(&mut out, &self.bias, x, &transposed, [n, n_in, n_out]);
        out
    }
}

/// The pass as a thing to call, not a closure: see [`super::din`].
struct Forward<'a>(&'a FqFormer, &'a [&'a ItemVectors], &'a mut [f32]);

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.forward_loops(self.1, self.2);
    }
}

#[cfg(test)]
mod tests;
