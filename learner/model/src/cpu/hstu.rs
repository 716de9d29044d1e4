//! HSTU of one layer in its production form: pointwise attention of candidates over the history (Zhai et al. 2024, section 3.2).
//!
//! What [`crate::blocks::hstu`] computes. With the gate `u`, query, key and value of a normalised row, a candidate reads
//! `sum_j silu(q k_j / sqrt(width of a key)) v_j / n` of the history and of itself, and the layer returns
//! `x + W_o [u, read, u * norm(read)]`. Three things make it cheap:
//!
//! - A token is linear in its embedding rows, so each row of a batch is projected once and an entry is a sum of rows.
//! - A score `q (K x + b)` is `(q K) x + q b`, and what is read, `sum_j a_j (V x_j + b)`, is `V (sum_j a_j x_j) + b sum_j a_j`.
//!   Entries need neither keys nor values: candidates take their queries to the entries' space and bring what they read back.
//!   With two heads this is less work for slates of fewer candidates than the width.
//! - Histories are not padded.

use std::ops::Range;

use pulp::Arch;

use super::kernel::vectorized;
use super::weights::Learning;

mod backward;
mod entries;
mod folded;
mod forward;
#[cfg(test)]
mod tests;

use backward::Backward;
pub(crate) use backward::HstuGradients;
pub(crate) use entries::{Entries, Slates};
pub(crate) use folded::Hstu;
pub(crate) use forward::HstuForward;

/// The inputs of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HstuInputs<'a> {
    /// Embedding rows, `[n_rows, dim]`; not read by the backward pass.
    pub(crate) rows: &'a [f32],
    /// Candidates as tokens, `[n_candidates, TOKEN_FIELDS * dim]`.
    pub(crate) tokens: &'a [f32],
    pub(crate) entries: &'a Entries,
    pub(crate) slates: &'a Slates,
}

impl<'a> HstuInputs<'a> {
    /// The entries and candidates of each request.
    #[inline(always)]
    fn requests(self) -> impl Iterator<Item = (Range<usize>, &'a [usize])> {
        let entries = self.entries.starts.windows(2).map(|ends| ends[0]..ends[1]);
        let slates = self.slates.starts.windows(2);
        entries.zip(slates.map(move |ends| &self.slates.candidates[ends[0]..ends[1]]))
    }
}

impl Hstu {
    /// The candidates' rows after the layer.
    pub(crate) fn forward(&self, inputs: HstuInputs<'_>) -> HstuForward {
        let mut pass = HstuForward::default();
        Arch::new().dispatch(Forward(self, inputs, &mut pass));
        pass
    }

    /// Gradients from that of the candidates' rows, `[n_candidates, width]`.
    pub(crate) fn backward(
        &self,
        inputs: HstuInputs<'_>,
        pass: &HstuForward,
        gradient: &[f32],
        learning: Learning,
    ) -> HstuGradients {
        let learns = learning.base || (learning.adapters && self.has_adapter());
        let mut out = HstuGradients::default();
        let mut back = Backward::new(self, inputs, pass, learns);
        Arch::new().dispatch(RunBackward(&mut back, inputs, gradient, &mut out));
        if learns {
            out.weights = back.into_named(inputs, learning);
        }
        out
    }
}

vectorized! {
    Forward<'a>(block: &'a Hstu, inputs: HstuInputs<'a>, pass: &'a mut HstuForward) => pass.run(block, inputs)
}

vectorized! {
    RunBackward<'a, 'b>(
        back: &'a mut Backward<'b>,
        inputs: HstuInputs<'a>,
        gradient: &'a [f32],
        out: &'a mut HstuGradients,
    ) => back.run(inputs, gradient, out)
}
