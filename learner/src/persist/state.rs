//! The small part of a trainer's state: JSON that a person can read.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use ouzel_model::ModelConfig;

use super::TRAINER;
use crate::calibration::Line;
use crate::error::Error;
use crate::lifecycle::RowClock;
use crate::mixture::Mixture;
use crate::optim::DenseRule;
use crate::position::PositionBias;
use crate::prior::Delays;

/// The layout that this version writes and reads. In 1, which had no number, dense optimizer state was of summed gradients,
/// and live features had no statistics.
pub(super) const LAYOUT: u32 = 2;

/// The small part of the state, as JSON that a person can read.
#[derive(Serialize, Deserialize)]
pub(super) struct TrainerState {
    pub(super) layout: u32,
    pub(super) model: ModelConfig,
    pub(super) next_batch: u64,
    /// Fingerprint of the base weights, once they are frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) frozen: Option<u64>,
    /// Number of samples learned from, which learning rates may depend on.
    pub(super) samples: u64,
    /// Number of samples that the statistics of live features have observed.
    pub(super) norm_samples: u64,
    /// The update rule of the dense optimizer state, and the steps of each weight.
    pub(super) dense: DenseRule,
    pub(super) dense_steps: Vec<u64>,
    /// Per task: labels and positives among them.
    pub(super) seen: Vec<(f32, f32)>,
    pub(super) prior: Vec<f32>,
    /// Per task: early and late positives, where the policy needs them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) delays: Vec<Delays>,
    /// Per task: its calibration line, if calibration is on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) calibration: Vec<Line>,
    /// What positions are worth, if the model learns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) position: Option<PositionBias>,
    /// Event time by which rows expire, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) age: Option<RowClock>,
    /// Standing of this model and of each member, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mixture: Option<Mixture>,
}

/// Parses the small part of the state of a snapshot.
///
/// # Errors
/// [`Error::Restore`] when its layout is not [`LAYOUT`], whose meaning other numbers would be read in;
/// [`Error::Unsound`] when it cannot be parsed.
pub(super) fn trainer_state(bytes: &[u8], snapshot: &str) -> Result<TrainerState, Error> {
    #[derive(Deserialize)]
    struct LayoutOnly {
        #[serde(default = "first_layout")]
        layout: u32,
    }
    let unsound = |error: serde_json::Error| Error::Unsound {
        snapshot: snapshot.to_owned(),
        why: format!("{TRAINER}: {error}"),
    };
    let LayoutOnly { layout } = serde_json::from_slice(bytes).map_err(unsound)?;
    if layout != LAYOUT {
        return Err(Error::Restore {
            snapshot: snapshot.to_owned(),
            why: format!(
                "its weights are in layout {layout}, and this version of ouzel reads layout {LAYOUT}: `ouzel snapshot \
                 migrate` keeps those that fit, or continue with the version that wrote it"
            ),
        });
    }
    serde_json::from_slice(bytes).map_err(unsound)
}

/// The layout of states without a number.
fn first_layout() -> u32 {
    1
}

/// Keys of the model that differ: `model.dim = 8 where the configuration says 16`.
pub(super) fn differences(snapshot: &ModelConfig, configured: &ModelConfig) -> Vec<String> {
    fn compare(key: &str, was: &Value, is: &Value, out: &mut Vec<String>) {
        match (was, is) {
            (Value::Object(was), Value::Object(is)) => {
                let keys: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
                for part in keys {
                    let value = |of: &Map<String, Value>| of.get(part).cloned().unwrap_or_default();
                    compare(&format!("{key}.{part}"), &value(was), &value(is), out);
                }
            }
            _ if was != is => out.push(format!("{key} = {was} where the configuration says {is}")),
            _ => {}
        }
    }
    let [was, is] = [snapshot, configured].map(|model| json!(model));
    let mut out = Vec::new();
    compare("model", &was, &is, &mut out);
    out
}
