//! The part of a manifest that describes the process: machine, configuration, schema, encoders.

use std::collections::BTreeMap;

use ouzel_sample::{EncoderVersion, MODALITIES, N_MODALITIES};
use ouzel_snapshot::{CheckpointMeta, Fingerprint};

use super::contents::Contents;
use crate::config::Config;

/// The part of a manifest that is the same in every snapshot of a process; the other fields have defaults.
pub(crate) fn provenance(
    config: &Config,
    contents: Option<&Contents>,
    quarantine: Vec<String>,
) -> CheckpointMeta {
    CheckpointMeta {
        quarantine,
        config_hash: config.hash(),
        schema_fingerprint: config.schema_fingerprint(),
        encoders: encoders(contents),
        ..CheckpointMeta::default()
    }
}

/// The versions and settings, besides log and configuration, that decide the bits of the weights.
pub(crate) fn fingerprint(config: &Config) -> Fingerprint {
    Fingerprint {
        ouzel: env!("CARGO_PKG_VERSION").to_owned(),
        git: None,
        libtorch: Some(ouzel_learner::LIBTORCH.to_owned()),
        device: config.learner.device.clone(),
        cpu_capability: ouzel_learner::cpu_capability(),
        n_threads: u32::try_from(config.learner.threads).unwrap_or(u32::MAX),
    }
}

/// The encoder versions by modality, as in a manifest.
pub(crate) fn encoders(contents: Option<&Contents>) -> BTreeMap<String, String> {
    list_of(contents.map(Contents::versions).unwrap_or_default())
}

/// The versions by the names of their modalities.
pub(crate) fn list_of(versions: [Option<EncoderVersion>; N_MODALITIES]) -> BTreeMap<String, String> {
    let named = MODALITIES.iter().zip(versions);
    named
        .filter_map(|(modality, version)| Some(((*modality).to_owned(), version?.to_string())))
        .collect()
}

/// Encoder versions as text for messages.
pub(crate) fn list_encoders(encoders: &BTreeMap<String, String>) -> String {
    if encoders.is_empty() {
        return "none".to_owned();
    }
    let listed = encoders
        .iter()
        .map(|(modality, version)| format!("{modality} {version}"));
    listed.collect::<Vec<_>>().join(", ")
}
