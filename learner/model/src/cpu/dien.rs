//! A GRU over the history, and DIEN's second scan for each candidate: what [`crate::blocks::dien`] computes.

use pulp::Arch;

use super::gemm::{Lhs, add_product, set_product};
use super::grad_mode::GradMode;
use super::history_inputs::HistoryInputs;
use super::kernel::{add, dot, index, row, row_mut, runs, transpose, vectorized};
use super::layer_norm::NormalizedRows;
use super::linear::{Linear, add_named, input_gradients};
use super::recurrent::{Recurrent, Scan, Sequences};
use super::softmax::{softmax, softmax_backward};
use super::weights::{BlockWeights, Learning, NamedGradients};
use crate::config::{ModelConfig, SequenceKind, TOKEN_FIELDS};
use crate::error::Error;

mod next_entry;
#[cfg(test)]
mod tests;

use next_entry::NextEntryGradients;
pub(crate) use next_entry::NextEntryLoss;

/// The block with the weights of one moment, adapters merged.
#[derive(Debug)]
pub(crate) struct Dien {
    width: usize,
    extract: Gru,
    /// None for a GRU alone.
    evolve: Option<Evolve>,
}

/// A recurrent layer with the layer of its inputs' gates.
#[derive(Debug)]
struct Gru {
    input: Linear,
    recurrent: Recurrent,
}

/// Attention of a candidate to the extracted states, and the scan that follows it.
#[derive(Debug)]
struct Evolve {
    attention: Linear,
    gru: Gru,
}

/// A forward pass; all but the output is there for the backward pass alone.
#[derive(Debug, Default)]
pub(crate) struct DienForward {
    /// `[n_candidates, width]`
    pub(crate) output: Vec<f32>,
    /// Candidates, `[n_candidates, token]`, and entries, `[n_requests, len, token]`, normalised.
    target: NormalizedRows,
    tokens: NormalizedRows,
    /// Gates of the extracting scan's inputs, `[n_requests, len, 3 width]`, and the scan.
    gates: Vec<f32>,
    extracted: Scan,
    evolved: Evolved,
}

/// The second scan of a forward pass; empty for a GRU alone.
#[derive(Debug, Default)]
struct Evolved {
    /// Candidates as the attention reads them, `[n_candidates, width]`.
    query: Vec<f32>,
    /// Attention to each entry, `[n_candidates, len]`; 0 in padding.
    attention: Vec<f32>,
    /// Gates of the inputs, `[n_requests, len, 3 width]`.
    gates: Vec<f32>,
    /// History and length of each candidate's sequence.
    history_of: Vec<usize>,
    lens: Vec<usize>,
    scan: Scan,
}

/// Gradients, each shaped as its input or weight.
#[derive(Debug, Default)]
pub(crate) struct DienGradients {
    pub(crate) target: Vec<f32>,
    pub(crate) tokens: Vec<f32>,
    pub(crate) weights: NamedGradients,
}

impl Gru {
    fn new(weights: BlockWeights<'_>, name: &str, n_in: usize, width: usize) -> Result<Self, Error> {
        Ok(Self {
            input: weights.linear(&format!("{name}.input"), n_in)?.merged(),
            recurrent: Recurrent {
                state: weights.linear(&format!("{name}.state"), width)?.merged(),
            },
        })
    }

    fn has_adapter(&self) -> bool {
        self.input.adapter.is_some() || self.recurrent.state.adapter.is_some()
    }

    /// The gates of rows, `[n, 3 width]`.
    fn gates(&self, rows: &[f32]) -> Vec<f32> {
        let mut gates = vec![0.0; rows.len() / self.input.n_in.max(1) * self.input.n_out];
        self.input.forward_merged(rows, &mut gates);
        gates
    }
}

impl Dien {
    /// The block with the weights of this moment.
    pub(crate) fn new(weights: BlockWeights<'_>, config: &ModelConfig) -> Result<Self, Error> {
        let (token, width) = (TOKEN_FIELDS * config.dim, config.sequence.width);
        // A state is fed back at every step: rounding to 8 bits would add up.
        let weights = weights.in_f32();
        Ok(Self {
            width,
            extract: Gru::new(weights, "sequence.extract", token, width)?,
            evolve: match config.sequence.kind {
                SequenceKind::Dien => Some(Evolve {
                    attention: weights.linear("sequence.attention", token)?.merged(),
                    gru: Gru::new(weights, "sequence.evolve", width, width)?,
                }),
                _ => None,
            },
        })
    }

    /// Whether an adapter learns through the block's weights.
    fn has_adapter(&self) -> bool {
        let evolves = self
            .evolve
            .as_ref()
            .is_some_and(|evolve| evolve.attention.adapter.is_some() || evolve.gru.has_adapter());
        evolves || self.extract.has_adapter()
    }

    /// The output of each candidate.
    pub(crate) fn forward(&self, inputs: HistoryInputs<'_>, mode: GradMode) -> DienForward {
        let (mut target, mut tokens) = (NormalizedRows::default(), NormalizedRows::default());
        Arch::new().dispatch(Normalize(
            inputs,
            self.extract.input.n_in,
            &mut target,
            &mut tokens,
        ));
        let gates = self.extract.gates(&tokens.rows);
        let requests: Vec<usize> = (0..inputs.lens.len()).collect();
        let sequences = Sequences {
            gates: &gates,
            len: inputs.len,
            history_of: &requests,
            lens: inputs.lens,
            attention: None,
        };
        let extracted = self
            .extract
            .recurrent
            .forward(sequences, self.evolve.is_some(), mode);
        let mut pass = DienForward {
            output: Vec::new(),
            target,
            tokens,
            evolved: Evolved::default(),
            gates,
            extracted,
        };
        match &self.evolve {
            Some(evolve) => {
                pass.evolved = evolve.forward(inputs, &pass, mode);
                pass.output = std::mem::take(&mut pass.evolved.scan.last);
            }
            None => {
                let of_request = |request: &i64| row(&pass.extracted.last, index(*request), self.width);
                pass.output = inputs.request_of.iter().flat_map(of_request).copied().collect();
            }
        }
        pass
    }

    /// Gradients from that of the output, `[n_candidates, width]`, and of the auxiliary loss, if there is one.
    pub(crate) fn backward(
        &self,
        inputs: HistoryInputs<'_>,
        pass: &DienForward,
        (gradient, next_entry): (&[f32], Option<NextEntryLoss<'_>>),
        learning: Learning,
    ) -> DienGradients {
        let learns = learning.base || (learning.adapters && self.has_adapter());
        let mut out = DienGradients {
            target: vec![0.0; inputs.target.len()],
            tokens: vec![0.0; inputs.tokens.len()],
            weights: NamedGradients::new(),
        };
        let (mut of_last, mut of_all) = (Vec::new(), Vec::new());
        match &self.evolve {
            Some(evolve) => {
                let next = next_entry.map(|loss| loss.backward(&evolve.attention, inputs, pass));
                let next = next.unwrap_or_else(|| NextEntryGradients::zeros(pass));
                of_all = evolve.backward(inputs, pass, (gradient, next), (learning, learns), &mut out);
            }
            None => {
                of_last = vec![0.0; inputs.lens.len() * self.width];
                for (request, gradient) in inputs.request_of.iter().zip(gradient.chunks_exact(self.width)) {
                    add(row_mut(&mut of_last, index(*request), self.width), gradient);
                }
            }
        }
        let requests: Vec<usize> = (0..inputs.lens.len()).collect();
        let sequences = Sequences {
            gates: &pass.gates,
            len: inputs.len,
            history_of: &requests,
            lens: inputs.lens,
            attention: None,
        };
        let scan = self
            .extract
            .recurrent
            .backward(sequences, &pass.extracted, (&of_last, &of_all), learns);
        let of_input = input_gradients(
            &self.extract.input,
            &pass.tokens.rows,
            &scan.gates,
            learns,
            &mut out.tokens,
        );
        Arch::new().dispatch(NormalizeBack(pass, self.extract.input.n_in, &mut out));
        add_named(
            [
                ("sequence.extract.input", &self.extract.input, of_input),
                (
                    "sequence.extract.state",
                    &self.extract.recurrent.state,
                    scan.state,
                ),
            ],
            (learning, learns),
            &mut out.weights,
        );
        out
    }
}

impl Evolve {
    /// Scans the extracted states once for each candidate.
    fn forward(&self, inputs: HistoryInputs<'_>, pass: &DienForward, mode: GradMode) -> Evolved {
        let states = &pass.extracted.all;
        let mut query = vec![0.0; inputs.request_of.len() * self.attention.n_out];
        self.attention.forward_merged(&pass.target.rows, &mut query);
        let mut out = Evolved {
            attention: vec![0.0; inputs.request_of.len() * inputs.len],
            gates: self.gru.gates(states),
            history_of: inputs.request_of.iter().map(|request| index(*request)).collect(),
            query,
            ..Evolved::default()
        };
        out.lens = out.history_of.iter().map(|at| inputs.lens[*at]).collect();
        Arch::new().dispatch(Attend(self, inputs, states, &mut out));
        out.scan = self.gru.recurrent.forward(out.sequences(inputs.len), false, mode);
        out
    }

    /// Attention of each candidate to the states of its request.
    #[inline(always)]
    fn attend(&self, inputs: HistoryInputs<'_>, states: &[f32], out: &mut Evolved) {
        let width = self.attention.n_out;
        let mut scores = Vec::new();
        for run in runs(inputs.request_of) {
            let places = inputs.places(inputs.request_of[run.start], width);
            let n = places.len() / width;
            if n == 0 {
                continue;
            }
            let keys = transpose(&states[places], n, width);
            scores.resize(run.len() * n, 0.0);
            let query = &out.query[run.start * width..run.end * width];
            set_product(&mut scores, &vec![0.0; n], query, &keys, [run.len(), width, n]);
            for (candidate, scores) in run.zip(scores.chunks_exact_mut(n)) {
                softmax(scores);
                row_mut(&mut out.attention, candidate, inputs.len)[..n].copy_from_slice(scores);
            }
        }
    }

    /// Adds the gradients of candidates and weights; returns that of the extracted states, `[n_requests, len, width]`.
    fn backward(
        &self,
        inputs: HistoryInputs<'_>,
        pass: &DienForward,
        (gradient, next): (&[f32], NextEntryGradients),
        (learning, learns): (Learning, bool),
        out: &mut DienGradients,
    ) -> Vec<f32> {
        let (evolved, states) = (&pass.evolved, &pass.extracted.all);
        let sequences = evolved.sequences(inputs.len);
        let recurrent = &self.gru.recurrent;
        let mut scan = recurrent.backward(sequences, &evolved.scan, (gradient, &[]), learns);
        let NextEntryGradients {
            states: mut of_states,
            candidates: mut of_query,
            entries,
        } = next;
        let of_attention = &mut scan.attention;
        Arch::new().dispatch(AttendBack(
            inputs,
            pass,
            of_attention,
            (&mut of_states, &mut of_query),
        ));
        let attention = &self.attention;
        let mut of_attention =
            input_gradients(attention, &pass.target.rows, &of_query, learns, &mut out.target);
        if !entries.is_empty() {
            attention.input_gradient(&entries, &mut out.tokens);
            if learns {
                attention.backward_merged(&pass.tokens.rows, &entries, &mut of_attention);
            }
        }
        let of_input = input_gradients(&self.gru.input, states, &scan.gates, learns, &mut of_states);
        add_named(
            [
                ("sequence.attention", &self.attention, of_attention),
                ("sequence.evolve.input", &self.gru.input, of_input),
                ("sequence.evolve.state", &recurrent.state, scan.state),
            ],
            (learning, learns),
            &mut out.weights,
        );
        of_states
    }
}

/// From the gradient of the attention, `[n_candidates, len]`, which is overwritten, to states and queries.
#[inline(always)]
fn attend_back(
    inputs: HistoryInputs<'_>,
    pass: &DienForward,
    of_attention: &mut [f32],
    (of_states, of_query): (&mut [f32], &mut [f32]),
) {
    let evolved = &pass.evolved;
    let width = evolved.query.len() / inputs.request_of.len().max(1);
    let mut of_scores = Vec::new();
    for run in runs(inputs.request_of) {
        let places = inputs.places(inputs.request_of[run.start], width);
        let n = places.len() / width.max(1);
        if n == 0 {
            continue;
        }
        of_scores.clear();
        for candidate in run.clone() {
            let shares = &row(&evolved.attention, candidate, inputs.len)[..n];
            let gradient = &mut row_mut(of_attention, candidate, inputs.len)[..n];
            softmax_backward(gradient, shares, dot(gradient, shares));
            of_scores.extend_from_slice(gradient);
        }
        let query = run.start * width..run.end * width;
        add_product(
            &mut of_query[query.clone()],
            Lhs::Matrix(&of_scores),
            &pass.extracted.all[places.clone()],
            [run.len(), n, width],
        );
        add_product(
            &mut of_states[places],
            Lhs::Transposed(&of_scores),
            &evolved.query[query],
            [n, run.len(), width],
        );
    }
}

impl Evolved {
    fn sequences(&self, len: usize) -> Sequences<'_> {
        Sequences {
            gates: &self.gates,
            len,
            history_of: &self.history_of,
            lens: &self.lens,
            attention: Some(&self.attention),
        }
    }
}

vectorized! {
    Attend<'a>(block: &'a Evolve, inputs: HistoryInputs<'a>, states: &'a [f32], out: &'a mut Evolved)
        => block.attend(inputs, states, out)
}

vectorized! {
    AttendBack<'a>(
        inputs: HistoryInputs<'a>,
        pass: &'a DienForward,
        of_attention: &'a mut [f32],
        out: (&'a mut [f32], &'a mut [f32]),
    ) => attend_back(inputs, pass, of_attention, out)
}

vectorized! {
    Normalize<'a>(
        inputs: HistoryInputs<'a>,
        token: usize,
        target: &'a mut NormalizedRows,
        tokens: &'a mut NormalizedRows,
    ) => {
        target.fill(inputs.target, token);
        tokens.fill(inputs.tokens, token);
    }
}

vectorized! {
    NormalizeBack<'a>(pass: &'a DienForward, token: usize, out: &'a mut DienGradients) => {
        pass.target.backward(&mut out.target, token);
        pass.tokens.backward(&mut out.tokens, token);
    }
}
