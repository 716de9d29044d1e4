//! The exact search unit of SIM over the lists of a batch: DIN, with a list in the place of a request's history.

use std::sync::Arc;

use super::din::{Din, DinForward};
use super::grad_mode::GradMode;
use super::history_inputs::HistoryInputs;
use super::weights::{Learning, NamedGradients};
use crate::inputs::{Inputs, LongInputs};

/// A forward pass.
#[derive(Debug)]
pub(crate) struct LongPass {
    block: Arc<Din>,
    pass: DinForward,
    /// Candidates as tokens, `[n_candidates, token]`.
    target: Vec<f32>,
    /// Lists as tokens, `[n_lists, len, token]`, and their entries.
    tokens: Vec<f32>,
    lens: Vec<usize>,
}

impl LongPass {
    /// Runs a batch forward whose unique rows are `rows [n_unique, dim]`.
    pub(crate) fn new(
        block: Arc<Din>,
        (inputs, long): (&Inputs, &LongInputs),
        rows: &[f32],
        dim: usize,
        mode: GradMode,
    ) -> Self {
        let target = inputs.history.target.gather(rows, dim);
        let tokens = long.lists.tokens.gather(rows, dim);
        let lens = long.lists.lens();
        let pass = block.forward(read_by(long, [&target, &tokens], &lens), mode);
        Self {
            block,
            pass,
            target,
            tokens,
            lens,
        }
    }

    /// What each candidate reads of its list, `[n_candidates, heads * token]`; zeros without one.
    pub(crate) fn read(&self) -> &[f32] {
        &self.pass.output
    }

    /// Carries the gradient of [`Self::read`] back: adds that of the batch's unique rows to `rows [n_unique, dim]`, and returns
    /// those of the block's weights that learn, by name.
    pub(crate) fn backward(
        &self,
        (inputs, long): (&Inputs, &LongInputs),
        read: &[f32],
        rows: &mut [f32],
        learning: Learning,
    ) -> NamedGradients {
        let dim = rows.len() / inputs.rows.len().max(1);
        let read_by = read_by(long, [&self.target, &self.tokens], &self.lens);
        let gradients = self.block.backward(read_by, &self.pass, read, learning);
        long.lists.tokens.scatter(&gradients.tokens, dim, rows);
        inputs.history.target.scatter(&gradients.target, dim, rows);
        gradients.weights
    }
}

/// What DIN reads: a list in the place of a request's history.
fn read_by<'a>(long: &'a LongInputs, values: [&'a [f32]; 2], lens: &'a [usize]) -> HistoryInputs<'a> {
    HistoryInputs::new(&long.lists, &long.list_of, values, lens)
}
