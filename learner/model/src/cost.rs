//! What a forward pass costs, counted in floating-point operations, by block.
//!
//! Counted are matrix products, a multiplication with its addition being 2, and the sums and squares of the
//! factorisation machine. Activations, norms, masks, softmax and the pooling of rows are not: they are linear in the
//! same sizes without a layer's width as a factor. Batches are counted without their padding.
//!
//! A cost is of one of three: a request, once; a candidate of it; an item's content, once as long as what makes it
//! stands still, so in serving once a version and in training once a batch until the base is frozen.

use std::collections::BTreeMap;
use std::ops::Add;

use ouzel_sample::MODALITIES;
use serde::Serialize;

use crate::block::Block;
use crate::config::{HeadKind, ModelConfig, SequenceKind, TOKEN_FIELDS};
use crate::fields::{CANDIDATE_FIELDS, USER_FIELDS};
use crate::shapes::weight_specs;

/// Operations as a function of the history's length `n`: `fixed + per_entry * n + per_pair * n^2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flops {
    /// Whatever the length.
    pub fixed: u64,
    /// For each entry.
    pub per_entry: u64,
    /// For each pair of entries.
    pub per_pair: u64,
}

impl Flops {
    fn fixed(fixed: u64) -> Self {
        Self {
            fixed,
            ..Self::default()
        }
    }

    fn per_entry(per_entry: u64) -> Self {
        Self {
            per_entry,
            ..Self::default()
        }
    }

    /// Operations for a history of this many entries.
    #[must_use]
    pub fn at(self, history_len: usize) -> u64 {
        let n = history_len as u64;
        self.fixed + n * (self.per_entry + n * self.per_pair)
    }
}

impl Add for Flops {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            fixed: self.fixed + other.fixed,
            per_entry: self.per_entry + other.per_entry,
            per_pair: self.per_pair + other.per_pair,
        }
    }
}

/// What one block costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Which block.
    pub block: Block,
    /// Longest history that it reads, entries; 0 where it reads none.
    pub history_len: usize,
    /// Once a request.
    pub request: Flops,
    /// Once a candidate.
    pub candidate: Flops,
    /// Once an item.
    pub item: u64,
}

/// What the blocks that a configuration asks for cost, in the order of the forward pass.
#[must_use]
pub fn costs(config: &ModelConfig) -> Vec<Cost> {
    let layers = Layers::new(config);
    let all = Block::ALL.map(|block| match block {
        Block::Fields => Some(Cost {
            request: Flops::fixed(layers.product("first.user")),
            candidate: Flops::fixed(layers.product("first.candidate")),
            ..nothing(block)
        }),
        Block::Features => Some(Cost {
            candidate: Flops::fixed(layers.product("first.dense")),
            ..nothing(block)
        }),
        Block::Fm => config.fm.then(|| fm(config)),
        Block::Content => config.content.enabled.then(|| content(config, &layers)),
        Block::Interest => config.interest.enabled.then(|| interest(config, &layers)),
        Block::Sequence => match config.sequence.kind {
            SequenceKind::Mean => None,
            SequenceKind::Din => Some(din(config, &layers)),
            SequenceKind::Hstu | SequenceKind::HstuResearch => Some(hstu(config, &layers)),
        },
        Block::Contrast => (config.contrast > 0).then(|| Cost {
            // Of an item in a batch; the products of all with all depend on how many there are.
            item: layers.linear("cic.id") + layers.linear("cic.content"),
            ..nothing(block)
        }),
        Block::Head => Some(Cost {
            candidate: Flops::fixed(head(config, &layers)),
            ..nothing(block)
        }),
    });
    all.into_iter().flatten().collect()
}

fn nothing(block: Block) -> Cost {
    Cost {
        block,
        history_len: 0,
        request: Flops::default(),
        candidate: Flops::default(),
        item: 0,
    }
}

/// The extents of every weight, by name.
struct Layers(BTreeMap<String, Vec<usize>>);

impl Layers {
    fn new(config: &ModelConfig) -> Self {
        Self(
            weight_specs(config)
                .into_iter()
                .map(|spec| (spec.name, spec.shape))
                .collect(),
        )
    }

    /// A row times this weight.
    fn product(&self, weight: &str) -> u64 {
        self.0.get(weight).map_or(0, |extents| 2 * size(extents))
    }

    /// A row through the layer without its adapter.
    fn base(&self, layer: &str) -> u64 {
        self.product(&format!("{layer}.weight"))
    }

    /// A row through the layer's adapter, 0 without one.
    fn adapter(&self, layer: &str) -> u64 {
        self.product(&format!("{layer}.lora_a")) + self.product(&format!("{layer}.lora_b"))
    }

    /// A row through the layer.
    fn linear(&self, layer: &str) -> u64 {
        self.base(layer) + self.adapter(layer)
    }
}

fn size(extents: &[usize]) -> u64 {
    extents.iter().map(|n| *n as u64).product()
}

/// Each field is added up, squared and its square added up; both sides are then added, squared and added up.
fn fm(config: &ModelConfig) -> Cost {
    let dim = config.dim as u64;
    let of_content = u64::from(config.content.enabled);
    Cost {
        request: Flops::fixed(3 * USER_FIELDS as u64 * dim),
        candidate: Flops::fixed(3 * (CANDIDATE_FIELDS as u64 + of_content) * dim + 3 * dim),
        ..nothing(Block::Fm)
    }
}

/// The Fusion-Q-Former: `t = queries + modalities` tokens of `width` through each layer's four projections and
/// `t^2` scores, once an item.
fn content(config: &ModelConfig, layers: &Layers) -> Cost {
    let content = &config.content;
    let n_read = content.widths.iter().filter(|width| **width > 0).count();
    let (tokens, width) = ((content.queries + n_read) as u64, content.width as u64);
    let inputs: u64 = MODALITIES
        .iter()
        .map(|name| layers.linear(&format!("content.{name}")))
        .sum();
    let attention: u64 = (0..content.layers)
        .map(|layer| {
            let parts = ["query", "key", "value", "out"];
            let projected: u64 = parts
                .iter()
                .map(|part| layers.linear(&format!("content.layer{layer}.{part}")))
                .sum();
            tokens * projected + 2 * 2 * tokens * tokens * width
        })
        .sum();
    Cost {
        item: inputs + attention,
        candidate: Flops::fixed(layers.product("first.content") + layers.product("fm.content")),
        ..nothing(Block::Content)
    }
}

/// A query a candidate, a score and a weighted content for each entry. The key without its adapter is the item's, the
/// adapter's part is the request's.
fn interest(config: &ModelConfig, layers: &Layers) -> Cost {
    let (key, content) = (config.interest.width as u64, config.content.out() as u64);
    Cost {
        history_len: config.interest.history_len,
        item: layers.base("interest.key"),
        request: Flops::per_entry(layers.adapter("interest.key")),
        candidate: Flops::fixed(layers.linear("interest.query") + layers.product("first.interest"))
            + Flops::per_entry(2 * key + 2 * content),
        ..nothing(Block::Interest)
    }
}

/// The attention unit on `[q, k, q - k, q * k]`: the first layer once for `q`, once for each `k`, and for their product
/// at each entry, then the rest of the unit and the weighted sum.
fn din(config: &ModelConfig, layers: &Layers) -> Cost {
    let token = (TOKEN_FIELDS * config.dim) as u64;
    // Of the four parts of its input, each is as wide as a token.
    let part = layers.base("sequence.first") / 4;
    let unit = layers.linear("sequence.second") + layers.linear("sequence.score");
    let merged = if layers.adapter("sequence.first") > 0 {
        // B A, once a pass: an adapter on a layer that is taken apart is added to its weight.
        2 * size(&[
            config.lora.rank,
            4 * TOKEN_FIELDS * config.dim,
            config.sequence.unit[0],
        ])
    } else {
        0
    };
    Cost {
        history_len: config.sequence.history_len,
        request: Flops::fixed(merged) + Flops::per_entry(part),
        candidate: Flops::fixed(part + layers.product("first.sequence"))
            + Flops::per_entry(part + unit + 2 * token),
        ..nothing(Block::Sequence)
    }
}

/// Rows of the history through each layer's projections, and causal attention in all layers but the last, of which
/// candidates need only keys and values; a candidate is one more row, which reads `n` entries and itself.
fn hstu(config: &ModelConfig, layers: &Layers) -> Cost {
    let sequence = &config.sequence;
    let (keys, values) = (sequence.heads * sequence.key, sequence.heads * sequence.value);
    // A score and what is read by it.
    let pair = 2 * (keys + values) as u64;
    let embed = layers.linear("sequence.token");
    let mut request = Flops::per_entry(embed);
    let mut candidate = Flops::fixed(embed + layers.product("first.sequence"));
    for layer in 0..sequence.layers {
        let projected = layers.linear(&format!("sequence.layer{layer}.uvqk"));
        let out = layers.linear(&format!("sequence.layer{layer}.out"));
        request = request + Flops::per_entry(projected);
        if layer + 1 < sequence.layers {
            request = request
                + Flops {
                    fixed: 0,
                    per_entry: out,
                    per_pair: pair,
                };
        }
        candidate = candidate + Flops::fixed(projected + pair + out) + Flops::per_entry(pair);
    }
    Cost {
        history_len: sequence.history_len,
        request,
        candidate,
        ..nothing(Block::Sequence)
    }
}

/// Hidden layers, experts with their gates, towers, outputs.
fn head(config: &ModelConfig, layers: &Layers) -> u64 {
    let hidden: u64 = (1..config.hidden.len())
        .map(|layer| layers.linear(&format!("hidden{layer}")))
        .sum();
    let experts = match config.head.kind {
        HeadKind::Mmoe => config.head.experts,
        HeadKind::Single | HeadKind::SharedBottom => 0,
    };
    let of_experts: u64 = (0..experts)
        .map(|expert| layers.linear(&format!("head.expert{expert}")))
        .sum();
    let mixing = 2 * size(&[experts, config.head.expert]);
    let of_tasks: u64 = (0..config.n_tasks())
        .map(|task| {
            let parts = ["gate", "tower", "out"];
            let layers = parts
                .iter()
                .map(|part| layers.linear(&format!("head.{part}{task}")));
            layers.sum::<u64>() + mixing
        })
        .sum();
    hidden + layers.linear("out") + layers.linear("aux") + of_experts + of_tasks
}

#[cfg(test)]
mod tests;
