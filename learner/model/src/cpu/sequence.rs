//! The sequence block of a batch: DIN or HSTU forward and backward over the batch's embedding rows.

use std::sync::Arc;

use super::din::{Din, DinGradients, DinInputs, DinPass};
use super::grad_mode::GradMode;
use super::hstu::{Entries, Hstu, HstuInputs, HstuPass, Slates};
use crate::config::{ModelConfig, SequenceKind};
use crate::error::Error;
use crate::host_slice::to_vec;
use crate::inputs::Inputs;
use crate::params::Params;

/// A sequence block with the weights of one step.
#[derive(Debug)]
pub(crate) enum CpuSequenceBlock {
    /// See [`crate::blocks::din`].
    Din(Din),
    /// See [`crate::blocks::hstu`].
    Hstu(Box<Hstu>),
}

/// A forward pass of the sequence block.
#[derive(Debug)]
pub(crate) struct SequencePass {
    block: Arc<CpuSequenceBlock>,
    kept: BlockPass,
    /// Candidates as tokens, `[n_candidates, token]`.
    target: Vec<f32>,
}

/// What a block keeps for its backward pass.
#[derive(Debug)]
enum BlockPass {
    Din {
        pass: DinPass,
        tokens: Vec<f32>,
        lens: Vec<usize>,
    },
    Hstu {
        pass: Box<HstuPass>,
        entries: Entries,
        slates: Slates,
    },
}

impl CpuSequenceBlock {
    /// Prepares the block from its weights.
    pub(crate) fn new(params: &Params, config: &ModelConfig) -> Result<Self, Error> {
        if config.sequence.kind == SequenceKind::Hstu {
            let block = Hstu::new(params, &config.sequence, config.dim)?;
            return Ok(Self::Hstu(Box::new(block)));
        }
        let mut layers = Vec::new();
        for layer in ["sequence.first", "sequence.second", "sequence.score"] {
            let get = |part: &str| to_vec(params.get(&format!("{layer}.{part}"))?).map_err(Error::from);
            layers.push([get("weight")?, get("bias")?]);
        }
        let parts = |at: usize| -> [&[f32]; 2] { [&layers[at][0], &layers[at][1]] };
        Ok(Self::Din(Din::new(
            parts(0),
            parts(1),
            parts(2),
            config.matmul_precision,
        )))
    }
}

impl SequencePass {
    /// Runs a batch forward whose unique rows are `rows [n_unique, dim]`.
    pub(crate) fn new(
        block: Arc<CpuSequenceBlock>,
        inputs: &Inputs,
        rows: &[f32],
        dim: usize,
        mode: GradMode,
    ) -> Self {
        let history = &inputs.history;
        let target = history.target.gather(rows, dim);
        let kept = match &*block {
            CpuSequenceBlock::Din(din) => {
                let valid = history.valid.chunks_exact(history.len.max(1));
                let tokens = history.tokens.gather(rows, dim);
                let lens: Vec<usize> = valid
                    .map(|valid| valid.iter().filter(|v| **v > 0.0).count())
                    .collect();
                let pass = din.forward(din_inputs(inputs, &target, &tokens, &lens), mode);
                BlockPass::Din { pass, tokens, lens }
            }
            CpuSequenceBlock::Hstu(hstu) => {
                let entries = Entries::new(inputs, hstu.counts());
                let slates = Slates::new(&inputs.request_of, inputs.n_requests());
                let pass = Box::new(hstu.forward(HstuInputs {
                    rows,
                    tokens: &target,
                    entries: &entries,
                    slates: &slates,
                }));
                BlockPass::Hstu {
                    pass,
                    entries,
                    slates,
                }
            }
        };
        Self { block, kept, target }
    }

    /// What each candidate reads of its history, `[n_candidates, out]`.
    pub(crate) fn read(&self) -> &[f32] {
        match &self.kept {
            BlockPass::Din { pass, .. } => &pass.read,
            BlockPass::Hstu { pass, .. } => &pass.out,
        }
    }

    /// Carries the gradient of [`Self::read`] back: adds that of the batch's unique rows to `rows [n_unique, dim]`, and
    /// returns those of the block's weights by name if they learn.
    pub(crate) fn backward(
        &self,
        inputs: &Inputs,
        read: &[f32],
        rows: &mut [f32],
        learns: bool,
    ) -> Vec<(&'static str, Vec<f32>)> {
        let history = &inputs.history;
        let dim = rows.len() / inputs.rows.len().max(1);
        match (&*self.block, &self.kept) {
            (CpuSequenceBlock::Din(din), BlockPass::Din { pass, tokens, lens }) => {
                let read_by = din_inputs(inputs, &self.target, tokens, lens);
                let gradients = din.backward(read_by, pass, read, learns);
                history.tokens.scatter(&gradients.tokens, dim, rows);
                history.target.scatter(&gradients.target, dim, rows);
                if learns { named(gradients) } else { Vec::new() }
            }
            (
                CpuSequenceBlock::Hstu(hstu),
                BlockPass::Hstu {
                    pass,
                    entries,
                    slates,
                },
            ) => {
                let read_by = HstuInputs {
                    rows: &[],
                    tokens: &self.target,
                    entries,
                    slates,
                };
                let gradients = hstu.backward(read_by, pass, read, learns);
                entries.scatter(&gradients.rows, dim, rows);
                history.target.scatter(&gradients.tokens, dim, rows);
                gradients.weights
            }
            _ => unreachable!("a pass goes back through the block that made it"),
        }
    }
}

fn din_inputs<'a>(
    inputs: &'a Inputs,
    target: &'a [f32],
    tokens: &'a [f32],
    lens: &'a [usize],
) -> DinInputs<'a> {
    DinInputs {
        target,
        tokens,
        lens,
        request_of: &inputs.request_of,
        len: inputs.history.len,
    }
}

/// DIN's gradients by name of dense weight.
fn named(gradients: DinGradients) -> Vec<(&'static str, Vec<f32>)> {
    vec![
        ("sequence.first.weight", gradients.first_weight),
        ("sequence.first.bias", gradients.first_bias),
        ("sequence.second.weight", gradients.second_weight),
        ("sequence.second.bias", gradients.second_bias),
        ("sequence.score.weight", gradients.score_weight),
        ("sequence.score.bias", vec![gradients.score_bias]),
    ]
}
