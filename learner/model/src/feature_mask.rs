//! Which live features a model reads.

use ouzel_sample::{DENSE_NAMES, MODALITIES, N_DENSE};

use crate::config::FeatureSet;

impl FeatureSet {
    /// 1 for live features that are read, else 0; none where all are.
    pub(crate) fn mask(self) -> Option<[f32; N_DENSE]> {
        let all = Self {
            normalize: self.normalize,
            ..Self::default()
        };
        if self == all {
            return None;
        }
        Some(DENSE_NAMES.map(|name| {
            let is_centred = name.starts_with("slate_") && !name.starts_with("slate_size");
            let is_read = if is_centred && !self.slate {
                false
            } else if is_similarity(name) {
                self.similarity
            } else if is_of(name, "title") {
                self.titles
            } else if name.ends_with("_share") {
                self.shares
            } else if USER_SCALES.contains(&name) {
                self.user_scales
            } else {
                self.counters
            };
            f32::from(u8::from(is_read))
        }))
    }
}

/// Live features of `user_scales`.
const USER_SCALES: [&str; 10] = [
    "global_recent_ctr",
    "user_recent_ctr",
    "user_10min_ctr",
    "user_ema5_ctr",
    "user_ema2_ctr",
    "user_outcome_1",
    "user_outcome_2",
    "user_outcome_3",
    "session_impressions",
    "session_actions",
];

/// Whether a live feature compares contents; such a feature is named after its modality.
fn is_similarity(name: &str) -> bool {
    MODALITIES.iter().any(|modality| is_of(name, modality))
}

/// Whether a live feature, or the one that it centres over the slate, has this first word.
fn is_of(name: &str, first: &str) -> bool {
    let name = name.strip_prefix("slate_").unwrap_or(name);
    name.strip_prefix(first).is_some_and(|rest| rest.starts_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_switch_masks_its_own_features() {
        let all = FeatureSet::default();
        assert_eq!(all.mask(), None);
        let n_masked = |set: FeatureSet| {
            let mask = set.mask().unwrap();
            mask.iter().filter(|read| **read < 0.5).count()
        };
        let mut without_slate = all;
        without_slate.slate = false;
        assert_eq!(n_masked(without_slate), 22);
        let switches: [fn(&mut FeatureSet); 5] = [
            |set| set.counters = false,
            |set| set.similarity = false,
            |set| set.shares = false,
            |set| set.user_scales = false,
            |set| set.titles = false,
        ];
        let n = switches.map(|switch| {
            let mut set = all;
            switch(&mut set);
            n_masked(set)
        });
        assert_eq!(n[1..], [24, 6, 10, 6]);
        assert_eq!(n.iter().sum::<usize>(), N_DENSE);
    }
}
