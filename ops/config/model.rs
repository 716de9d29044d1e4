//! The section `[model]`: a ready-made model or a model file, changed by the keys that are stated.

use std::fs;
use std::path::Path;

use ouzel_learner::model::ModelConfig;
use ouzel_sample::settings::{KeyError, schema_of};
use toml::{Table, Value};

use super::document::Document;
use super::problem::Problem;

/// The model of a configuration that names none.
pub(super) const DEFAULT: &str = "em3-hstu";

/// Most model files that may start from each other, as a bound on cycles.
const MAX_FILES: usize = 8;

/// The ready-made models by name, each as the text of its file.
pub const READY_MADE: [(&str, &str); 12] = [
    ("em3-hstu", include_str!("../models/em3-hstu.toml")),
    ("em3-din", include_str!("../models/em3-din.toml")),
    ("hstu", include_str!("../models/hstu.toml")),
    ("din", include_str!("../models/din.toml")),
    ("sim", include_str!("../models/sim.toml")),
    ("dien", include_str!("../models/dien.toml")),
    ("sasrec", include_str!("../models/sasrec.toml")),
    ("bst", include_str!("../models/bst.toml")),
    ("deepfm", include_str!("../models/deepfm.toml")),
    ("ppnet", include_str!("../models/ppnet.toml")),
    ("mmoe", include_str!("../models/mmoe.toml")),
    ("two-tower", include_str!("../models/two-tower.toml")),
];

/// The ready-made model of this name, or the model of a file.
pub(super) fn preset(from: &str) -> Result<ModelConfig, Vec<Problem>> {
    let document = Document::empty(from);
    let stated = Table::from_iter([("from".to_owned(), Value::from(from))]);
    document.deserialize(merge(&document, &stated)?)
}

/// The keys that `stated` starts from, overridden by its own. `document` has the positions for messages.
pub(super) fn merge(document: &Document, stated: &Table) -> Result<Table, Vec<Problem>> {
    merge_files(document, "model.from", stated, MAX_FILES)
}

fn merge_files(document: &Document, key: &str, stated: &Table, n_left: usize) -> Result<Table, Vec<Problem>> {
    let from = stated.get("from").map_or(Some(DEFAULT), Value::as_str);
    // A name of another type is refused by serde, with its position.
    let Some(from) = from else {
        return Ok(stated.clone());
    };
    let refuse = |message: String| vec![document.refuse(KeyError::new(key, message))];
    let text = match READY_MADE.iter().find(|(name, _)| *name == from) {
        Some((_, text)) => (*text).to_owned(),
        None if Path::new(from)
            .extension()
            .is_some_and(|extension| extension == "toml") =>
        {
            fs::read_to_string(from)
                .map_err(|error| refuse(format!("cannot read the model file {from}: {error}")))?
        }
        None => {
            let names = READY_MADE.map(|(name, _)| name).join(", ");
            let message = format!("no model is called {from:?}; there are {names}, or name a .toml file");
            return Err(refuse(message));
        }
    };
    let file = Document::read(&text, from, "model", &schema_of::<ModelConfig>())?;
    let _: ModelConfig = file.deserialize(file.table.clone())?;
    let mut table = if !file.table.contains_key("from") {
        file.table
    } else if n_left == 0 {
        let message =
            format!("more than {MAX_FILES} model files start from each other, the last of them {from}");
        return Err(refuse(message));
    } else {
        merge_files(&file, "from", &file.table, n_left - 1)?
    };
    overlay(&mut table, stated);
    table.insert("from".to_owned(), Value::from(from));
    Ok(table)
}

/// Replaces the values of `under` by those of `over`, table by table.
pub(super) fn overlay(under: &mut Table, over: &Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => overlay(under, over),
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}
