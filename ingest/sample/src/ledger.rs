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
        let mut writing = Writing::default();
        writing.add(self.hash);
        writing.add(sample.seq.to_le_bytes());
        writing.add(sample.request.id.0.to_le_bytes());
        writing.add(sample.candidate.item.0.to_le_bytes());
        writing.add(sample.labels.to_bytes());
        writing.add([sample.kind as u8]);
        writing.add(sample.weight.to_bits().to_le_bytes());
        for value in sample.candidate.dense.iter() {
            writing.add(value.to_bits().to_le_bytes());
        }
        for entry in &sample.request.history {
            writing.add(entry.item.0.to_le_bytes());
        }
        self.hash = writing.finish();
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

/// A hash in the making, by blocks: a call of the hasher costs more than the few bytes of a field.
struct Writing {
    hasher: blake3::Hasher,
    block: [u8; BLOCK],
    n: usize,
}

/// What the hasher compresses in one go.
const BLOCK: usize = 1024;

impl Default for Writing {
    fn default() -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            block: [0; BLOCK],
            n: 0,
        }
    }
}

impl Writing {
    fn add<const N: usize>(&mut self, bytes: [u8; N]) {
        if self.n + N > BLOCK {
            self.hasher.update(&self.block[..self.n]);
            self.n = 0;
        }
        self.block[self.n..self.n + N].copy_from_slice(&bytes);
        self.n += N;
    }

    fn finish(mut self) -> [u8; 32] {
        self.hasher.update(&self.block[..self.n]);
        *self.hasher.finalize().as_bytes()
    }
}
