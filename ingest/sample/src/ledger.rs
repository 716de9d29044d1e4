//! The running hash of every sample emitted: equal hash, equal samples in equal order, once each.

use serde::{Deserialize, Serialize};

use crate::Sample;

/// `h_k = blake3(h_{k-1} | seq | request | item | labels | kind | features)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    hash: [u8; 32],
    n_samples: u64,
}

impl Ledger {
    /// Adds one sample.
    pub fn add(&mut self, sample: &Sample) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.hash);
        hasher.update(&sample.seq.to_le_bytes());
        hasher.update(&sample.request.id.0.to_le_bytes());
        hasher.update(&sample.candidate.item.0.to_le_bytes());
        hasher.update(&sample.labels.to_bytes());
        hasher.update(&[sample.kind as u8]);
        hasher.update(&sample.weight.to_bits().to_le_bytes());
        for value in sample.candidate.dense.iter() {
            hasher.update(&value.to_bits().to_le_bytes());
        }
        for entry in &sample.request.history {
            hasher.update(&entry.item.0.to_le_bytes());
        }
        self.hash = *hasher.finalize().as_bytes();
        self.n_samples += 1;
    }

    /// How many samples it covers.
    #[must_use]
    pub fn n_samples(&self) -> u64 {
        self.n_samples
    }

    /// The hash in hexadecimal.
    #[must_use]
    pub fn hex(&self) -> String {
        blake3::Hash::from(self.hash).to_hex().to_string()
    }
}
