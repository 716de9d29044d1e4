//! The `config.json` of an image encoder and its checks.

use serde::Deserialize;

/// Largest input of a network, in pixels a side.
const MAX_SIDE: u32 = 1024;

/// The settings that the weights do not contain.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// Only `efficientnet-lite` is supported.
    pub model_type: String,
    /// Side of the network's square input, pixels.
    pub image_size: u32,
    /// Length the short side is resized to before the square is cut out, pixels.
    pub resize_short_side: u32,
    /// Subtracted from each colour value, which is 0 to 255.
    pub mean: f32,
    /// Divisor of the difference.
    pub scale: f32,
    /// Strides of the stem and then of each block, 1 or 2.
    pub strides: Vec<i64>,
}

impl ImageConfig {
    /// Checks what deserialization does not; returns what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self {
            model_type,
            image_size: side,
            resize_short_side: short_side,
            mean,
            scale,
            strides,
        } = self;
        if model_type != "efficientnet-lite" {
            Err(format!(
                "model_type {model_type:?} is not supported; efficientnet-lite is"
            ))
        } else if !(1..=MAX_SIDE).contains(side) || !(*side..=MAX_SIDE).contains(short_side) {
            Err(format!(
                "a square of {side} pixels cannot be cut from a short side of {short_side}, at most {MAX_SIDE}"
            ))
        } else if !scale.is_normal() || !mean.is_finite() {
            Err(format!("mean {mean} and scale {scale} cannot normalise colours"))
        } else if strides.is_empty() || strides.iter().any(|stride| ![1, 2].contains(stride)) {
            Err("strides are 1 or 2, the stem's first".to_owned())
        } else {
            Ok(())
        }
    }
}
