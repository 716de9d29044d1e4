//! Dense weights of a model from those of another one of other widths, so that it starts where the other is.
//!
//! Where every layer is at least as wide, a layer's leading units are those of the source: they read the leading floats of
//! each of their inputs by the source's weights and the other floats by 0, and a layer that the source lacks hands them on
//! (Net2Net, Chen et al. 2016). Other units are new. So the model computes what the source does, as far as its rows' new floats
//! do not add to pairwise products.

use crate::config::ModelConfig;
use crate::fields::{CANDIDATE_FIELDS, USER_FIELDS};

/// How the dense weights of one model follow from those of another one.
#[derive(Clone, Debug)]
pub struct Growth {
    /// Whether every width is at least that of the source.
    is_nested: bool,
    /// Layers that the source lacks: from this one on, up to the number of layers.
    new_layers: std::ops::Range<usize>,
    /// Units of the source's last layer.
    n_last: usize,
}

impl Growth {
    /// The growth of `source` to `target`.
    #[must_use]
    pub fn new(source: &ModelConfig, target: &ModelConfig) -> Self {
        let n_last = source.hidden.last().copied().unwrap_or(1);
        let widths = source.hidden.iter().chain(std::iter::repeat(&n_last));
        let is_wide = target
            .hidden
            .iter()
            .zip(widths)
            .all(|(target, source)| target >= source);
        Self {
            is_nested: is_wide && target.hidden.len() >= source.hidden.len() && target.dim >= source.dim,
            new_layers: source.hidden.len()..target.hidden.len(),
            n_last,
        }
    }

    /// Overwrites the initial values of the weight `name` by those that follow from the source's weight of this name, if it
    /// has one. Weights that are not copied keep their initial values.
    ///
    /// # Shapes
    /// `source` and `target` are each a shape with values, row-major.
    pub fn weight(&self, name: &str, source: Option<(&[usize], &[f32])>, target: (&[usize], &mut [f32])) {
        let Some(source) = source else {
            if self.is_nested {
                self.hand_on(name, target);
            }
            return;
        };
        if self.copies(name, source.0, target.0) {
            copy_leading(name, source, target, true);
        }
    }

    /// The same for optimizer state of the weight's shape: that of weights which are not copied stays initial.
    pub fn state(&self, name: &str, source: (&[usize], &[f32]), target: (&[usize], &mut [f32])) {
        if self.copies(name, source.0, target.0) {
            copy_leading(name, source, target, false);
        }
    }

    /// Whether the values of a weight of both models are copied: all of those that no width changes, the others if nested.
    fn copies(&self, name: &str, source: &[usize], target: &[usize]) -> bool {
        let has_no_width = name == "missing" || name.starts_with("linear.");
        source.len() == target.len() && (self.is_nested || has_no_width)
    }

    /// Sets the leading units of a layer that the source lacks to the leading units below it.
    fn hand_on(&self, name: &str, (shape, values): (&[usize], &mut [f32])) {
        let mut new_layers = self.new_layers.clone();
        if !new_layers.any(|layer| name == format!("hidden{layer}.weight")) {
            return;
        }
        let n_in = shape.last().copied().unwrap_or(1);
        for (unit, row) in values.chunks_exact_mut(n_in).take(self.n_last).enumerate() {
            row.fill(0.0);
            row[unit] = 1.0;
        }
    }
}

/// Copies the source's entries to the leading ones of the target, separately for each input of the layer. With `blanks`, the
/// copied units read what the source lacks by 0.
fn copy_leading(name: &str, source: (&[usize], &[f32]), target: (&[usize], &mut [f32]), blanks: bool) {
    let n_inputs = match name {
        "first.user" => USER_FIELDS,
        "first.candidate" => CANDIDATE_FIELDS,
        // What the head reads of the mean and of the maximum of a slate.
        "pool.weight" => 2,
        _ => 1,
    };
    let width = |shape: &[usize]| shape.last().copied().unwrap_or(1).max(1);
    let (n_source, n_target) = (width(source.0), width(target.0));
    let (part, target_part) = (n_source / n_inputs, n_target / n_inputs);
    for (row, from) in target
        .1
        .chunks_exact_mut(n_target)
        .zip(source.1.chunks_exact(n_source))
    {
        if blanks && target.0.len() > 1 {
            row.fill(0.0);
        }
        for (to, from) in row.chunks_exact_mut(target_part).zip(from.chunks_exact(part)) {
            for (to, from) in to.iter_mut().zip(from) {
                *to = *from;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dim: usize, hidden: &[usize]) -> ModelConfig {
        ModelConfig {
            dim,
            hidden: hidden.to_vec(),
            ..ModelConfig::default()
        }
    }

    #[test]
    fn a_layer_keeps_the_leading_floats_of_each_input() {
        let growth = Growth::new(&config(1, &[1]), &config(2, &[2]));
        let mut target = [9.0; 8];
        growth.weight(
            "first.candidate",
            Some((&[1, 2], &[3.0, 4.0])),
            (&[2, 4], &mut target),
        );
        assert_eq!(
            target.map(f32::to_bits),
            [3.0, 0.0, 4.0, 0.0, 9.0, 9.0, 9.0, 9.0].map(f32::to_bits)
        );
        let mut state = [9.0; 8];
        growth.state("first.candidate", (&[1, 2], &[3.0, 4.0]), (&[2, 4], &mut state));
        assert_eq!(
            state.map(f32::to_bits),
            [3.0, 9.0, 4.0, 9.0, 9.0, 9.0, 9.0, 9.0].map(f32::to_bits)
        );
        let mut bias = [9.0; 2];
        growth.weight("first.bias", Some((&[1], &[3.0])), (&[2], &mut bias));
        assert_eq!(bias.map(f32::to_bits), [3.0, 9.0].map(f32::to_bits));
    }

    #[test]
    fn a_layer_that_the_source_lacks_hands_its_units_on() {
        let growth = Growth::new(&config(1, &[2]), &config(1, &[3, 2]));
        let mut target = [9.0; 6];
        growth.weight("hidden1.weight", None, (&[2, 3], &mut target));
        assert_eq!(
            target.map(f32::to_bits),
            [1.0, 0.0, 0.0, 0.0, 1.0, 0.0].map(f32::to_bits)
        );
        let mut other = [9.0; 2];
        growth.weight("out.bias", None, (&[2], &mut other));
        assert_eq!(other.map(f32::to_bits), [9.0f32; 2].map(f32::to_bits));
    }

    #[test]
    fn a_narrower_model_has_new_layers_and_the_same_linear_term() {
        for (dim, hidden) in [(1, &[4][..]), (4, &[2]), (4, &[4, 2])] {
            let growth = Growth::new(&config(2, &[4]), &config(dim, hidden));
            let mut target = [9.0; 2];
            growth.weight("out.weight", Some((&[1, 1], &[3.0])), (&[1, 2], &mut target));
            assert_eq!(
                target.map(f32::to_bits),
                [9.0f32; 2].map(f32::to_bits),
                "{dim} {hidden:?}"
            );
            growth.weight(
                "linear.text",
                Some((&[1, 2], &[3.0, 4.0])),
                (&[1, 2], &mut target),
            );
            assert_eq!(target.map(f32::to_bits), [3.0, 4.0].map(f32::to_bits));
        }
    }
}
