//! The `[order]` section: how long the merge of partitions waits.

use ouzel_sample::settings::Period;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The order in which records of several partitions are processed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OrderConfig {
    /// How long a record may wait for records of other partitions with an earlier timestamp, in wall time.
    ///
    /// Raise it when actions are read before their impressions; scores get as much older.
    pub max_reorder_delay: Period,
}

impl Default for OrderConfig {
    fn default() -> Self {
        Self {
            max_reorder_delay: Period::from_ms(50),
        }
    }
}
