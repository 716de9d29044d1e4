//! Cost of a forward pass by block, in floating-point operations.
//!
//! Counts matrix products (a multiply-add is 2) and the sums and squares of the factorization machine. Activations, norms,
//! masks, softmax and pooling are not counted: they lack a layer's width as a factor. Padding is not counted.
//!
//! A cost arises once per request, once per candidate, or once per item: an item's content vector is computed once per
//! version in serving, and in training once per batch until the base is frozen.

use std::collections::BTreeMap;
use std::ops::Add;

use ouzel_sample::MODALITIES;
use serde::Serialize;

use crate::block::Block;
use crate::config::{DinShape, HeadKind, ModelConfig, SequenceKind, TOKEN_FIELDS};
use crate::fields::{CANDIDATE_FIELDS, USER_FIELDS};
use crate::shapes::weight_specs;

/// Operations as a function of the history's length `n`: `fixed + per_entry * n + per_pair * n^2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flops {
    /// Independent of the length.
    pub fixed: u64,
    /// Per entry.
    pub per_entry: u64,
    /// Per pair of entries.
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

    /// Operations for a history of `history_len` entries.
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

/// Cost of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// The block.
    pub block: Block,
    /// Longest history that it reads, entries; 0 without a history.
    pub history_len: usize,
    /// Per request.
    pub request: Flops,
    /// Per candidate.
    pub candidate: Flops,
    /// Per item.
    pub item: u64,
}

/// Costs of the blocks of a configuration, in the order of the forward pass.
#[must_use]
pub fn costs(config: &ModelConfig) -> Vec<Cost> {
    let layers = Layers::new(config);
    let all = Block::ALL.map(|block| match block {
        Block::Fields => Some(Cost {
            request: Flops::fixed(layers.product("first.user")),
            candidate: Flops::fixed(layers.product("first.candidate") + field_gate(config, &layers)),
            ..free(block)
        }),
        Block::Features => Some(Cost {
            candidate: Flops::fixed(layers.product("first.dense")),
            ..free(block)
        }),
        Block::Fm => config.fm.then(|| fm(config)),
        Block::ContentLinear => config.has_content_linear().then(|| Cost {
            candidate: Flops::fixed(
                MODALITIES
                    .iter()
                    .map(|name| layers.product(&format!("linear.{name}")))
                    .sum(),
            ),
            ..free(block)
        }),
        Block::Content => config.content.enabled.then(|| content(config, &layers)),
        Block::Interest => config.interest.enabled.then(|| interest(config, &layers)),
        Block::Sequence => match config.sequence.kind {
            SequenceKind::Mean => None,
            SequenceKind::Din => {
                let cost = din(
                    config,
                    &layers,
                    config.sequence.din(),
                    config.sequence.history_len,
                );
                Some(Cost {
                    candidate: cost.candidate + Flops::fixed(layers.product("first.sequence")),
                    ..cost
                })
            }
            SequenceKind::Gru | SequenceKind::Dien => Some(dien(config, &layers)),
            SequenceKind::Sasrec | SequenceKind::Bst => Some(transformer(config, &layers)),
            SequenceKind::Hstu | SequenceKind::HstuResearch => Some(hstu(config, &layers)),
        },
        Block::LongHistory => config.long_history.enabled.then(|| long_history(config, &layers)),
        Block::Contrast => (config.contrast_width > 0).then(|| Cost {
            // Per item of a batch; the products of all pairs depend on how many items there are.
            item: layers.linear("cic.id") + layers.linear("cic.content"),
            ..free(block)
        }),
        Block::Retrieval => config.retrieval.is_on().then(|| retrieval(&layers)),
        Block::Head => Some(Cost {
            candidate: Flops::fixed(head(config, &layers)),
            ..free(block)
        }),
    });
    all.into_iter().flatten().collect()
}

/// The gate of each field; the user's fields, which are multiplied once a request, are weighed and summed.
fn field_gate(config: &ModelConfig, layers: &Layers) -> u64 {
    match config.senet {
        true => {
            let first = config.hidden.first().copied().unwrap_or(0);
            layers.linear("field_gate.in") + layers.linear("field_gate.out") + 2 * size(&[USER_FIELDS, first])
        }
        false => 0,
    }
}

/// The tower of users per request; of items once per item and version, not per request.
fn retrieval(layers: &Layers) -> Cost {
    let tower = |tower: &str| -> u64 {
        let parts = ["linear", "hidden", "out"].iter();
        parts
            .map(|part| layers.product(&format!("retrieval.{tower}.{part}.weight")))
            .sum()
    };
    let contents = MODALITIES.iter();
    let contents = contents.map(|name| layers.product(&format!("retrieval.content.{name}.weight")));
    Cost {
        request: Flops::fixed(tower("user")),
        item: tower("item") + contents.sum::<u64>(),
        ..free(Block::Retrieval)
    }
}

fn free(block: Block) -> Cost {
    Cost {
        block,
        history_len: 0,
        request: Flops::default(),
        candidate: Flops::default(),
        item: 0,
    }
}

/// Shapes of all weights by name.
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

    /// One row times this weight.
    fn product(&self, weight: &str) -> u64 {
        self.0.get(weight).map_or(0, |extents| 2 * size(extents))
    }

    /// One row through the layer without its adapter.
    fn base(&self, layer: &str) -> u64 {
        self.product(&format!("{layer}.weight"))
    }

    /// One row through the layer's adapter; 0 without one.
    fn adapter(&self, layer: &str) -> u64 {
        self.product(&format!("{layer}.lora_a")) + self.product(&format!("{layer}.lora_b"))
    }

    /// One row through the layer.
    fn linear(&self, layer: &str) -> u64 {
        self.base(layer) + self.adapter(layer)
    }
}

fn size(extents: &[usize]) -> u64 {
    extents.iter().map(|n| *n as u64).product()
}

/// Each field is summed, squared, and its squares are summed; then both sides are added, squared and summed.
fn fm(config: &ModelConfig) -> Cost {
    let dim = config.dim as u64;
    let of_content = u64::from(config.content.enabled);
    Cost {
        request: Flops::fixed(3 * USER_FIELDS as u64 * dim),
        candidate: Flops::fixed(3 * (CANDIDATE_FIELDS as u64 + of_content) * dim + 3 * dim),
        ..free(Block::Fm)
    }
}

/// The Fusion-Q-Former, per item: `t = queries + modalities` tokens of `width` through the four projections of each layer,
/// and `t^2` scores.
fn content(config: &ModelConfig, layers: &Layers) -> Cost {
    let content = &config.content;
    let n_read = content.vector_widths.iter().filter(|width| **width > 0).count();
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
        ..free(Block::Content)
    }
}

/// A query per candidate, a score and a weighted content vector per entry. A key is computed per item without its adapter;
/// the adapter's part is computed per request.
fn interest(config: &ModelConfig, layers: &Layers) -> Cost {
    let (key, content) = (config.interest.width as u64, config.content.out() as u64);
    Cost {
        history_len: config.interest.history_len,
        item: layers.base("interest.key"),
        request: Flops::per_entry(layers.adapter("interest.key")),
        candidate: Flops::fixed(layers.linear("interest.query") + layers.product("first.interest"))
            + Flops::per_entry(2 * key + 2 * content),
        ..free(Block::Interest)
    }
}

/// The attention MLP on `[q, k, q - k, q * k]`: the first layer once for `q`, once per `k`, and per pair for their product;
/// then the other layers and a weighted sum for each head.
fn din(config: &ModelConfig, layers: &Layers, shape: DinShape, history_len: usize) -> Cost {
    let token = (TOKEN_FIELDS * config.dim) as u64;
    let heads = shape.heads as u64;
    let layer = |part: &str| format!("{}.{part}", shape.prefix);
    // Each of the four parts of its input is as wide as a token.
    let part = layers.base(&layer("first")) / 4;
    let unit = layers.linear(&layer("second")) + layers.linear(&layer("score"));
    let merged = if layers.adapter(&layer("first")) > 0 {
        // B A once per pass: the adapter of a layer that is split is added to its weight.
        2 * size(&[config.lora.rank, 4 * TOKEN_FIELDS * config.dim, shape.hidden[0]])
    } else {
        0
    };
    Cost {
        history_len,
        request: Flops::fixed(merged) + Flops::per_entry(part),
        candidate: Flops::fixed(part) + Flops::per_entry(part + unit + 2 * heads * token),
        ..free(Block::Sequence)
    }
}

/// The attention of DIN over a list, as if each candidate had one of its own.
fn long_history(config: &ModelConfig, layers: &Layers) -> Cost {
    let long = &config.long_history;
    let cost = din(config, layers, long.din(), long.len);
    let per_list = Flops::per_entry(cost.request.per_entry);
    Cost {
        request: Flops::fixed(cost.request.fixed),
        candidate: cost.candidate + per_list + Flops::fixed(layers.product("first.long")),
        block: Block::LongHistory,
        ..cost
    }
}

/// A GRU over the history, once a request. DIEN's candidate has a score and a step of the second GRU per entry; the input
/// gates of both are computed once per entry of the request.
fn dien(config: &ModelConfig, layers: &Layers) -> Cost {
    let layer = |name: &str| layers.linear(&format!("sequence.{name}"));
    let score = match config.sequence.kind {
        SequenceKind::Dien => 2 * config.sequence.width as u64,
        _ => 0,
    };
    Cost {
        history_len: config.sequence.history_len,
        request: Flops::per_entry(layer("extract.input") + layer("extract.state") + layer("evolve.input")),
        candidate: Flops::fixed(layer("attention") + layers.product("first.sequence"))
            + Flops::per_entry(score + layer("evolve.state")),
        ..free(Block::Sequence)
    }
}

/// Rows of the history through all layers; in the last one they need keys and values only. There SASRec's newest entry, once a
/// request, and in every layer each of BST's candidates, is a row that reads `n` entries, a candidate itself too.
fn transformer(config: &ModelConfig, layers: &Layers) -> Cost {
    let sequence = &config.sequence;
    // A score and the value it weighs.
    let pair = 2 * (sequence.heads * (sequence.key_width + sequence.value_width)) as u64;
    let embed = layers.linear("sequence.token");
    let mut request = Flops::per_entry(embed);
    let mut candidate = Flops::fixed(embed + layers.product("first.sequence"));
    for layer in 0..sequence.layers {
        let of = |part: &str| layers.linear(&format!("sequence.layer{layer}.{part}"));
        let row = of("query") + of("out") + of("expand") + of("contract");
        request = request + Flops::per_entry(of("key_value"));
        let is_last = layer + 1 == sequence.layers;
        if !is_last {
            request = request
                + Flops {
                    fixed: 0,
                    per_entry: row,
                    per_pair: pair,
                };
        }
        if sequence.kind == SequenceKind::Bst {
            candidate = candidate + Flops::fixed(row + of("key_value") + pair) + Flops::per_entry(pair);
        } else if is_last {
            request = request + Flops::fixed(row) + Flops::per_entry(pair);
        }
    }
    Cost {
        history_len: sequence.history_len,
        request,
        candidate,
        ..free(Block::Sequence)
    }
}

/// Rows of the history through each layer's projections, with causal attention in all layers but the last, where candidates
/// need keys and values only. A candidate is one more row that reads `n` entries and itself.
fn hstu(config: &ModelConfig, layers: &Layers) -> Cost {
    let sequence = &config.sequence;
    let (keys, values) = (
        sequence.heads * sequence.key_width,
        sequence.heads * sequence.value_width,
    );
    // A score and the value it weighs.
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
        ..free(Block::Sequence)
    }
}

/// Hidden layers with their gates, experts with theirs, towers, outputs.
fn head(config: &ModelConfig, layers: &Layers) -> u64 {
    let hidden: u64 = (1..config.hidden.len())
        .map(|layer| layers.linear(&format!("hidden{layer}")))
        .sum();
    let of_units: u64 = (0..config.hidden.len())
        .flat_map(|layer| ["in", "out"].map(|part| layers.linear(&format!("gate{layer}.{part}"))))
        .sum();
    let experts = match config.head.kind {
        HeadKind::Omoe | HeadKind::Mmoe => config.head.experts,
        HeadKind::Single | HeadKind::SharedBottom => 0,
    };
    let of_experts: u64 = (0..experts)
        .map(|expert| layers.linear(&format!("head.expert{expert}")))
        .sum();
    let mixing = 2 * size(&[experts, config.head.expert_width]);
    let of_gates: u64 = config
        .head
        .gates(config.n_tasks())
        .iter()
        .map(|gate| layers.linear(gate) + mixing)
        .sum();
    let of_tasks: u64 = (0..config.n_tasks())
        .flat_map(|task| ["tower", "out"].map(|part| layers.linear(&format!("head.{part}{task}"))))
        .sum();
    // For each float an addition and a comparison into the slate's, and two subtractions of the slate's.
    let last = config.hidden.last().copied().unwrap_or(0) as u64;
    let pooled = match config.pool_slate {
        true => layers.product("pool.weight") + 4 * last,
        false => 0,
    };
    hidden
        + of_units
        + pooled
        + layers.linear("out")
        + layers.linear("aux")
        + of_experts
        + of_gates
        + of_tasks
}

#[cfg(test)]
mod tests;
