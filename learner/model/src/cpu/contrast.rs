//! Content-ID contrast: the ids of an item and its content become alike in one space (EM3, Deng et al. 2024, section 3.4).
//!
//! What [`crate::blocks::contrast`] computes: with rows `u_i`, `v_j` of length 1 projected from contents and ids, and
//! scores `S = u v^T / t`, the loss is InfoNCE in both directions (van den Oord et al. 2018, eq. 4),
//! `sum_i (lse_j S_ij + lse_j S_ji - 2 S_ii) / 2n`.

use pulp::Arch;

use super::gemm::{Lhs, add_product};
use super::kernel::{add_scaled, dot, transpose, vectorized};
use super::linear::{Linear, LinearGradients};
use super::softmax::softmax;
use super::weights::{BlockWeights, Learning, NamedGradients};
use crate::config::{ModelConfig, TOKEN_FIELDS};
use crate::error::Error;

/// The smallest length that a row is divided by.
const MIN_LENGTH: f32 = 1e-5;

/// The projections of ids and contents.
#[derive(Debug)]
pub(crate) struct Contrast {
    ids: Linear,
    contents: Linear,
}

/// The distinct items of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContrastInputs<'a> {
    /// The embedding rows of an item's ids side by side, `[n, TOKEN_FIELDS * dim]`.
    pub(crate) ids: &'a [f32],
    /// Content vectors, `[n, out]`.
    pub(crate) contents: &'a [f32],
    /// What scores are divided by.
    pub(crate) temperature: f32,
}

/// A forward pass.
#[derive(Debug, Default)]
pub(crate) struct ContrastForward {
    /// The loss, a mean over items; 0 for fewer than two.
    pub(crate) loss: f32,
    ids: UnitRows,
    contents: UnitRows,
    /// The gradient of the loss by the scores, `[n, n]`.
    of_scores: Vec<f32>,
}

/// Projected rows of length 1, and the lengths they were divided by.
#[derive(Debug, Default)]
struct UnitRows {
    rows: Vec<f32>,
    lengths: Vec<f32>,
}

/// Gradients of a contrast.
#[derive(Debug, Default)]
pub(crate) struct ContrastGradients {
    /// `[n, TOKEN_FIELDS * dim]`
    pub(crate) ids: Vec<f32>,
    /// `[n, out]`; empty while contents do not learn.
    pub(crate) contents: Vec<f32>,
    pub(crate) weights: NamedGradients,
}

impl Contrast {
    /// The projections of a model with `contrast > 0`.
    pub(crate) fn new(weights: BlockWeights<'_>, config: &ModelConfig) -> Result<Self, Error> {
        let weights = weights.in_f32();
        Ok(Self {
            ids: weights.linear("cic.id", TOKEN_FIELDS * config.dim)?,
            contents: weights.linear("cic.content", config.content.out())?,
        })
    }

    /// The loss of distinct items.
    pub(crate) fn forward(&self, inputs: ContrastInputs<'_>) -> ContrastForward {
        let mut pass = ContrastForward::default();
        Arch::new().dispatch(Forward(self, inputs, &mut pass));
        pass
    }

    #[inline(always)]
    fn forward_loops(&self, inputs: ContrastInputs<'_>, pass: &mut ContrastForward) {
        pass.ids = UnitRows::new(&self.ids, inputs.ids);
        pass.contents = UnitRows::new(&self.contents, inputs.contents);
        let (n, width) = (pass.ids.lengths.len(), self.ids.n_out);
        let mut scores = vec![0.0; n * n];
        let ids = transpose(&pass.ids.rows, n, width);
        add_product(&mut scores, Lhs::Matrix(&pass.contents.rows), &ids, [n, width, n]);
        scores.iter_mut().for_each(|score| *score /= inputs.temperature);
        #[expect(clippy::cast_precision_loss, reason = "items of a batch")]
        let half_share = 0.5 / n.max(1) as f32;
        // Rows are contents against ids, columns ids against contents.
        let (mut rows, mut columns) = (scores.clone(), transpose(&scores, n, n));
        for (at, row) in rows
            .chunks_exact_mut(n.max(1))
            .chain(columns.chunks_exact_mut(n.max(1)))
            .enumerate()
        {
            pass.loss += half_share * (log_sum_exp(row) - row[at % n]);
            softmax(row);
        }
        pass.of_scores = transpose(&columns, n, n);
        for (at, (of, share)) in pass.of_scores.iter_mut().zip(&rows).enumerate() {
            let pairs = if at % (n + 1) == 0 { 2.0 } else { 0.0 };
            *of = half_share * (*of + share - pairs);
        }
    }

    /// Gradients of `weight` times the loss.
    pub(crate) fn backward(
        &self,
        inputs: ContrastInputs<'_>,
        pass: &ContrastForward,
        weight: f32,
        learning: Learning,
    ) -> ContrastGradients {
        let mut out = ContrastGradients {
            ids: vec![0.0; inputs.ids.len()],
            contents: vec![
                0.0;
                if learning.contents {
                    inputs.contents.len()
                } else {
                    0
                }
            ],
            weights: NamedGradients::new(),
        };
        let layers = [&self.ids, &self.contents];
        let mut weights = layers.map(|layer| LinearGradients::new(layer, learning.with_base()));
        let scale = weight / inputs.temperature;
        Arch::new().dispatch(Backward(self, inputs, pass, scale, &mut weights, &mut out));
        let [ids, contents] = weights;
        ids.add_named("cic.id", &mut out.weights);
        contents.add_named("cic.content", &mut out.weights);
        out
    }

    #[inline(always)]
    fn backward_loops(
        &self,
        inputs: ContrastInputs<'_>,
        pass: &ContrastForward,
        scale: f32,
        [of_id_layer, of_content_layer]: &mut [LinearGradients; 2],
        out: &mut ContrastGradients,
    ) {
        let (n, width) = (pass.ids.lengths.len(), self.ids.n_out);
        let of_scores: Vec<f32> = pass.of_scores.iter().map(|of| scale * of).collect();
        let (mut of_ids, mut of_contents) = (vec![0.0; n * width], vec![0.0; n * width]);
        let size = [n, n, width];
        add_product(&mut of_contents, Lhs::Matrix(&of_scores), &pass.ids.rows, size);
        add_product(
            &mut of_ids,
            Lhs::Transposed(&of_scores),
            &pass.contents.rows,
            size,
        );
        pass.ids.backward(&mut of_ids);
        pass.contents.backward(&mut of_contents);
        self.ids
            .backward(inputs.ids, &of_ids, of_id_layer, Some(&mut out.ids));
        let contents = Some(out.contents.as_mut_slice()).filter(|contents| !contents.is_empty());
        self.contents
            .backward(inputs.contents, &of_contents, of_content_layer, contents);
    }
}

impl UnitRows {
    #[inline(always)]
    fn new(layer: &Linear, x: &[f32]) -> Self {
        let mut rows = layer.forward(x);
        let mut lengths = Vec::with_capacity(rows.len() / layer.n_out.max(1));
        for row in rows.chunks_exact_mut(layer.n_out.max(1)) {
            let length = dot(row, row).sqrt();
            row.iter_mut().for_each(|x| *x /= length.max(MIN_LENGTH));
            lengths.push(length);
        }
        Self { rows, lengths }
    }

    /// Replaces the gradient of the rows by that of the rows before they were divided by their length.
    #[inline(always)]
    fn backward(&self, gradient: &mut [f32]) {
        let width = self.rows.len() / self.lengths.len().max(1);
        let rows = self.rows.chunks_exact(width.max(1)).zip(&self.lengths);
        for (gradient, (row, length)) in gradient.chunks_exact_mut(width.max(1)).zip(rows) {
            // A length below the minimum is a constant.
            if *length >= MIN_LENGTH {
                let along = dot(gradient, row);
                add_scaled(gradient, -along, row);
            }
            gradient.iter_mut().for_each(|x| *x /= length.max(MIN_LENGTH));
        }
    }
}

vectorized! {
    Forward<'a>(contrast: &'a Contrast, inputs: ContrastInputs<'a>, pass: &'a mut ContrastForward)
        => contrast.forward_loops(inputs, pass)
}

vectorized! {
    Backward<'a>(
        contrast: &'a Contrast,
        inputs: ContrastInputs<'a>,
        pass: &'a ContrastForward,
        scale: f32,
        weights: &'a mut [LinearGradients; 2],
        out: &'a mut ContrastGradients,
    ) => contrast.backward_loops(inputs, pass, scale, weights, out)
}

/// `ln sum_i exp(x_i)`
fn log_sum_exp(x: &[f32]) -> f32 {
    let largest = x.iter().copied().fold(f32::MIN, f32::max);
    largest + x.iter().map(|x| (x - largest).exp()).sum::<f32>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::contrast;
    use crate::config::{ContentConfig, LoraConfig};
    use crate::cpu::testing::{Case, Tolerance};

    #[test]
    fn the_loops_are_the_block_and_its_gradients() {
        for (n, on) in [(2, &[][..]), (9, &[]), (70, &["cic.id", "cic.content"])] {
            let config = ModelConfig {
                contrast_width: 20,
                content: ContentConfig {
                    enabled: true,
                    ..ContentConfig::default()
                },
                lora: LoraConfig {
                    rank: 2,
                    alpha: 3.0,
                    layers: on.iter().map(|layer| (*layer).to_owned()).collect(),
                },
                ..ModelConfig::default()
            };
            let case = Case::of_model(&config, |name| name.starts_with("cic."));
            let case = case
                .input("ids", &[n, TOKEN_FIELDS * config.dim])
                .input("contents", &[n, config.content.out()]);
            let [ids, contents] = [case.tensor("ids"), case.tensor("contents")];
            let expected = contrast::loss(case.params(), ids, contents, 0.5).unwrap();
            let block = Contrast::new(BlockWeights::new(&case, &config), &config).unwrap();
            let inputs = ContrastInputs {
                ids: case.values("ids"),
                contents: case.values("contents"),
                temperature: 0.5,
            };
            let pass = block.forward(inputs);
            let learning = Learning {
                contents: true,
                base: true,
                adapters: true,
            };
            let of = block.backward(inputs, &pass, case.direction(&expected)[0], learning);
            let mut gradients = of.weights;
            gradients.push(("ids".to_owned(), of.ids));
            gradients.push(("contents".to_owned(), of.contents));
            case.check(&expected, &[pass.loss], &gradients, Tolerance::Share(1e-4));
        }
    }
}
