//! A sequence block in plain loops as part of a batch: what it read, and the way back.

use std::sync::Arc;

use tch::Tensor;

use super::din::{Din, DinGradients, DinInputs, DinPass};
use super::hstu::{Entries, Hstu, HstuInputs, HstuPass, Slates};
use crate::config::{ModelConfig, SequenceKind};
use crate::error::Error;
use crate::host_slice::to_vec;
use crate::inputs::Inputs;
use crate::leaves::len;
use crate::params::Params;

/// How far gradients will go back through a pass, which says what it must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GradMode {
    /// It only scores.
    None,
    /// To what it read, by weights that stand still.
    Inputs,
    /// To its weights as well.
    Weights,
}

/// A sequence block that runs in plain loops, its weights as they were when it was made.
#[derive(Debug)]
pub(crate) enum CpuSequenceBlock {
    /// See [`crate::blocks::din`].
    Din(Din),
    /// See [`crate::blocks::hstu`].
    Hstu(Box<Hstu>),
}

/// What the candidates of a batch read of their histories.
#[derive(Debug)]
pub struct SequencePass {
    /// `[n_candidates, out]`; the learner asks for its gradient.
    pub read: Tensor,
    block: Arc<CpuSequenceBlock>,
    run: Run,
    /// Candidates as tokens.
    target: Vec<f32>,
}

/// What a block keeps for its way back.
#[derive(Debug)]
enum Run {
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

/// The layers of DIN, each a weight and a bias.
const LAYERS: [&str; 3] = ["sequence.first", "sequence.second", "sequence.score"];

impl CpuSequenceBlock {
    /// Whether a model's block can run so: the others are left to libtorch.
    pub(crate) fn runs(config: &ModelConfig) -> bool {
        let sequence = &config.sequence;
        match sequence.kind {
            SequenceKind::Din => true,
            SequenceKind::Hstu => sequence.layers == 1,
            SequenceKind::Mean | SequenceKind::HstuResearch => false,
        }
    }

    /// The block with the weights of this moment.
    pub(crate) fn new(params: &Params, config: &ModelConfig) -> Result<Self, Error> {
        if config.sequence.kind == SequenceKind::Hstu {
            let block = Hstu::new(params, &config.sequence, config.dim)?;
            return Ok(Self::Hstu(Box::new(block)));
        }
        let plain = |name: &str| -> Result<Vec<f32>, Error> { Ok(to_vec(params.get(name)?)?) };
        let mut layers = Vec::new();
        for layer in LAYERS {
            layers.push([
                plain(&format!("{layer}.weight"))?,
                plain(&format!("{layer}.bias"))?,
            ]);
        }
        let parts = |at: usize| -> [&[f32]; 2] { [&layers[at][0], &layers[at][1]] };
        Ok(Self::Din(Din::new(parts(0), parts(1), parts(2), config.products)))
    }
}

impl SequencePass {
    /// The forward pass of a batch whose unique rows are `rows [n, dim]`. It may be asked for gradients as far as it
    /// goes `back`.
    pub(crate) fn new(
        block: Arc<CpuSequenceBlock>,
        inputs: &Inputs,
        rows: &[f32],
        dim: usize,
        back: GradMode,
    ) -> Result<Self, Error> {
        let history = &inputs.history;
        let target = history.target.gather(rows, dim);
        let (run, read) = match &*block {
            CpuSequenceBlock::Din(din) => {
                let valid = history.valid.chunks_exact(history.len.max(1));
                let tokens = history.tokens.gather(rows, dim);
                let lens: Vec<usize> = valid
                    .map(|valid| valid.iter().filter(|v| **v > 0.0).count())
                    .collect();
                let pass = din.forward(din_inputs(inputs, &target, &tokens, &lens), back);
                let read = Tensor::f_from_slice(&pass.read)?;
                (Run::Din { pass, tokens, lens }, read)
            }
            CpuSequenceBlock::Hstu(hstu) => {
                let entries = Entries::new(inputs, hstu.counts());
                let slates = Slates::new(&inputs.request_of, inputs.n_requests());
                let pass = hstu.forward(HstuInputs {
                    rows,
                    tokens: &target,
                    entries: &entries,
                    slates: &slates,
                });
                let read = Tensor::f_from_slice(&pass.out)?;
                let pass = Box::new(pass);
                let run = Run::Hstu {
                    pass,
                    entries,
                    slates,
                };
                (run, read)
            }
        };
        Ok(Self {
            read: read.f_reshape([len(inputs.n_candidates()), -1])?,
            block,
            run,
            target,
        })
    }

    /// From the gradient `read` of [`Self::read`]: adds to those of the batch's unique rows, `rows [n, dim]`, and says
    /// those of dense weights by name, none where they do not learn.
    #[must_use]
    pub fn backward(
        &self,
        inputs: &Inputs,
        read: &[f32],
        rows: &mut [f32],
        learns: bool,
    ) -> Vec<(&'static str, Vec<f32>)> {
        let history = &inputs.history;
        let dim = rows.len() / inputs.rows.len().max(1);
        match (&*self.block, &self.run) {
            (CpuSequenceBlock::Din(din), Run::Din { pass, tokens, lens }) => {
                let of = din_inputs(inputs, &self.target, tokens, lens);
                let found = din.backward(of, pass, read, learns);
                history.tokens.scatter(&found.tokens, dim, rows);
                history.target.scatter(&found.target, dim, rows);
                if learns { weights(found) } else { Vec::new() }
            }
            (
                CpuSequenceBlock::Hstu(hstu),
                Run::Hstu {
                    pass,
                    entries,
                    slates,
                },
            ) => {
                let found = hstu.backward(
                    HstuInputs {
                        rows: &[],
                        tokens: &self.target,
                        entries,
                        slates,
                    },
                    pass,
                    read,
                    learns,
                );
                entries.scatter(&found.rows, dim, rows);
                history.target.scatter(&found.tokens, dim, rows);
                found.weights
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

fn weights(of: DinGradients) -> Vec<(&'static str, Vec<f32>)> {
    vec![
        ("sequence.first.weight", of.first_weight),
        ("sequence.first.bias", of.first_bias),
        ("sequence.second.weight", of.second_weight),
        ("sequence.second.bias", of.second_bias),
        ("sequence.score.weight", of.score_weight),
        ("sequence.score.bias", vec![of.score_bias]),
    ]
}
