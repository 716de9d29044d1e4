//! `ouzel model list | describe`: what a model is made of, and what it costs, without making one.

mod text;

use std::io::Write;
use std::path::Path;

use anyhow::anyhow;
use serde::Serialize;
use serde_json::json;

use ouzel_learner::model::backend::{BackendKind, choose};
use ouzel_learner::model::cost::{Cost, Flops, costs};
use ouzel_learner::model::{
    Block, CANDIDATE_FIELDS, Feature, HeadKind, ModelConfig, SequenceKind, TOKEN_FIELDS, USER_FIELDS,
    WeightGroup, weight_specs,
};
use ouzel_learner::{ROW_STATE, WIDE_STATE};
use ouzel_sample::{MODALITIES, N_DENSE};

use crate::cli::{DescribeArgs, ModelArgs, ModelVerb};
use crate::config::{Config, READY_MADE};
use crate::error::{ErrorExt, Exit};

/// Floats of the vectors of the encoders that `make encoders` fetches, by modality.
const USUAL_WIDTHS: [usize; 2] = [384, 1280];

/// What `describe` tells.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Description {
    model: String,
    tasks: Vec<String>,
    /// The backend that runs it on `learner.device`, and why not `cpu`.
    backend: BackendKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_reason: Option<String>,
    blocks: Vec<BlockPart>,
    parameters: Parameters,
    rows: Vec<Rows>,
    weights: Vec<Weight>,
    /// With this many candidates and each block's history.
    totals: Totals,
    notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct BlockPart {
    block: Block,
    what: String,
    /// Entries of a history that the figures are for.
    history: usize,
    parameters: Parameters,
    flops: FlopsOf,
}

/// Operations as functions of the history's length, and at the length asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct FlopsOf {
    request: Flops,
    candidate: Flops,
    item: u64,
    request_at_history: u64,
    candidate_at_history: u64,
}

/// Dense weights, count, by when they learn: until the base is frozen, from then on, and always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Parameters {
    base: usize,
    adapter: usize,
    head: usize,
}

/// One table of rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Rows {
    table: &'static str,
    width: usize,
    weight_bytes: usize,
    state_bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Weight {
    name: String,
    shape: Vec<usize>,
    parameters: usize,
    part: Part,
    block: Block,
}

/// When a weight learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    Base,
    Adapter,
    Head,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Totals {
    candidates: u32,
    request: u64,
    candidate: u64,
    /// A request with all its candidates, contents being there already.
    slate: u64,
    item: u64,
}

/// Runs the command.
pub(super) fn run(args: &ModelArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match &args.verb {
        ModelVerb::List => list(args.json, out)?,
        ModelVerb::Describe(describe) => {
            let description = find(describe)?;
            if args.json {
                writeln!(out, "{}", serde_json::to_string_pretty(&description)?)?;
            } else {
                text::describe(&description, out)?;
            }
        }
    }
    Ok(Exit::Ok)
}

fn list(json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let default = Config::default().model.from;
    let models: Vec<_> = READY_MADE
        .iter()
        .map(|(name, text)| {
            let first = text.lines().next().unwrap_or_default();
            (*name, first.trim_start_matches(['#', ' ']), *name == default)
        })
        .collect();
    if json {
        let models: Vec<_> = models
            .iter()
            .map(|(name, what, is_default)| json!({ "name": name, "what": what, "is_default": is_default }))
            .collect();
        writeln!(out, "{:#}", json!({ "models": models }))?;
    } else {
        text::list(&models, out)?;
    }
    Ok(())
}

/// The model asked for, described.
fn find(args: &DescribeArgs) -> anyhow::Result<Description> {
    let mut config = match &args.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    if let Some(name) = &args.model {
        let is_file = Path::new(name).extension().is_some_and(|kind| kind == "toml");
        if !is_file && !READY_MADE.iter().any(|(known, _)| known == name) {
            return Err(anyhow!("no model is called {name}"))
                .hint("`ouzel model list` shows those there are; a file of your own ends in .toml")
                .exit(Exit::Usage);
        }
        config = config.with_model(name)?;
    }
    let mut notes = Vec::new();
    let stated = config.stated_model();
    let has_widths = |config: &Config| config.model.content.vector_widths.iter().any(|width| *width > 0);
    if stated.content.enabled && !has_widths(&config) {
        if args.config.is_some() {
            notes.push(
                "content, interest and contrast are left out: [content] names no encoder and model.content.vector_widths is 0"
                    .to_owned(),
            );
        } else {
            config.model.content.vector_widths = USUAL_WIDTHS;
            notes.push(format!(
                "no encoder is configured: as with vectors of {} and {} floats, which those of `make encoders` make",
                USUAL_WIDTHS[0], USUAL_WIDTHS[1]
            ));
        }
    }
    describe(&config, args, notes)
}

fn describe(config: &Config, args: &DescribeArgs, notes: Vec<String>) -> anyhow::Result<Description> {
    let model = config.model_config();
    let (backend, backend_reason) = choose(&model, config.learner_config().device()?);
    let weights: Vec<Weight> = weight_specs(&model)
        .into_iter()
        .map(|spec| Weight {
            parameters: spec.shape.iter().product(),
            part: match spec.group {
                WeightGroup::Adapter => Part::Adapter,
                WeightGroup::Base => Part::Base,
                WeightGroup::Readout | WeightGroup::Contrast | WeightGroup::Head => Part::Head,
            },
            block: spec.block,
            name: spec.name,
            shape: spec.shape,
        })
        .collect();
    let asked = args.history.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let blocks: Vec<BlockPart> = costs(&model)
        .into_iter()
        .map(|cost| {
            let own = weights.iter().filter(|weight| weight.block == cost.block);
            block(&model, cost, asked, Parameters::of(own))
        })
        .collect();
    // What only training pays is not a request's.
    let sum = |of: fn(&FlopsOf) -> u64| {
        let served = blocks.iter().filter(|part| part.block != Block::Contrast);
        served.map(|part| of(&part.flops)).sum::<u64>()
    };
    let (request, candidate) = (sum(|f| f.request_at_history), sum(|f| f.candidate_at_history));
    Ok(Description {
        model: config.model.from.clone(),
        tasks: model.tasks.clone(),
        backend,
        backend_reason,
        parameters: Parameters::of(&weights),
        rows: rows(&model),
        totals: Totals {
            candidates: args.candidates,
            request,
            candidate,
            slate: request + u64::from(args.candidates) * candidate,
            item: sum(|f| f.item),
        },
        blocks,
        weights,
        notes,
    })
}

impl Parameters {
    fn of<'a>(weights: impl IntoIterator<Item = &'a Weight>) -> Self {
        let mut sum = Self::default();
        for weight in weights {
            *match weight.part {
                Part::Base => &mut sum.base,
                Part::Adapter => &mut sum.adapter,
                Part::Head => &mut sum.head,
            } += weight.parameters;
        }
        sum
    }

    fn total(self) -> usize {
        self.base + self.adapter + self.head
    }
}

fn block(model: &ModelConfig, cost: Cost, asked: Option<usize>, parameters: Parameters) -> BlockPart {
    let history = asked.map_or(cost.history_len, |n| n.min(cost.history_len));
    BlockPart {
        block: cost.block,
        what: what(model, cost.block),
        history,
        parameters,
        flops: FlopsOf {
            request: cost.request,
            candidate: cost.candidate,
            item: cost.item,
            request_at_history: cost.request.at(history),
            candidate_at_history: cost.candidate.at(history),
        },
    }
}

fn rows(model: &ModelConfig) -> Vec<Rows> {
    let table = |table, width, n_state: usize| Rows {
        table,
        width,
        weight_bytes: width * size_of::<f32>(),
        state_bytes: n_state * size_of::<f32>(),
    };
    let mut tables = vec![table("rows", model.dim, ROW_STATE)];
    for feature in Feature::ALL {
        if model.width(feature) != model.dim {
            tables.push(table(feature.name(), model.width(feature), ROW_STATE));
        }
    }
    if model.wide {
        tables.push(table("wide", 1, WIDE_STATE));
    }
    tables
}

/// A block in a few words.
fn what(model: &ModelConfig, block: Block) -> String {
    let first = model.hidden.first().copied().unwrap_or_default();
    let ModelConfig {
        content,
        interest,
        sequence,
        head,
        ..
    } = model;
    match block {
        Block::Fields => format!(
            "{} rows of {} into {first}",
            USER_FIELDS + CANDIDATE_FIELDS,
            model.dim
        ),
        Block::Features => {
            let read = match (model.features.counters, model.features.similarity) {
                (true, true) => "counters and similarity",
                (true, false) => "counters alone",
                (false, true) => "similarity alone",
                (false, false) => "none of them read",
            };
            format!("{N_DENSE} live features, {read}")
        }
        Block::Fm => "products of fields in pairs".to_owned(),
        Block::Content => {
            let read = MODALITIES
                .iter()
                .zip(content.vector_widths)
                .filter(|(_, width)| *width > 0);
            let read: Vec<String> = read.map(|(name, width)| format!("{name} {width}")).collect();
            format!(
                "Fusion-Q-Former, {} to {} queries of {}, {} of {} heads",
                read.join(" and "),
                content.queries,
                content.width,
                layers(content.layers),
                content.heads
            )
        }
        Block::Interest => format!("{} wide, over {} contents", interest.width, interest.history_len),
        Block::Sequence => {
            let of = match sequence.kind {
                SequenceKind::Mean => "the mean".to_owned(),
                SequenceKind::Din => {
                    let [first, second] = sequence.attention_hidden;
                    format!(
                        "DIN of {first} and {second}, tokens of {}",
                        TOKEN_FIELDS * model.dim
                    )
                }
                SequenceKind::Hstu | SequenceKind::HstuResearch => {
                    let form = if sequence.kind == SequenceKind::Hstu {
                        ""
                    } else {
                        " as published"
                    };
                    format!(
                        "HSTU{form}, {} wide, {} of {} heads",
                        sequence.width,
                        layers(sequence.layers),
                        sequence.heads
                    )
                }
            };
            format!("{of}, over {} entries", sequence.history_len)
        }
        Block::Contrast => format!(
            "ids and contents in {} dimensions, in training only",
            model.contrast_width
        ),
        Block::Head => {
            let hidden: Vec<String> = model.hidden.iter().map(ToString::to_string).collect();
            let of = match head.kind {
                HeadKind::Single => "a linear layer".to_owned(),
                HeadKind::SharedBottom => format!("a tower of {} a task", head.tower_width),
                HeadKind::Mmoe => format!(
                    "{} experts of {}, a gate and a tower of {} a task",
                    head.experts, head.expert_width, head.tower_width
                ),
            };
            format!("hidden {}, {of}", hidden.join(", "))
        }
    }
}

fn layers(n: usize) -> String {
    if n == 1 {
        "1 layer".to_owned()
    } else {
        format!("{n} layers")
    }
}

#[cfg(test)]
mod tests;
