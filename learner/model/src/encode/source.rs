//! An encoder's folder: bounded reads, one digest over all that was read, tensors by name and shape.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

use ouzel_sample::EncoderVersion;

use super::EncodeError;

/// The largest weights that are read: a billion parameters in single precision.
const MAX_WEIGHTS_BYTES: u64 = 4 << 30;
/// The largest configuration or tokenizer; that of a vocabulary of 250,000 pieces is 17 MB.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// The file of the weights.
const WEIGHTS: &str = "model.safetensors";

/// A folder being read. What it gives is part of the version that [`Folder::version`] ends with.
pub(super) struct Folder {
    root: PathBuf,
    hasher: blake3::Hasher,
}

impl Folder {
    /// `rules` names what our own code does to a content, with a number that changes whenever vectors would.
    pub(super) fn new(root: &Path, rules: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("ouzel encoder 1");
        hasher.update(rules.as_bytes());
        Self {
            root: root.to_owned(),
            hasher,
        }
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// A file that is text.
    pub(super) fn read(&mut self, file: &str) -> Result<Vec<u8>, EncodeError> {
        self.take(file, MAX_TEXT_BYTES)
    }

    /// A file that is JSON.
    pub(super) fn json<T: DeserializeOwned>(&mut self, file: &str) -> Result<T, EncodeError> {
        let bytes = self.read(file)?;
        serde_json::from_slice(&bytes).map_err(|error| self.malformed(file, error.to_string()))
    }

    /// The bytes of [`WEIGHTS`].
    pub(super) fn weights(&mut self) -> Result<Vec<u8>, EncodeError> {
        self.take(WEIGHTS, MAX_WEIGHTS_BYTES)
    }

    /// The tensors in those bytes.
    pub(super) fn tensors<'a>(&self, bytes: &'a [u8]) -> Result<Tensors<'a>, EncodeError> {
        let view =
            SafeTensors::deserialize(bytes).map_err(|error| self.malformed(WEIGHTS, error.to_string()))?;
        Ok(Tensors {
            path: self.path(WEIGHTS),
            view,
        })
    }

    /// That a file says what cannot be.
    pub(super) fn malformed(&self, file: &str, why: impl Into<String>) -> EncodeError {
        EncodeError::Malformed {
            path: self.path(file),
            why: why.into(),
        }
    }

    /// The version of the encoder that was read, named as its folder.
    pub(super) fn version(self, dim: usize) -> EncoderVersion {
        let name = self.root.file_name().unwrap_or_default().to_string_lossy();
        EncoderVersion {
            name: name.into_owned(),
            digest: *self.hasher.finalize().as_bytes(),
            dim: u32::try_from(dim).expect("a checked dimension is small"),
        }
    }

    fn take(&mut self, file: &str, most: u64) -> Result<Vec<u8>, EncodeError> {
        let path = self.path(file);
        let bytes = bounded(&path, most).map_err(|error| EncodeError::Io { path, error })?;
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(&bytes);
        Ok(bytes)
    }
}

/// The content of a regular file of at most `most` bytes.
fn bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > most {
        let why = format!("not a regular file of at most {most} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The tensors of a safetensors file. Offsets and sizes were checked when it was opened.
pub(super) struct Tensors<'a> {
    path: PathBuf,
    view: SafeTensors<'a>,
}

impl Tensors<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.view.tensor(name).is_ok()
    }

    /// The shape of a tensor that has to be there.
    pub(super) fn shape(&self, name: &str) -> Result<Vec<usize>, EncodeError> {
        Ok(self.find(name)?.shape().to_vec())
    }

    /// A tensor in single precision on the device.
    pub(super) fn load(&self, name: &str, expected: &[usize], device: Device) -> Result<Tensor, EncodeError> {
        let tensor = self.find(name)?;
        if tensor.shape() != expected {
            return Err(EncodeError::WrongShape {
                path: self.path.clone(),
                name: name.to_owned(),
                found: tensor.shape().to_vec(),
                expected: expected.to_vec(),
            });
        }
        let malformed = |why: String| EncodeError::Malformed {
            path: self.path.clone(),
            why: format!("tensor {name:?} {why}"),
        };
        let kind = match tensor.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            other => return Err(malformed(format!("holds {other}, not floats of 16 or 32 bits"))),
        };
        let shape: Vec<i64> = expected.iter().map(|n| size(*n)).collect();
        let tensor = Tensor::f_from_data_size(tensor.data(), &shape, kind)?.f_to_kind(Kind::Float)?;
        // A sum is finite only if all its terms are, and it needs no second tensor of the same size.
        if !tensor.f_sum(Kind::Float)?.f_double_value(&[])?.is_finite() {
            return Err(malformed("holds numbers that are not finite".to_owned()));
        }
        Ok(tensor.f_to_device(device)?)
    }

    fn find(&self, name: &str) -> Result<TensorView<'_>, EncodeError> {
        self.view.tensor(name).map_err(|_| EncodeError::MissingTensor {
            path: self.path.clone(),
            name: name.to_owned(),
            n_present: self.view.len(),
        })
    }
}

/// A size as libtorch takes it.
pub(super) fn size(n: usize) -> i64 {
    i64::try_from(n).expect("what is in memory has a size below 2^63")
}
