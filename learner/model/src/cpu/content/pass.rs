//! Contents that learn: the block with its weights as they are, and what its way back needs.
//!
//! Unlike [`super::FqFormer`] nothing is folded but what queries ask of a token, which is the same for all items: folding a
//! modality's matrix is for many more items than a batch has. What belongs to the queries alone is computed once.

use pulp::{Arch, NullaryFnOnce};

use ouzel_sample::{ItemVectors, MODALITIES, N_MODALITIES};

use super::{Linear, normalise, vector};
use crate::config::{ContentConfig, ModelConfig};
use crate::cpu::gemm::set_product;
use crate::cpu::kernel::{add, add_scaled, dot, exp, transpose};
use crate::cpu::scratch::ScratchBuffer;
use crate::error::Error;
use crate::host_slice::to_vec;
use crate::params::Params;

/// The weights of one step.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) queries: usize,
    pub(super) heads: usize,
    pub(super) width: usize,
    /// What scores are multiplied by.
    pub(super) scale: f32,
    /// None for a modality that the model does not read.
    pub(super) modalities: [Option<Linear>; N_MODALITIES],
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) out: Linear,
    /// The queries themselves, `[queries, width]`.
    pub(super) start: Vec<f32>,
    pub(super) norm: [Vec<f32>; 2],
}

/// What queries are, whatever the item; each `[queries, width]` but where it says so.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// What they ask, scaled.
    pub(super) asked: Vec<f32>,
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
    /// What they ask of a token, by head and query, `[heads * queries, width]`, and what is added to it.
    pub(super) asks: Vec<f32>,
    pub(super) asks_bias: Vec<f32>,
    /// Scores among themselves, `[heads * queries, queries]`.
    pub(super) own: Vec<f32>,
}

/// The tokens of one modality, of those items that have it.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// Their frozen vectors, `[n, n_in]`.
    pub(super) vectors: ScratchBuffer,
    /// `[n, width]`, and what is read of them.
    pub(super) tokens: Vec<f32>,
    pub(super) values: Vec<f32>,
    /// What is asked of them, `[n, heads * queries]`.
    pub(super) scores: Vec<f32>,
}

/// A forward pass over a list of items.
#[derive(Debug)]
pub(crate) struct ContentPass {
    pub(super) block: Block,
    pub(super) shared: Shared,
    pub(super) modalities: [Tokens; N_MODALITIES],
    /// Which token of each modality an item has.
    pub(super) places: Vec<[Option<usize>; N_MODALITIES]>,
    /// How much of each query's value and of each token a head reads, `[n, heads * queries, sources]`.
    pub(super) shares: Vec<f32>,
    /// What is read, `[n * queries, width]`.
    pub(super) read: Vec<f32>,
    /// The norm before its weight, and what it was divided by, as a factor `[n * queries]`.
    pub(super) normed: Vec<f32>,
    pub(super) factors: Vec<f32>,
    /// The content vectors, `[n, queries * width]`.
    pub(super) vectors: Vec<f32>,
}

impl Block {
    fn new(params: &Params, config: &ModelConfig) -> Result<Self, Error> {
        let &ContentConfig {
            queries,
            heads,
            width,
            vector_widths: widths,
            ..
        } = &config.content;
        let get = |name: &str| -> Result<Vec<f32>, Error> { Ok(to_vec(params.get(name)?)?) };
        let linear = |name: &str| -> Result<Linear, Error> {
            Ok(Linear {
                weight: get(&format!("content.{name}.weight"))?,
                bias: get(&format!("content.{name}.bias"))?,
            })
        };
        let mut modalities = [const { None }; N_MODALITIES];
        for ((layer, name), n_in) in modalities.iter_mut().zip(MODALITIES).zip(widths) {
            if n_in > 0 {
                *layer = Some(linear(name)?);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a head's width")]
        let scale = 1.0 / ((width / heads.max(1)) as f32).sqrt();
        Ok(Self {
            queries,
            heads,
            width,
            scale,
            modalities,
            query: linear("layer0.query")?,
            key: linear("layer0.key")?,
            value: linear("layer0.value")?,
            out: linear("layer0.out")?,
            start: get("content.queries")?,
            norm: [
                get("content.layer0.norm.weight")?,
                get("content.layer0.norm.bias")?,
            ],
        })
    }

    /// Floats of a head.
    pub(super) fn head(&self) -> usize {
        self.width / self.heads
    }

    /// What a head may read: the values of all queries, then an item's tokens.
    pub(super) fn sources(&self) -> usize {
        self.queries + N_MODALITIES
    }

    #[inline(always)]
    fn shared(&self) -> Shared {
        let (queries, width, head) = (self.queries, self.width, self.head());
        let n_asks = self.heads * queries;
        let mut shared = Shared {
            asked: self.query.rows(&self.start),
            keys: self.key.rows(&self.start),
            values: self.value.rows(&self.start),
            asks: vec![0.0; n_asks * width],
            asks_bias: vec![0.0; n_asks],
            own: vec![0.0; n_asks * queries],
        };
        for asked in &mut shared.asked {
            *asked *= self.scale;
        }
        for ask in 0..n_asks {
            let (h, q) = (ask / queries, ask % queries);
            let part = h * head..(h + 1) * head;
            let asked = &shared.asked[q * width..][part.clone()];
            let out = &mut shared.asks[ask * width..(ask + 1) * width];
            for (asked, row) in asked
                .iter()
                .zip(self.key.weight[h * head * width..].chunks_exact(width))
            {
                add_scaled(out, *asked, row);
            }
            shared.asks_bias[ask] = dot(asked, &self.key.bias[part.clone()]);
            for other in 0..queries {
                let key = &shared.keys[other * width..][part.clone()];
                shared.own[ask * queries + other] = dot(asked, key);
            }
        }
        shared
    }
}

impl ContentPass {
    /// The contents of these items by the weights of this moment.
    pub(crate) fn new(params: &Params, config: &ModelConfig, items: &[ItemVectors]) -> Result<Self, Error> {
        let block = Block::new(params, config)?;
        let mut pass = Self {
            shared: Shared::default(),
            modalities: Default::default(),
            places: Vec::with_capacity(items.len()),
            shares: vec![0.0; items.len() * block.heads * block.queries * block.sources()],
            read: vec![0.0; items.len() * block.queries * block.width],
            normed: Vec::new(),
            factors: Vec::new(),
            vectors: Vec::new(),
            block,
        };
        Arch::new().dispatch(Forward(&mut pass, items));
        Ok(pass)
    }

    /// The content vectors, `[n, queries * width]`.
    pub(crate) fn vectors(&self) -> &[f32] {
        &self.vectors
    }

    #[inline(always)]
    fn forward_loops(&mut self, items: &[ItemVectors]) {
        self.shared = self.block.shared();
        self.lay(items);
        let (queries, width) = (self.block.queries, self.block.width);
        for at in 0..items.len() {
            self.attend(at);
        }
        let n = items.len() * queries;
        let out = transpose(&self.block.out.weight, width, width);
        self.normed = vec![0.0; n * width];
        set_product(
            &mut self.normed,
            &self.block.out.bias,
            &self.read,
            &out,
            [n, width, width],
        );
        self.vectors = vec![0.0; n * width];
        self.factors = Vec::with_capacity(n);
        let [weight, bias] = &self.block.norm;
        let rows = self
            .normed
            .chunks_exact_mut(width)
            .zip(self.vectors.chunks_exact_mut(width));
        for (at, (row, out)) in rows.enumerate() {
            add(row, &self.block.start[at % queries * width..][..width]);
            self.factors.push(normalise(row));
            for ((out, x), (weight, bias)) in out.iter_mut().zip(row).zip(weight.iter().zip(bias)) {
                *out = x.mul_add(*weight, *bias);
            }
        }
    }

    /// The items' tokens, and what queries ask of them.
    #[inline(always)]
    fn lay(&mut self, items: &[ItemVectors]) {
        self.places.resize(items.len(), [None; N_MODALITIES]);
        let (width, n_asks) = (self.block.width, self.block.heads * self.block.queries);
        let transposed = transpose(&self.block.value.weight, width, width);
        let asks = transpose(&self.shared.asks, n_asks, width);
        let layers = self.modalities.iter_mut().zip(&self.block.modalities);
        for (modality, (tokens, layer)) in layers.enumerate() {
            let Some(layer) = layer else { continue };
            let n_in = layer.weight.len() / width.max(1);
            let all = || items.iter().map(|item| vector(item, modality, n_in));
            let n = all().flatten().count();
            tokens.vectors = ScratchBuffer::new(n * n_in);
            let mut row = 0;
            for (values, place) in all().zip(&mut self.places) {
                if let Some(values) = values {
                    tokens.vectors[row * n_in..(row + 1) * n_in].copy_from_slice(values);
                    place[modality] = Some(row);
                    row += 1;
                }
            }
            let weight = transpose(&layer.weight, width, n_in);
            tokens.tokens = vec![0.0; n * width];
            set_product(
                &mut tokens.tokens,
                &layer.bias,
                &tokens.vectors,
                &weight,
                [n, n_in, width],
            );
            tokens.values = vec![0.0; n * width];
            let size = [n, width, width];
            set_product(
                &mut tokens.values,
                &self.block.value.bias,
                &tokens.tokens,
                &transposed,
                size,
            );
            tokens.scores = vec![0.0; n * n_asks];
            let size = [n, width, n_asks];
            set_product(
                &mut tokens.scores,
                &self.shared.asks_bias,
                &tokens.tokens,
                &asks,
                size,
            );
        }
    }

    /// What the queries read of each other and of an item's tokens.
    #[inline(always)]
    fn attend(&mut self, item: usize) {
        let (queries, width, head) = (self.block.queries, self.block.width, self.block.head());
        let (n_asks, sources) = (self.block.heads * queries, self.block.sources());
        let shares = &mut self.shares[item * n_asks * sources..][..n_asks * sources];
        let read = &mut self.read[item * queries * width..][..queries * width];
        for (ask, shares) in shares.chunks_exact_mut(sources).enumerate() {
            let (h, q) = (ask / queries, ask % queries);
            let part = h * head..(h + 1) * head;
            let (own, of_tokens) = shares.split_at_mut(queries);
            own.copy_from_slice(&self.shared.own[ask * queries..][..queries]);
            let tokens = || self.modalities.iter().zip(self.places[item]);
            for (share, (tokens, row)) in of_tokens.iter_mut().zip(tokens()) {
                *share = row.map_or(f32::MIN, |row| tokens.scores[row * n_asks + ask]);
            }
            soften(shares);
            let read = &mut read[q * width..][part.clone()];
            for (share, values) in shares.iter().zip(self.shared.values.chunks_exact(width)) {
                add_scaled(read, *share, &values[part.clone()]);
            }
            for (share, (tokens, row)) in shares[queries..].iter().zip(tokens()) {
                if let Some(row) = row {
                    add_scaled(read, *share, &tokens.values[row * width..][part.clone()]);
                }
            }
        }
    }
}

/// Scores to shares that sum to 1; none for what is `f32::MIN`.
#[inline(always)]
fn soften(scores: &mut [f32]) {
    let mut most = f32::MIN;
    for score in scores.iter() {
        most = most.max(*score);
    }
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = if *score > f32::MIN {
            exp(*score - most)
        } else {
            0.0
        };
        sum += *score;
    }
    for score in scores.iter_mut() {
        *score /= sum;
    }
}

/// The pass as a thing to call, not a closure: see [`crate::cpu::din`].
struct Forward<'a>(&'a mut ContentPass, &'a [ItemVectors]);

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.forward_loops(self.1);
    }
}
