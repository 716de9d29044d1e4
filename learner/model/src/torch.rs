//! The torch backend: libtorch with autograd, on any device, for every block.
//!
//! It is the reference that the `cpu` backend is compared with, and the only one on a GPU. [`BatchTensors`] gathers a
//! batch, [`forward`] computes it, and [`TorchPass`] lets autograd carry gradients back. On a device with memory of its
//! own, [`DeviceRows`] caches the embedding rows that batches read last.

mod bags;
mod batch;
mod contents;
mod device_rows;
mod forward;
mod pass;

use tch::{Device, Tensor};

use crate::backend::{Backend, Pass, Purpose};
use crate::block::Block;
use crate::content_cache::ContentCache;
use crate::error::Error;
use crate::host_slice::to_vec;
use crate::inputs::Inputs;
use crate::net::{Net, to_i64};
use crate::rows::Rows;
use crate::weights::Weights;

pub(crate) use bags::Bags;
#[cfg(test)]
pub(crate) use batch::gather_slates;
pub(crate) use batch::{BatchTensors, UniqueRows};
pub(crate) use contents::ReadVectors;
#[cfg(test)]
pub(crate) use contents::gather_frozen;
pub use device_rows::DeviceRows;
pub(crate) use forward::{TorchOutputs, forward};
use pass::TorchPass;

/// Runs any model by libtorch.
#[derive(Debug)]
pub(crate) struct TorchBackend {
    device: Device,
    purpose: Purpose,
    /// 1 for live features that the model reads, else 0, `[N_DENSE]`; none where it reads all.
    mask: Option<Tensor>,
    contents: ContentCache,
    rows: Option<DeviceRows>,
}

impl TorchBackend {
    pub(crate) fn new(net: &Net, device: Device, purpose: Purpose) -> Result<Self, Error> {
        let mask = net.config().features.mask();
        let mask = mask.map(|mask| upload(&mask, &[to_i64(mask.len())], device));
        let mut backend = Self {
            device,
            purpose,
            mask: mask.transpose()?,
            contents: ContentCache::default(),
            rows: None,
        };
        backend.reset(net);
        Ok(backend)
    }

    /// Whether an item's content vector stays the same from pass to pass.
    fn has_fixed_contents(&self, net: &Net) -> bool {
        self.purpose == Purpose::Inference || net.is_fixed(Block::Content)
    }

    fn unique_rows(&self, tables: &Weights, inputs: &Inputs) -> Result<UniqueRows, Error> {
        Ok(match &self.rows {
            Some(cache) => UniqueRows::Device(cache.read(&inputs.rows, &tables.rows)?),
            None => UniqueRows::Host(tables.rows.read_all(&inputs.rows)),
        })
    }

    /// Gathers a batch and computes it.
    fn run(
        &mut self,
        net: &Net,
        tables: &Weights,
        inputs: &Inputs,
        tracks: bool,
    ) -> Result<(BatchTensors, TorchOutputs), Error> {
        let rows = self.unique_rows(tables, inputs)?;
        let mut batch = BatchTensors::gather(inputs, &rows, tables, net.prior(), self.device)?;
        if tracks {
            batch.track(inputs);
        }
        let mut read = ReadVectors::default();
        if let Some(contents) = &inputs.contents {
            if net.config().content.enabled {
                read.contents = Some(self.content_vectors(net, contents)?);
            }
            if net.config().has_content_linear() {
                read.linear = Some(self.content_linear(net, contents)?);
            }
        }
        let outputs = forward(net, self.mask.as_ref(), &batch, read)?;
        Ok((batch, outputs))
    }
}

impl Backend for TorchBackend {
    fn forward<'a>(
        &mut self,
        net: &'a Net,
        tables: &'a Weights,
        inputs: &'a Inputs,
    ) -> Result<Box<dyn Pass + 'a>, Error> {
        let (batch, outputs) = self.run(net, tables, inputs, true)?;
        let row_device = self.rows.as_ref().map(|_| self.device);
        let dim = tables.rows.dim();
        Ok(Box::new(TorchPass::new(
            net, inputs, batch, outputs, dim, row_device,
        )?))
    }

    fn score(&mut self, net: &Net, tables: &Weights, inputs: &Inputs) -> Result<Vec<f32>, Error> {
        let _no_grad = tch::no_grad_guard();
        let (_, outputs) = self.run(net, tables, inputs, false)?;
        Ok(to_vec(&outputs.logits)?)
    }

    fn reset(&mut self, net: &Net) {
        self.contents = ContentCache::default();
        for (spec, tensor) in net.weights() {
            let is_tracked = self.purpose == Purpose::Training && net.learns(spec);
            let _tracked = tensor.set_requires_grad(is_tracked);
        }
    }

    fn take_contents(&mut self) -> ContentCache {
        std::mem::take(&mut self.contents)
    }

    fn put_contents(&mut self, contents: ContentCache) {
        self.contents = contents;
    }

    fn cache_rows(&mut self, rows: &Rows, max: usize) -> Result<(), Error> {
        self.rows = Some(DeviceRows::new(rows, max, self.device)?);
        Ok(())
    }

    fn device_rows(&mut self) -> Option<&mut DeviceRows> {
        self.rows.as_mut()
    }
}

/// Copies host values to a device.
fn upload(values: &[f32], shape: &[i64], device: Device) -> Result<Tensor, Error> {
    Ok(Tensor::f_from_slice(values)?
        .f_reshape(shape)?
        .f_to_device(device)?)
}

/// Copies host indices to a device.
fn upload_indices(values: &[i64], device: Device) -> Result<Tensor, Error> {
    Ok(Tensor::f_from_slice(values)?.f_to_device(device)?)
}
