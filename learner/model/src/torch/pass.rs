//! A forward pass in tensors with its backward pass by autograd.

use tch::{Device, Kind, TchError, Tensor};

use super::{BatchTensors, TorchOutputs};
use crate::backend::{ContrastLoss, OutputGradients, Outputs, Pass};
use crate::block::Block;
use crate::blocks::{contrast, dien};
use crate::config::SequenceKind;
use crate::error::Error;
use crate::gradients::{Gradients, RowGradient};
use crate::host_slice::to_vec;
use crate::inputs::Inputs;
use crate::net::{Net, to_i64};

/// A forward pass whose graph autograd has recorded.
pub(super) struct TorchPass<'a> {
    net: &'a Net,
    inputs: &'a Inputs,
    batch: BatchTensors,
    tensors: TorchOutputs,
    outputs: Outputs,
    /// Floats of a row.
    dim: usize,
    /// The device that caches rows, if one does.
    row_device: Option<Device>,
}

impl<'a> TorchPass<'a> {
    pub(super) fn new(
        net: &'a Net,
        inputs: &'a Inputs,
        batch: BatchTensors,
        tensors: TorchOutputs,
        dim: usize,
        row_device: Option<Device>,
    ) -> Result<Self, Error> {
        let auxiliary = tensors.auxiliary.as_ref().map(to_vec).transpose()?;
        let outputs = Outputs {
            logits: to_vec(&tensors.logits)?,
            auxiliary: auxiliary.unwrap_or_default(),
        };
        Ok(Self {
            net,
            inputs,
            batch,
            tensors,
            outputs,
            dim,
            row_device,
        })
    }

    /// The content-ID contrast of the batch's distinct contents, times its weight; none for fewer than two.
    fn contrast(&self, term: ContrastLoss) -> Result<Option<Tensor>, Error> {
        let contrasted = self
            .batch
            .contents
            .as_ref()
            .and_then(|indices| indices.contrasted.as_ref());
        let (Some(contents), Some(target), Some([places, candidates])) =
            (&self.tensors.contents, &self.batch.target, contrasted)
        else {
            return Ok(None);
        };
        if self.net.config().contrast_width == 0 {
            return Ok(None);
        }
        let ids = target.f_index_select(0, candidates)?;
        let contents = contents.f_index_select(0, places)?;
        let loss = contrast::loss(self.net.params(), &ids, &contents, term.temperature)?;
        Ok(Some(loss * term.weight))
    }
}

impl TorchPass<'_> {
    /// DIEN's auxiliary loss times its weight; none for another block, or without a pair.
    fn next_entry(&self, weight: f64) -> Result<Option<Tensor>, Error> {
        let config = self.net.config();
        let (Some(history), Some(target)) = (&self.batch.history, &self.batch.target) else {
            return Ok(None);
        };
        if weight <= 0.0 || config.sequence.kind != SequenceKind::Dien {
            return Ok(None);
        }
        let negatives = (0i64..).zip(self.inputs.negatives(config.seed));
        let pairs: Vec<(i64, i64)> = negatives
            .filter_map(|(place, negative)| Some((place, to_i64(negative?))))
            .collect();
        if pairs.is_empty() {
            return Ok(None);
        }
        let loss = dien::next_entry_loss(self.net.params(), target, history, &pairs)?;
        Ok(Some(loss * weight))
    }
}

impl Pass for TorchPass<'_> {
    fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    fn backward(mut self: Box<Self>, outputs: OutputGradients<'_>) -> Result<Gradients, Error> {
        // The gradient of this sum is that of the loss: the outputs' gradients carried back.
        let mut sum = weighted_sum(&self.tensors.logits, outputs.logits)?;
        if let Some(auxiliary) = &self.tensors.auxiliary {
            sum += weighted_sum(auxiliary, outputs.auxiliary)?;
        }
        let contrast = match outputs.contrast {
            Some(term) => self.contrast(term)?,
            None => None,
        };
        let is_contrasted = contrast.is_some();
        if let Some(contrast) = contrast {
            sum += contrast;
        }
        if let Some(loss) = self.next_entry(outputs.next_entry)? {
            sum += loss;
        }
        let (net, inputs) = (self.net, self.inputs);
        // The others are not part of the graph.
        let learned: Vec<bool> = net
            .weights()
            .map(|(spec, _)| {
                let is_used = match spec.block {
                    Block::Contrast => is_contrasted,
                    Block::Retrieval => false,
                    _ => true,
                };
                is_used && net.learns(spec)
            })
            .collect();
        if self.batch.history.is_none() && self.batch.long.is_none() && !is_contrasted {
            self.batch.target = None;
        }
        let wide_sums = net.config().wide.then(|| self.batch.wide.shallow_clone());
        let row_sums = self.batch.row_sums(inputs);
        let mut targets: Vec<&Tensor> = net
            .weights()
            .zip(&learned)
            .filter_map(|((_, tensor), learns)| learns.then_some(tensor))
            .collect();
        targets.extend(row_sums.iter().map(|(sums, _)| &**sums));
        targets.extend(&wide_sums);
        let mut found = Tensor::f_run_backward(&[&sum], &targets, false, false)?.into_iter();

        let dense = learned
            .iter()
            .map(|learns| learns.then(|| found.next()).flatten())
            .collect();
        let mut rows = RowGradient::zeros(inputs.rows.len(), self.dim, self.row_device)?;
        for ((_, pool), gradient) in row_sums.iter().zip(&mut found) {
            rows.add(pool, &gradient)?;
        }
        let mut wide = vec![0.0; inputs.wide.len()];
        if let Some(gradient) = found.next() {
            inputs.wide_sum.scatter(&to_vec(&gradient)?, 1, &mut wide);
        }
        Ok(Gradients { dense, rows, wide })
    }
}

/// Sum of outputs times constants, whose gradient by an output is its constant.
fn weighted_sum(output: &Tensor, constants: &[f32]) -> Result<Tensor, TchError> {
    let constants = Tensor::f_from_slice(constants)?
        .f_to_device(output.device())?
        .f_view_as(output)?;
    (output * constants).f_sum(Kind::Float)
}
