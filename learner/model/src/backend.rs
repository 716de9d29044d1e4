//! The seam between what a network is and how it is computed.
//!
//! Two backends implement it. `torch` runs every model on every device by libtorch's autograd and is the reference. `cpu`
//! runs forward and backward passes in loops of our own. [`choose`] decides once, when a model is made; a model runs whole
//! on one backend.

use std::fmt;

use serde::Serialize;
use tch::Device;

use crate::config::ModelConfig;
use crate::content_cache::ContentCache;
use crate::cpu;
use crate::error::Error;
use crate::gradients::Gradients;
use crate::inputs::Inputs;
use crate::net::Net;
use crate::rows::Rows;
use crate::torch::DeviceRows;
use crate::weights::Weights;

/// An implementation of the forward and backward pass, with the caches it keeps between passes.
///
/// `tables` are the weights whose embedding rows and wide part a batch reads; their dense weights are not looked at, those
/// of the [`Net`] are.
pub(crate) trait Backend: fmt::Debug + Send {
    /// Runs a batch forward and keeps what its backward pass needs.
    fn forward<'a>(
        &mut self,
        net: &'a Net,
        tables: &'a Weights,
        inputs: &'a Inputs,
    ) -> Result<Box<dyn Pass + 'a>, Error>;

    /// Logits of a batch without a backward pass, `[n_candidates, n_tasks]`.
    fn score(&mut self, net: &Net, tables: &Weights, inputs: &Inputs) -> Result<Vec<f32>, Error>;

    /// Drops everything that was computed from base weights: they have changed, or are frozen from now on.
    fn reset(&mut self, net: &Net);

    /// Hands over the content vectors computed so far.
    fn take_contents(&mut self) -> ContentCache;

    /// Starts from content vectors that another backend computed from the same base weights.
    fn put_contents(&mut self, contents: ContentCache);

    /// Caches up to `max` rows on the device from now on.
    fn cache_rows(&mut self, _rows: &Rows, _max: usize) -> Result<(), Error> {
        Ok(())
    }

    /// The rows cached on a device with memory of its own.
    fn device_rows(&mut self) -> Option<&mut DeviceRows> {
        None
    }
}

/// A forward pass of a training batch.
pub trait Pass {
    /// The outputs of the network.
    fn outputs(&self) -> &Outputs;

    /// Gradients of every weight that learns, from those of the outputs.
    fn backward(self: Box<Self>, outputs: OutputGradients<'_>) -> Result<Gradients, Error>;
}

/// The outputs of the network for a batch.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// `[n_candidates, n_tasks]`; see [`Output`](crate::Output) for what a logit stands for.
    pub logits: Vec<f32>,
    /// `[n_candidates, n_tasks * auxiliary]`; empty for a model without auxiliary logits.
    pub auxiliary: Vec<f32>,
}

/// Gradients of a loss by the outputs, shaped as [`Outputs`].
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputGradients<'a> {
    /// By logit.
    pub logits: &'a [f32],
    /// By auxiliary logit.
    pub auxiliary: &'a [f32],
    /// The content-ID contrast to add to the loss, if any.
    pub contrast: Option<ContrastLoss>,
    /// Factor of DIEN's auxiliary loss, see [`crate::blocks::dien::next_entry_loss`]; 0 for none.
    pub next_entry: f64,
}

/// The content-ID contrast as a term of the loss, see [`crate::blocks::contrast`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContrastLoss {
    /// Factor of the term.
    pub weight: f64,
    /// Divisor of the similarities.
    pub temperature: f64,
}

/// What a model is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Its weights change between passes.
    Training,
    /// Its weights never change: whatever depends on them alone is computed once.
    Inference,
}

/// The name of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// Loops of our own, forward and backward.
    Cpu,
    /// libtorch with autograd.
    Torch,
}

/// The backend that runs a model on a device, and why it is not `cpu`.
#[must_use]
pub fn choose(config: &ModelConfig, device: Device) -> (BackendKind, Option<String>) {
    let reason = match device {
        Device::Cpu => cpu::unsupported(config).map(|what| format!("it has {what}")),
        _ => Some("its device is not the CPU".to_owned()),
    };
    match reason {
        None => (BackendKind::Cpu, None),
        reason => (BackendKind::Torch, reason),
    }
}
