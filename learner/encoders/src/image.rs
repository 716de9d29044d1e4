//! The image encoder: an EfficientNet-Lite read from `config.json` and `model.safetensors`.
//!
//! The vector is the classifier's input, the mean of the last features over the picture, scaled to length 1.

mod config;
mod decode;
mod efficientnet;
mod pixels;

use std::path::Path;

use tch::{Device, Tensor};

use ouzel_sample::{Content, EncoderVersion};

use crate::folder::{Folder, size};
use crate::{EncodeError, Encoded, Encoder, UnusableContent, count_batch, normalized};
use decode::COLOURS;
use efficientnet::EfficientNet;
use pixels::centre_square;

pub use config::ImageConfig;

/// Our preprocessing of pictures; the number changes whenever vectors would.
const RULES: &str = "image 1: rgb, bicubic, centre, unit length";

/// A frozen image encoder for JPEG and PNG.
///
/// Pictures pass the network one by one. On a CPU that is faster than any batch, and it makes each vector independent of
/// the rest of the batch.
#[derive(Debug)]
pub struct ImageEncoder {
    version: EncoderVersion,
    config: ImageConfig,
    network: EfficientNet,
    device: Device,
}

impl ImageEncoder {
    /// Reads the encoder in `folder` and names it after the folder.
    ///
    /// # Errors
    /// [`EncodeError`] when a file is missing, malformed, or disagrees with `config.json`.
    pub fn load(folder: &Path, device: Device) -> Result<Self, EncodeError> {
        let mut folder = Folder::new(folder, RULES);
        let config = folder.config(ImageConfig::check)?;
        let weights = folder.weights()?;
        let tensors = folder.tensors(&weights, device)?;
        let network = tch::no_grad(|| EfficientNet::load(&tensors, &config.strides))?;
        Ok(Self {
            version: folder.version(network.n_out()),
            config,
            network,
            device,
        })
    }

    fn encode_one(&self, content: &Content) -> Result<Encoded, EncodeError> {
        let Content::Image(file) = content else {
            return Ok(Err(UnusableContent::WrongKind));
        };
        match centre_square(file, self.config.resize_short_side, self.config.image_size) {
            Ok(square) => Ok(normalized(self.features(&square)?)),
            Err(unusable) => Ok(Err(unusable)),
        }
    }

    /// `square [side, side, COLOURS]` to the features `[dim]`, not yet of length 1.
    fn features(&self, square: &[u8]) -> Result<Vec<f32>, EncodeError> {
        let ImageConfig { mean, scale, .. } = self.config;
        let scaled = square.iter().map(|colour| (f32::from(*colour) - mean) / scale);
        let side = i64::from(self.config.image_size);
        let picture = Tensor::f_from_slice(&scaled.collect::<Vec<f32>>())?
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
            .map(|content| self.encode_one(content))
            .collect::<Result<Vec<_>, _>>()?;
        count_batch(&self.version, &encoded);
        Ok(encoded)
    }
}
