//! A batch through the cpu backend: from embedding rows and contents to logits, and gradients back.

use std::collections::HashMap;
use std::sync::Arc;

use tch::{TchError, Tensor};

use super::content_linear::ContentLinear;
use super::contrast::{Contrast, ContrastInputs};
use super::din::Din;
use super::fq_former::FqFormerForward;
use super::grad_mode::GradMode;
use super::interest::{Interest, InterestForward, InterestInputs};
use super::kernel::{add, index, row, row_mut};
use super::long_history::LongPass;
use super::sequence::{CpuSequenceBlock, SequencePass};
use super::tower::{Tower, TowerForward, TowerInputs};
use super::weights::Learning;
use crate::backend::{ContrastLoss, OutputGradients, Outputs, Pass};
use crate::config::TOKEN_FIELDS;
use crate::error::Error;
use crate::gradients::{Gradients, RowGradient};
use crate::inputs::Inputs;
use crate::net::Net;
use crate::weights::Weights;

/// The layers behind the sequence block and the contents, with the weights of one step.
#[derive(Debug)]
pub(super) struct CpuBlocks {
    pub(super) tower: Tower,
    pub(super) content_linear: Option<ContentLinear>,
    pub(super) interest: Option<Interest>,
    pub(super) contrast: Option<Contrast>,
}

/// The ways back through the blocks over histories.
#[derive(Clone, Copy, Debug)]
pub(super) struct PassModes {
    pub(super) sequence: GradMode,
    pub(super) long: GradMode,
}

impl PassModes {
    /// No way back.
    pub(super) const NONE: Self = Self {
        sequence: GradMode::None,
        long: GradMode::None,
    };
}

/// The distinct contents of a batch, those of candidates first.
#[derive(Debug, Default)]
pub(super) struct BatchContents {
    /// Content vectors, `[n, out]`.
    pub(super) vectors: Vec<f32>,
    /// Their keys of content interest without an adapter, `[n, width]`, where these are cached.
    pub(super) keys: Option<Vec<f32>>,
    /// The pass that computed those of candidates, where they learn.
    pub(super) learned: Option<FqFormerForward>,
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
    /// Offsets of the logits, `[n_requests, n_tasks]`.
    prior: Vec<f32>,
    contents: BatchContents,
    sequence: Option<SequencePass>,
    long: Option<LongPass>,
    interest: Option<InterestForward>,
    tower: TowerForward,
    outputs: Outputs,
}

impl<'a> CpuPass<'a> {
    pub(super) fn new(
        net: &'a Net,
        inputs: &'a Inputs,
        tables: &Weights,
        (blocks, sequence, long): (Arc<CpuBlocks>, Option<Arc<CpuSequenceBlock>>, Option<Arc<Din>>),
        modes: PassModes,
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
            ids: match (modes.sequence, net.config().contrast_width) {
                (GradMode::None, _) | (_, 0) => Vec::new(),
                _ => inputs.history.target.gather(&rows, dim),
            },
            prior: inputs.priors(net.prior()),
            sequence: sequence.map(|block| SequencePass::new(block, inputs, &rows, dim, modes.sequence)),
            long: long
                .zip(inputs.long.as_ref())
                .map(|(block, long)| LongPass::new(block, (inputs, long), &rows, dim, modes.long)),
            interest: None,
            tower: TowerForward::default(),
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
        pass.outputs.auxiliary = std::mem::take(&mut pass.tower.auxiliary);
        if let (Some(term), Some(contents)) = (&pass.blocks.content_linear, &inputs.contents) {
            let terms = term.forward(contents.targets());
            term.add_to(&terms, &contents.of_candidate, &mut pass.outputs.logits);
        }
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
            interest: self.interest.as_ref().map_or(&[], |pass| &pass.output),
            sequence: self.sequence.as_ref().map_or(&[], SequencePass::read),
            long: self.long.as_ref().map_or(&[], LongPass::read),
            wide: &self.wide,
            request_of: &self.inputs.request_of,
            n_requests: self.inputs.n_requests(),
            prior: &self.prior,
            members: self.inputs.members.as_deref(),
            scale: self.net.scale(),
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
    fn contrast(&self, term: ContrastLoss, learning: Learning, sums: &mut Sums) {
        let (Some(block), Some(contents)) = (&self.blocks.contrast, &self.inputs.contents) else {
            return;
        };
        if contents.contrasted.len() < 2 {
            return;
        }
        let (token, out) = (TOKEN_FIELDS * self.dim, self.net.config().content.out());
        let contrasted = || {
            let pairs = contents.contrasted.iter();
            pairs.map(|(content, candidate)| (index(*content), index(*candidate)))
        };
        let ids = contrasted().flat_map(|(_, candidate)| row(&self.ids, candidate, token));
        let targets = self.target_contents();
        let vectors = contrasted().flat_map(|(content, _)| row(targets, content, out));
        let (ids, vectors): (Vec<f32>, Vec<f32>) = (ids.copied().collect(), vectors.copied().collect());
        #[expect(
            clippy::cast_possible_truncation,
            reason = "settings are f64, numbers of the model f32"
        )]
        let [temperature, weight] = [term.temperature, term.weight].map(|x| x as f32);
        let inputs = ContrastInputs {
            ids: &ids,
            contents: &vectors,
            temperature,
        };
        let pass = block.forward(inputs);
        let of = block.backward(inputs, &pass, weight, learning);
        let mut of_ids = vec![0.0; self.ids.len()];
        for (at, (content, candidate)) in contrasted().enumerate() {
            row_mut(&mut of_ids, candidate, token).copy_from_slice(row(&of.ids, at, token));
            if learning.contents {
                add(
                    row_mut(&mut sums.contents, content, out),
                    row(&of.contents, at, out),
                );
            }
        }
        let target = &self.inputs.history.target;
        target.scatter(&of_ids, self.dim, &mut sums.rows);
        sums.extend(of.weights);
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
            [outputs.logits, outputs.auxiliary],
            learning,
        );
        let mut sums = Sums {
            rows: vec![0.0; inputs.rows.len() * dim],
            contents: tower.contents,
            weights: tower.weights.into_iter().collect(),
        };
        if let (Some(term), Some(contents)) = (&self.blocks.content_linear, &inputs.contents) {
            let of_terms = term.of_terms(contents.n_targets, &contents.of_candidate, outputs.logits);
            sums.extend(term.backward(contents.targets(), &of_terms));
        }
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
            #[expect(clippy::cast_possible_truncation, reason = "numbers of the model are f32")]
            let next_entry = (outputs.next_entry as f32, self.net.config().seed);
            let read = (tower.sequence.as_slice(), next_entry);
            let weights = pass.backward(inputs, read, &mut sums.rows, learning);
            sums.extend(weights);
        }
        if let (Some(pass), Some(long)) = (&self.long, &inputs.long) {
            let weights = pass.backward((inputs, long), &tower.long, &mut sums.rows, learning);
            sums.extend(weights);
        }
        if let Some(term) = outputs.contrast {
            self.contrast(term, learning, &mut sums);
        }
        if let Some(pass) = &self.contents.learned {
            let weights = pass.backward(&sums.contents, learning);
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
