//! From the last shared layer to one logit a task: a linear layer, towers over a shared bottom, or gated experts.
//!
//! What [`crate::blocks::head`] computes. With experts `f_k` and gates `g_t = softmax(W_t x)`, a task's tower reads
//! `sum_k g_tk f_k(x)` (Ma et al. 2018, eq. 5 to 7).

use super::activation::silu_with_slope;
use super::kernel::{add_scaled, dot};
use super::linear::{Linear, LinearGradients};
use super::softmax::{softmax, softmax_backward};
use super::weights::{BlockWeights, Learning, NamedGradients};
use crate::config::{HeadKind, ModelConfig};
use crate::error::Error;

/// The layers behind the last shared one, with their names.
#[derive(Debug)]
pub(super) struct Head {
    n_tasks: usize,
    /// One layer for all tasks; none with towers.
    single: Option<(String, Linear)>,
    experts: Vec<(String, Linear)>,
    /// One a task, or one for all; none without experts.
    gates: Vec<(String, Linear)>,
    /// One a task, each with its output layer.
    towers: Vec<(String, Linear)>,
    outs: Vec<(String, Linear)>,
}

/// The activations of a forward pass; empty for a single layer.
#[derive(Debug, Default)]
pub(super) struct HeadForward {
    experts: Vec<Activations>,
    /// Shares of the experts, `[n, n_experts]`, by gate.
    gates: Vec<Vec<f32>>,
    /// Mixed experts, `[n, expert]`, by gate.
    mixed: Vec<Vec<f32>>,
    towers: Vec<Activations>,
}

/// The outputs of a layer behind SiLU, and the slopes of SiLU.
#[derive(Debug)]
struct Activations {
    output: Vec<f32>,
    slopes: Vec<f32>,
}

/// Gradients of the layers of [`Head`], by the same fields.
#[derive(Debug, Default)]
pub(super) struct HeadGradients {
    single: Option<LinearGradients>,
    experts: Vec<LinearGradients>,
    gates: Vec<LinearGradients>,
    towers: Vec<LinearGradients>,
    outs: Vec<LinearGradients>,
}

impl Head {
    pub(super) fn new(weights: BlockWeights<'_>, config: &ModelConfig) -> Result<Self, Error> {
        let (head, n_tasks) = (&config.head, config.n_tasks());
        let shared = config.hidden.last().copied().unwrap_or(1);
        let layers = |name: &str, n: usize, n_in: usize| -> Result<Vec<_>, Error> {
            let names = (0..n).map(|at| format!("head.{name}{at}"));
            names
                .map(|name| weights.linear(&name, n_in).map(|layer| (name, layer)))
                .collect()
        };
        let named = |name: String| weights.linear(&name, shared).map(|layer| (name, layer));
        let (n_experts, n_towers) = match head.kind {
            HeadKind::Single => (0, 0),
            HeadKind::SharedBottom => (0, n_tasks),
            HeadKind::Omoe | HeadKind::Mmoe => (head.experts, n_tasks),
        };
        let single = match head.kind {
            HeadKind::Single => Some(named("out".to_owned())?),
            HeadKind::SharedBottom | HeadKind::Omoe | HeadKind::Mmoe => None,
        };
        let tower_in = if n_experts > 0 { head.expert_width } else { shared };
        Ok(Self {
            n_tasks,
            single,
            experts: layers("expert", n_experts, shared)?,
            gates: head
                .gates(n_tasks)
                .into_iter()
                .map(named)
                .collect::<Result<_, _>>()?,
            towers: layers("tower", n_towers, tower_in)?,
            outs: layers("out", n_towers, head.tower_width)?,
        })
    }

    /// The gate of a task; without gates no place that exists.
    #[inline(always)]
    fn gate_of(&self, task: usize) -> usize {
        task.min(self.gates.len().saturating_sub(1))
    }

    /// Writes the logits of rows `x [n, width]` to `logits [n, n_tasks]`.
    #[inline(always)]
    pub(super) fn forward(&self, x: &[f32], logits: &mut [f32]) -> HeadForward {
        let mut pass = HeadForward::default();
        if let Some((_, layer)) = &self.single {
            layer.forward_to(x, logits);
            return pass;
        }
        pass.experts = self
            .experts
            .iter()
            .map(|(_, expert)| activate(expert, x))
            .collect();
        for (task, ((_, tower), (_, out))) in self.towers.iter().zip(&self.outs).enumerate() {
            let at = self.gate_of(task);
            if let (Some((_, gate)), None) = (self.gates.get(at), pass.gates.get(at)) {
                let mut shares = gate.forward(x);
                for shares in shares.chunks_exact_mut(gate.n_out.max(1)) {
                    softmax(shares);
                }
                pass.mixed.push(pass.mix(&shares, tower.n_in));
                pass.gates.push(shares);
            }
            let read = pass.mixed.get(at).map_or(x, Vec::as_slice);
            let hidden = activate(tower, read);
            let column = out.forward(&hidden.output);
            for (row, logit) in logits.chunks_exact_mut(self.n_tasks).zip(column) {
                row[task] = logit;
            }
            pass.towers.push(hidden);
        }
        pass
    }

    /// Adds the gradients of the layers and of the rows `x`, from the `gradient` of the logits, `[n, n_tasks]`.
    #[inline(always)]
    pub(super) fn backward(
        &self,
        x: &[f32],
        pass: &HeadForward,
        gradient: &[f32],
        layers: &mut HeadGradients,
        of_x: &mut [f32],
    ) {
        if let (Some((_, layer)), Some(of_layer)) = (&self.single, &mut layers.single) {
            layer.backward(x, gradient, of_layer, Some(of_x));
            return;
        }
        let mut of_experts: Vec<Vec<f32>> = pass
            .experts
            .iter()
            .map(|expert| vec![0.0; expert.output.len()])
            .collect();
        for (task, hidden) in pass.towers.iter().enumerate() {
            let ((_, tower), (_, out)) = (&self.towers[task], &self.outs[task]);
            let column: Vec<f32> = gradient.chunks_exact(self.n_tasks).map(|row| row[task]).collect();
            let mut of_hidden = vec![0.0; hidden.output.len()];
            out.backward(
                &hidden.output,
                &column,
                &mut layers.outs[task],
                Some(&mut of_hidden),
            );
            multiply(&mut of_hidden, &hidden.slopes);
            let at = self.gate_of(task);
            let Some((_, gate)) = self.gates.get(at) else {
                tower.backward(x, &of_hidden, &mut layers.towers[task], Some(of_x));
                continue;
            };
            let mixed = &pass.mixed[at];
            let mut of_mixed = vec![0.0; mixed.len()];
            tower.backward(mixed, &of_hidden, &mut layers.towers[task], Some(&mut of_mixed));
            let of_gate = pass.unmix(at, &of_mixed, tower.n_in, &mut of_experts);
            gate.backward(x, &of_gate, &mut layers.gates[at], Some(of_x));
        }
        for (at, (_, expert)) in self.experts.iter().enumerate() {
            multiply(&mut of_experts[at], &pass.experts[at].slopes);
            expert.backward(x, &of_experts[at], &mut layers.experts[at], Some(of_x));
        }
    }

    /// Gradients of 0 for the weights that learn.
    pub(super) fn zeros(&self, learning: Learning) -> HeadGradients {
        let zeros = |(_, layer): &(String, Linear)| LinearGradients::new(layer, learning.with_base());
        let all = |layers: &[(String, Linear)]| layers.iter().map(zeros).collect();
        HeadGradients {
            single: self.single.as_ref().map(zeros),
            experts: all(&self.experts),
            gates: all(&self.gates),
            towers: all(&self.towers),
            outs: all(&self.outs),
        }
    }

    /// Adds the gradients under the names of their weights.
    pub(super) fn add_named(&self, gradients: HeadGradients, out: &mut NamedGradients) {
        let layers = [&self.experts, &self.gates, &self.towers, &self.outs];
        let names = self.single.iter().chain(layers.into_iter().flatten());
        let HeadGradients {
            single,
            experts,
            gates,
            towers,
            outs,
        } = gradients;
        let gradients = single
            .into_iter()
            .chain(experts)
            .chain(gates)
            .chain(towers)
            .chain(outs);
        for ((name, _), gradient) in names.zip(gradients) {
            gradient.add_named(name, out);
        }
    }
}

impl HeadForward {
    /// The experts' outputs summed by their shares, `[n, width]`.
    #[inline(always)]
    fn mix(&self, shares: &[f32], width: usize) -> Vec<f32> {
        let n_experts = self.experts.len().max(1);
        let mut mixed = vec![0.0; shares.len() / n_experts * width];
        for (row, (mixed, shares)) in mixed
            .chunks_exact_mut(width)
            .zip(shares.chunks_exact(n_experts))
            .enumerate()
        {
            for (expert, share) in self.experts.iter().zip(shares) {
                add_scaled(mixed, *share, &expert.output[row * width..(row + 1) * width]);
            }
        }
        mixed
    }

    /// Adds the gradients of the experts' outputs. Returns that of the gate's scores, `[n, n_experts]`.
    #[inline(always)]
    fn unmix(&self, gate: usize, of_mixed: &[f32], width: usize, of_experts: &mut [Vec<f32>]) -> Vec<f32> {
        let n_experts = self.experts.len().max(1);
        let shares = &self.gates[gate];
        let mut of_gate = vec![0.0; shares.len()];
        for (row, of_mixed) in of_mixed.chunks_exact(width).enumerate() {
            let places = row * width..(row + 1) * width;
            let shares = &shares[row * n_experts..(row + 1) * n_experts];
            let of_gate = &mut of_gate[row * n_experts..(row + 1) * n_experts];
            for (at, expert) in self.experts.iter().enumerate() {
                of_gate[at] = dot(of_mixed, &expert.output[places.clone()]);
                add_scaled(&mut of_experts[at][places.clone()], shares[at], of_mixed);
            }
            let mean = dot(of_gate, shares);
            softmax_backward(of_gate, shares, mean);
        }
        of_gate
    }
}

/// `silu(layer(x))`
#[inline(always)]
fn activate(layer: &Linear, x: &[f32]) -> Activations {
    let mut slopes = layer.forward(x);
    let mut output = vec![0.0; slopes.len()];
    silu_with_slope(&mut output, &mut slopes);
    Activations { output, slopes }
}

#[inline(always)]
fn multiply(x: &mut [f32], by: &[f32]) {
    for (x, by) in x.iter_mut().zip(by) {
        *x *= by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::head;
    use crate::config::{HeadConfig, LoraConfig};
    use crate::cpu::testing::{Case, Tolerance};

    #[test]
    fn every_head_is_the_block_and_its_gradients() {
        for kind in [
            HeadKind::Single,
            HeadKind::SharedBottom,
            HeadKind::Omoe,
            HeadKind::Mmoe,
        ] {
            for tasks in [1, 3] {
                for on in [
                    &[][..],
                    &[
                        "out",
                        "head.tower0",
                        "head.out0",
                        "head.gate",
                        "head.gate0",
                        "head.expert1",
                    ],
                ] {
                    check(kind, tasks, on);
                }
            }
        }
    }

    #[track_caller]
    fn check(kind: HeadKind, n_tasks: usize, on: &[&str]) {
        let config = ModelConfig {
            hidden: vec![7],
            tasks: (0..n_tasks).map(|task| format!("task{task}")).collect(),
            head: HeadConfig {
                kind,
                experts: 3,
                expert_width: 9,
                tower_width: 5,
            },
            lora: LoraConfig {
                rank: 2,
                alpha: 3.0,
                layers: on.iter().map(|layer| (*layer).to_owned()).collect(),
            },
            ..ModelConfig::default()
        };
        let names = |name: &str| name.starts_with("head.") || name.starts_with("out.");
        let case = Case::of_model(&config, names).input("x", &[11, 7]);
        let x = case.values("x");
        let expected = head::forward(case.params(), &config.head, n_tasks, case.tensor("x")).unwrap();
        let block = Head::new(BlockWeights::new(&case, &config), &config).unwrap();
        let mut logits = vec![0.0; 11 * n_tasks];
        let pass = block.forward(x, &mut logits);
        let mut layers = block.zeros(Learning {
            contents: false,
            base: true,
            adapters: true,
        });
        let mut of_x = vec![0.0; x.len()];
        let direction = case.direction(&expected);
        block.backward(x, &pass, &direction, &mut layers, &mut of_x);
        let mut gradients = vec![("x".to_owned(), of_x)];
        block.add_named(layers, &mut gradients);
        case.check(&expected, &logits, &gradients, Tolerance::F32);
    }
}
