//! From what the blocks read to one logit a task: the first layer, the hidden layers, the wide part and the factorisation
//! machine, as [`crate::net`] adds them up for a model without towers or experts, and their gradients.
//!
//! What the first layer reads of a candidate lies side by side, so that it is one product; what it reads of the request
//! is computed once a request, and a row of it is where its candidates' sums start from.

use pulp::{Arch, NullaryFnOnce};

use super::gemm::Lhs;
use super::kernel::transpose;
use crate::config::{MatmulPrecision, ModelConfig};
use crate::error::Error;
use crate::host_slice::to_vec;
use crate::params::Params;

mod backward;
mod fm;
#[cfg(test)]
mod tests;

use fm::{Fm, FmPass};

/// Candidates that are taken through all layers at a time, so that their numbers stay in the cache.
const PIECE: usize = 64;

/// What the first layer reads of a candidate, in the order in which it lies. Gradients go back to the first ones.
const PARTS: [&str; 5] = [
    "first.candidate",
    "first.interest",
    "first.sequence",
    "first.content",
    "first.dense",
];

/// The layers with the weights of one moment.
#[derive(Debug)]
pub(crate) struct Tower {
    /// Of the request's fields.
    user: Layer,
    /// Of all parts of a candidate.
    first: Layer,
    /// Widths of [`PARTS`], floats; 0 for one that the model lacks.
    parts: [usize; PARTS.len()],
    /// The hidden layers behind the first one, and the last layer.
    layers: Vec<(String, Layer)>,
    /// What stands for a feature of which nothing is known.
    missing: Option<Vec<f32>>,
    /// 1 for features that are read, else 0; none where all are.
    mask: Option<Vec<f32>>,
    fm: Option<Fm>,
    has_wide: bool,
}

/// A layer, its weight as it is and transposed.
#[derive(Debug)]
struct Layer {
    n_in: usize,
    n_out: usize,
    products: MatmulPrecision,
    /// `[out, in]`
    weight: Vec<f32>,
    /// `[in, out]`
    transposed: Vec<f32>,
    bias: Vec<f32>,
}

/// What it reads; parts that a model lacks are empty.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TowerInputs<'a> {
    /// Fields of requests, `[n_requests, fields * dim]`.
    pub(crate) user: &'a [f32],
    /// Fields of candidates, `[n_candidates, fields * dim]`.
    pub(crate) candidate: &'a [f32],
    /// Live features, `[n_candidates, N_DENSE]`.
    pub(crate) dense: &'a [f32],
    /// Contents, `[n_contents, out]`, and which of them each candidate has.
    pub(crate) contents: &'a [f32],
    pub(crate) of_candidate: &'a [i64],
    /// What content interest found, `[n_candidates, out]`.
    pub(crate) interest: &'a [f32],
    /// What the sequence block read, `[n_candidates, out]`.
    pub(crate) sequence: &'a [f32],
    /// Sums of the wide part, `[n_candidates]`.
    pub(crate) wide: &'a [f32],
    /// The request of each candidate.
    pub(crate) request_of: &'a [i64],
    /// Requests, count.
    pub(crate) n_requests: usize,
    /// Added to the logits, `[n_tasks]`.
    pub(crate) prior: &'a [f32],
}

/// A forward pass.
#[derive(Debug, Default)]
pub(crate) struct TowerPass {
    /// `[n_candidates, n_tasks]`
    pub(crate) logits: Vec<f32>,
    /// The parts side by side, `[n_candidates, first.n_in]`.
    read: Vec<f32>,
    /// What each hidden layer gave, `[n_candidates, n_out]`.
    active: Vec<Vec<f32>>,
    fm: Option<FmPass>,
}

impl Tower {
    /// The layers with the weights of this moment.
    pub(crate) fn new(params: &Params, config: &ModelConfig, mask: Option<Vec<f32>>) -> Result<Self, Error> {
        let find = |name: &str| -> Result<Option<Vec<f32>>, Error> {
            Ok(params.find(name).map(to_vec).transpose()?)
        };
        let get = |name: &str| -> Result<Vec<f32>, Error> { Ok(to_vec(params.get(name)?)?) };
        let products = config.matmul_precision;
        let bias = get("first.bias")?;
        let n_first = bias.len();
        let mut weights = Vec::new();
        for part in PARTS {
            weights.push(find(part)?.unwrap_or_default());
        }
        let mut parts = [0; PARTS.len()];
        for (width, weight) in parts.iter_mut().zip(&weights) {
            *width = weight.len() / n_first.max(1);
        }
        let mut side_by_side = Vec::with_capacity(weights.iter().map(Vec::len).sum());
        for out in 0..n_first {
            for (weight, width) in weights.iter().zip(parts) {
                side_by_side.extend_from_slice(&weight[out * width..(out + 1) * width]);
            }
        }
        let mut layers = Vec::new();
        for name in (1..config.hidden.len())
            .map(|layer| format!("hidden{layer}"))
            .chain(["out".to_owned()])
        {
            let (weight, bias) = (get(&format!("{name}.weight"))?, get(&format!("{name}.bias"))?);
            layers.push((name, Layer::new(weight, bias, products)));
        }
        let fm = match config.fm {
            true => Some(Fm::new(config.dim, find("fm.content")?)),
            false => None,
        };
        Ok(Self {
            user: Layer::new(get("first.user")?, bias, products),
            first: Layer::new(side_by_side, vec![0.0; n_first], products),
            parts,
            layers,
            missing: find("missing")?,
            mask,
            fm,
            has_wide: config.wide,
        })
    }

    /// The logits of candidates. A candidate's bits do not depend on those beside it.
    pub(crate) fn forward(&self, inputs: TowerInputs<'_>) -> TowerPass {
        let mut pass = TowerPass::default();
        Arch::new().dispatch(Forward(self, inputs, &mut pass));
        pass
    }

    fn n_tasks(&self) -> usize {
        self.layers.last().map_or(1, |(_, layer)| layer.n_out)
    }

    #[inline(always)]
    fn forward_loops(&self, inputs: TowerInputs<'_>, pass: &mut TowerPass) {
        let n = inputs.request_of.len();
        let of_requests = self.user.apply(inputs.user);
        pass.read = vec![0.0; n * self.first.n_in];
        pass.active = vec![vec![0.0; n * self.first.n_out]];
        for (_, layer) in &self.layers {
            pass.active.push(vec![0.0; n * layer.n_out]);
        }
        for start in (0..n).step_by(PIECE) {
            let piece = start..n.min(start + PIECE);
            let read = &mut pass.read[start * self.first.n_in..piece.end * self.first.n_in];
            let rows = read.chunks_exact_mut(self.first.n_in.max(1));
            for (candidate, row) in piece.clone().zip(rows) {
                self.lay(inputs, candidate, row);
            }
            let width = self.first.n_out;
            let first = &mut pass.active[0][start * width..piece.end * width];
            for (row, request) in first
                .chunks_exact_mut(width.max(1))
                .zip(&inputs.request_of[piece.clone()])
            {
                row.copy_from_slice(row_of(&of_requests, *request, width));
            }
            let size = [piece.len(), self.first.n_in, width];
            let products = self.first.products;
            products.add_product(first, Lhs::Rows(read), &self.first.transposed, size);
            for (at, (_, layer)) in self.layers.iter().enumerate() {
                let (before, after) = pass.active.split_at_mut(at + 1);
                let before = &mut before[at][start * layer.n_in..piece.end * layer.n_in];
                for x in before.iter_mut() {
                    // What is not a number must stay so, to be seen.
                    *x = if *x < 0.0 { 0.0 } else { *x };
                }
                let after = &mut after[0][start * layer.n_out..piece.end * layer.n_out];
                let size = [piece.len(), layer.n_in, layer.n_out];
                layer
                    .products
                    .set_product(after, &layer.bias, before, &layer.transposed, size);
            }
        }
        pass.logits = pass.active.pop().unwrap_or_default();
        let rows = pass.logits.chunks_exact_mut(self.n_tasks());
        pass.fm = self.fm.as_ref().map(|fm| fm.forward(inputs));
        for (candidate, row) in rows.enumerate() {
            let wide = if self.has_wide {
                inputs.wide[candidate]
            } else {
                0.0
            };
            let fm = pass.fm.as_ref().map_or(0.0, |fm| fm.logits[candidate]);
            for (logit, prior) in row.iter_mut().zip(inputs.prior) {
                *logit += prior + wide + fm;
            }
        }
    }

    /// What the first layer reads of a candidate, side by side.
    #[inline(always)]
    fn lay(&self, inputs: TowerInputs<'_>, candidate: usize, row: &mut [f32]) {
        let [fields, interest, sequence, content, dense] = self.parts;
        let (of_fields, row) = row.split_at_mut(fields);
        let (of_interest, row) = row.split_at_mut(interest);
        let (of_sequence, row) = row.split_at_mut(sequence);
        let (of_content, of_dense) = row.split_at_mut(content);
        let part = |of: &mut [f32], from: &[f32], width: usize| {
            of.copy_from_slice(&from[candidate * width..(candidate + 1) * width]);
        };
        part(of_fields, inputs.candidate, fields);
        part(of_interest, inputs.interest, interest);
        part(of_sequence, inputs.sequence, sequence);
        part(of_dense, inputs.dense, dense);
        if content > 0 {
            of_content.copy_from_slice(row_of(inputs.contents, inputs.of_candidate[candidate], content));
        }
        if let Some(missing) = &self.missing {
            for (x, missing) in of_dense.iter_mut().zip(missing) {
                // In every transform 0 stands for "nothing known".
                if *x == 0.0 {
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

impl Layer {
    /// From `weight [out, in]`, `bias [out]`.
    fn new(weight: Vec<f32>, bias: Vec<f32>, products: MatmulPrecision) -> Self {
        let n_out = bias.len();
        let n_in = weight.len() / n_out.max(1);
        Self {
            n_in,
            n_out,
            transposed: transpose(&weight, n_out, n_in),
            products,
            weight,
            bias,
        }
    }

    /// The layer applied to rows.
    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let n = x.len() / self.n_in.max(1);
        let mut out = vec![0.0; n * self.n_out];
        let size = [n, self.n_in, self.n_out];
        self.products
            .set_product(&mut out, &self.bias, x, &self.transposed, size);
        out
    }
}

/// Row `at` of a matrix of this width.
#[inline(always)]
fn row_of(values: &[f32], at: i64, width: usize) -> &[f32] {
    let at = usize::try_from(at).unwrap_or(0);
    &values[at * width..(at + 1) * width]
}

/// The passes as things to call, not closures: see [`super::din`].
struct Forward<'a>(&'a Tower, TowerInputs<'a>, &'a mut TowerPass);

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.forward_loops(self.1, self.2);
    }
}
