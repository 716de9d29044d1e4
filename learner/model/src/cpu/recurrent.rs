//! A recurrent scan over histories, forward and backward through time: what [`crate::blocks::recurrent`] computes.
//!
//! All sequences of a batch take a step together, so that the state's gates are one product a step. Sequences are ranked by
//! length: those that are not over at a step come first, and no sequence is padded.

use std::cmp::Reverse;

use pulp::Arch;

use super::activation::sigmoid;
use super::grad_mode::GradMode;
use super::kernel::{add, row, row_mut, vectorized};
use super::linear::{Linear, LinearGradients};

#[cfg(test)]
mod tests;

/// The layer of the state's gates `[r, z, n]`, `U h + c`, with its adapter merged.
#[derive(Debug)]
pub(super) struct Recurrent {
    pub(super) state: Linear,
}

/// The sequences of a scan: several may read the entries of one history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequences<'a> {
    /// Gates of the inputs, `[n_histories, len, 3 width]`.
    pub(super) gates: &'a [f32],
    /// Places for entries of a history, count.
    pub(super) len: usize,
    /// The history of each sequence, `[n_sequences]`.
    pub(super) history_of: &'a [usize],
    /// Entries of each sequence, `[n_sequences]`.
    pub(super) lens: &'a [usize],
    /// Attention to each entry, `[n_sequences, len]`; none for a plain GRU.
    pub(super) attention: Option<&'a [f32]>,
}

/// A forward pass; all but the states is there for the backward pass alone.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The last state of each sequence, `[n_sequences, width]`; 0 without an entry.
    pub(super) last: Vec<f32>,
    /// The state after each entry, `[n_sequences, len, width]`, where it was asked for; 0 in padding.
    pub(super) all: Vec<f32>,
    ranks: Ranks,
    /// Gates `[r, z, n]` of each step, packed by step and rank, `[n_steps, 3 width]`.
    gates: Vec<f32>,
    /// The state's part of the new value, `Uh_n`, and the state before the step, `[n_steps, width]`.
    of_new: Vec<f32>,
    before: Vec<f32>,
}

/// Gradients of a scan, shaped as its inputs.
#[derive(Debug, Default)]
pub(super) struct ScanGradients {
    pub(super) gates: Vec<f32>,
    /// Empty without attention.
    pub(super) attention: Vec<f32>,
    pub(super) state: LinearGradients,
}

/// Sequences in the order of their lengths, the longest first.
#[derive(Debug, Default)]
struct Ranks {
    /// The sequence at each rank.
    sequence: Vec<usize>,
    /// Steps of all sequences before each step, and of all: `[n_steps + 1]`.
    starts: Vec<usize>,
}

impl Ranks {
    fn new(lens: &[usize]) -> Self {
        let mut sequence: Vec<usize> = (0..lens.len()).collect();
        sequence.sort_by_key(|at| Reverse(lens[*at]));
        let mut starts = vec![0];
        let mut active = lens.len();
        for step in 0..lens.iter().copied().max().unwrap_or(0) {
            while active > 0 && lens[sequence[active - 1]] <= step {
                active -= 1;
            }
            starts.push(starts[step] + active);
        }
        Self { sequence, starts }
    }

    fn n_steps(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Sequences that have an entry at this step: those of the first ranks.
    fn active(&self, step: usize) -> usize {
        self.starts[step + 1] - self.starts[step]
    }
}

impl Recurrent {
    fn width(&self) -> usize {
        self.state.n_in
    }

    /// Runs all sequences; `has_all` says whether the state after each entry is asked for.
    pub(super) fn forward(&self, inputs: Sequences<'_>, has_all: bool, mode: GradMode) -> Scan {
        let (width, n) = (self.width(), inputs.lens.len());
        let ranks = Ranks::new(inputs.lens);
        let n_steps = match mode {
            GradMode::None => 0,
            GradMode::Inputs | GradMode::Weights => ranks.starts.last().copied().unwrap_or(0),
        };
        let mut scan = Scan {
            last: vec![0.0; n * width],
            all: vec![0.0; if has_all { n * inputs.len * width } else { 0 }],
            gates: vec![0.0; n_steps * 3 * width],
            of_new: vec![0.0; n_steps * width],
            before: vec![0.0; n_steps * width],
            ranks,
        };
        Arch::new().dispatch(Forward(self, inputs, mode, &mut scan));
        scan
    }

    #[inline(always)]
    fn run(&self, inputs: Sequences<'_>, mode: GradMode, scan: &mut Scan) {
        let width = self.width();
        let n = inputs.lens.len();
        // By rank.
        let mut states = vec![0.0; n * width];
        let mut of_state = vec![0.0; n * 3 * width];
        let mut gates = vec![0.0; 3 * width];
        for step in 0..scan.ranks.n_steps() {
            let active = scan.ranks.active(step);
            let of_state = &mut of_state[..active * 3 * width];
            self.state.forward_merged(&states[..active * width], of_state);
            let sequences = scan.ranks.sequence[..active].iter();
            let rows = states
                .chunks_exact_mut(width)
                .zip(of_state.chunks_exact(3 * width));
            for (rank, (sequence, (state, of_state))) in sequences.zip(rows).enumerate() {
                let place = scan.ranks.starts[step] + rank;
                if mode != GradMode::None {
                    row_mut(&mut scan.before, place, width).copy_from_slice(state);
                    row_mut(&mut scan.of_new, place, width).copy_from_slice(&of_state[2 * width..]);
                }
                let of_input = row(
                    inputs.gates,
                    inputs.history_of[*sequence] * inputs.len + step,
                    3 * width,
                );
                take_gates(&mut gates, of_input, of_state);
                let attention = inputs.attention.map(|of| of[sequence * inputs.len + step]);
                take_step(state, &gates, attention);
                if mode != GradMode::None {
                    row_mut(&mut scan.gates, place, 3 * width).copy_from_slice(&gates);
                }
                if !scan.all.is_empty() {
                    row_mut(&mut scan.all, sequence * inputs.len + step, width).copy_from_slice(state);
                }
            }
        }
        for (sequence, state) in scan.ranks.sequence.iter().zip(states.chunks_exact(width)) {
            row_mut(&mut scan.last, *sequence, width).copy_from_slice(state);
        }
    }

    /// Gradients from those of the last states, `[n_sequences, width]`, and of all states, `[n_sequences, len, width]`; either
    /// may be empty. `learns` says whether those of the layer's weights are computed.
    pub(super) fn backward(
        &self,
        inputs: Sequences<'_>,
        scan: &Scan,
        (last, all): (&[f32], &[f32]),
        learns: bool,
    ) -> ScanGradients {
        let mut out = ScanGradients {
            gates: vec![0.0; inputs.gates.len()],
            attention: vec![0.0; inputs.attention.map_or(0, <[f32]>::len)],
            state: match learns {
                true => LinearGradients::merged(&self.state),
                false => LinearGradients::default(),
            },
        };
        Arch::new().dispatch(Backward(self, inputs, scan, (last, all), &mut out));
        out
    }

    #[inline(always)]
    fn run_back(
        &self,
        inputs: Sequences<'_>,
        scan: &Scan,
        (last, all): (&[f32], &[f32]),
        out: &mut ScanGradients,
    ) {
        let width = self.width();
        // By rank: a gradient of the last state is there from the sequence's last step on.
        let mut of_states = vec![0.0; inputs.lens.len() * width];
        if !last.is_empty() {
            for (sequence, of_state) in scan.ranks.sequence.iter().zip(of_states.chunks_exact_mut(width)) {
                of_state.copy_from_slice(row(last, *sequence, width));
            }
        }
        let mut of_state_gates = vec![0.0; scan.gates.len()];
        let mut of_input = vec![0.0; 3 * width];
        for step in (0..scan.ranks.n_steps()).rev() {
            let (start, active) = (scan.ranks.starts[step], scan.ranks.active(step));
            for rank in 0..active {
                let (place, sequence) = (start + rank, scan.ranks.sequence[rank]);
                let entry = sequence * inputs.len + step;
                let of_state = row_mut(&mut of_states, rank, width);
                if !all.is_empty() {
                    add(of_state, row(all, entry, width));
                }
                let taken = Step {
                    gates: row(&scan.gates, place, 3 * width),
                    of_new: row(&scan.of_new, place, width),
                    before: row(&scan.before, place, width),
                    attention: inputs.attention.map(|of| of[entry]),
                };
                let of_gates = row_mut(&mut of_state_gates, place, 3 * width);
                let of_attention = taken.backward(of_state, &mut of_input, of_gates);
                if let Some(out) = out.attention.get_mut(entry) {
                    *out = of_attention;
                }
                let history = inputs.history_of[sequence] * inputs.len + step;
                add(row_mut(&mut out.gates, history, 3 * width), &of_input);
            }
            let of_gates = &of_state_gates[start * 3 * width..(start + active) * 3 * width];
            self.state
                .input_gradient(of_gates, &mut of_states[..active * width]);
        }
        self.state
            .backward_merged(&scan.before, &of_state_gates, &mut out.state);
    }
}

/// Writes the gates `[r, z, n]` from the parts of input and state, `[3 width]` each.
#[inline(always)]
fn take_gates(gates: &mut [f32], of_input: &[f32], of_state: &[f32]) {
    let width = gates.len() / 3;
    let (sigmoids, new) = gates.split_at_mut(2 * width);
    for ((gate, input), state) in sigmoids.iter_mut().zip(of_input).zip(of_state) {
        *gate = sigmoid(input + state);
    }
    let parts = of_input[2 * width..].iter().zip(&of_state[2 * width..]);
    for ((new, (input, state)), reset) in new.iter_mut().zip(parts).zip(&*sigmoids) {
        *new = tanh(reset.mul_add(*state, *input));
    }
}

/// Replaces a state by the next one.
#[inline(always)]
fn take_step(state: &mut [f32], gates: &[f32], attention: Option<f32>) {
    let width = state.len();
    let (update, new) = (&gates[width..2 * width], &gates[2 * width..]);
    for ((state, update), new) in state.iter_mut().zip(update).zip(new) {
        // The share of the new value.
        let share = match attention {
            None => 1.0 - update,
            Some(attention) => attention * update,
        };
        *state = share.mul_add(new - *state, *state);
    }
}

/// `tanh(x)`, within a few units of the last place of 1.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    2.0f32.mul_add(sigmoid(2.0 * x), -1.0)
}

/// A step as the forward pass kept it.
struct Step<'a> {
    gates: &'a [f32],
    of_new: &'a [f32],
    before: &'a [f32],
    attention: Option<f32>,
}

impl Step<'_> {
    /// Replaces the gradient of the state after the step by that of the state before, without its way through the layer. Writes
    /// the gradients of the gates' parts of input and state, `[3 width]` each, and returns that of the attention.
    #[inline(always)]
    fn backward(&self, of_state: &mut [f32], of_input: &mut [f32], of_gates: &mut [f32]) -> f32 {
        let width = of_state.len();
        let mut of_attention = 0.0;
        for (at, of_state) in of_state.iter_mut().enumerate() {
            let (reset, update, new) = (self.gates[at], self.gates[width + at], self.gates[2 * width + at]);
            let of_share = *of_state * (new - self.before[at]);
            let (share, of_update) = match self.attention {
                None => (1.0 - update, -of_share),
                Some(attention) => {
                    of_attention += of_share * update;
                    (attention * update, of_share * attention)
                }
            };
            let of_new = *of_state * share * (1.0 - new * new);
            let of_reset = of_new * self.of_new[at] * reset * (1.0 - reset);
            let of_update = of_update * update * (1.0 - update);
            *of_state *= 1.0 - share;
            (of_input[at], of_gates[at]) = (of_reset, of_reset);
            (of_input[width + at], of_gates[width + at]) = (of_update, of_update);
            (of_input[2 * width + at], of_gates[2 * width + at]) = (of_new, of_new * reset);
        }
        of_attention
    }
}

vectorized! {
    Forward<'a>(block: &'a Recurrent, inputs: Sequences<'a>, mode: GradMode, scan: &'a mut Scan)
        => block.run(inputs, mode, scan)
}

vectorized! {
    Backward<'a>(
        block: &'a Recurrent,
        inputs: Sequences<'a>,
        scan: &'a Scan,
        gradients: (&'a [f32], &'a [f32]),
        out: &'a mut ScanGradients,
    ) => block.run_back(inputs, scan, gradients, out)
}
