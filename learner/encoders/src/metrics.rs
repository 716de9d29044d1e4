//! Metric names of this crate.

use metrics::{Unit, describe_counter};

/// Contents encoded, by encoder.
pub const CONTENTS_ENCODED: &str = "ouzel_model_contents_encoded_total";
/// Contents without a vector, by encoder and reason.
pub const CONTENTS_UNUSABLE: &str = "ouzel_model_contents_unusable_total";

/// Registers the help texts.
pub fn describe() {
    describe_counter!(
        CONTENTS_ENCODED,
        Unit::Count,
        "texts and pictures turned into vectors, by encoder"
    );
    describe_counter!(
        CONTENTS_UNUSABLE,
        Unit::Count,
        "texts and pictures that have no vector, by encoder and reason; their items rank without it"
    );
}
