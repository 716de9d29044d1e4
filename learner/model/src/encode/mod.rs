//! Frozen content encoders: texts and pictures to vectors of length 1.
//!
//! An encoder is read once from a folder of plain data, `config.json` and `model.safetensors`, never from anything
//! that could run, and never learns: no gradient is taken here. It runs in a stage of its own, so nothing here knows
//! who asked, what the vectors are for, or where contents come from.
//!
//! # Invariants
//! - A content's vector does not depend on the batch that it was encoded in. Matrix products have one fixed shape, in
//!   which only the row that a token stands in differs, and whatever mixes the tokens of a text or the pixels of a
//!   picture sees that one alone; see [`TextEncoder`] and [`ImageEncoder`].
//! - A content that cannot be encoded is counted with its reason and costs its own vector, never the batch.

mod bert;
mod conv;
mod error;
mod image;
mod pixels;
mod source;
mod text;

use metrics::counter;
use ouzel_sample::{Content, EncoderVersion};

pub use error::EncodeError;
pub use image::{ImageConfig, ImageEncoder};
pub use text::{MAX_TOKENS, TextConfig, TextEncoder};

use crate::metrics::{CONTENTS_ENCODED, CONTENTS_UNUSABLE};

/// A frozen network from contents to vectors. It is moved to the thread that uses it and stays there.
pub trait Encoder: Send + std::fmt::Debug {
    /// What its vectors are to be known by.
    fn version(&self) -> &EncoderVersion;

    /// The vectors of a batch in its order; for each content that cannot be encoded, why.
    ///
    /// # Shapes
    /// Every vector has [`EncoderVersion::dim`] numbers and length 1.
    ///
    /// # Errors
    /// [`EncodeError::Torch`], when the device fails; then nothing of the batch is encoded.
    fn encode(&self, batch: &[Content]) -> Result<Vec<Encoded>, EncodeError>;
}

/// A content's vector, or why it has none.
pub type Encoded = Result<Vec<f32>, Unusable>;

/// Why a content has no vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unusable {
    /// A text without a single token.
    Empty,
    /// No picture in a known format, or a broken one.
    Undecodable,
    /// A picture beyond the bounds on bytes or pixels.
    TooLarge,
    /// A picture for a text encoder, or the other way round.
    WrongKind,
    /// The network's output is no direction: all zero, or not finite.
    NoDirection,
}

impl Unusable {
    /// The value of the metric's label `reason`.
    #[must_use]
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

/// Counts a batch.
fn tally(version: &EncoderVersion, batch: &[Encoded]) {
    let n_unusable = batch
        .iter()
        .filter_map(|encoded| encoded.as_ref().err())
        .inspect(|unusable| {
            counter!(CONTENTS_UNUSABLE, "encoder" => version.name.clone(), "reason" => unusable.reason())
                .increment(1);
        })
        .count();
    counter!(CONTENTS_ENCODED, "encoder" => version.name.clone())
        .increment((batch.len() - n_unusable) as u64);
}

/// The vector with length 1. Sums in double precision and in order, so that it is the same everywhere.
fn unit(mut vector: Vec<f32>) -> Encoded {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() || length < 1e-12 {
        return Err(Unusable::NoDirection);
    }
    for x in &mut vector {
        #[allow(clippy::cast_possible_truncation, reason = "a number of at most 1, rounded")]
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
        assert_eq!(unit(vec![3.0, -4.0]), Ok(vec![0.6, -0.8]));
        assert_eq!(unit(vec![0.0, 0.0]), Err(Unusable::NoDirection));
        assert_eq!(unit(vec![f32::NAN, 1.0]), Err(Unusable::NoDirection));
        assert_eq!(unit(vec![f32::INFINITY, 1.0]), Err(Unusable::NoDirection));
    }
}
