//! DIEN's auxiliary loss: what [`crate::blocks::dien::next_entry_loss`] computes.

use pulp::Arch;

use super::DienForward;
use crate::cpu::activation::sigmoid;
use crate::cpu::history_inputs::HistoryInputs;
use crate::cpu::kernel::{add_scaled, dot, row, row_mut, vectorized};
use crate::cpu::linear::Linear;

/// The loss with its negatives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NextEntryLoss<'a> {
    /// Factor of the mean over all pairs.
    pub(crate) weight: f32,
    /// The candidate against each entry, `[n_requests * len]`, see [`Inputs::negatives`](crate::inputs::Inputs::negatives).
    pub(crate) negatives: &'a [Option<usize>],
}

/// Gradients of what the attention has read of each, `[.., width]`, and of the extracted states.
#[derive(Debug, Default)]
pub(super) struct NextEntryGradients {
    /// `[n_requests, len, width]`
    pub(super) states: Vec<f32>,
    /// `[n_candidates, width]`
    pub(super) candidates: Vec<f32>,
    /// `[n_requests, len, width]`; empty without the loss.
    pub(super) entries: Vec<f32>,
}

impl NextEntryGradients {
    /// Those of no loss.
    pub(super) fn zeros(pass: &DienForward) -> Self {
        Self {
            states: vec![0.0; pass.extracted.all.len()],
            candidates: vec![0.0; pass.evolved.query.len()],
            entries: Vec::new(),
        }
    }
}

impl NextEntryLoss<'_> {
    /// The gradients of the loss.
    pub(super) fn backward(
        self,
        attention: &Linear,
        inputs: HistoryInputs<'_>,
        pass: &DienForward,
    ) -> NextEntryGradients {
        let n_pairs = self.negatives.iter().flatten().count();
        let mut out = NextEntryGradients::zeros(pass);
        if n_pairs > 0 {
            out.entries = vec![0.0; inputs.lens.len() * inputs.len * attention.n_out];
            #[expect(clippy::cast_precision_loss, reason = "entries of a batch")]
            let factor = self.weight / n_pairs as f32;
            Arch::new().dispatch(Run(self, attention, factor, pass, &mut out));
        }
        out
    }

    #[inline(always)]
    fn run(self, attention: &Linear, factor: f32, pass: &DienForward, out: &mut NextEntryGradients) {
        let width = attention.n_out;
        let mut entries = vec![0.0; out.entries.len()];
        attention.forward_merged(&pass.tokens.rows, &mut entries);
        for (place, negative) in self.negatives.iter().enumerate() {
            let Some(negative) = *negative else { continue };
            // The first entry has no pair, so the place before is of the same history.
            let state = row(&pass.extracted.all, place - 1, width);
            let next = row(&entries, place, width);
            let other = row(&pass.evolved.query, negative, width);
            // Of the logits: s(z) - 1 of the entry that came, s(z) of the other.
            let of_next = factor * (sigmoid(dot(state, next)) - 1.0);
            let of_other = factor * sigmoid(dot(state, other));
            let of_state = row_mut(&mut out.states, place - 1, width);
            add_scaled(of_state, of_next, next);
            add_scaled(of_state, of_other, other);
            add_scaled(row_mut(&mut out.entries, place, width), of_next, state);
            add_scaled(row_mut(&mut out.candidates, negative, width), of_other, state);
        }
    }
}

vectorized! {
    Run<'a>(
        loss: NextEntryLoss<'a>,
        attention: &'a Linear,
        factor: f32,
        pass: &'a DienForward,
        out: &'a mut NextEntryGradients,
    ) => loss.run(attention, factor, pass, out)
}
