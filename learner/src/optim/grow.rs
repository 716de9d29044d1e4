//! Optimizer state of a dense weight from that of the same weight at another width.

use ouzel_model::Growth;
use tch::{TchError, Tensor};

use super::OptimizerState;

/// State with an entry for each entry of its weight; the factors of Shampoo are of whole sides.
const BY_ENTRY: [&str; 3] = ["adagrad_sum", "adam_mean", "adam_square"];

impl OptimizerState {
    /// Takes over the state of the weight `name` of another width, entry by entry. Factors of whole sides start anew.
    pub(crate) fn grow(&mut self, name: &str, source: &Self, growth: &Growth) -> Result<(), TchError> {
        let has_factors = self.specs.iter().any(|spec| !BY_ENTRY.contains(&spec.name));
        self.n_steps = if has_factors { 0 } else { source.n_steps };
        for (spec, tensor) in self.specs.iter().zip(&mut self.tensors) {
            let mut pairs = source.specs.iter().zip(&source.tensors);
            let Some((from, kept)) =
                pairs.find(|(from, _)| from.name == spec.name && BY_ENTRY.contains(&from.name))
            else {
                continue;
            };
            let mut values = Vec::<f32>::try_from(tensor.f_flatten(0, -1)?)?;
            let kept = Vec::<f32>::try_from(kept.f_flatten(0, -1)?)?;
            let extents = |shape: &[i64]| -> Vec<usize> {
                shape.iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect()
            };
            growth.state(
                name,
                (&extents(&from.shape), &kept),
                (&extents(&spec.shape), &mut values),
            );
            *tensor = Tensor::f_from_slice(&values)?
                .f_view(spec.shape.as_slice())?
                .f_to_device(tensor.device())?;
        }
        Ok(())
    }
}
