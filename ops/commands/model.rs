//! `ouzel model list | describe`: the weights and the costs of a model, from its configuration alone; `choose` replays a log.

mod choose;
mod summary;
mod text;

use std::io::Write;
use std::path::Path;

use anyhow::anyhow;
use serde::Serialize;
use serde_json::json;

use ouzel_learner::model::backend::{BackendKind, choose};
use ouzel_learner::model::cost::{Cost, Flops, costs};
use ouzel_learner::model::{Block, Feature, ModelConfig, WeightGroup, weight_specs};
use ouzel_learner::{ROW_STATE, WIDE_STATE};

use summary::summary;

use super::output;
use crate::cli::{DescribeArgs, ModelArgs, ModelVerb};
use crate::config::{Config, READY_MADE};
use crate::error::{ErrorExt, Exit};

/// Widths of the vectors of the encoders that `make encoders` downloads, by modality.
const DOWNLOADED_WIDTHS: [usize; 2] = [384, 1280];

/// The answer of `describe`.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Description {
    model: String,
    tasks: Vec<String>,
    /// The backend that runs the model on `learner.device`, and why it is not `cpu`.
    backend: BackendKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_reason: Option<String>,
    blocks: Vec<BlockPart>,
    /// The models of `members`; their costs are in `totals`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<Member>,
    parameters: Parameters,
    rows: Vec<Rows>,
    weights: Vec<Weight>,
    totals: Totals,
    notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct BlockPart {
    block: Block,
    what: String,
    /// Entries of history in `flops`.
    history: usize,
    parameters: Parameters,
    flops: BlockFlops,
}

/// A plain model beside the first.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Member {
    name: String,
    parameters: usize,
    request: u64,
    candidate: u64,
    /// Bytes of an embedding row with its optimizer state.
    row_bytes: usize,
}

/// Operations as functions of the history's length, and at the requested length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct BlockFlops {
    request: Flops,
    candidate: Flops,
    item: u64,
    request_at_history: u64,
    candidate_at_history: u64,
}

/// Number of dense weights that learn until the base is frozen, from then on, and always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Parameters {
    base: usize,
    adapter: usize,
    head: usize,
}

/// One embedding table.
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

/// The part of a model that a weight belongs to.
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
    /// A request with all its candidates, whose contents are encoded already.
    slate: u64,
    item: u64,
}

/// Runs the command.
pub(super) fn run(args: &ModelArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match &args.verb {
        ModelVerb::List => list(args.json, out)?,
        ModelVerb::Describe(describe) => {
            let description = find(describe)?;
            match args.json {
                true => output::json(&description, out)?,
                false => text::describe(&description, out)?,
            }
        }
        ModelVerb::Choose(choose) => return choose::run(choose, args.json, out),
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
    if !json {
        return Ok(text::list(&models, out)?);
    }
    let models: Vec<_> = models
        .iter()
        .map(|(name, what, is_default)| json!({ "name": name, "what": what, "is_default": is_default }))
        .collect();
    output::json(&json!({ "models": models }), out)
}

/// The description of the requested model.
fn find(args: &DescribeArgs) -> anyhow::Result<Description> {
    let mut config = Config::load_or_default(args.config.as_deref())?;
    if let Some(name) = &args.model {
        let is_file = Path::new(name).extension().is_some_and(|kind| kind == "toml");
        if !is_file && !READY_MADE.iter().any(|(known, _)| known == name) {
            return Err(anyhow!("no model is called {name}"))
                .hint(
                    "`ouzel model list` shows the ready-made models; the name of a model file ends in .toml",
                )
                .exit(Exit::Usage);
        }
        config = config.with_model(name)?;
    }
    let mut notes = Vec::new();
    let stated = config.stated_model();
    let has_vectors = config.model.content.vector_widths.iter().any(|width| *width > 0);
    if stated.content.enabled && !has_vectors {
        if args.config.is_some() {
            notes.push(
                "content, interest and contrast are left out: [content] names no encoder and model.content.vector_widths is 0"
                    .to_owned(),
            );
        } else {
            config.model.content.vector_widths = DOWNLOADED_WIDTHS;
            notes.push(format!(
                "no encoder is configured: described with vectors of {} and {} floats, as those of `make encoders`",
                DOWNLOADED_WIDTHS[0], DOWNLOADED_WIDTHS[1]
            ));
        }
    }
    describe(&config, args, notes)
}

/// Operations of a request with `candidates`, whose contents are encoded already.
fn cost_of_slate(config: &Config, candidates: u32) -> u64 {
    let model = config.model_config();
    let members = model.member_models();
    let models = std::iter::once(&model).chain(&members);
    let costs = models
        .flat_map(costs)
        .filter(|cost| cost.block != Block::Contrast);
    let of = |cost: Cost| {
        let (request, candidate) = (
            cost.request.at(cost.history_len),
            cost.candidate.at(cost.history_len),
        );
        request + u64::from(candidates) * candidate
    };
    costs.map(of).sum()
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
                WeightGroup::Readout | WeightGroup::Contrast | WeightGroup::Head | WeightGroup::Retrieval => {
                    Part::Head
                }
            },
            block: spec.block,
            name: spec.name,
            shape: spec.shape,
        })
        .collect();
    let history = args.history.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let blocks: Vec<BlockPart> = costs(&model)
        .into_iter()
        .map(|cost| {
            let own = weights.iter().filter(|weight| weight.block == cost.block);
            block(&model, cost, history, Parameters::count(own))
        })
        .collect();
    // Contrast runs in training only, and the towers in other requests.
    let sum = |count: fn(&BlockFlops) -> u64| {
        let served = blocks
            .iter()
            .filter(|part| !matches!(part.block, Block::Contrast | Block::Retrieval));
        served.map(|part| count(&part.flops)).sum::<u64>()
    };
    let members: Vec<Member> = model.member_models().iter().map(member).collect();
    let of_members = |count: fn(&Member) -> u64| members.iter().map(count).sum::<u64>();
    let request = sum(|f| f.request_at_history) + of_members(|member| member.request);
    let candidate = sum(|f| f.candidate_at_history) + of_members(|member| member.candidate);
    Ok(Description {
        model: config.model.from.clone(),
        tasks: model.tasks.clone(),
        backend,
        backend_reason,
        parameters: Parameters::count(&weights),
        rows: rows(&model),
        totals: Totals {
            candidates: args.candidates,
            request,
            candidate,
            slate: request + u64::from(args.candidates) * candidate,
            item: sum(|f| f.item),
        },
        blocks,
        members,
        weights,
        notes,
    })
}

/// Size and cost of a model of `members`, which has no history in its blocks.
fn member(model: &ModelConfig) -> Member {
    let (request, candidate) = costs(model).iter().fold((0, 0), |(request, candidate), cost| {
        (request + cost.request.fixed, candidate + cost.candidate.fixed)
    });
    Member {
        name: model.width_name(),
        parameters: weight_specs(model)
            .iter()
            .map(|spec| spec.shape.iter().product::<usize>())
            .sum(),
        request,
        candidate,
        row_bytes: (model.dim + ROW_STATE) * size_of::<f32>(),
    }
}

impl Parameters {
    fn count<'a>(weights: impl IntoIterator<Item = &'a Weight>) -> Self {
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

fn block(model: &ModelConfig, cost: Cost, history: Option<usize>, parameters: Parameters) -> BlockPart {
    let history = history.map_or(cost.history_len, |n| n.min(cost.history_len));
    BlockPart {
        block: cost.block,
        what: summary(model, cost.block),
        history,
        parameters,
        flops: BlockFlops {
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

#[cfg(test)]
mod tests;
