//! Frozen content encoders: they turn texts and pictures into vectors of length 1.
//!
//! An encoder is read once from a folder of plain data: `config.json`, `model.safetensors` and, for texts,
//! `tokenizer.json`. Nothing in the folder is executed, and an encoder never learns. The crate knows nothing of items,
//! caches, channels, threads or clocks.
//!
//! # Invariants
//! - A content's vector has the same bits whatever else is in its batch: matrix products run over tiles of one fixed
//!   shape, attention sees one text at a time and convolutions one picture. See [`TextEncoder`] and [`ImageEncoder`].
//! - A content that cannot be encoded is counted by reason and loses its own vector only, never the batch.

mod error;
mod folder;
mod image;
pub mod metrics;
mod text;

use ::metrics::counter;
use ouzel_sample::{Content, EncoderVersion};

pub use error::EncodeError;
pub use image::{ImageConfig, ImageEncoder};
pub use text::{MAX_TOKENS, TextConfig, TextEncoder};

use crate::metrics::{CONTENTS_ENCODED, CONTENTS_UNUSABLE};

/// A frozen network that turns contents into vectors. The thread that uses it owns it.
pub trait Encoder: Send + std::fmt::Debug {
    /// Identifies the vectors: name, digest of all files, dimension.
    fn version(&self) -> &EncoderVersion;

    /// Encodes a batch; returns one vector, or the reason for having none, per content in order.
    ///
    /// # Shapes
    /// Every vector is `[EncoderVersion::dim]` and has length 1.
    ///
    /// # Errors
    /// [`EncodeError::Torch`] when the device fails; then nothing of the batch is encoded.
    fn encode(&self, batch: &[Content]) -> Result<Vec<Encoded>, EncodeError>;
}

/// The vector of one content, or the reason for having none.
pub type Encoded = Result<Vec<f32>, UnusableContent>;

/// Why a content has no vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnusableContent {
    /// The text has no token.
    Empty,
    /// The bytes are not a picture in a supported format, or the picture is broken.
    Undecodable,
    /// The picture exceeds the limit on bytes or pixels.
    TooLarge,
    /// A picture was given to a text encoder, or a text to an image encoder.
    WrongKind,
    /// The network's output is all zeros or not finite, so it cannot be scaled to length 1.
    NoDirection,
}

impl UnusableContent {
    /// The value of the metric label `reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Undecodable => "undecodable",
            Self::TooLarge => "too_large",
            Self::WrongKind => "wrong_kind",
            Self::NoDirection => "no_direction",
        }
    }
}

/// Counts the encoded and the unusable contents of a batch.
fn count_batch(version: &EncoderVersion, batch: &[Encoded]) {
    let unusable = batch.iter().filter_map(|encoded| encoded.as_ref().err());
    let n_unusable = unusable
        .inspect(|unusable| {
            counter!(CONTENTS_UNUSABLE, "encoder" => version.name.clone(), "reason" => unusable.reason())
                .increment(1);
        })
        .count();
    counter!(CONTENTS_ENCODED, "encoder" => version.name.clone())
        .increment((batch.len() - n_unusable) as u64);
}

/// Scales a vector to length 1. The sum runs in double precision and in order, so every machine gets the same bits.
fn normalized(mut vector: Vec<f32>) -> Encoded {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() || length < 1e-12 {
        return Err(UnusableContent::NoDirection);
    }
    for x in &mut vector {
        #[allow(clippy::cast_possible_truncation, reason = "rounds a number of at most 1")]
        let scaled = (f64::from(*x) / length) as f32;
        *x = scaled;
    }
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_has_length_one_or_no_direction() {
        assert_eq!(normalized(vec![3.0, -4.0]), Ok(vec![0.6, -0.8]));
        for vector in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            assert_eq!(normalized(vector.to_vec()), Err(UnusableContent::NoDirection));
        }
    }
}
