//! From the gradients of a batch's outputs to those of every weight that learns.

use std::collections::HashMap;

use tch::{Kind, TchError, Tensor};

use ouzel_model::host_slice::to_vec;
use ouzel_model::{BatchTensors, ContentSource, CpuForward, CpuGradients, Inputs, Net, Outputs};

use crate::objective::Gradients;
use crate::row_gradient::RowGradient;
use crate::trainer::Trainer;

/// Gradients of a batch: by dense weight in the net's order, none for those that stand still; by embedding row; by
/// weight of the wide part.
type Of = (Vec<Option<Tensor>>, RowGradient, Vec<f32>);

/// Has gradients recorded for what a batch read of the tables.
pub(crate) fn track(mut leaves: BatchTensors, inputs: &Inputs) -> BatchTensors {
    for (leaf, _) in leaves.of_rows(inputs) {
        *leaf = leaf.set_requires_grad(true);
    }
    leaves.wide = leaves.wide.set_requires_grad(true);
    if let Some(ContentSource::ByHand { targets, .. }) = leaves.contents.as_mut().map(|of| &mut of.source) {
        *targets = targets.set_requires_grad(true);
    }
    if let Some(pass) = &mut leaves.pass {
        pass.read = pass.read.set_requires_grad(true);
    }
    leaves
}

/// Has gradients recorded for the dense weights that learn.
pub(crate) fn track_params(net: &Net) {
    for (name, tensor) in net.params() {
        let _tracked = tensor.set_requires_grad(net.is_learned(name));
    }
}

impl Trainer {
    /// The backward pass. `contrast` is added to the loss as it is.
    pub(crate) fn backward(
        &self,
        inputs: &Inputs,
        mut leaves: BatchTensors,
        output: &Outputs,
        gradients: &Gradients,
        contrast: Option<Tensor>,
    ) -> Result<Of, TchError> {
        if let Some(hand) = &output.hand {
            return self.backward_by_hand(hand, inputs, leaves, output, gradients, contrast);
        }
        // The gradient of this sum is the outputs' gradients carried back.
        let mut sum = times(&output.logits, &gradients.logits)?;
        if let Some(auxiliary) = &output.auxiliary {
            sum += times(auxiliary, &gradients.auxiliary)?;
        }
        let is_contrasted = contrast.is_some();
        if let Some(contrast) = contrast {
            sum += contrast;
        }
        let learns = |name: &str| self.net.is_learned(name) && (is_contrasted || !name.starts_with("cic."));
        // What plain loops have computed goes back through them.
        let pass = leaves.pass.take();
        let is_by_hand = |name: &str| pass.is_some() && name.starts_with("sequence.");
        if leaves.history.is_none() && !is_contrasted {
            leaves.target = None;
        }
        let has_wide = self.weights.config.wide;
        let wide_leaf = leaves.wide.shallow_clone();
        let pools = leaves.of_rows(inputs);
        let mut targets: Vec<&Tensor> = self
            .net
            .params()
            .filter_map(|(name, tensor)| (learns(name) && !is_by_hand(name)).then_some(tensor))
            .collect();
        let n_dense = targets.len();
        targets.extend(pools.iter().map(|(leaf, _)| &**leaf));
        if has_wide {
            targets.push(&wide_leaf);
        }
        targets.extend(pass.as_ref().map(|pass| &pass.read));
        let mut found = Tensor::f_run_backward(&[&sum], &targets, false, false)?;

        let device = self.hot.as_ref().map(|_| self.net.device());
        let mut rows = RowGradient::zeros(inputs.rows.len(), self.weights.rows.dim(), device)?;
        let mut by_hand = HashMap::new();
        if let Some(pass) = &pass
            && let Some(read) = found.pop()
            && let Some(rows) = rows.plain()
        {
            let learns = self
                .net
                .params()
                .any(|(name, _)| is_by_hand(name) && learns(name));
            let weights = pass.backward(inputs, &to_vec(&read)?, rows, learns);
            by_hand.extend(weights);
        }
        let mut wide = vec![0.0; inputs.wide.len()];
        if has_wide && let Some(gradient) = found.pop() {
            inputs.wide_sum.scatter(&to_vec(&gradient)?, 1, &mut wide);
        }
        for ((_, pool), gradient) in pools.iter().zip(&found[n_dense..]) {
            rows.add(pool, gradient)?;
        }
        let mut found = found.into_iter();
        let dense = self
            .net
            .params()
            .map(|(name, weight)| match (learns(name), by_hand.get(name)) {
                (false, _) => Ok(None),
                (true, Some(gradient)) => Ok(Some(Tensor::f_from_slice(gradient)?.f_view_as(weight)?)),
                (true, None) => Ok(found.next()),
            })
            .collect::<Result<_, TchError>>()?;
        Ok((dense, rows, wide))
    }
}

impl Trainer {
    /// The same behind a pass in plain loops: libtorch has only what contrasts contents with ids, and contents that are
    /// not made in plain loops.
    fn backward_by_hand(
        &self,
        hand: &CpuForward,
        inputs: &Inputs,
        leaves: BatchTensors,
        output: &Outputs,
        gradients: &Gradients,
        contrast: Option<Tensor>,
    ) -> Result<Of, TchError> {
        let dim = self.weights.rows.dim();
        let mut rows = vec![0.0; inputs.rows.len() * dim];
        let learns = |name: &str| self.net.is_learned(name);
        let made = output.contents.as_ref().filter(|made| made.requires_grad());
        let CpuGradients {
            wide,
            mut contents,
            mut weights,
        } = hand.backward(
            inputs,
            &leaves,
            &gradients.logits,
            made.is_some(),
            &learns,
            &mut rows,
        );
        let by_hand = match leaves.contents.as_ref().map(|of| &of.source) {
            Some(ContentSource::ByHand { pass, .. }) => Some(pass),
            _ => None,
        };
        let is_contrasted = contrast.is_some();
        let mut sum = contrast;
        if let Some(made) = made.filter(|_| by_hand.is_none()) {
            let of_contents = times(made, &contents)?;
            sum = Some(match sum {
                Some(sum) => sum + of_contents,
                None => of_contents,
            });
        }
        let is_left = |name: &str| {
            learns(name)
                && ((made.is_some() && by_hand.is_none() && name.starts_with("content."))
                    || (is_contrasted && name.starts_with("cic.")))
        };
        let mut targets: Vec<&Tensor> = self
            .net
            .params()
            .filter_map(|(name, tensor)| is_left(name).then_some(tensor))
            .collect();
        let ids = leaves.target.as_ref().filter(|_| is_contrasted);
        let of_contrast = made.filter(|_| by_hand.is_some() && is_contrasted);
        targets.extend(ids);
        targets.extend(of_contrast);
        let mut found = match &sum {
            Some(sum) => Tensor::f_run_backward(&[sum], &targets, false, false)?,
            None => Vec::new(),
        };
        if of_contrast.is_some()
            && let Some(gradient) = found.pop()
        {
            for (sum, of) in contents.iter_mut().zip(to_vec(&gradient)?) {
                *sum += of;
            }
        }
        if ids.is_some()
            && let Some(gradient) = found.pop()
        {
            inputs.history.target.scatter(&to_vec(&gradient)?, dim, &mut rows);
        }
        if let Some(pass) = by_hand {
            weights.extend(pass.backward(&contents));
        }
        let mut found = found.into_iter();
        let dense = self
            .net
            .params()
            .map(|(name, weight)| {
                if is_left(name) {
                    return Ok(found.next());
                }
                weights
                    .remove(name)
                    .map(|gradient| Tensor::f_from_slice(&gradient)?.f_view_as(weight))
                    .transpose()
            })
            .collect::<Result<_, TchError>>()?;
        let rows = RowGradient::Plain { dim, values: rows };
        Ok((dense, rows, wide))
    }
}

fn times(output: &Tensor, gradient: &[f32]) -> Result<Tensor, TchError> {
    let start = Tensor::f_from_slice(gradient)?
        .f_to_device(output.device())?
        .f_view_as(output)?;
    (output * start).f_sum(Kind::Float)
}
