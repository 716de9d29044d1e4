//! Pictures to vectors: a folder with the `config.json` and `model.safetensors` of an EfficientNet-Lite. The vector is
//! what the network's classifier would see, the mean of the last features over the picture, at length 1.

use std::path::Path;

use serde::Deserialize;
use tch::{Device, Tensor};

use ouzel_sample::{Content, EncoderVersion};

use super::conv::EfficientNet;
use super::pixels::{COLOURS, centre_square};
use super::source::{Folder, size};
use super::{EncodeError, Encoded, Encoder, Unusable, tally, unit};

/// What our code does to a picture; the number changes whenever vectors would.
const RULES: &str = "image 1: rgb, bicubic, centre, unit length";
/// Largest input of a network, in pixels a side.
const MAX_SIDE: u32 = 1024;

/// What the weights do not say.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// Only `efficientnet-lite` is known.
    pub model_type: String,
    /// Side of the square that the network looks at, in pixels.
    pub image_size: u32,
    /// Length to which the short side is brought before that square is cut out, in pixels.
    pub resize_short_side: u32,
    /// Subtracted from each colour, of 0 to 255.
    pub mean: f32,
    /// By which the difference is divided.
    pub scale: f32,
    /// Of the stem and then of each block, 1 or 2.
    pub strides: Vec<i64>,
}

impl ImageConfig {
    fn fault(&self) -> Option<String> {
        if self.model_type != "efficientnet-lite" {
            let found = &self.model_type;
            return Some(format!("model_type {found:?} is not known, efficientnet-lite is"));
        }
        let (side, short_side) = (self.image_size, self.resize_short_side);
        if !(1..=MAX_SIDE).contains(&side) || !(side..=MAX_SIDE).contains(&short_side) {
            return Some(format!(
                "a square of {side} pixels cannot be cut from a short side of {short_side}, at most {MAX_SIDE}"
            ));
        }
        if !self.scale.is_normal() || !self.mean.is_finite() {
            return Some(format!(
                "mean {} and scale {} are no bounds of colours",
                self.mean, self.scale
            ));
        }
        if self.strides.is_empty() || self.strides.iter().any(|stride| ![1, 2].contains(stride)) {
            return Some("strides are 1 or 2, that of the stem first".to_owned());
        }
        None
    }
}

/// A frozen image encoder for JPEG and PNG.
///
/// Pictures go through the network one by one. On a CPU that is faster than any batch, and it makes each vector
/// independent of its neighbours.
#[derive(Debug)]
pub struct ImageEncoder {
    version: EncoderVersion,
    config: ImageConfig,
    network: EfficientNet,
    device: Device,
}

impl ImageEncoder {
    /// Reads the encoder in `folder`, whose name becomes the encoder's.
    ///
    /// # Errors
    /// [`EncodeError`] when a file is missing, is not what it should be, or disagrees with `config.json`.
    pub fn load(folder: &Path, device: Device) -> Result<Self, EncodeError> {
        let mut folder = Folder::new(folder, RULES);
        let config: ImageConfig = folder.json("config.json")?;
        if let Some(why) = config.fault() {
            return Err(folder.malformed("config.json", why));
        }
        let weights = folder.weights()?;
        let tensors = folder.tensors(&weights)?;
        let network = tch::no_grad(|| EfficientNet::load(&tensors, &config.strides, device))?;
        Ok(Self {
            version: folder.version(network.n_out()),
            config,
            network,
            device,
        })
    }

    fn vector(&self, content: &Content) -> Result<Encoded, EncodeError> {
        let Content::Image(file) = content else {
            return Ok(Err(Unusable::WrongKind));
        };
        let (short_side, side) = (self.config.resize_short_side, self.config.image_size);
        match centre_square(file, short_side, side) {
            Ok(square) => Ok(unit(self.features(&square)?)),
            Err(unusable) => Ok(Err(unusable)),
        }
    }

    /// `square [side, side, COLOURS]` to what the network sees in it, not yet of length 1.
    pub(super) fn features(&self, square: &[u8]) -> Result<Vec<f32>, EncodeError> {
        let ImageConfig {
            mean,
            scale,
            image_size,
            ..
        } = self.config;
        let colours: Vec<f32> = square
            .iter()
            .map(|colour| (f32::from(*colour) - mean) / scale)
            .collect();
        let side = i64::from(image_size);
        let picture = Tensor::f_from_slice(&colours)?
            .f_view([1, side, side, size(COLOURS)])?
            .f_permute([0, 3, 1, 2])?
            .f_to_device(self.device)?;
        let features = tch::no_grad(|| self.network.forward(&picture))?;
        Ok(Vec::<f32>::try_from(&features)?)
    }
}

impl Encoder for ImageEncoder {
    fn version(&self) -> &EncoderVersion {
        &self.version
    }

    fn encode(&self, batch: &[Content]) -> Result<Vec<Encoded>, EncodeError> {
        let encoded = batch
            .iter()
            .map(|content| self.vector(content))
            .collect::<Result<Vec<_>, _>>()?;
        tally(&self.version, &encoded);
        Ok(encoded)
    }
}
