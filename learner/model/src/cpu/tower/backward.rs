//! The way back of [`Tower`], the same pieces one by one.

use pulp::{Arch, NullaryFnOnce};

use super::{Layer, PARTS, PIECE, Tower, TowerInputs, TowerPass};
use crate::cpu::gemm::{Lhs, Rows};
use crate::cpu::kernel::add;

/// Gradients, shaped as what they are of.
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
    /// Sums over tasks, `[n_candidates]`.
    pub(crate) wide: Vec<f32>,
    /// `[n_contents, out]`; empty where it was not asked for.
    pub(crate) contents: Vec<f32>,
    /// By name.
    pub(crate) weights: Vec<(String, Vec<f32>)>,
}

impl Tower {
    /// Gradients from that of the logits, `[n_candidates, n_tasks]`; those of contents only where they `learn`.
    pub(crate) fn backward(
        &self,
        inputs: TowerInputs<'_>,
        pass: &TowerPass,
        of_logits: &[f32],
        contents_learn: bool,
    ) -> TowerGradients {
        let mut out = TowerGradients::default();
        Arch::new().dispatch(Backward(self, inputs, pass, of_logits, contents_learn, &mut out));
        out
    }

    #[inline(always)]
    fn backward_loops(
        &self,
        inputs: TowerInputs<'_>,
        pass: &TowerPass,
        of_logits: &[f32],
        contents_learn: bool,
        out: &mut TowerGradients,
    ) {
        let (n, n_in, width) = (inputs.request_of.len(), self.first.n_in, self.first.n_out);
        let [fields, interest, sequence, content, n_dense] = self.parts;
        let contents_learn = contents_learn && content > 0;
        // Up to here gradients of what was read are asked for.
        let asked = match (contents_learn, &self.missing) {
            (_, Some(_)) => n_in,
            (true, None) => n_in - n_dense,
            (false, None) => n_in - n_dense - content,
        };
        let mut of_first_weight = vec![0.0; self.first.weight.len()];
        let mut of_requests = vec![0.0; inputs.n_requests * width];
        let mut of_layers: Vec<[Vec<f32>; 2]> = self
            .layers
            .iter()
            .map(|(_, layer)| [vec![0.0; layer.weight.len()], vec![0.0; layer.n_out]])
            .collect();
        let mut of_missing = vec![0.0; self.missing.as_ref().map_or(0, Vec::len)];
        out.candidate = Vec::with_capacity(n * fields);
        out.interest = Vec::with_capacity(n * interest);
        out.sequence = Vec::with_capacity(n * sequence);
        out.contents = vec![0.0; if contents_learn { inputs.contents.len() } else { 0 }];
        let products = self.first.products;
        let (mut of, mut of_before, mut of_read) = (Vec::new(), Vec::new(), Vec::new());
        for start in (0..n).step_by(PIECE) {
            let piece = start..n.min(start + PIECE);
            let n_tasks = self.n_tasks();
            of.clear();
            of.extend_from_slice(&of_logits[start * n_tasks..piece.end * n_tasks]);
            for ((_, layer), (active, [of_weight, of_bias])) in self
                .layers
                .iter()
                .zip(pass.active.iter().zip(&mut of_layers))
                .rev()
            {
                let active = &active[start * layer.n_in..piece.end * layer.n_in];
                layer.weights(&of, active, of_weight, of_bias);
                of_before.clear();
                of_before.resize(piece.len() * layer.n_in, 0.0);
                let size = [piece.len(), layer.n_out, layer.n_in];
                layer
                    .products
                    .add_product(&mut of_before, Lhs::Rows(&of), &layer.weight, size);
                for (of, active) in of_before.iter_mut().zip(active) {
                    *of = if *active > 0.0 { *of } else { 0.0 };
                }
                std::mem::swap(&mut of, &mut of_before);
            }
            let read = &pass.read[start * n_in..piece.end * n_in];
            products.add_product(
                &mut of_first_weight,
                Lhs::Columns(&of),
                read,
                [width, piece.len(), n_in],
            );
            of_read.clear();
            of_read.resize(piece.len() * asked, 0.0);
            products.add_product_to(
                &mut of_read,
                asked,
                Lhs::Rows(&of),
                Rows::of(&self.first.weight, n_in, 0),
                [piece.len(), width, asked],
            );
            let rows = of
                .chunks_exact(width.max(1))
                .zip(of_read.chunks_exact(asked.max(1)));
            for (candidate, (of, of_read)) in piece.zip(rows) {
                let request = usize::try_from(inputs.request_of[candidate]).unwrap_or(0);
                add(&mut of_requests[request * width..(request + 1) * width], of);
                let (part, of_read) = of_read.split_at(fields);
                out.candidate.extend_from_slice(part);
                let (part, of_read) = of_read.split_at(interest);
                out.interest.extend_from_slice(part);
                let (part, of_read) = of_read.split_at(sequence);
                out.sequence.extend_from_slice(part);
                if contents_learn {
                    let at = usize::try_from(inputs.of_candidate[candidate]).unwrap_or(0);
                    add(
                        &mut out.contents[at * content..(at + 1) * content],
                        &of_read[..content],
                    );
                }
                if self.missing.is_some() {
                    let dense = &inputs.dense[candidate * n_dense..(candidate + 1) * n_dense];
                    self.of_missing(dense, &of_read[content..], &mut of_missing);
                }
            }
        }
        let (of_user_weight, of_bias) = self.of_user(inputs, &of_requests, out);
        out.weights.extend([
            ("first.user".to_owned(), of_user_weight),
            ("first.bias".to_owned(), of_bias),
        ]);
        let mut column = 0;
        for (name, part) in PARTS.into_iter().zip(self.parts) {
            if part > 0 {
                let mut of_part = Vec::with_capacity(width * part);
                for row in of_first_weight.chunks_exact(n_in) {
                    of_part.extend_from_slice(&row[column..column + part]);
                }
                out.weights.push((name.to_owned(), of_part));
            }
            column += part;
        }
        for ((name, _), [of_weight, of_bias]) in self.layers.iter().zip(of_layers) {
            out.weights.push((format!("{name}.weight"), of_weight));
            out.weights.push((format!("{name}.bias"), of_bias));
        }
        if self.missing.is_some() {
            out.weights.push(("missing".to_owned(), of_missing));
        }
        self.beside(inputs, pass, of_logits, contents_learn, out);
    }

    /// The request's part of the first layer: gradients of its weight and bias; adds that of its fields.
    #[inline(always)]
    fn of_user(
        &self,
        inputs: TowerInputs<'_>,
        of_requests: &[f32],
        out: &mut TowerGradients,
    ) -> (Vec<f32>, Vec<f32>) {
        let layer = &self.user;
        let n_requests = inputs.n_requests;
        let (mut of_weight, mut of_bias) = (vec![0.0; layer.weight.len()], vec![0.0; layer.n_out]);
        layer.weights(of_requests, inputs.user, &mut of_weight, &mut of_bias);
        out.user = vec![0.0; inputs.user.len()];
        layer.products.add_product(
            &mut out.user,
            Lhs::Rows(of_requests),
            &layer.weight,
            [n_requests, layer.n_out, layer.n_in],
        );
        (of_weight, of_bias)
    }

    /// What is added to the logits beside the layers: the wide part and the factorisation machine.
    #[inline(always)]
    fn beside(
        &self,
        inputs: TowerInputs<'_>,
        pass: &TowerPass,
        of_logits: &[f32],
        contents_learn: bool,
        out: &mut TowerGradients,
    ) {
        let of_rows = of_logits.chunks_exact(self.n_tasks()).map(|row| row.iter().sum());
        out.wide = of_rows.collect();
        if let (Some(fm), Some(pass)) = (&self.fm, &pass.fm) {
            let found = fm.backward(inputs, pass, &out.wide, [&mut out.user, &mut out.candidate]);
            if contents_learn {
                fm.of_contents(&found.contents, &mut out.contents);
            }
            if let Some(weight) = found.weight {
                out.weights.push(("fm.content".to_owned(), weight));
            }
        }
    }

    /// Adds to the gradient of what stands for a missing feature.
    #[inline(always)]
    fn of_missing(&self, dense: &[f32], of: &[f32], out: &mut [f32]) {
        for (at, ((out, x), of)) in out.iter_mut().zip(dense).zip(of).enumerate() {
            let mask = self.mask.as_ref().map_or(1.0, |mask| mask[at]);
            if *x == 0.0 {
                *out = of.mul_add(mask, *out);
            }
        }
    }
}

impl Layer {
    /// Adds to the gradients of weight and bias, from those of what came out, `of [n, out]`, and what went in.
    #[inline(always)]
    fn weights(&self, of: &[f32], x: &[f32], of_weight: &mut [f32], of_bias: &mut [f32]) {
        let n = of.len() / self.n_out.max(1);
        let size = [self.n_out, n, self.n_in];
        self.products.add_product(of_weight, Lhs::Columns(of), x, size);
        for row in of.chunks_exact(self.n_out.max(1)) {
            add(of_bias, row);
        }
    }
}

struct Backward<'a>(
    &'a Tower,
    TowerInputs<'a>,
    &'a TowerPass,
    &'a [f32],
    bool,
    &'a mut TowerGradients,
);

impl NullaryFnOnce for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.backward_loops(self.1, self.2, self.3, self.4, self.5);
    }
}
