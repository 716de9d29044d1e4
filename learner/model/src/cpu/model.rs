//! A whole model in plain loops: from what a batch brings to its logits, and back to everything that learns but what makes
//! contents.

use std::collections::HashMap;
use std::sync::Arc;

use tch::Tensor;

use super::interest::{Interest, InterestInputs, InterestPass, Learning};
use super::tower::{Tower, TowerInputs, TowerPass};
use crate::error::Error;
use crate::host_slice::{to_vec, values};
use crate::inputs::Inputs;
use crate::leaves::BatchTensors;

/// The blocks with the weights of one moment.
#[derive(Debug)]
pub(crate) struct CpuModel {
    pub(crate) tower: Tower,
    pub(crate) interest: Option<Interest>,
}

/// A batch's forward pass.
#[derive(Debug)]
pub struct CpuForward {
    hand: Arc<CpuModel>,
    tower: TowerPass,
    interest: Option<InterestPass>,
    contents: BatchContents,
    prior: Vec<f32>,
}

/// The contents of a batch, each once, from which no gradient goes back.
#[derive(Debug, Default)]
pub(crate) struct BatchContents {
    /// `[n, out]`
    pub(crate) vectors: Vec<f32>,
    /// Keys of content interest without their adapter, where they are known.
    pub(crate) keys: Option<Vec<f32>>,
}

/// What comes of a way back, but for embedding rows.
#[derive(Debug, Default)]
pub struct CpuGradients {
    /// By unique weight of the wide part.
    pub wide: Vec<f32>,
    /// Of the candidates' contents, `[n_targets, out]`; empty while they do not learn.
    pub contents: Vec<f32>,
    /// By name of dense weight, shaped as the weight.
    pub weights: HashMap<String, Vec<f32>>,
}

impl CpuForward {
    pub(crate) fn new(
        hand: Arc<CpuModel>,
        inputs: &Inputs,
        leaves: &BatchTensors,
        contents: BatchContents,
        prior: &Tensor,
    ) -> Result<Self, Error> {
        let mut pass = Self {
            tower: TowerPass::default(),
            interest: None,
            contents,
            prior: to_vec(prior)?,
            hand,
        };
        pass.interest = match (&pass.hand.interest, pass.interest_inputs(inputs)) {
            (Some(interest), Some(inputs)) => Some(interest.forward(inputs)),
            _ => None,
        };
        pass.tower = pass.hand.tower.forward(pass.tower_inputs(inputs, leaves));
        Ok(pass)
    }

    /// `[n_candidates * n_tasks]`
    pub(crate) fn logits(&self) -> &[f32] {
        &self.tower.logits
    }

    /// From the gradient of the logits, `[n_candidates, n_tasks]`: adds to those of the batch's unique rows,
    /// `rows [n, dim]`, and says those of what `learns`, contents only where `contents_learn`.
    pub fn backward(
        &self,
        inputs: &Inputs,
        leaves: &BatchTensors,
        of_logits: &[f32],
        contents_learn: bool,
        learns: &dyn Fn(&str) -> bool,
        rows: &mut [f32],
    ) -> CpuGradients {
        let dim = rows.len() / inputs.rows.len().max(1);
        let learning = Learning {
            contents: contents_learn,
            base: learns("interest.query.weight"),
            adapters: learns("interest.query.lora_a"),
        };
        let read = self.tower_inputs(inputs, leaves);
        let of = self
            .hand
            .tower
            .backward(read, &self.tower, of_logits, learning.contents);
        inputs.user.scatter(&of.user, dim, rows);
        inputs.candidate.scatter(&of.candidate, dim, rows);
        let mut out = CpuGradients {
            wide: vec![0.0; inputs.wide.len()],
            contents: of.contents,
            weights: of.weights.into_iter().collect(),
        };
        inputs.wide_sum.scatter(&of.wide, 1, &mut out.wide);
        if let (Some(block), Some(pass), Some(read)) =
            (&self.hand.interest, &self.interest, self.interest_inputs(inputs))
        {
            let of = block.backward(read, pass, &of.interest, learning);
            for (sum, of) in out.contents.iter_mut().zip(&of.targets) {
                *sum += of;
            }
            let named = of.weights.into_iter().map(|(name, of)| (name.to_owned(), of));
            out.weights.extend(named);
        }
        if let Some(pass) = &leaves.pass {
            let found = pass.backward(inputs, &of.sequence, rows, learns("sequence."));
            let named = found.into_iter().map(|(name, of)| (name.to_owned(), of));
            out.weights.extend(named);
        }
        out
    }

    fn tower_inputs<'a>(&'a self, inputs: &'a Inputs, leaves: &'a BatchTensors) -> TowerInputs<'a> {
        let contents = inputs.contents.as_ref();
        let of = |tensor: &'a Tensor| values(tensor).unwrap_or_default();
        let n_targets = contents.map_or(0, |contents| contents.n_targets);
        let out = self.contents.vectors.len() / contents.map_or(1, |contents| contents.ids.len().max(1));
        TowerInputs {
            user: of(&leaves.user),
            candidate: of(&leaves.candidate),
            dense: &inputs.dense,
            contents: &self.contents.vectors[..n_targets * out],
            of_candidate: contents.map_or(&[], |contents| &contents.of_candidate),
            interest: self.interest.as_ref().map_or(&[], |pass| &pass.found),
            sequence: leaves.pass.as_ref().map_or(&[], |pass| of(&pass.read)),
            wide: of(&leaves.wide),
            request_of: &inputs.request_of,
            n_requests: inputs.n_requests(),
            prior: &self.prior,
        }
    }

    fn interest_inputs<'a>(&'a self, inputs: &'a Inputs) -> Option<InterestInputs<'a>> {
        let contents = inputs.contents.as_ref()?;
        Some(InterestInputs {
            vectors: &self.contents.vectors,
            n_targets: contents.n_targets,
            keys: self.contents.keys.as_deref(),
            of_candidate: &contents.of_candidate,
            of_history: &contents.of_history,
            valid: &contents.valid,
            len: contents.len,
            request_of: &inputs.request_of,
        })
    }
}
