//! SASRec and BST: what [`crate::blocks::transformer`] computes.
//!
//! Entries of all histories, without padding, and behind them BST's candidates are the rows of one matrix. A row attends to
//! entries of its request, and each layer computes the rows that the next one or the output reads: all of them in every layer
//! but the last, there the newest entries (SASRec) or the candidates (BST).

use std::ops::Range;

use pulp::Arch;

use super::grad_mode::GradMode;
use super::history_inputs::{HistoryInputs, time_bucket};
use super::kernel::{add, index, row, row_mut, runs, vectorized};
use super::layer_norm::{LayerNorm, NormalizedRows};
use super::linear::{Linear, add_named, input_gradients};
use super::weights::{BlockWeights, Learning, NamedGradients};
use crate::config::{ModelConfig, SequenceKind, TOKEN_FIELDS};
use crate::error::Error;

mod attention;
mod layer;
#[cfg(test)]
mod tests;

use attention::Reader;
use layer::{Layer, LayerForward};

/// The block with the weights of one moment, adapters merged.
#[derive(Debug)]
pub(crate) struct Transformer {
    is_bst: bool,
    width: usize,
    token: Linear,
    /// Rows of positions, or of times for BST, `[n, width]`.
    places: Vec<f32>,
    layers: Vec<Layer>,
    norm: LayerNorm,
}

/// A forward pass; all but the output is there for the backward pass alone.
#[derive(Debug, Default)]
pub(crate) struct TransformerForward {
    /// `[n_candidates, out]`
    pub(crate) output: Vec<f32>,
    rows: Rows,
    layers: Vec<LayerForward>,
    /// What the last norm has read, `[n_active, width]`.
    last: NormalizedRows,
    /// SASRec: candidates as tokens of `width`, `[n_candidates, width]`, and states, `[n_active, width]`.
    candidates: Vec<f32>,
    states: Vec<f32>,
}

/// The rows of a batch: entries of all histories, then BST's candidates.
#[derive(Debug, Default)]
struct Rows {
    /// Tokens, `[n, token]`.
    tokens: Vec<f32>,
    /// The row of [`Transformer::places`] that is added to each.
    places: Vec<usize>,
    /// Entries of each request, `[n_requests]`.
    entries: Vec<Range<usize>>,
    /// All rows, then those that the last layer computes.
    every: Readers,
    last: Readers,
    /// SASRec: the place of each candidate's state among the active rows; none without a history.
    state_of: Vec<Option<usize>>,
}

/// Rows that a layer computes.
#[derive(Debug, Default)]
pub(super) struct Readers {
    /// Places among all rows, in order.
    pub(super) active: Vec<usize>,
    pub(super) groups: Vec<Reader>,
}

/// Gradients of a transformer.
#[derive(Debug, Default)]
pub(crate) struct TransformerGradients {
    /// `[n_candidates, width]`
    pub(crate) target: Vec<f32>,
    /// `[n_requests, len, width]`
    pub(crate) tokens: Vec<f32>,
    pub(crate) weights: NamedGradients,
}

impl Transformer {
    /// The block with the weights of this moment.
    pub(crate) fn new(weights: BlockWeights<'_>, config: &ModelConfig) -> Result<Self, Error> {
        // Softmax sharpens what rounding to 8 bits has moved.
        let weights = weights.in_f32();
        let sequence = &config.sequence;
        let is_bst = sequence.kind == SequenceKind::Bst;
        let layers = (0..sequence.layers).map(|index| Layer::new(weights, sequence, index));
        let places = if is_bst {
            "sequence.time"
        } else {
            "sequence.position"
        };
        Ok(Self {
            is_bst,
            width: sequence.width,
            token: weights
                .linear("sequence.token", TOKEN_FIELDS * config.dim)?
                .merged(),
            places: weights.get(places)?.to_vec(),
            layers: layers.collect::<Result<_, _>>()?,
            norm: weights.layer_norm("sequence.norm")?,
        })
    }

    /// Whether an adapter learns through the block's weights.
    fn has_adapter(&self) -> bool {
        self.token.adapter.is_some() || self.layers.iter().any(Layer::has_adapter)
    }

    /// What each candidate reads.
    pub(crate) fn forward(&self, inputs: HistoryInputs<'_>, mode: GradMode) -> TransformerForward {
        let mut pass = TransformerForward {
            rows: self.rows(inputs),
            ..TransformerForward::default()
        };
        Arch::new().dispatch(Forward(self, inputs, &mut pass));
        match mode {
            GradMode::None => TransformerForward {
                output: pass.output,
                ..TransformerForward::default()
            },
            GradMode::Inputs | GradMode::Weights => pass,
        }
    }

    /// Which rows a batch has, and what they attend to.
    fn rows(&self, inputs: HistoryInputs<'_>) -> Rows {
        let token = self.token.n_in;
        let n_places = self.places.len() / self.width;
        let mut rows = Rows::default();
        for (request, n) in inputs.lens.iter().enumerate() {
            let start = rows.places.len();
            let first = request * inputs.len;
            rows.tokens
                .extend_from_slice(&inputs.tokens[first * token..(first + n) * token]);
            let place = |entry: usize| match self.is_bst {
                true => time_bucket(inputs.ages[first + entry]),
                // Counted back from the newest entry.
                false => n - 1 - entry,
            };
            rows.places
                .extend((0..*n).map(|entry| place(entry).min(n_places - 1)));
            rows.entries.push(start..start + n);
            rows.every.push(start..start + n, start..start + n);
        }
        if self.is_bst {
            rows.tokens.extend_from_slice(inputs.target);
            let n_entries = rows.places.len();
            rows.places.resize(n_entries + inputs.request_of.len(), 0);
            for run in runs(inputs.request_of) {
                let past = rows.entries[index(inputs.request_of[run.start])].clone();
                let run = n_entries + run.start..n_entries + run.end;
                rows.every.push(run.clone(), past.clone());
                rows.last.push(run, past);
            }
            return rows;
        }
        let mut states = vec![None; rows.entries.len()];
        for (state, past) in states.iter_mut().zip(&rows.entries) {
            if !past.is_empty() {
                *state = Some(rows.last.active.len());
                rows.last.push(past.end - 1..past.end, past.clone());
            }
        }
        let of_candidates = inputs.request_of.iter();
        rows.state_of = of_candidates.map(|request| states[index(*request)]).collect();
        rows
    }

    #[inline(always)]
    fn run(&self, inputs: HistoryInputs<'_>, pass: &mut TransformerForward) {
        let width = self.width;
        let n = pass.rows.places.len();
        let mut x = vec![0.0; n * width];
        self.token.forward_merged(&pass.rows.tokens, &mut x);
        for (x, place) in x.chunks_exact_mut(width).zip(&pass.rows.places) {
            add(x, row(&self.places, *place, width));
        }
        for (at, layer) in self.layers.iter().enumerate() {
            let (kept, out) = layer.forward(&x, pass.rows.readers(at + 1 == self.layers.len()));
            pass.layers.push(kept);
            x = out;
        }
        pass.last.fill(&x, width);
        let states = pass.last.scaled(&self.norm);
        if self.is_bst {
            pass.output = states;
            return;
        }
        pass.candidates = vec![0.0; inputs.request_of.len() * width];
        self.token.forward_merged(inputs.target, &mut pass.candidates);
        pass.output = vec![0.0; inputs.request_of.len() * 2 * width];
        let outputs = pass.output.chunks_exact_mut(2 * width);
        let candidates = pass.candidates.chunks_exact(width).zip(&pass.rows.state_of);
        for (out, (candidate, state)) in outputs.zip(candidates) {
            let Some(state) = state else { continue };
            let state = row(&states, *state, width);
            let (of_state, products) = out.split_at_mut(width);
            of_state.copy_from_slice(state);
            for ((product, state), candidate) in products.iter_mut().zip(state).zip(candidate) {
                *product = state * candidate;
            }
        }
        pass.states = states;
    }

    /// Gradients from that of the output, `[n_candidates, out]`.
    pub(crate) fn backward(
        &self,
        inputs: HistoryInputs<'_>,
        pass: &TransformerForward,
        gradient: &[f32],
        learning: Learning,
    ) -> TransformerGradients {
        let learns = learning.base || (learning.adapters && self.has_adapter());
        let mut out = TransformerGradients {
            target: vec![0.0; inputs.target.len()],
            tokens: vec![0.0; inputs.tokens.len()],
            weights: NamedGradients::new(),
        };
        Arch::new().dispatch(Backward(
            self,
            inputs,
            pass,
            gradient,
            (learning, learns),
            &mut out,
        ));
        out
    }

    #[inline(always)]
    fn run_back(
        &self,
        inputs: HistoryInputs<'_>,
        pass: &TransformerForward,
        gradient: &[f32],
        (learning, learns): (Learning, bool),
        out: &mut TransformerGradients,
    ) {
        let width = self.width;
        let (of_states, of_candidates) = match self.is_bst {
            true => (gradient.to_vec(), Vec::new()),
            false => self.product_gradients(pass, gradient),
        };
        let mut of_x = vec![0.0; of_states.len()];
        let mut of_norm = self.norm.zeros();
        pass.last
            .backward_scaled(&self.norm, &of_states, &mut of_norm, &mut of_x);
        for (at, (layer, kept)) in self.layers.iter().zip(&pass.layers).enumerate().rev() {
            let readers = pass.rows.readers(at + 1 == self.layers.len());
            let name = format!("sequence.layer{at}");
            of_x = layer.backward(kept, readers, &of_x, (&name, learning, learns), &mut out.weights);
        }
        if learning.base {
            of_norm.add_named("sequence.norm", &mut out.weights);
            let mut of_places = vec![0.0; self.places.len()];
            for (of_x, place) in of_x.chunks_exact(width).zip(&pass.rows.places) {
                add(row_mut(&mut of_places, *place, width), of_x);
            }
            let name = if self.is_bst {
                "sequence.time"
            } else {
                "sequence.position"
            };
            out.weights.push((name.to_owned(), of_places));
        }
        let mut of_tokens = vec![0.0; pass.rows.tokens.len()];
        let mut of_token = input_gradients(&self.token, &pass.rows.tokens, &of_x, learns, &mut of_tokens);
        let token = self.token.n_in;
        for (request, entries) in pass.rows.entries.iter().enumerate() {
            let places = request * inputs.len * token..(request * inputs.len + entries.len()) * token;
            out.tokens[places].copy_from_slice(&of_tokens[entries.start * token..entries.end * token]);
        }
        if self.is_bst {
            let n_entries = pass
                .rows
                .entries
                .iter()
                .map(ExactSizeIterator::len)
                .sum::<usize>();
            out.target.copy_from_slice(&of_tokens[n_entries * token..]);
        } else {
            self.token.input_gradient(&of_candidates, &mut out.target);
            if learns {
                self.token
                    .backward_merged(inputs.target, &of_candidates, &mut of_token);
            }
        }
        add_named(
            [("sequence.token", &self.token, of_token)],
            (learning, learns),
            &mut out.weights,
        );
    }

    /// SASRec: from the output to the states and to the candidates.
    #[inline(always)]
    fn product_gradients(&self, pass: &TransformerForward, gradient: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let width = self.width;
        let mut of_states = vec![0.0; pass.states.len()];
        let mut of_candidates = vec![0.0; pass.candidates.len()];
        for (at, (of, state)) in gradient
            .chunks_exact(2 * width)
            .zip(&pass.rows.state_of)
            .enumerate()
        {
            let Some(place) = state else { continue };
            let (of_state, of_product) = of.split_at(width);
            let (state, candidate) = (row(&pass.states, *place, width), row(&pass.candidates, at, width));
            let out = row_mut(&mut of_states, *place, width).iter_mut();
            for ((out, of), (of_product, candidate)) in
                out.zip(of_state).zip(of_product.iter().zip(candidate))
            {
                *out += of_product.mul_add(*candidate, *of);
            }
            let out = row_mut(&mut of_candidates, at, width).iter_mut();
            for ((out, of), state) in out.zip(of_product).zip(state) {
                *out = of * state;
            }
        }
        (of_states, of_candidates)
    }
}

impl Rows {
    /// The rows that a layer computes.
    fn readers(&self, is_last: bool) -> &Readers {
        if is_last { &self.last } else { &self.every }
    }
}

impl Readers {
    /// Adds consecutive rows that read the entries `past`: entries among them those up to themselves, other rows all of them and
    /// themselves.
    fn push(&mut self, rows: Range<usize>, past: Range<usize>) {
        let start = self.active.len();
        self.groups.push(Reader {
            first: rows.start,
            active: start..start + rows.len(),
            past,
        });
        self.active.extend(rows);
    }
}

vectorized! {
    Forward<'a>(block: &'a Transformer, inputs: HistoryInputs<'a>, pass: &'a mut TransformerForward)
        => block.run(inputs, pass)
}

vectorized! {
    Backward<'a>(
        block: &'a Transformer,
        inputs: HistoryInputs<'a>,
        pass: &'a TransformerForward,
        gradient: &'a [f32],
        learning: (Learning, bool),
        out: &'a mut TransformerGradients,
    ) => block.run_back(inputs, pass, gradient, learning, out)
}
