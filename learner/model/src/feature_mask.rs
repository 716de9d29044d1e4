//! Which live features a model reads.

use ouzel_sample::{DENSE_NAMES, MODALITIES, N_DENSE};

use crate::config::FeatureSet;

impl FeatureSet {
    /// 1 for live features that are read, else 0; none where all are.
    pub(crate) fn mask(self) -> Option<[f32; N_DENSE]> {
        if self.counters && self.similarity {
            return None;
        }
        Some(DENSE_NAMES.map(|name| {
            let is_read = match is_similarity(name) {
                true => self.similarity,
                false => self.counters,
            };
            f32::from(u8::from(is_read))
        }))
    }
}

/// Whether a live feature compares contents; such a feature is named after its modality.
fn is_similarity(name: &str) -> bool {
    let name = name.strip_prefix("slate_").unwrap_or(name);
    MODALITIES.iter().any(|modality| {
        name.strip_prefix(modality)
            .is_some_and(|rest| rest.starts_with('_'))
    })
}
