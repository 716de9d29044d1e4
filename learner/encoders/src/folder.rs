//! Reads an encoder's folder: bounded files, one digest over all of them, tensors by name and shape.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

use ouzel_sample::EncoderVersion;

use crate::EncodeError;

/// Largest weights file: a billion parameters in single precision.
const MAX_WEIGHTS_BYTES: u64 = 4 << 30;
/// Largest configuration or tokenizer file; a vocabulary of 250,000 pieces takes 17 MB.
const MAX_TEXT_BYTES: u64 = 64 << 20;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// A folder being read. Every byte read becomes part of the digest that [`Folder::version`] returns.
pub(crate) struct Folder {
    root: PathBuf,
    hasher: blake3::Hasher,
}

impl Folder {
    /// Starts reading `root`. `rules` names our own preprocessing, with a number that changes whenever vectors would.
    pub(crate) fn new(root: &Path, rules: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("ouzel encoder 1");
        hasher.update(rules.as_bytes());
        Self {
            root: root.to_owned(),
            hasher,
        }
    }

    /// Reads `config.json` and applies `check`, which returns what is wrong.
    pub(crate) fn config<T: DeserializeOwned>(
        &mut self,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Result<T, EncodeError> {
        let bytes = self.read(CONFIG)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| error.to_string())
            .and_then(|config| check(&config).map(|()| config))
            .map_err(|why| self.malformed(CONFIG, why))
    }

    pub(crate) fn read(&mut self, file: &str) -> Result<Vec<u8>, EncodeError> {
        self.read_bounded(file, MAX_TEXT_BYTES)
    }

    pub(crate) fn weights(&mut self) -> Result<Vec<u8>, EncodeError> {
        self.read_bounded(WEIGHTS, MAX_WEIGHTS_BYTES)
    }

    /// Parses the bytes of the weights file; its tensors are loaded onto `device`.
    pub(crate) fn tensors<'a>(&self, bytes: &'a [u8], device: Device) -> Result<Tensors<'a>, EncodeError> {
        let view =
            SafeTensors::deserialize(bytes).map_err(|error| self.malformed(WEIGHTS, error.to_string()))?;
        Ok(Tensors {
            path: self.root.join(WEIGHTS),
            view,
            device,
        })
    }

    pub(crate) fn malformed(&self, file: &str, why: impl Into<String>) -> EncodeError {
        EncodeError::Malformed {
            path: self.root.join(file),
            why: why.into(),
        }
    }

    /// The version of the encoder, named after its folder.
    pub(crate) fn version(self, dim: usize) -> EncoderVersion {
        let name = self.root.file_name().unwrap_or_default().to_string_lossy();
        EncoderVersion {
            name: name.into_owned(),
            digest: *self.hasher.finalize().as_bytes(),
            dim: u32::try_from(dim).expect("a checked dimension is small"),
        }
    }

    fn read_bounded(&mut self, file: &str, max_bytes: u64) -> Result<Vec<u8>, EncodeError> {
        let path = self.root.join(file);
        let bytes = read_regular(&path, max_bytes).map_err(|error| EncodeError::Io { path, error })?;
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(&bytes);
        Ok(bytes)
    }
}

fn read_regular(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > max_bytes {
        let why = format!("not a regular file of at most {max_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.take(max_bytes).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The tensors of the weights file. Parsing has checked offsets and sizes.
pub(crate) struct Tensors<'a> {
    path: PathBuf,
    view: SafeTensors<'a>,
    device: Device,
}

impl Tensors<'_> {
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.view.tensor(name).is_ok()
    }

    pub(crate) fn shape(&self, name: &str) -> Result<Vec<usize>, EncodeError> {
        Ok(self.find(name)?.shape().to_vec())
    }

    /// Loads a required tensor in single precision onto the device.
    pub(crate) fn load(&self, name: &str, expected: &[usize]) -> Result<Tensor, EncodeError> {
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
        Ok(tensor.f_to_device(self.device)?)
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
pub(crate) fn size(n: usize) -> i64 {
    i64::try_from(n).expect("a size in memory is below 2^63")
}
