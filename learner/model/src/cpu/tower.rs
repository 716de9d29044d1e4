//! From the outputs of the blocks to the logits: first layer, hidden layers, head, wide part and factorisation machine.
//!
//! `logit = prior + wide + FM + head(hidden(first layer))`. The first layer reads the parts of a candidate side by side, in one
//! product; the user's fields are multiplied once a request, and its candidates' sums start from that row. Auxiliary logits
//! are linear in the last hidden layer and pass no gradient back to it.
//!
//! Where gates weigh the fields, a field of the user is still multiplied once a request, and its product is weighed for each candidate.

use std::ops::Range;

use pulp::Arch;

use super::activation::relu;
use super::fm::{Fm, FmForward, FmInputs};
use super::gate::{Gate, GateForward};
use super::gemm::Lhs;
use super::head::{Head, HeadForward};
use super::kernel::{index, row, vectorized};
use super::linear::Linear;
use super::slate_pool::{SlatePool, SlatePoolForward, Slates};
use super::weights::BlockWeights;
use crate::config::ModelConfig;
use crate::error::Error;
use crate::feature_norm::FeatureScale;
use crate::fields::{GATE_ROWS, USER_FIELDS};

mod backward;
mod gates;
#[cfg(test)]
mod tests;

use gates::{N_FIELDS, gates_of, weigh_fields};

/// Candidates that pass through all layers at a time, so that their activations stay in the cache.
const PIECE: usize = 64;

/// Weights of the parts that the first layer reads of a candidate, in the order of its inputs. Only a prefix of the inputs
/// takes gradients, see [`Tower::backward`].
const PARTS: [&str; 6] = [
    "first.candidate",
    "first.interest",
    "first.sequence",
    "first.long",
    "first.content",
    "first.dense",
];

/// The layers with the weights of one moment.
#[derive(Debug)]
pub(crate) struct Tower {
    /// The part of the first layer that reads the user's fields, with the layer's bias.
    user: Linear,
    /// The part that reads a candidate: [`PARTS`] side by side.
    first: Linear,
    /// Widths of [`PARTS`], floats; 0 for a part that the model lacks.
    parts: [usize; PARTS.len()],
    /// The hidden layers behind the first one.
    hidden: Vec<Linear>,
    /// Gates of the first layer's and of the hidden layers' units; empty without PPNet.
    gates: Vec<Gate>,
    /// The gate of fields, if the model has SENet.
    field_gate: Option<Gate>,
    head: Head,
    pool: Option<SlatePool>,
    auxiliary: Option<Linear>,
    /// Values in place of missing features, `[N_DENSE]`.
    missing: Option<Vec<f32>>,
    /// 1 for features that are read, else 0, `[N_DENSE]`; none where all are read.
    mask: Option<Vec<f32>>,
    fm: Option<Fm>,
    has_wide: bool,
    n_tasks: usize,
}

/// The inputs of a batch; parts that a model lacks are empty.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TowerInputs<'a> {
    /// Fields of requests, `[n_requests, fields * dim]`.
    pub(crate) user: &'a [f32],
    /// Fields of candidates, `[n_candidates, fields * dim]`.
    pub(crate) candidate: &'a [f32],
    /// Live features, `[n_candidates, N_DENSE]`.
    pub(crate) dense: &'a [f32],
    /// Content vectors, `[n_contents, out]`, and the content of each candidate.
    pub(crate) contents: &'a [f32],
    pub(crate) of_candidate: &'a [i64],
    /// Outputs of content interest, `[n_candidates, out]`.
    pub(crate) interest: &'a [f32],
    /// Outputs of the sequence block, `[n_candidates, out]`.
    pub(crate) sequence: &'a [f32],
    /// Outputs of the search unit over the long past, `[n_candidates, out]`.
    pub(crate) long: &'a [f32],
    /// Sums of the wide part, `[n_candidates]`.
    pub(crate) wide: &'a [f32],
    /// The request of each candidate.
    pub(crate) request_of: &'a [i64],
    /// Requests, count.
    pub(crate) n_requests: usize,
    /// Offsets of the logits, `[n_requests, n_tasks]`.
    pub(crate) prior: &'a [f32],
    /// Whether a candidate counts in the slate of its request; none without a pooled head.
    pub(crate) members: Option<&'a [bool]>,
    /// The transform of live features, if they are normalized.
    pub(crate) scale: Option<&'a FeatureScale>,
}

/// A forward pass.
#[derive(Debug, Default)]
pub(crate) struct TowerForward {
    /// `[n_candidates, n_tasks]`
    pub(crate) logits: Vec<f32>,
    /// `[n_candidates, n_auxiliary]`; empty without auxiliary logits.
    pub(crate) auxiliary: Vec<f32>,
    /// The inputs of the first layer, `[n_candidates, first.n_in]`.
    read: Vec<f32>,
    /// The outputs of each layer from the first to the last hidden one, behind ReLU and gates, `[n_candidates, n_out]`.
    active: Vec<Vec<f32>>,
    /// Gates of these units, by layer; empty without PPNet.
    gates: Vec<GateForward>,
    /// Gates of fields, if the model has SENet.
    field_gate: Option<GateForward>,
    /// The user's fields through the first layer: their sum with the bias, `[n_requests, n_out]`; with SENet each field,
    /// `[n_requests, USER_FIELDS, n_out]`.
    of_requests: Vec<f32>,
    /// The head's activations, by piece of [`PIECE`] candidates.
    heads: Vec<HeadForward>,
    fm: Option<FmForward>,
    pool: Option<SlatePoolForward>,
}

impl Tower {
    /// The layers with the weights of this moment; `mask` as in the field of that name.
    pub(crate) fn new(
        weights: BlockWeights<'_>,
        config: &ModelConfig,
        mask: Option<Vec<f32>>,
    ) -> Result<Self, Error> {
        let bias = weights.get("first.bias")?;
        let precision = weights.precision();
        let matrices = PARTS.map(|part| weights.find(part).unwrap_or_default());
        let parts = matrices.map(|weight| weight.len() / bias.len().max(1));
        let mut side_by_side = Vec::with_capacity(matrices.iter().map(|weight| weight.len()).sum());
        for out in 0..bias.len() {
            for (weight, width) in matrices.iter().zip(parts) {
                side_by_side.extend_from_slice(row(weight, out, width));
            }
        }
        let widths = config.hidden.iter().zip(1..config.hidden.len());
        let hidden = widths.map(|(n_in, layer)| weights.linear(&format!("hidden{layer}"), *n_in));
        let n_gates = if config.ppnet { config.hidden.len() } else { 0 };
        let gates =
            (0..n_gates).map(|layer| Gate::new(weights, format!("gate{layer}"), GATE_ROWS * config.dim));
        let field_gate = config
            .senet
            .then(|| Gate::new(weights, "field_gate".to_owned(), N_FIELDS));
        let last = config.hidden.last().copied().unwrap_or(1);
        let auxiliary = config.auxiliary > 0;
        let user = weights.get("first.user")?;
        Ok(Self {
            user: Linear::new(user, USER_FIELDS * config.dim, precision).with_bias(bias),
            first: Linear::new(side_by_side, parts.iter().sum(), precision),
            parts,
            hidden: hidden.collect::<Result<_, _>>()?,
            gates: gates.collect::<Result<_, _>>()?,
            field_gate: field_gate.transpose()?,
            head: Head::new(weights, config)?,
            pool: config
                .pool_slate
                .then(|| SlatePool::new(weights, config))
                .transpose()?,
            auxiliary: auxiliary.then(|| weights.linear("aux", last)).transpose()?,
            missing: weights.find("missing").map(<[f32]>::to_vec),
            mask,
            fm: config.fm.then(|| Fm::new(weights, config)),
            has_wide: config.wide,
            n_tasks: config.n_tasks(),
        })
    }

    /// The logits of candidates. Without a pooled head the bits of a candidate do not depend on those beside it.
    pub(crate) fn forward(&self, inputs: TowerInputs<'_>) -> TowerForward {
        let mut pass = TowerForward::default();
        Arch::new().dispatch(Forward(self, inputs, &mut pass));
        pass
    }

    #[inline(always)]
    fn forward_loops(&self, inputs: TowerInputs<'_>, pass: &mut TowerForward) {
        let n = inputs.request_of.len();
        self.run_gates(inputs, pass);
        pass.read = vec![0.0; n * self.first.n_in];
        let layers = std::iter::once(&self.first).chain(&self.hidden);
        pass.active = layers.map(|layer| vec![0.0; n * layer.n_out]).collect();
        pass.logits = vec![0.0; n * self.n_tasks];
        pass.auxiliary = vec![0.0; n * self.auxiliary.as_ref().map_or(0, |layer| layer.n_out)];
        for start in (0..n).step_by(PIECE) {
            let piece = start..n.min(start + PIECE);
            self.first_layer(inputs, piece.clone(), pass);
            for (at, layer) in self.hidden.iter().enumerate() {
                let (before, after) = pass.active.split_at_mut(at + 1);
                let before = &before[at][start * layer.n_in..piece.end * layer.n_in];
                let after = &mut after[0][start * layer.n_out..piece.end * layer.n_out];
                layer.forward_to(before, after);
                relu(after);
                self.close(at + 1, piece.clone(), after, &pass.gates);
            }
            let width = pass.active.last().map_or(0, Vec::len) / n;
            let last = &pass.active[self.hidden.len()][start * width..piece.end * width];
            let logits = &mut pass.logits[start * self.n_tasks..piece.end * self.n_tasks];
            pass.heads.push(self.head.forward(last, logits));
            if let Some(layer) = &self.auxiliary {
                let out = &mut pass.auxiliary[start * layer.n_out..piece.end * layer.n_out];
                layer.forward_to(last, out);
            }
        }
        if let (Some(pool), Some(slates)) = (&self.pool, slates(inputs)) {
            let last = &pass.active[self.hidden.len()];
            pass.pool = Some(pool.forward(last, slates, &mut pass.logits));
        }
        pass.fm = self.fm.as_ref().map(|fm| fm.forward(fm_inputs(inputs)));
        for (candidate, row) in pass.logits.chunks_exact_mut(self.n_tasks).enumerate() {
            let wide = if self.has_wide {
                inputs.wide[candidate]
            } else {
                0.0
            };
            let fm = pass.fm.as_ref().map_or(0.0, |fm| fm.logits[candidate]);
            let request = index(inputs.request_of[candidate]);
            let priors = &inputs.prior[request * self.n_tasks..(request + 1) * self.n_tasks];
            for (logit, prior) in row.iter_mut().zip(priors) {
                *logit += prior + wide + fm;
            }
        }
    }

    /// The first layer of some candidates, whose sums start from their request's fields.
    #[inline(always)]
    fn first_layer(&self, inputs: TowerInputs<'_>, piece: Range<usize>, pass: &mut TowerForward) {
        let (n_in, width) = (self.first.n_in, self.first.n_out);
        let read = &mut pass.read[piece.start * n_in..piece.end * n_in];
        for (candidate, row) in piece.clone().zip(read.chunks_exact_mut(n_in.max(1))) {
            self.read_candidate(inputs, candidate, row);
            if let Some(gate) = &pass.field_gate {
                weigh_fields(&mut row[..self.parts[0]], gates_of(gate, candidate));
            }
        }
        let out = &mut pass.active[0][piece.start * width..piece.end * width];
        let start = out.chunks_exact_mut(width.max(1)).zip(piece.clone());
        for (out, candidate) in start {
            let request = index(inputs.request_of[candidate]);
            match &pass.field_gate {
                Some(gate) => self.weighed_user(&pass.of_requests, request, gates_of(gate, candidate), out),
                None => out.copy_from_slice(row(&pass.of_requests, request, width)),
            }
        }
        let size = [piece.len(), n_in, width];
        self.first
            .precision
            .add_product(out, Lhs::Matrix(read), &self.first.transposed, size);
        relu(out);
        self.close(0, piece, out, &pass.gates);
    }

    /// Writes the inputs of the first layer for a candidate, part by part.
    #[inline(always)]
    fn read_candidate(&self, inputs: TowerInputs<'_>, candidate: usize, out: &mut [f32]) {
        let [fields, interest, sequence, long, content, dense] = self.parts;
        let (of_fields, out) = out.split_at_mut(fields);
        let (of_interest, out) = out.split_at_mut(interest);
        let (of_sequence, out) = out.split_at_mut(sequence);
        let (of_long, out) = out.split_at_mut(long);
        let (of_content, of_dense) = out.split_at_mut(content);
        of_fields.copy_from_slice(row(inputs.candidate, candidate, fields));
        of_interest.copy_from_slice(row(inputs.interest, candidate, interest));
        of_sequence.copy_from_slice(row(inputs.sequence, candidate, sequence));
        of_long.copy_from_slice(row(inputs.long, candidate, long));
        let features = row(inputs.dense, candidate, dense);
        of_dense.copy_from_slice(features);
        if let Some(scale) = inputs.scale {
            scale.apply(of_dense);
        }
        if content > 0 {
            let at = index(inputs.of_candidate[candidate]);
            of_content.copy_from_slice(row(inputs.contents, at, content));
        }
        if let Some(missing) = &self.missing {
            for ((x, feature), missing) in of_dense.iter_mut().zip(features).zip(missing) {
                // In every fixed transform 0 stands for "nothing known".
                if *feature == 0.0 {
                    *x = *missing;
                }
            }
        }
        if let Some(mask) = &self.mask {
            for (x, mask) in of_dense.iter_mut().zip(mask) {
                *x *= mask;
            }
        }
    }
}

fn slates(inputs: TowerInputs<'_>) -> Option<Slates<'_>> {
    Some(Slates {
        members: inputs.members?,
        request_of: inputs.request_of,
        n_requests: inputs.n_requests,
    })
}

fn fm_inputs(inputs: TowerInputs<'_>) -> FmInputs<'_> {
    FmInputs {
        user: inputs.user,
        candidate: inputs.candidate,
        contents: inputs.contents,
        of_candidate: inputs.of_candidate,
        request_of: inputs.request_of,
        n_requests: inputs.n_requests,
    }
}

vectorized! {
    Forward<'a>(tower: &'a Tower, inputs: TowerInputs<'a>, pass: &'a mut TowerForward)
        => tower.forward_loops(inputs, pass)
}
