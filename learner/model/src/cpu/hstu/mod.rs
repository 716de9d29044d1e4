//! HSTU of one layer in its production form: what [`crate::blocks::hstu`] computes, and its gradients.
//!
//! Three things make it cheap. A token is linear in its rows, so each row of a batch is projected once and an entry is
//! a sum of rows. A score is `q (K x + b) = (q K) x + q b` and what is read `V (sum of a x) + b (sum of a)`, so that
//! entries have neither keys nor values: candidates bring their queries to the entries' space and what they find back
//! from there, which with two heads is less work for slates below `width` candidates or so. And histories are not padded.

mod backward;
mod entries;
mod fold;
mod forward;
#[cfg(test)]
mod tests;

use std::ops::Range;

use pulp::{Arch, NullaryFnOnce};

pub(crate) use backward::HstuGradients;
pub(crate) use entries::{Entries, Slates};
pub(crate) use fold::Hstu;
pub(crate) use forward::HstuPass;

/// What the block reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HstuInputs<'a> {
    /// The batch's embedding rows, `[n_rows, dim]`; the backward pass does not need them.
    pub(crate) rows: &'a [f32],
    /// Candidates as tokens, `[n_candidates, TOKEN_FIELDS * dim]`.
    pub(crate) tokens: &'a [f32],
    pub(crate) entries: &'a Entries,
    pub(crate) slates: &'a Slates,
}

impl<'a> HstuInputs<'a> {
    /// Each request's entries and candidates.
    #[inline(always)]
    fn requests(self) -> impl Iterator<Item = (Range<usize>, &'a [usize])> {
        let entries = self.entries.starts.windows(2).map(|ends| ends[0]..ends[1]);
        let slates = self.slates.starts.windows(2);
        entries.zip(slates.map(move |ends| &self.slates.candidates[ends[0]..ends[1]]))
    }
}

impl Hstu {
    /// Actions, positions and times that it tells apart.
    pub(crate) fn counts(&self) -> [usize; 3] {
        self.counts
    }

    /// The candidates' rows after the layer.
    pub(crate) fn forward(&self, inputs: HstuInputs<'_>) -> HstuPass {
        let mut pass = HstuPass::default();
        Arch::new().dispatch(Forward(self, inputs, &mut pass));
        pass
    }

    /// Gradients, `out` being that of the candidates' rows; those of weights only where they learn.
    pub(crate) fn backward(
        &self,
        inputs: HstuInputs<'_>,
        pass: &HstuPass,
        out: &[f32],
        learns: bool,
    ) -> HstuGradients {
        let mut gradients = HstuGradients::default();
        Arch::new().dispatch(Backward(self, inputs, pass, out, learns, &mut gradients));
        gradients
    }
}

/// The passes as things to call, not closures: a closure is compiled by itself, without the vector instructions that
/// it is called for.
struct Forward<'a>(&'a Hstu, HstuInputs<'a>, &'a mut HstuPass);

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.2.run(self.0, self.1);
    }
}

struct Backward<'a>(
    &'a Hstu,
    HstuInputs<'a>,
    &'a HstuPass,
    &'a [f32],
    bool,
    &'a mut HstuGradients,
);

impl NullaryFnOnce for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.5.run(self.0, self.1, self.2, self.3, self.4);
    }
}
