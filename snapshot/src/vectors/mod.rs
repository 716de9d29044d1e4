//! The vectors that frozen encoders made of contents, so that a content is encoded once.
//!
//! A cache beside the snapshots, not part of them: it can be deleted, and every vector is made again when it is asked
//! for. Vectors are kept in single precision, as the encoder gave them, because a vector that is read back has to be
//! the bits that were learned from. Those of another encoder stay, counted under its version, until they are collected.
//!
//! ```text
//! <dir>/.lock
//! <dir>/<10-digit number>.vec     append-only, all by one encoder; the oldest go when there are too many
//! ```
//!
//! # Invariants
//! - What is returned has the check it was written with; a frame that has not is forgotten and counted.
//! - A content's first vector by a version stays its vector: a second one is not written.
//! - A put that fails leaves the store as it was.

mod segment;
mod store;
#[cfg(test)]
mod tests;

use ouzel_sample::{ContentHash, EncoderVersion};
use serde::Serialize;

use crate::Error;
use segment::{MAX_DIM, MAX_NAME_BYTES};

pub use store::VectorStore;

/// Bounds on what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorLimits {
    /// A segment that has grown to this many bytes is closed.
    pub segment_bytes: u64,
    /// Closed segments are removed, the oldest first, before all together would have more bytes than this.
    pub max_bytes: u64,
}

impl Default for VectorLimits {
    /// 4 GiB, which is 2.7 million vectors of 384 numbers, in segments of 64 MiB.
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            max_bytes: 4 << 30,
        }
    }
}

/// What opening found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VectorRecovery {
    /// Vectors that can be read.
    pub n_vectors: u64,
    /// Vectors whose check does not match; they are passed over.
    pub n_damaged: u64,
    /// Bytes of vectors that were being written when a process ended.
    pub torn_bytes: u64,
    /// Files without a header of ours; they are left alone.
    pub n_foreign: u64,
}

/// The vectors of one encoder version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VectorCount {
    /// Which.
    pub version: EncoderVersion,
    /// How many.
    pub n_vectors: u64,
    /// Size of the segments that hold them.
    pub n_bytes: u64,
}

/// That a vector can be one of this version.
fn check(version: &EncoderVersion, content: &ContentHash, vector: &[f32]) -> Result<(), Error> {
    let why = if !(1..=MAX_DIM).contains(&version.dim) || version.name.len() > MAX_NAME_BYTES {
        format!("an encoder has a name of at most {MAX_NAME_BYTES} bytes and 1 to {MAX_DIM} numbers a vector")
    } else if u32::try_from(vector.len()) != Ok(version.dim) {
        format!(
            "it has {} numbers, the encoder makes {}",
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
