//! The blocks of a model in a few words each.

use ouzel_learner::model::{
    Block, CANDIDATE_FIELDS, HeadKind, ModelConfig, SequenceKind, TOKEN_FIELDS, USER_FIELDS,
};
use ouzel_sample::{MODALITIES, N_DENSE, N_MODALITIES};

/// A block in a few words.
pub(super) fn summary(model: &ModelConfig, block: Block) -> String {
    let first = model.hidden.first().copied().unwrap_or_default();
    let ModelConfig {
        content, interest, ..
    } = model;
    match block {
        Block::Fields => format!(
            "{} rows of {}{} into {first}",
            USER_FIELDS + CANDIDATE_FIELDS,
            model.dim,
            if model.senet {
                ", each weighed by a gate,"
            } else {
                ""
            }
        ),
        Block::Features => {
            let set = model.features;
            let groups = [
                ("counters", set.counters),
                ("similarity", set.similarity),
                ("shares", set.shares),
                ("user scales", set.user_scales),
                ("the slate's means", set.slate),
                ("titles", set.titles),
            ];
            let read = groups.iter().filter(|(_, is_read)| *is_read);
            let read: Vec<&str> = read.map(|(name, _)| *name).collect();
            match read[..] {
                [] => format!("{N_DENSE} live features, none of them read"),
                _ => format!("{N_DENSE} live features: {}", read.join(", ")),
            }
        }
        Block::Fm => "products of fields in pairs".to_owned(),
        Block::ContentLinear => format!("a weight for each float of {}", vectors(content.vector_widths)),
        Block::Content => format!(
            "Fusion-Q-Former, {} to {} queries of {}, {} of {} heads",
            vectors(content.vector_widths),
            content.queries,
            content.width,
            layers(content.layers),
            content.heads
        ),
        Block::Interest => format!("{} wide, over {} contents", interest.width, interest.history_len),
        Block::Sequence => sequence(model),
        Block::LongHistory => {
            let [first, second] = model.long_history.attention_hidden;
            format!(
                "SIM, DIN of {first} and {second} over the newest {} actions on the candidate's attribute",
                model.long_history.len
            )
        }
        Block::Contrast => format!(
            "ids and contents in {} dimensions, in training only",
            model.contrast_width
        ),
        Block::Retrieval => format!(
            "towers of {} floats, for /v1/recommend and /v1/similar",
            model.retrieval.width
        ),
        Block::Head => head(model),
    }
}

/// The block over the history.
fn sequence(model: &ModelConfig) -> String {
    let sequence = &model.sequence;
    let kind = match sequence.kind {
        SequenceKind::Mean => "the mean".to_owned(),
        SequenceKind::Din => {
            let [first, second] = sequence.attention_hidden;
            let heads = match sequence.attention_heads {
                1 => String::new(),
                n => format!(", {n} heads"),
            };
            let times = if sequence.time_buckets { " with times" } else { "" };
            format!(
                "DIN of {first} and {second}{heads}, tokens of {}{times}",
                TOKEN_FIELDS * model.dim
            )
        }
        SequenceKind::Gru => format!("GRU of {}, its last state", sequence.width),
        SequenceKind::Dien => format!("DIEN, two GRUs of {}", sequence.width),
        SequenceKind::Sasrec | SequenceKind::Bst => {
            let name = if sequence.kind == SequenceKind::Bst {
                "BST"
            } else {
                "SASRec"
            };
            format!(
                "{name}, {} wide, {} of {} heads",
                sequence.width,
                layers(sequence.layers),
                sequence.heads
            )
        }
        SequenceKind::Hstu | SequenceKind::HstuResearch => {
            let is_published = sequence.kind == SequenceKind::HstuResearch;
            let form = if is_published { " as published" } else { "" };
            format!(
                "HSTU{form}, {} wide, {} of {} heads",
                sequence.width,
                layers(sequence.layers),
                sequence.heads
            )
        }
    };
    format!("{kind}, over {} entries", sequence.history_len)
}

/// The layers behind the first one.
fn head(model: &ModelConfig) -> String {
    let head = &model.head;
    let hidden: Vec<String> = model.hidden.iter().map(ToString::to_string).collect();
    let head = match head.kind {
        HeadKind::Single => "a linear layer".to_owned(),
        HeadKind::SharedBottom => format!("a tower of {} a task", head.tower_width),
        HeadKind::Omoe => format!(
            "{} experts of {}, one gate, and a tower of {} a task",
            head.experts, head.expert_width, head.tower_width
        ),
        HeadKind::Mmoe => format!(
            "{} experts of {}, a gate and a tower of {} a task",
            head.experts, head.expert_width, head.tower_width
        ),
    };
    let pooled = match model.pool_slate {
        true => ", pooled over the slate",
        false => "",
    };
    let gated = match model.ppnet {
        true => " under gates by user and item",
        false => "",
    };
    format!("hidden {}{gated}, {head}{pooled}", hidden.join(", "))
}

/// The frozen vectors that are read: `text 384 and image 1280`.
fn vectors(widths: [usize; N_MODALITIES]) -> String {
    let read = MODALITIES.iter().zip(widths).filter(|(_, width)| *width > 0);
    let read: Vec<String> = read.map(|(name, width)| format!("{name} {width}")).collect();
    read.join(" and ")
}

fn layers(n: usize) -> String {
    format!("{n} layer{}", if n == 1 { "" } else { "s" })
}
