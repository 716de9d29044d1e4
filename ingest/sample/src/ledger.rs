//! The sample ledger: a running hash over every sample emitted.

use serde::{Deserialize, Serialize};

use crate::Sample;

/// A running hash of samples: equal hashes mean equal samples in equal order.
///
/// `h_k = blake3(h_{k-1} | seq | request | item | labels | kind | weight | features | history items | list of the long past | values)`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    hash: [u8; 32],
    n_samples: u64,
}

impl Ledger {
    /// Adds one sample.
    pub fn add(&mut self, sample: &Sample) {
        let mut hasher = BlockHasher::default();
        hasher.add(self.hash);
        hasher.add(sample.seq.to_le_bytes());
        hasher.add(sample.request.id.0.to_le_bytes());
        hasher.add(sample.candidate.item.0.to_le_bytes());
        hasher.add(sample.labels.to_bytes());
        hasher.add([sample.kind as u8]);
        hasher.add(sample.weight.to_bits().to_le_bytes());
        for value in sample.candidate.dense.iter() {
            hasher.add(value.to_bits().to_le_bytes());
        }
        for entry in &sample.request.history {
            hasher.add(entry.item.0.to_le_bytes());
        }
        let list = sample.candidate.past.map(usize::from);
        for entry in list
            .and_then(|list| sample.request.past.get(list))
            .into_iter()
            .flatten()
        {
            hasher.add(entry.item.0.to_le_bytes());
            hasher.add(entry.ts.0.to_le_bytes());
        }
        for (task, value) in &sample.values {
            hasher.add([*task]);
            hasher.add(value.to_bits().to_le_bytes());
        }
        self.hash = hasher.finish();
        self.n_samples += 1;
    }

    /// Number of samples added.
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

/// Feeds blake3 whole blocks: a hasher call costs more than the few bytes of a field.
struct BlockHasher {
    hasher: blake3::Hasher,
    block: [u8; BLOCK],
    n: usize,
}

/// Bytes that blake3 compresses at once.
const BLOCK: usize = 1024;

impl Default for BlockHasher {
    fn default() -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            block: [0; BLOCK],
            n: 0,
        }
    }
}

impl BlockHasher {
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
