//! The section `[events]`: a ready-made mapping, changed by the keys that are stated.

use ouzel_ingest::mapping::READY_MADE;
use ouzel_sample::settings::KeyError;
use toml::{Table, Value};

use super::document::Document;
use super::model::overlay;
use super::problem::Problem;

/// The keys that `stated` starts from, overridden by its own. A field's source is replaced as a whole. `document` has
/// the positions for messages.
pub(super) fn merge(document: &Document, stated: &Table) -> Result<Table, Vec<Problem>> {
    // A name of another type is refused by serde, with its position.
    let Some(from) = stated.get("from").map_or(Some("ouzel"), Value::as_str) else {
        return Ok(stated.clone());
    };
    let Some((_, text)) = READY_MADE.iter().find(|(name, _)| *name == from) else {
        let names = READY_MADE.map(|(name, _)| name).join(", ");
        let message = format!("no mapping is called {from:?}; there are {names}");
        return Err(vec![document.refuse(KeyError::new("events.from", message))]);
    };
    let mut table: Table = toml::from_str(text).expect("a ready-made mapping is TOML");
    for (key, value) in stated {
        match (table.get_mut(key), value) {
            (Some(Value::Table(stream)), Value::Table(over)) => overlay_stream(stream, over),
            _ => {
                table.insert(key.clone(), value.clone());
            }
        }
    }
    Ok(table)
}

/// Replaces the keys of one stream. Only `time` is merged key by key.
fn overlay_stream(under: &mut Table, over: &Table) {
    for (key, value) in over {
        match (key.as_str(), under.get_mut(key), value) {
            ("time", Some(Value::Table(under)), Value::Table(over)) => overlay(under, over),
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}
