//! The `[events]` section: limits of one record.

use ouzel_sample::settings::{ByteSize, Period};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits of one event. An event beyond a limit is rejected and goes to the dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventLimits {
    /// Size of a record's payload.
    ///
    /// Raise it when records with many items or long texts are rejected.
    #[schemars(extend("x-minimum" = "1B"))]
    pub max_record: ByteSize,
    /// Items of an impression.
    ///
    /// Unit: items. Raise it for longer slates.
    #[schemars(range(min = 1, max = 65_535))]
    pub max_items: usize,
    /// Attribute values of an item or of an impression's context, and names among its features.
    ///
    /// Unit: values. Raise it when such items are rejected.
    pub max_attributes: usize,
    /// Texts of an item, its title included.
    ///
    /// Unit: texts. Raise it when such items are rejected.
    pub max_texts: usize,
    /// Numbers in all vectors of an item together.
    ///
    /// Unit: floats. Raise it for wider vectors.
    pub max_vector_values: usize,
    /// How far an event may be dated after its Kafka record before it is rejected as `future`.
    ///
    /// Raise it when producers' clocks are ahead of the brokers'.
    pub max_future_skew: Period,
}

impl Default for EventLimits {
    fn default() -> Self {
        Self {
            max_record: ByteSize::from_bytes(64 << 10),
            max_items: 1000,
            max_attributes: 512,
            max_texts: 64,
            max_vector_values: 8192,
            max_future_skew: Period::from_secs(5),
        }
    }
}
