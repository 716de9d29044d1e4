//! The metrics of this crate.

ouzel_sample::metric_names! {
    counter CONTENTS_ENCODED = "ouzel_model_contents_encoded_total", Count,
        "Texts and pictures turned into vectors, by encoder.";
    counter CONTENTS_UNUSABLE = "ouzel_model_contents_unusable_total", Count,
        "Texts and pictures without a vector, by encoder and reason; their items rank without it.";
}
