//! DIN's attention, candidate by candidate: what [`crate::blocks::din`] computes, and its gradients.
//!
//! The first layer's product block, `(q * k) Wp`, is `k (diag(q) Wp)`: with the block of `k` added, one small matrix a
//! candidate, by which the whole history is multiplied once. No pair is ever laid out, and histories are not padded.

use pulp::{Arch, NullaryFnOnce};

use super::kernel::{Left, add, add_product, add_scaled, dot, sigmoid, silu, transpose};

/// The block's weights, each matrix as `[in, out]` and as `[out, in]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Din {
    width: usize,
    first: usize,
    second: usize,
    /// Of the query, of the key, of their product: `[width, first]`.
    query: Vec<f32>,
    key: Vec<f32>,
    product: Vec<f32>,
    first_bias: Vec<f32>,
    /// `[first, second]`
    second_weight: Vec<f32>,
    second_bias: Vec<f32>,
    score: Vec<f32>,
    score_bias: f32,
}

/// What it reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DinInputs<'a> {
    /// Candidates as tokens, `[n_candidates, width]`.
    pub(crate) target: &'a [f32],
    /// Histories as tokens, `[n_requests, len, width]`.
    pub(crate) tokens: &'a [f32],
    /// Entries of each history, `[n_requests]`.
    pub(crate) lens: &'a [usize],
    /// The request of each candidate, `[n_candidates]`.
    pub(crate) request_of: &'a [i64],
    /// Places for entries of a history, count.
    pub(crate) len: usize,
}

/// A forward pass; all but what was read is there for the backward pass alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct DinPass {
    /// What each candidate read, `[n_candidates, width]`.
    pub(crate) read: Vec<f32>,
    /// First layer before its activation, `[pairs, first]`.
    hidden: Vec<f32>,
    /// Second layer before its activation, `[pairs, second]`.
    second: Vec<f32>,
    /// `[pairs]`
    scores: Vec<f32>,
}

/// Gradients, shaped as what they are of; those of weights as the layers' own, `[out, in]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct DinGradients {
    pub(crate) target: Vec<f32>,
    pub(crate) tokens: Vec<f32>,
    /// `[first, 4 width]`
    pub(crate) first_weight: Vec<f32>,
    pub(crate) first_bias: Vec<f32>,
    pub(crate) second_weight: Vec<f32>,
    pub(crate) second_bias: Vec<f32>,
    pub(crate) score_weight: Vec<f32>,
    pub(crate) score_bias: f32,
}

impl Din {
    /// From the layers' weights: `first [first, 4 width]`, `second [second, first]`, `score [1, second]`.
    pub(crate) fn new(
        [first, first_bias]: [&[f32]; 2],
        [second, second_bias]: [&[f32]; 2],
        [score, score_bias]: [&[f32]; 2],
    ) -> Self {
        let (n_first, n_second) = (first_bias.len(), second_bias.len());
        let width = first.len() / n_first.max(1) / 4;
        // [out, 4 width] holds blocks of q, k, q - k and q * k.
        let block = |i: usize, out: usize, at: usize| first[out * 4 * width + at * width + i];
        let turned = |of: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
            (0..width * n_first)
                .map(|at| of(at / n_first, at % n_first))
                .collect()
        };
        Self {
            width,
            first: n_first,
            second: n_second,
            query: turned(&|i, out| block(i, out, 0) + block(i, out, 2)),
            key: turned(&|i, out| block(i, out, 1) - block(i, out, 2)),
            product: turned(&|i, out| block(i, out, 3)),
            first_bias: first_bias.to_vec(),
            second_weight: transpose(second, n_second, n_first),
            second_bias: second_bias.to_vec(),
            score: score.to_vec(),
            score_bias: score_bias.first().copied().unwrap_or(0.0),
        }
    }

    /// What each candidate reads of its history. Where it `goes_back` all of the pass is kept; else one candidate's
    /// stays in the nearest cache and makes room for the next one's.
    pub(crate) fn forward(&self, inputs: DinInputs<'_>, goes_back: bool) -> DinPass {
        let mut pass = DinPass::default();
        Arch::new().dispatch(Forward(self, inputs, goes_back, &mut pass));
        pass
    }

    /// Gradients, `read` being that of what the candidates read.
    pub(crate) fn backward(&self, inputs: DinInputs<'_>, pass: &DinPass, read: &[f32]) -> DinGradients {
        let mut out = DinGradients {
            target: vec![0.0; inputs.target.len()],
            tokens: vec![0.0; inputs.tokens.len()],
            ..DinGradients::default()
        };
        Arch::new().dispatch(Backward(self, inputs, pass, read, &mut out));
        out
    }

    /// `Wk + diag(q) Wp`, `[width, first]`.
    #[inline(always)]
    fn of_candidate(&self, target: &[f32], out: &mut [f32]) {
        let rows = self
            .key
            .chunks_exact(self.first)
            .zip(self.product.chunks_exact(self.first));
        for ((out, (key, product)), q) in out.chunks_exact_mut(self.first).zip(rows).zip(target) {
            for ((out, key), product) in out.iter_mut().zip(key).zip(product) {
                *out = q.mul_add(*product, *key);
            }
        }
    }

    #[inline(always)]
    fn forward_loops(&self, inputs: DinInputs<'_>, goes_back: bool, pass: &mut DinPass) {
        let (width, first, second) = (self.width, self.first, self.second);
        let lens = inputs
            .request_of
            .iter()
            .map(|request| inputs.history(*request, width).1);
        let n_kept = match goes_back {
            true => lens.sum(),
            false => lens.max().unwrap_or(0),
        };
        pass.hidden = vec![0.0; n_kept * first];
        pass.second = vec![0.0; n_kept * second];
        pass.scores = vec![0.0; n_kept];
        let mut pair = 0;
        let mut of_candidate = vec![0.0; width * first];
        let mut of_query = vec![0.0; first];
        let mut active = Vec::new();
        pass.read = vec![0.0; inputs.target.len()];
        let candidates = inputs
            .target
            .chunks_exact(width)
            .zip(pass.read.chunks_exact_mut(width));
        for ((target, read), request) in candidates.zip(inputs.request_of) {
            let (history, n) = inputs.history(*request, width);
            self.of_candidate(target, &mut of_candidate);
            of_query.copy_from_slice(&self.first_bias);
            add_product(&mut of_query, Left::Rows(target), &self.query, [1, width, first]);
            let hidden = &mut pass.hidden[pair * first..(pair + n) * first];
            let last = &mut pass.second[pair * second..(pair + n) * second];
            let scores = &mut pass.scores[pair..pair + n];
            if goes_back {
                pair += n;
            } else {
                hidden.fill(0.0);
                last.fill(0.0);
            }
            add_product(hidden, Left::Rows(history), &of_candidate, [n, width, first]);
            active.resize(n * first, 0.0);
            for (active, hidden) in active.chunks_exact_mut(first).zip(hidden.chunks_exact_mut(first)) {
                add(hidden, &of_query);
                silu(active, hidden);
            }
            add_product(last, Left::Rows(&active), &self.second_weight, [n, first, second]);
            active.resize(n * second, 0.0);
            for (active, last) in active.chunks_exact_mut(second).zip(last.chunks_exact_mut(second)) {
                add(last, &self.second_bias);
                silu(active, last);
            }
            let entries = history.chunks_exact(width).zip(active.chunks_exact(second));
            for ((entry, active), score) in entries.zip(scores) {
                *score = self.score_bias + dot(active, &self.score);
                add_scaled(read, *score, entry);
            }
        }
    }

    #[inline(always)]
    fn backward_loops(&self, inputs: DinInputs<'_>, pass: &DinPass, read: &[f32], out: &mut DinGradients) {
        let (width, first, second) = (self.width, self.first, self.second);
        let [mut query, mut key, mut product] = [(); 3].map(|()| vec![0.0; width * first]);
        let [key_turned, product_turned] = [&self.key, &self.product].map(|of| transpose(of, width, first));
        let query_turned = transpose(&self.query, width, first);
        let second_turned = transpose(&self.second_weight, first, second);
        let [mut turned, mut of_matrix] = [(); 2].map(|()| vec![0.0; width * first]);
        out.first_bias = vec![0.0; first];
        out.second_bias = vec![0.0; second];
        out.score_weight = vec![0.0; second];
        let mut second_weight = vec![0.0; second * first];
        let mut of_query = vec![0.0; first];
        let [mut active, mut slopes, mut of_hidden, mut of_second] = [(); 4].map(|()| Vec::new());
        let mut pair = 0;
        for (candidate, request) in inputs.request_of.iter().enumerate() {
            let at = candidate * width..(candidate + 1) * width;
            let (target, read) = (&inputs.target[at.clone()], &read[at.clone()]);
            let (history, n) = inputs.history(*request, width);
            let start = inputs.start(*request, width);
            let of_history = &mut out.tokens[start..start + n * width];
            let hidden = &pass.hidden[pair * first..(pair + n) * first];
            let last = &pass.second[pair * second..(pair + n) * second];
            let scores = &pass.scores[pair..pair + n];
            pair += n;

            of_second.resize(n * second, 0.0);
            let entries = history
                .chunks_exact(width)
                .zip(of_history.chunks_exact_mut(width));
            let lasts = last.chunks_exact(second).zip(of_second.chunks_exact_mut(second));
            for (((entry, of_entry), (last, of_last)), score) in entries.zip(lasts).zip(scores) {
                let of_score = dot(read, entry);
                add_scaled(of_entry, *score, read);
                out.score_bias += of_score;
                let weights = self.score.iter().zip(out.score_weight.iter_mut());
                for ((of_last, x), (weight, of_weight)) in of_last.iter_mut().zip(last).zip(weights) {
                    let s = sigmoid(*x);
                    *of_weight += of_score * x * s;
                    *of_last = of_score * weight * s * (1.0 - s).mul_add(*x, 1.0);
                }
            }
            for of_last in of_second.chunks_exact(second) {
                for (sum, value) in out.second_bias.iter_mut().zip(of_last) {
                    *sum += value;
                }
            }
            active.resize(n * first, 0.0);
            slopes.resize(n * first, 0.0);
            for ((active, slope), x) in active.iter_mut().zip(&mut slopes).zip(hidden) {
                let s = sigmoid(*x);
                *active = x * s;
                *slope = s * (1.0 - s).mul_add(*x, 1.0);
            }
            // [second, n] x [n, first]
            add_product(
                &mut second_weight,
                Left::Columns(&of_second),
                &active,
                [second, n, first],
            );
            of_hidden.clear();
            of_hidden.resize(n * first, 0.0);
            add_product(
                &mut of_hidden,
                Left::Rows(&of_second),
                &second_turned,
                [n, second, first],
            );
            of_query.fill(0.0);
            for (of, slopes) in of_hidden.chunks_exact_mut(first).zip(slopes.chunks_exact(first)) {
                for ((of, slope), sum) in of.iter_mut().zip(slopes).zip(&mut of_query) {
                    *of *= slope;
                    *sum += *of;
                }
            }
            for (sum, value) in out.first_bias.iter_mut().zip(&of_query) {
                *sum += value;
            }

            // The small matrix: [width, n] x [n, first], then to its parts.
            of_matrix.fill(0.0);
            add_product(
                &mut of_matrix,
                Left::Columns(history),
                &of_hidden,
                [width, n, first],
            );
            let of_target = &mut out.target[at];
            add_product(of_target, Left::Rows(&of_query), &query_turned, [1, first, width]);
            for (i, (of_row, q)) in of_matrix.chunks_exact(first).zip(target).enumerate() {
                let row = i * first..(i + 1) * first;
                of_target[i] += dot(of_row, &self.product[row.clone()]);
                for (((of, key), product), (query, of_query)) in of_row
                    .iter()
                    .zip(&mut key[row.clone()])
                    .zip(&mut product[row.clone()])
                    .zip(query[row].iter_mut().zip(&of_query))
                {
                    *key += of;
                    *product = q.mul_add(*of, *product);
                    *query = q.mul_add(*of_query, *query);
                }
            }
            // The history: [n, first] x [first, width].
            let rows = key_turned
                .chunks_exact(width)
                .zip(product_turned.chunks_exact(width));
            for (out, (key, product)) in turned.chunks_exact_mut(width).zip(rows) {
                for (((out, key), product), q) in out.iter_mut().zip(key).zip(product).zip(target) {
                    *out = q.mul_add(*product, *key);
                }
            }
            add_product(of_history, Left::Rows(&of_hidden), &turned, [n, first, width]);
        }
        out.second_weight = second_weight;
        out.first_weight = (0..first * 4 * width)
            .map(|at| {
                let (row, block, i) = (at / (4 * width), at / width % 4, at % width);
                let from = i * first + row;
                match block {
                    0 => query[from],
                    1 => key[from],
                    2 => query[from] - key[from],
                    _ => product[from],
                }
            })
            .collect();
    }
}

/// The passes as things to call, not closures: a closure is compiled by itself, without the vector instructions that
/// it is called for.
struct Forward<'a>(&'a Din, DinInputs<'a>, bool, &'a mut DinPass);

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.forward_loops(self.1, self.2, self.3);
    }
}

struct Backward<'a>(
    &'a Din,
    DinInputs<'a>,
    &'a DinPass,
    &'a [f32],
    &'a mut DinGradients,
);

impl NullaryFnOnce for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.backward_loops(self.1, self.2, self.3, self.4);
    }
}

impl<'a> DinInputs<'a> {
    fn start(&self, request: i64, width: usize) -> usize {
        usize::try_from(request).unwrap_or(0) * self.len * width
    }

    /// The entries of a request's history, `[n, width]`, and their count.
    fn history(&self, request: i64, width: usize) -> (&'a [f32], usize) {
        let n = usize::try_from(request)
            .ok()
            .and_then(|request| self.lens.get(request))
            .copied()
            .unwrap_or(0);
        let start = self.start(request, width);
        (&self.tokens[start..start + n * width], n)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::blocks::{History, din};
    use crate::groups::{Groups, Layout};
    use crate::normal;
    use crate::params::Params;

    fn made_up(stream: u64, n: usize) -> Vec<f32> {
        (0..n as u64).map(|lane| normal(11, stream, lane)).collect()
    }

    /// Outputs and all gradients are those that libtorch finds by itself, for histories of all lengths.
    #[test]
    fn the_loops_are_the_block_and_its_gradients() {
        for (width, first, second) in [(8, 16, 4), (6, 20, 5), (64, 64, 16)] {
            let (len, lens, request_of) = (7, vec![7, 0, 3, 1], vec![0i64, 0, 0, 1, 2, 2, 3, 0]);
            let n = request_of.len();
            let names = [
                "first.weight",
                "first.bias",
                "second.weight",
                "second.bias",
                "score.weight",
                "score.bias",
            ];
            let shapes = [
                vec![first, 4 * width],
                vec![first],
                vec![second, first],
                vec![second],
                vec![1, second],
                vec![1],
            ];
            let values: Vec<Vec<f32>> = (0..)
                .zip(&shapes)
                .map(|(i, s)| made_up(i, s.iter().product()))
                .collect();
            let (target, mut tokens) = (made_up(20, n * width), made_up(21, 4 * len * width));
            let mut valid = vec![0.0f32; 4 * len];
            for (request, filled) in lens.iter().enumerate() {
                valid[request * len..request * len + filled].fill(1.0);
                tokens[(request * len + filled) * width..(request + 1) * len * width].fill(0.0);
            }
            let direction = made_up(22, n * width);

            let tensor = |values: &[f32], shape: &[usize]| {
                let shape: Vec<i64> = shape.iter().map(|n| i64::try_from(*n).unwrap()).collect();
                Tensor::from_slice(values).reshape(&shape)
            };
            let tracked: Vec<Tensor> = values
                .iter()
                .zip(&shapes)
                .map(|(values, shape)| tensor(values, shape).set_requires_grad(true))
                .collect();
            let params = names
                .iter()
                .zip(&tracked)
                .map(|(name, t)| (format!("sequence.{name}"), t.shallow_clone()));
            let params = Params::new(params, 1.0);
            let q = tensor(&target, &[n, width]).set_requires_grad(true);
            let history = History {
                tokens: tensor(&tokens, &[4, len, width]).set_requires_grad(true),
                valid: tensor(&valid, &[4, len]),
                tasks: Tensor::zeros([4, 7], (Kind::Int64, Device::Cpu)),
                ages: Tensor::zeros([4, 7], (Kind::Float, Device::Cpu)),
            };
            let layout = Layout::new(&Groups::new(&request_of, 4), Device::Cpu).unwrap();
            let read = din::forward(&params, &q, &history, &layout).unwrap();
            let sum = (&read * tensor(&direction, &[n, width])).sum(Kind::Float);
            let mut leaves: Vec<&Tensor> = tracked.iter().collect();
            leaves.extend([&q, &history.tokens]);
            let expected = Tensor::run_backward(&[&sum], &leaves, false, false);

            let part = |i: usize| -> [&[f32]; 2] { [&values[2 * i], &values[2 * i + 1]] };
            let block = Din::new(part(0), part(1), part(2));
            let inputs = DinInputs {
                target: &target,
                tokens: &tokens,
                lens: &lens,
                request_of: &request_of,
                len,
            };
            let pass = block.forward(inputs, true);
            close("read", &pass.read, &read);
            assert!(
                block.forward(inputs, false).read == pass.read,
                "the same bits, kept or not"
            );
            let found = block.backward(inputs, &pass, &direction);
            let score_bias = [found.score_bias];
            let found: [(&str, &[f32]); 8] = [
                ("first.weight", &found.first_weight),
                ("first.bias", &found.first_bias),
                ("second.weight", &found.second_weight),
                ("second.bias", &found.second_bias),
                ("score.weight", &found.score_weight),
                ("score.bias", &score_bias),
                ("target", &found.target),
                ("tokens", &found.tokens),
            ];
            for ((name, found), expected) in found.into_iter().zip(&expected) {
                close(name, found, expected);
            }
        }
    }

    fn close(what: &str, found: &[f32], expected: &Tensor) {
        let expected = Vec::<f32>::try_from(expected.detach().flatten(0, -1)).unwrap();
        assert_eq!(found.len(), expected.len(), "{what}");
        let most = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= 2e-5 * most + 1e-6,
                "{what}: {found} {expected} of {most}"
            );
        }
    }
}
