//! The linear term over frozen vectors: the product of an item's vector of each modality with a weight for each task.
//!
//! The bits of an item do not depend on the items beside it.

use pulp::Arch;

use ouzel_sample::{ItemVectors, MODALITIES};

use super::fq_former::frozen_vector;
use super::kernel::{add_scaled, dot, row, row_mut, vectorized};
use super::weights::{BlockWeights, NamedGradients};
use crate::config::ModelConfig;
use crate::error::Error;

/// The weights of the term.
#[derive(Debug)]
pub(crate) struct ContentLinear {
    n_tasks: usize,
    modalities: Vec<Modality>,
}

/// The weights of one modality.
#[derive(Debug)]
struct Modality {
    /// Position in [`MODALITIES`].
    index: usize,
    name: String,
    width: usize,
    /// `[n_tasks, width]`
    weight: Vec<f32>,
}

impl ContentLinear {
    /// The term of a model that has it.
    pub(crate) fn new(weights: BlockWeights<'_>, config: &ModelConfig) -> Result<Self, Error> {
        let modalities = MODALITIES.iter().zip(config.linear_widths()).enumerate();
        let read = modalities.filter(|(_, (_, width))| *width > 0);
        let modalities = read.map(|(index, (name, width))| {
            let name = format!("linear.{name}");
            let weight = weights.get(&name)?.to_vec();
            Ok(Modality {
                index,
                name,
                width,
                weight,
            })
        });
        Ok(Self {
            n_tasks: config.n_tasks(),
            modalities: modalities.collect::<Result<_, Error>>()?,
        })
    }

    /// The terms of items, `[n, n_tasks]`; 0 of a vector that is missing or has another width.
    pub(crate) fn forward(&self, items: &[ItemVectors]) -> Vec<f32> {
        let mut out = vec![0.0; items.len() * self.n_tasks];
        Arch::new().dispatch(Forward(self, items, &mut out));
        out
    }

    #[inline(always)]
    fn forward_loops(&self, items: &[ItemVectors], out: &mut [f32]) {
        for Modality {
            index, width, weight, ..
        } in &self.modalities
        {
            for (item, out) in items.iter().zip(out.chunks_exact_mut(self.n_tasks)) {
                let Some(vector) = frozen_vector(item, *index, *width) else {
                    continue;
                };
                for (weight, out) in weight.chunks_exact(*width).zip(out) {
                    *out += dot(weight, vector);
                }
            }
        }
    }

    /// Gradients of the weights, from the `gradient` of the terms, `[n, n_tasks]`.
    pub(crate) fn backward(&self, items: &[ItemVectors], gradient: &[f32]) -> NamedGradients {
        let zeros = |modality: &Modality| (modality.name.clone(), vec![0.0; modality.weight.len()]);
        let mut out: NamedGradients = self.modalities.iter().map(zeros).collect();
        Arch::new().dispatch(Backward(self, items, gradient, &mut out));
        out
    }

    #[inline(always)]
    fn backward_loops(&self, items: &[ItemVectors], gradient: &[f32], out: &mut NamedGradients) {
        for (Modality { index, width, .. }, (_, of_weight)) in self.modalities.iter().zip(out) {
            for (item, of_item) in items.iter().zip(gradient.chunks_exact(self.n_tasks)) {
                let Some(vector) = frozen_vector(item, *index, *width) else {
                    continue;
                };
                for (of_weight, of_task) in of_weight.chunks_exact_mut(*width).zip(of_item) {
                    add_scaled(of_weight, *of_task, vector);
                }
            }
        }
    }

    /// Adds the terms of items to the logits of candidates, `[n_candidates, n_tasks]`.
    pub(crate) fn add_to(&self, terms: &[f32], of_candidate: &[i64], logits: &mut [f32]) {
        for (logits, item) in logits.chunks_exact_mut(self.n_tasks).zip(of_candidate) {
            let terms = row(terms, super::kernel::index(*item), self.n_tasks);
            for (logit, term) in logits.iter_mut().zip(terms) {
                *logit += term;
            }
        }
    }

    /// The gradient of the terms of `n` items, `[n, n_tasks]`, from that of the candidates' logits.
    pub(crate) fn of_terms(&self, n: usize, of_candidate: &[i64], of_logits: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; n * self.n_tasks];
        for (of_logits, item) in of_logits.chunks_exact(self.n_tasks).zip(of_candidate) {
            let terms = row_mut(&mut out, super::kernel::index(*item), self.n_tasks);
            for (term, of_logit) in terms.iter_mut().zip(of_logits) {
                *term += of_logit;
            }
        }
        out
    }
}

vectorized! {
    Forward<'a>(term: &'a ContentLinear, items: &'a [ItemVectors], out: &'a mut [f32])
        => term.forward_loops(items, out)
}

vectorized! {
    Backward<'a>(
        term: &'a ContentLinear,
        items: &'a [ItemVectors],
        gradient: &'a [f32],
        out: &'a mut NamedGradients,
    ) => term.backward_loops(items, gradient, out)
}

#[cfg(test)]
mod tests {
    use ouzel_sample::Vector;
    use tch::{Device, Tensor};

    use super::*;
    use crate::blocks::content_linear;
    use crate::config::ContentConfig;
    use crate::cpu::testing::{Case, Tolerance, made_up};
    use crate::torch::gather_frozen;

    const OF_CANDIDATE: [i64; 6] = [2, 0, 1, 1, 3, 2];

    #[test]
    fn the_loops_are_the_layer_and_its_gradients() {
        let config = ModelConfig {
            content_linear: true,
            content: ContentConfig {
                vector_widths: [19, 5],
                ..ContentConfig::default()
            },
            tasks: vec!["click".into(), "like".into()],
            ..ModelConfig::default()
        };
        let vector = |stream: u64, width| Vector::provided(&made_up(stream, width));
        // Both modalities, each of them alone, a vector of another width.
        let items = [
            [vector(1, 19), vector(2, 5)],
            [vector(3, 19), None],
            [None, vector(4, 5)],
            [vector(5, 7), vector(6, 5)],
        ];
        let case = Case::of_model(&config, |name| name.starts_with("linear."));
        let frozen = gather_frozen(&items, config.linear_widths(), Device::Cpu).unwrap();
        let terms = content_linear::forward(case.params(), &frozen).unwrap();
        let expected = terms.index_select(0, &Tensor::from_slice(&OF_CANDIDATE));

        let block = ContentLinear::new(BlockWeights::new(&case, &config), &config).unwrap();
        let mut logits = vec![0.0; OF_CANDIDATE.len() * 2];
        block.add_to(&block.forward(&items), &OF_CANDIDATE, &mut logits);
        let of_terms = block.of_terms(items.len(), &OF_CANDIDATE, &case.direction(&expected));
        let gradients = block.backward(&items, &of_terms);
        case.check(&expected, &logits, &gradients, Tolerance::F32);
    }
}
