//! The backward pass of [`Tower`], in the pieces of its forward pass.

use std::ops::Range;

use pulp::Arch;

use super::gates::GatesBackward;
use super::{PARTS, PIECE, Tower, TowerForward, TowerInputs, fm_inputs, slates};
use crate::cpu::activation::relu_backward;
use crate::cpu::gemm::{Lhs, MatrixView};
use crate::cpu::head::HeadGradients;
use crate::cpu::kernel::{add, index, row, row_mut, vectorized};
use crate::cpu::linear::LinearGradients;
use crate::cpu::weights::{Learning, NamedGradients};

/// Gradients of the inputs, each shaped as its input, and of the weights.
#[derive(Debug, Default)]
pub(crate) struct TowerGradients {
    /// `[n_requests, fields * dim]`
    pub(crate) user: Vec<f32>,
    /// `[n_candidates, fields * dim]`
    pub(crate) candidate: Vec<f32>,
    /// `[n_candidates, out]`
    pub(crate) interest: Vec<f32>,
    /// `[n_candidates, out]`
    pub(crate) sequence: Vec<f32>,
    /// `[n_candidates, out]`
    pub(crate) long: Vec<f32>,
    /// `[n_candidates]`
    pub(crate) wide: Vec<f32>,
    /// `[n_contents, out]`; empty while contents do not learn.
    pub(crate) contents: Vec<f32>,
    pub(crate) weights: NamedGradients,
}

/// A backward pass under way.
pub(super) struct Backward<'a> {
    pub(super) tower: &'a Tower,
    pub(super) inputs: TowerInputs<'a>,
    pub(super) pass: &'a TowerForward,
    /// Inputs of the first layer that take gradients: the first so many.
    n_inputs: usize,
    contents_learn: bool,
    /// Of the first layer's weight, `[n_out, n_in]`.
    first: Vec<f32>,
    /// Of [`TowerForward::of_requests`].
    pub(super) requests: Vec<f32>,
    /// Of the first layer's bias, where gates weigh fields: `[n_out]`.
    pub(super) bias: Vec<f32>,
    pub(super) gates: GatesBackward,
    hidden: Vec<LinearGradients>,
    head: HeadGradients,
    auxiliary: LinearGradients,
    missing: Vec<f32>,
    /// Of the last hidden layer through the pooled head, `[n_candidates, width]`; empty without one.
    pooled: Vec<f32>,
    pub(super) out: TowerGradients,
    /// Reused from piece to piece.
    pub(super) of_active: Vec<f32>,
    of_before: Vec<f32>,
    of_read: Vec<f32>,
}

impl Tower {
    /// Gradients from those of the logits, `[n_candidates, n_tasks]`, and of the auxiliary logits, `[n_candidates,
    /// n_auxiliary]`. Contents take gradients only where they learn, and dense features only where missing ones have a
    /// learned value.
    pub(crate) fn backward(
        &self,
        inputs: TowerInputs<'_>,
        pass: &TowerForward,
        [logits, auxiliary]: [&[f32]; 2],
        learning: Learning,
    ) -> TowerGradients {
        let [fields, interest, sequence, long, content, n_dense] = self.parts;
        let n = inputs.request_of.len();
        let contents_learn = learning.contents && content > 0;
        let layers = learning.with_base();
        let n_inputs = match (contents_learn, &self.missing) {
            (_, Some(_)) => self.first.n_in,
            (true, None) => self.first.n_in - n_dense,
            (false, None) => self.first.n_in - n_dense - content,
        };
        let hidden = self.hidden.iter();
        let mut back = Backward {
            tower: self,
            inputs,
            pass,
            n_inputs,
            contents_learn,
            first: vec![0.0; self.first.weight.len()],
            requests: vec![0.0; pass.of_requests.len()],
            bias: vec![0.0; self.first.n_out],
            gates: self.gate_zeros(pass, learning),
            hidden: hidden.map(|layer| LinearGradients::new(layer, layers)).collect(),
            head: self.head.zeros(layers),
            auxiliary: self
                .auxiliary
                .as_ref()
                .map_or_else(LinearGradients::default, |layer| {
                    LinearGradients::new(layer, layers)
                }),
            missing: vec![0.0; self.missing.as_ref().map_or(0, Vec::len)],
            pooled: Vec::new(),
            out: TowerGradients {
                user: vec![0.0; inputs.user.len()],
                candidate: Vec::with_capacity(n * fields),
                interest: Vec::with_capacity(n * interest),
                sequence: Vec::with_capacity(n * sequence),
                long: Vec::with_capacity(n * long),
                contents: vec![0.0; if contents_learn { inputs.contents.len() } else { 0 }],
                ..TowerGradients::default()
            },
            of_active: Vec::new(),
            of_before: Vec::new(),
            of_read: Vec::new(),
        };
        Arch::new().dispatch(Run(&mut back, logits, auxiliary));
        back.out
    }
}

impl Backward<'_> {
    #[inline(always)]
    fn run(&mut self, logits: &[f32], auxiliary: &[f32]) {
        let n = self.inputs.request_of.len();
        self.pool(logits);
        for start in (0..n).step_by(PIECE) {
            let piece = start..n.min(start + PIECE);
            self.head(piece.clone(), logits, auxiliary);
            self.hidden(piece.clone());
            self.first_layer(piece);
        }
        self.user();
        self.gates();
        self.name_layers();
        self.wide_and_fm(logits);
    }

    /// From the logits through the pooled head.
    #[inline(always)]
    fn pool(&mut self, logits: &[f32]) {
        let (tower, pass) = (self.tower, self.pass);
        let parts = (&tower.pool, slates(self.inputs), &pass.pool);
        if let (Some(pool), Some(slates), Some(forward)) = parts {
            let last = &pass.active[tower.hidden.len()];
            let [of_weight, of_hidden] = pool.backward(last, slates, forward, logits);
            self.out.weights.push(("pool.weight".to_owned(), of_weight));
            self.pooled = of_hidden;
        }
    }

    /// From the logits of some candidates to the last hidden layer.
    #[inline(always)]
    fn head(&mut self, piece: Range<usize>, logits: &[f32], auxiliary: &[f32]) {
        let (tower, pass) = (self.tower, self.pass);
        let last = &pass.active[tower.hidden.len()];
        let width = last.len() / self.inputs.request_of.len().max(1);
        let last = &last[piece.start * width..piece.end * width];
        self.of_active.clear();
        match self.pooled.is_empty() {
            true => self.of_active.resize(last.len(), 0.0),
            false => {
                let of_pool = &self.pooled[piece.start * width..piece.end * width];
                self.of_active.extend_from_slice(of_pool);
            }
        }
        let logits = &logits[piece.start * tower.n_tasks..piece.end * tower.n_tasks];
        tower.head.backward(
            last,
            &pass.heads[piece.start / PIECE],
            logits,
            &mut self.head,
            &mut self.of_active,
        );
        if let Some(layer) = tower.auxiliary.as_ref().filter(|_| !auxiliary.is_empty()) {
            let gradient = &auxiliary[piece.start * layer.n_out..piece.end * layer.n_out];
            layer.backward(last, gradient, &mut self.auxiliary, None);
        }
        self.open(tower.hidden.len(), piece);
        relu_backward(&mut self.of_active, last);
    }

    /// Through the hidden layers, last to first.
    #[inline(always)]
    fn hidden(&mut self, piece: Range<usize>) {
        let (tower, pass) = (self.tower, self.pass);
        for (at, layer) in tower.hidden.iter().enumerate().rev() {
            let (active, gradients) = (&pass.active[at], &mut self.hidden[at]);
            let active = &active[piece.start * layer.n_in..piece.end * layer.n_in];
            self.of_before.clear();
            self.of_before.resize(active.len(), 0.0);
            layer.backward(active, &self.of_active, gradients, Some(&mut self.of_before));
            std::mem::swap(&mut self.of_active, &mut self.of_before);
            self.open(at, piece.clone());
            relu_backward(&mut self.of_active, active);
        }
    }

    /// Through the first layer to its inputs.
    #[inline(always)]
    fn first_layer(&mut self, piece: Range<usize>) {
        let (first, n_inputs) = (&self.tower.first, self.n_inputs);
        let (n_in, width) = (first.n_in, first.n_out);
        let [fields, interest, sequence, long, content, n_dense] = self.tower.parts;
        let read = &self.pass.read[piece.start * n_in..piece.end * n_in];
        first.precision.add_product(
            &mut self.first,
            Lhs::Transposed(&self.of_active),
            read,
            [width, piece.len(), n_in],
        );
        self.of_read.clear();
        self.of_read.resize(piece.len() * n_inputs, 0.0);
        first.precision.add_product_to(
            &mut self.of_read,
            n_inputs,
            Lhs::Matrix(&self.of_active),
            MatrixView::new(&first.weight, n_in, 0),
            [piece.len(), width, n_inputs],
        );
        let field_gate = self.pass.field_gate.as_ref();
        let of_active = std::mem::take(&mut self.of_active);
        let mut of_read = std::mem::take(&mut self.of_read);
        let rows = of_active
            .chunks_exact(width.max(1))
            .zip(of_read.chunks_exact_mut(n_inputs.max(1)));
        for (candidate, (of_active, of_read)) in piece.zip(rows) {
            let (part, of_read) = of_read.split_at_mut(fields);
            if let Some(gate) = field_gate {
                self.open_user(gate, candidate, of_active);
                self.open_fields(gate, candidate, part);
            } else {
                let request = index(self.inputs.request_of[candidate]);
                add(row_mut(&mut self.requests, request, width), of_active);
            }
            let of_read = &*of_read;
            self.out.candidate.extend_from_slice(part);
            let (part, of_read) = of_read.split_at(interest);
            self.out.interest.extend_from_slice(part);
            let (part, of_read) = of_read.split_at(sequence);
            self.out.sequence.extend_from_slice(part);
            let (part, of_read) = of_read.split_at(long);
            self.out.long.extend_from_slice(part);
            if self.contents_learn {
                let at = index(self.inputs.of_candidate[candidate]);
                add(row_mut(&mut self.out.contents, at, content), &of_read[..content]);
            }
            if self.tower.missing.is_some() {
                let dense = row(self.inputs.dense, candidate, n_dense);
                let mask = self.tower.mask.as_deref();
                add_missing_gradients(dense, mask, &of_read[content..], &mut self.missing);
            }
        }
        (self.of_active, self.of_read) = (of_active, of_read);
    }

    /// Through the part of the first layer that reads the user's fields.
    #[inline(always)]
    fn user(&mut self) {
        let layer = &self.tower.user;
        let (weight, bias) = if self.pass.field_gate.is_some() {
            (self.user_fields(), std::mem::take(&mut self.bias))
        } else {
            let mut gradients = LinearGradients::merged(layer);
            let inputs = Some(self.out.user.as_mut_slice());
            layer.backward(self.inputs.user, &self.requests, &mut gradients, inputs);
            (gradients.weight, gradients.bias)
        };
        self.out
            .weights
            .extend([("first.user".to_owned(), weight), ("first.bias".to_owned(), bias)]);
    }

    /// Moves the gradients of all layers to the result, by name.
    fn name_layers(&mut self) {
        let (tower, out) = (self.tower, &mut self.out.weights);
        let mut column = 0;
        for (name, part) in PARTS.into_iter().zip(tower.parts) {
            if part > 0 {
                let mut of_part = Vec::with_capacity(tower.first.n_out * part);
                for row in self.first.chunks_exact(tower.first.n_in) {
                    of_part.extend_from_slice(&row[column..column + part]);
                }
                out.push((name.to_owned(), of_part));
            }
            column += part;
        }
        for (gradients, layer) in std::mem::take(&mut self.hidden).into_iter().zip(1..) {
            gradients.add_named(&format!("hidden{layer}"), out);
        }
        tower.head.add_named(std::mem::take(&mut self.head), out);
        std::mem::take(&mut self.auxiliary).add_named("aux", out);
        if tower.missing.is_some() {
            out.push(("missing".to_owned(), std::mem::take(&mut self.missing)));
        }
    }

    /// The terms that are added to the logits beside the layers.
    #[inline(always)]
    fn wide_and_fm(&mut self, logits: &[f32]) {
        let out = &mut self.out;
        let rows = logits.chunks_exact(self.tower.n_tasks);
        out.wide = rows.map(|row| row.iter().sum()).collect();
        if let (Some(fm), Some(pass)) = (&self.tower.fm, &self.pass.fm) {
            let fields = [out.user.as_mut_slice(), &mut out.candidate];
            let of_fm = fm.backward(fm_inputs(self.inputs), pass, &out.wide, fields);
            if self.contents_learn {
                fm.add_content_gradients(&of_fm.contents, &mut out.contents);
            }
            if let Some(weight) = of_fm.weight {
                out.weights.push(("fm.content".to_owned(), weight));
            }
        }
    }
}

/// Adds the gradient of the values in place of missing features of a candidate.
#[inline(always)]
fn add_missing_gradients(dense: &[f32], mask: Option<&[f32]>, of_read: &[f32], out: &mut [f32]) {
    for (at, ((out, x), of)) in out.iter_mut().zip(dense).zip(of_read).enumerate() {
        let mask = mask.map_or(1.0, |mask| mask[at]);
        if *x == 0.0 {
            *out = of.mul_add(mask, *out);
        }
    }
}

vectorized! {
    Run<'a, 'b>(back: &'a mut Backward<'b>, logits: &'a [f32], auxiliary: &'a [f32])
        => back.run(logits, auxiliary)
}
