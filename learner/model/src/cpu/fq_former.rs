//! Fusion-Q-Former of one layer: an item's content vector from its frozen vectors (EM3, Deng et al. 2024, section 3.2).
//!
//! What [`crate::blocks::fq_former`] computes. A modality's token is `t = W_m v + b_m`; the queries `e` attend to each other
//! and to the tokens, and the content vector is `norm(out(read) + e)`. Only the queries' outputs are read, so a token needs
//! no query of its own, and a score `q (W_k t + b_k)` is `(q W_k) t + q b_k`: a product with vectors that all items share.
//!
//! [`FqFormer`] holds the weights and what depends on them alone. It runs in two forms. [`FqFormerForward`] keeps what the
//! backward pass needs. [`FoldedFqFormer`] is for contents that take no gradient: it folds each modality's layer with what the
//! queries ask and read into one matrix, which pays off for many items and fixed weights. The two differ in the last bits.
//! In both, the bits of an item do not depend on the items beside it.

use pulp::Arch;

use ouzel_sample::{ItemVectors, MODALITIES, N_MODALITIES};

use super::kernel::{dot, row, vectorized};
use super::layer_norm::LayerNorm;
use super::linear::Linear;
use super::weights::BlockWeights;
use crate::config::{ContentConfig, ModelConfig};
use crate::error::Error;

mod backward;
mod folded;
mod forward;
#[cfg(test)]
mod tests;

pub(crate) use folded::FoldedFqFormer;
pub(crate) use forward::FqFormerForward;

/// The block with the weights of one moment, adapters merged.
#[derive(Debug)]
pub(crate) struct FqFormer {
    sizes: Sizes,
    /// Layers from frozen vectors to tokens; none for a modality that the model does not read.
    modalities: [Option<Linear>; N_MODALITIES],
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    /// The learned queries, `[queries, width]`.
    queries: Vec<f32>,
    norm: LayerNorm,
    terms: QueryTerms,
    /// `interest.key` without its adapter: content interest caches keys beside content vectors.
    interest_key: Option<Linear>,
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    queries: usize,
    heads: usize,
    width: usize,
    /// What scores are multiplied by, `1 / sqrt(head width)`.
    scale: f32,
}

/// What depends on the queries alone; a head of a query is numbered `head * queries + query`.
#[derive(Debug, Default)]
struct QueryTerms {
    /// Scaled queries, keys and values of the queries, `[queries, width]` each.
    scaled: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Scores of each head against the queries' keys, `[heads * queries, queries]`.
    scores: Vec<f32>,
    /// What each head adds to the score of any token, `q b_k`, `[heads * queries]`.
    bias: Vec<f32>,
}

impl Sizes {
    /// Floats of a content vector.
    fn out(self) -> usize {
        self.queries * self.width
    }

    /// Floats of a head.
    fn head(self) -> usize {
        self.width / self.heads
    }

    /// Heads of all queries, count.
    fn n_heads(self) -> usize {
        self.heads * self.queries
    }

    /// What a head of a query attends to: all queries, then a token a modality.
    fn sources(self) -> usize {
        self.queries + N_MODALITIES
    }

    /// The query of a numbered head, and the columns of a row that belong to the head.
    #[inline(always)]
    fn place(self, at: usize) -> (usize, std::ops::Range<usize>) {
        let (head, query) = (at / self.queries, at % self.queries);
        (query, head * self.head()..(head + 1) * self.head())
    }
}

impl FqFormer {
    /// The block with the weights of this moment.
    pub(crate) fn new(weights: BlockWeights<'_>, config: &ModelConfig) -> Result<Self, Error> {
        let weights = weights.in_f32();
        let &ContentConfig {
            queries,
            heads,
            width,
            vector_widths: widths,
            ..
        } = &config.content;
        let linear = |name: &str, n_in: usize| -> Result<Linear, Error> {
            Ok(weights.linear(&format!("content.{name}"), n_in)?.merged())
        };
        let mut modalities = [const { None }; N_MODALITIES];
        for ((layer, name), n_in) in modalities.iter_mut().zip(MODALITIES).zip(widths) {
            if n_in > 0 {
                *layer = Some(linear(name, n_in)?);
            }
        }
        let interest = config.interest.enabled;
        let interest_key = interest.then(|| weights.linear("interest.key", config.content.out()));
        #[expect(clippy::cast_precision_loss, reason = "a head's width")]
        let scale = 1.0 / ((width / heads.max(1)) as f32).sqrt();
        let mut block = Self {
            sizes: Sizes {
                queries,
                heads,
                width,
                scale,
            },
            modalities,
            query: linear("layer0.query", width)?,
            key: linear("layer0.key", width)?,
            value: linear("layer0.value", width)?,
            out: linear("layer0.out", width)?,
            queries: weights.get("content.queries")?.to_vec(),
            norm: weights.layer_norm("content.layer0.norm")?,
            terms: QueryTerms::default(),
            interest_key: interest_key.transpose()?,
        };
        Arch::new().dispatch(Prepare(&mut block));
        Ok(block)
    }

    #[inline(always)]
    fn prepare(&mut self) {
        let (sizes, terms) = (self.sizes, &mut self.terms);
        let outputs = |layer: &Linear| {
            let mut out = vec![0.0; self.queries.len()];
            layer.forward_merged(&self.queries, &mut out);
            out
        };
        terms.scaled = outputs(&self.query);
        terms.scaled.iter_mut().for_each(|x| *x *= sizes.scale);
        terms.keys = outputs(&self.key);
        terms.values = outputs(&self.value);
        for at in 0..sizes.n_heads() {
            let (query, columns) = sizes.place(at);
            let scaled = &row(&terms.scaled, query, sizes.width)[columns.clone()];
            terms.bias.push(dot(scaled, &self.key.bias[columns.clone()]));
            let keys = terms.keys.chunks_exact(sizes.width);
            let scores = keys.map(|key| dot(scaled, &key[columns.clone()]));
            terms.scores.extend(scores);
        }
    }

    /// Keys of content interest without their adapter, `[n, width]`; empty for a model without that block.
    pub(crate) fn interest_keys(&self, vectors: &[f32]) -> Vec<f32> {
        let Some(layer) = &self.interest_key else {
            return Vec::new();
        };
        let mut keys = vec![0.0; vectors.len() / layer.n_in.max(1) * layer.n_out];
        layer.forward_merged(vectors, &mut keys);
        keys
    }
}

/// An item's frozen vector of a modality; a vector of another width than the model reads counts as missing.
pub(super) fn frozen_vector(item: &ItemVectors, modality: usize, width: usize) -> Option<&[f32]> {
    let vector = item[modality].as_ref()?;
    (vector.values.len() == width).then_some(&*vector.values)
}

vectorized! {
    Prepare<'a>(block: &'a mut FqFormer) => block.prepare()
}
