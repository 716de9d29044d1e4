//! A batch through the cpu backend: from embedding rows and contents to logits, and gradients back.

use std::collections::HashMap;
use std::sync::Arc;

use tch::{TchError, Tensor};

use super::content::ContentPass;
use super::grad_mode::GradMode;
use super::interest::{Interest, InterestInputs, InterestPass, Learning};
use super::sequence::{CpuSequenceBlock, SequencePass};
use super::tower::{Tower, TowerInputs, TowerPass};
use crate::backend::{ContrastLoss, OutputGradients, Outputs, Pass};
use crate::block::Block;
use crate::blocks::contrast;
use crate::error::Error;
use crate::gradients::{Gradients, RowGradient};
use crate::host_slice::to_vec;
use crate::inputs::Inputs;
use crate::net::{Net, to_i64};
use crate::params::Params;
use crate::weights::Weights;

/// The layers behind the sequence block and the contents, with the weights of one step.
#[derive(Debug)]
pub(super) struct CpuBlocks {
    pub(super) tower: Tower,
    pub(super) interest: Option<Interest>,
}

/// The distinct contents of a batch, those of candidates first.
#[derive(Debug, Default)]
pub(super) struct BatchContents {
    /// Content vectors, `[n, out]`.
    pub(super) vectors: Vec<f32>,
    /// Their keys of content interest without an adapter, `[n, width]`, where these are cached.
    pub(super) keys: Option<Vec<f32>>,
    /// The pass that computed those of candidates, where they learn.
    pub(super) learned: Option<ContentPass>,
}

/// A forward pass of a batch.
pub(super) struct CpuPass<'a> {
    net: &'a Net,
    inputs: &'a Inputs,
    blocks: Arc<CpuBlocks>,
    /// Floats of a row.
    dim: usize,
    /// Fields of requests, `[n_requests, USER_FIELDS * dim]`.
    user: Vec<f32>,
    /// Fields of candidates, `[n_candidates, CANDIDATE_FIELDS * dim]`.
    candidate: Vec<f32>,
    /// Sums of the wide part, `[n_candidates]`.
    wide: Vec<f32>,
    /// Candidates as the contrast reads their ids, `[n_candidates, token]`; empty without it.
    ids: Vec<f32>,
    contents: BatchContents,
    sequence: Option<SequencePass>,
    interest: Option<InterestPass>,
    tower: TowerPass,
    outputs: Outputs,
}

impl<'a> CpuPass<'a> {
    pub(super) fn new(
        net: &'a Net,
        inputs: &'a Inputs,
        tables: &Weights,
        (blocks, sequence, mode): (Arc<CpuBlocks>, Option<Arc<CpuSequenceBlock>>, GradMode),
        contents: BatchContents,
    ) -> Self {
        let dim = tables.rows.dim();
        let rows = tables.rows.read_all(&inputs.rows);
        let wide = Inputs::read(&inputs.wide, &tables.wide);
        let mut pass = Self {
            net,
            inputs,
            dim,
            user: inputs.user.gather(&rows, dim),
            candidate: inputs.candidate.gather(&rows, dim),
            wide: inputs.wide_sum.gather(&wide, 1),
            ids: match (mode, net.config().contrast_width) {
                (GradMode::None, _) | (_, 0) => Vec::new(),
                _ => inputs.history.target.gather(&rows, dim),
            },
            sequence: sequence.map(|block| SequencePass::new(block, inputs, &rows, dim, mode)),
            interest: None,
            tower: TowerPass::default(),
            outputs: Outputs::default(),
            blocks,
            contents,
        };
        pass.interest = match (&pass.blocks.interest, pass.interest_inputs()) {
            (Some(interest), Some(inputs)) => Some(interest.forward(inputs)),
            _ => None,
        };
        pass.tower = pass.blocks.tower.forward(pass.tower_inputs());
        pass.outputs.logits = std::mem::take(&mut pass.tower.logits);
        pass
    }

    /// The logits of a pass without a way back.
    pub(super) fn into_logits(self) -> Vec<f32> {
        self.outputs.logits
    }

    fn tower_inputs(&self) -> TowerInputs<'_> {
        let contents = self.inputs.contents.as_ref();
        TowerInputs {
            user: &self.user,
            candidate: &self.candidate,
            dense: &self.inputs.dense,
            contents: self.target_contents(),
            of_candidate: contents.map_or(&[], |contents| &contents.of_candidate),
            interest: self.interest.as_ref().map_or(&[], |pass| &pass.found),
            sequence: self.sequence.as_ref().map_or(&[], SequencePass::read),
            wide: &self.wide,
            request_of: &self.inputs.request_of,
            n_requests: self.inputs.n_requests(),
            prior: self.net.prior(),
        }
    }

    fn interest_inputs(&self) -> Option<InterestInputs<'_>> {
        let contents = self.inputs.contents.as_ref()?;
        Some(InterestInputs {
            vectors: &self.contents.vectors,
            n_targets: contents.n_targets,
            keys: self.contents.keys.as_deref(),
            of_candidate: &contents.of_candidate,
            of_history: &contents.of_history,
            valid: &contents.valid,
            len: contents.len,
            request_of: &self.inputs.request_of,
        })
    }

    /// Content vectors of candidates, `[n_targets, out]`.
    fn target_contents(&self) -> &[f32] {
        let n_targets = self
            .inputs
            .contents
            .as_ref()
            .map_or(0, |contents| contents.n_targets);
        &self.contents.vectors[..n_targets * self.net.config().content.out()]
    }

    /// Adds the gradients of the contrast to those of candidates' contents, where they learn, and to those of rows and
    /// weights.
    fn contrast(&self, term: ContrastLoss, sums: &mut Sums) -> Result<(), Error> {
        let Some(contents) = self.inputs.contents.as_ref() else {
            return Ok(());
        };
        if self.net.config().contrast_width == 0 || contents.contrasted.len() < 2 {
            return Ok(());
        }
        let n = to_i64(self.inputs.n_candidates());
        let ids = Tensor::f_from_slice(&self.ids)?
            .f_view([n, -1])?
            .set_requires_grad(true);
        let targets =
            Tensor::f_from_slice(self.target_contents())?.f_view([to_i64(contents.n_targets), -1])?;
        let targets = targets.set_requires_grad(self.contents.learned.is_some());
        let mut names = Vec::new();
        let mut params = Vec::new();
        for (spec, tensor) in self.net.weights() {
            if spec.block == Block::Contrast {
                names.push(spec.name.clone());
                params.push((spec.name.clone(), tensor.f_detach()?.set_requires_grad(true)));
            }
        }
        let params = Params::new(params, self.net.config().lora.scale());
        let (places, candidates): (Vec<i64>, Vec<i64>) = contents.contrasted.iter().copied().unzip();
        let select = |x: &Tensor, at: &[i64]| x.f_index_select(0, &Tensor::f_from_slice(at)?);
        let loss = contrast::loss(
            &params,
            &select(&ids, &candidates)?,
            &select(&targets, &places)?,
            term.temperature,
        )? * term.weight;
        let mut wanted: Vec<&Tensor> = params.tensors().iter().collect();
        wanted.push(&ids);
        if self.contents.learned.is_some() {
            wanted.push(&targets);
        }
        let mut found = Tensor::f_run_backward(&[&loss], &wanted, false, false)?.into_iter();
        for (name, gradient) in names.into_iter().zip(&mut found) {
            sums.weights.insert(name, to_vec(&gradient)?);
        }
        if let Some(gradient) = found.next() {
            let target = &self.inputs.history.target;
            target.scatter(&to_vec(&gradient)?, self.dim, &mut sums.rows);
        }
        if let Some(gradient) = found.next() {
            add(&mut sums.contents, &to_vec(&gradient)?);
        }
        Ok(())
    }
}

/// Gradients as they are added up.
struct Sums {
    /// By unique row, `[n_unique, dim]`.
    rows: Vec<f32>,
    /// By content vector of a candidate, `[n_targets, out]`; empty while contents do not learn.
    contents: Vec<f32>,
    /// By name of dense weight.
    weights: HashMap<String, Vec<f32>>,
}

impl Sums {
    fn extend<N: Into<String>>(&mut self, weights: impl IntoIterator<Item = (N, Vec<f32>)>) {
        let named = weights
            .into_iter()
            .map(|(name, gradient)| (name.into(), gradient));
        self.weights.extend(named);
    }

    /// Gradients in the order of the network's weights.
    fn dense(mut self, net: &Net) -> Result<Vec<Option<Tensor>>, TchError> {
        net.weights()
            .map(|(spec, weight)| {
                let gradient = self.weights.remove(&spec.name);
                gradient
                    .map(|gradient| Tensor::f_from_slice(&gradient)?.f_view_as(weight))
                    .transpose()
            })
            .collect()
    }
}

impl Pass for CpuPass<'_> {
    fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    fn backward(self: Box<Self>, outputs: OutputGradients<'_>) -> Result<Gradients, Error> {
        let (inputs, dim, is_frozen) = (self.inputs, self.dim, self.net.is_frozen());
        let learning = Learning {
            contents: self.contents.learned.is_some(),
            base: !is_frozen,
            adapters: is_frozen,
        };
        let tower = self.blocks.tower.backward(
            self.tower_inputs(),
            &self.tower,
            outputs.logits,
            learning.contents,
        );
        let mut sums = Sums {
            rows: vec![0.0; inputs.rows.len() * dim],
            contents: tower.contents,
            weights: tower.weights.into_iter().collect(),
        };
        inputs.user.scatter(&tower.user, dim, &mut sums.rows);
        inputs.candidate.scatter(&tower.candidate, dim, &mut sums.rows);
        let mut wide = vec![0.0; inputs.wide.len()];
        inputs.wide_sum.scatter(&tower.wide, 1, &mut wide);
        if let (Some(block), Some(pass), Some(read)) =
            (&self.blocks.interest, &self.interest, self.interest_inputs())
        {
            let interest = block.backward(read, pass, &tower.interest, learning);
            add(&mut sums.contents, &interest.targets);
            sums.extend(interest.weights);
        }
        if let Some(pass) = &self.sequence {
            let weights = pass.backward(inputs, &tower.sequence, &mut sums.rows, !is_frozen);
            sums.extend(weights);
        }
        if let Some(term) = outputs.contrast {
            self.contrast(term, &mut sums)?;
        }
        if let Some(pass) = &self.contents.learned {
            let weights = pass.backward(&sums.contents);
            sums.extend(weights);
        }
        let rows = RowGradient::Host {
            dim,
            values: std::mem::take(&mut sums.rows),
        };
        let dense = sums.dense(self.net)?;
        Ok(Gradients { dense, rows, wide })
    }
}

fn add(sum: &mut [f32], values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += value;
    }
}
