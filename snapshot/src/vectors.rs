//! The vector store: a cache of the vectors that frozen encoders computed, so that each content is encoded once.
//!
//! It is not part of any snapshot: it can be deleted, and every vector is computed again on demand. Vectors are stored in
//! single precision, as the encoder returned them, because training must see the same bits again. Vectors of other
//! encoders stay, counted under their version, until they are collected.
//!
//! ```text
//! <dir>/.lock
//! <dir>/<10-digit number>.vec     an append-only segment of one encoder version; the oldest are evicted first
//! ```
//!
//! # Invariants
//! - A returned vector matches its checksum; a frame that does not is dropped and counted.
//! - The first vector of a content by a version stays; a second one is not written.
//! - A failed put leaves the store unchanged.

mod segment;
mod store;
#[cfg(test)]
mod tests;

use ouzel_sample::{ContentHash, EncoderVersion};
use serde::Serialize;

use crate::Error;
use segment::{MAX_DIM, MAX_NAME_BYTES};

pub use store::VectorStore;

/// Size limits of a vector store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorLimits {
    /// A segment is closed once it has this many bytes.
    pub segment_bytes: u64,
    /// Before all segments exceed this many bytes, closed ones are removed, the oldest first.
    pub max_bytes: u64,
}

impl Default for VectorLimits {
    /// 4 GiB in segments of 64 MiB: 2.7 million vectors of 384 floats.
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            max_bytes: 4 << 30,
        }
    }
}

/// The result of opening a vector store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VectorRecovery {
    /// Number of readable vectors.
    pub n_vectors: u64,
    /// Number of vectors with a wrong checksum, which are ignored.
    pub n_damaged: u64,
    /// Bytes of vectors that a crash left half written.
    pub torn_bytes: u64,
    /// Number of segment files with an unknown header, which are left alone.
    pub n_foreign: u64,
}

/// The number and size of one encoder version's vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VectorCount {
    /// The encoder version.
    pub version: EncoderVersion,
    /// Number of vectors.
    pub n_vectors: u64,
    /// Size of their segments, bytes.
    pub n_bytes: u64,
}

/// Checks that a vector may be stored under a version.
fn check_vector(version: &EncoderVersion, content: &ContentHash, vector: &[f32]) -> Result<(), Error> {
    let why = if !(1..=MAX_DIM).contains(&version.dim) || version.name.len() > MAX_NAME_BYTES {
        format!(
            "the encoder must have a name of at most {MAX_NAME_BYTES} bytes and vectors of 1 to {MAX_DIM} floats"
        )
    } else if u32::try_from(vector.len()) != Ok(version.dim) {
        format!(
            "it has {} floats, the encoder's vectors have {}",
            vector.len(),
            version.dim
        )
    } else if vector.iter().any(|x| !x.is_finite()) {
        "it is not finite".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::InvalidVector {
        encoder: version.to_string(),
        content: content.to_string(),
        why,
    })
}
