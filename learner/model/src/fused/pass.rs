//! A sequence block in plain loops as part of a batch: what it read, and the way back.

use tch::Tensor;

use super::din::{Din, DinGradients, DinInputs, DinPass};
use crate::config::TOKEN_FIELDS;
use crate::error::Error;
use crate::inputs::Inputs;
use crate::leaves::len;
use crate::params::Params;

/// What the candidates of a batch read of their histories.
#[derive(Debug)]
pub struct SequencePass {
    /// `[n_candidates, out]`; the learner asks for its gradient.
    pub read: Tensor,
    din: Din,
    pass: DinPass,
    tokens: Vec<f32>,
    target: Vec<f32>,
    lens: Vec<usize>,
    request_of: Vec<i64>,
    len: usize,
}

/// Gradients of a pass.
#[derive(Debug)]
pub struct SequenceGradients {
    /// By the histories' tokens, in the order of [`HistoryInputs::tokens`](crate::HistoryInputs).
    pub tokens: Vec<f32>,
    /// By the candidates' tokens, in the order of [`HistoryInputs::target`](crate::HistoryInputs).
    pub target: Vec<f32>,
    /// By dense weight.
    pub weights: Vec<(&'static str, Vec<f32>)>,
}

/// The layers of DIN, each a weight and a bias.
const LAYERS: [&str; 3] = ["sequence.first", "sequence.second", "sequence.score"];

impl SequencePass {
    /// The forward pass of a batch whose unique rows are `rows [n, dim]`.
    pub(crate) fn new(params: &Params, inputs: &Inputs, rows: &[f32], dim: usize) -> Result<Self, Error> {
        let plain = |name: &str| crate::net::to_vec(params.get(name)?);
        let mut layers = Vec::new();
        for layer in LAYERS {
            layers.push([
                plain(&format!("{layer}.weight"))?,
                plain(&format!("{layer}.bias"))?,
            ]);
        }
        let parts = |at: usize| -> [&[f32]; 2] { [&layers[at][0], &layers[at][1]] };
        let din = Din::new(parts(0), parts(1), parts(2));
        let history = &inputs.history;
        let valid = history.valid.chunks_exact(history.len.max(1));
        let mut made = Self {
            read: Tensor::new(),
            din,
            pass: DinPass::default(),
            tokens: history.tokens.gather(rows, dim),
            target: history.target.gather(rows, dim),
            lens: valid
                .map(|valid| valid.iter().filter(|v| **v > 0.0).count())
                .collect(),
            request_of: inputs.request_of.clone(),
            len: history.len,
        };
        made.pass = made.din.forward(made.inputs());
        let shape = [len(inputs.n_candidates()), len(TOKEN_FIELDS * dim)];
        made.read = Tensor::f_from_slice(&made.pass.read)?.f_reshape(shape)?;
        Ok(made)
    }

    /// Gradients, `read` being that of [`Self::read`].
    #[must_use]
    pub fn backward(&self, read: &[f32]) -> SequenceGradients {
        let DinGradients {
            target,
            tokens,
            first_weight,
            first_bias,
            second_weight,
            second_bias,
            score_weight,
            score_bias,
        } = self.din.backward(self.inputs(), &self.pass, read);
        SequenceGradients {
            tokens,
            target,
            weights: vec![
                ("sequence.first.weight", first_weight),
                ("sequence.first.bias", first_bias),
                ("sequence.second.weight", second_weight),
                ("sequence.second.bias", second_bias),
                ("sequence.score.weight", score_weight),
                ("sequence.score.bias", vec![score_bias]),
            ],
        }
    }

    fn inputs(&self) -> DinInputs<'_> {
        DinInputs {
            target: &self.target,
            tokens: &self.tokens,
            lens: &self.lens,
            request_of: &self.request_of,
            len: self.len,
        }
    }
}
