//! What every manifest says about the process that wrote it: machine, configuration, schema, encoders.

use std::collections::BTreeMap;

use ouzel_sample::MODALITIES;
use ouzel_snapshot::Fingerprint;

use super::contents::Contents;
use crate::config::Config;

/// The part of a manifest that is the same for every snapshot of a process.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// What decides the bits.
    pub fingerprint: Fingerprint,
    /// Hash of the effective configuration.
    pub config_hash: String,
    /// Fingerprint of the schema.
    pub schema: String,
    /// Version of the encoder of each modality that has one.
    pub encoders: BTreeMap<String, String>,
}

impl Provenance {
    /// That of this process.
    #[must_use]
    pub fn new(config: &Config, contents: Option<&Contents>) -> Self {
        Self {
            fingerprint: fingerprint(config),
            config_hash: config.hash(),
            schema: config.schema_fingerprint(),
            encoders: encoders(contents),
        }
    }
}

/// What decides the bits of the weights that this process learns.
#[must_use]
pub fn fingerprint(config: &Config) -> Fingerprint {
    Fingerprint {
        ouzel: env!("CARGO_PKG_VERSION").to_owned(),
        git: None,
        libtorch: Some(ouzel_learner::LIBTORCH.to_owned()),
        device: config.learner.device.clone(),
        cpu_capability: ouzel_learner::cpu_capability(),
        n_threads: u32::try_from(config.learner.threads).unwrap_or(u32::MAX),
    }
}

/// The encoders by modality, as manifests name them.
#[must_use]
pub fn encoders(contents: Option<&Contents>) -> BTreeMap<String, String> {
    let versions = contents.map(Contents::versions).unwrap_or_default();
    let named = MODALITIES.iter().zip(versions);
    named
        .filter_map(|(modality, version)| Some(((*modality).to_owned(), version?.to_string())))
        .collect()
}

/// Encoders as a message names them.
#[must_use]
pub fn list_encoders(encoders: &BTreeMap<String, String>) -> String {
    if encoders.is_empty() {
        return "none".to_owned();
    }
    let listed = encoders
        .iter()
        .map(|(modality, version)| format!("{modality} {version}"));
    listed.collect::<Vec<_>>().join(", ")
}
