//! The sequence block of a batch: DIN, DIEN, a transformer or HSTU forward and backward over the batch's embedding rows.

use std::sync::Arc;

use super::dien::{Dien, DienForward, NextEntryLoss};
use super::din::{Din, DinForward};
use super::grad_mode::GradMode;
use super::history_inputs::HistoryInputs;
use super::hstu::{Entries, Hstu, HstuForward, HstuInputs, Slates};
use super::transformer::{Transformer, TransformerForward};
use super::weights::{BlockWeights, Learning, NamedGradients};
use crate::config::{ModelConfig, SequenceKind};
use crate::error::Error;
use crate::inputs::Inputs;

/// A sequence block with the weights of one step.
#[derive(Debug)]
pub(crate) enum CpuSequenceBlock {
    /// See [`crate::blocks::din`].
    Din(Box<Din>),
    /// See [`crate::blocks::dien`].
    Dien(Box<Dien>),
    /// See [`crate::blocks::transformer`].
    Transformer(Box<Transformer>),
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
    /// Histories as tokens and their entries, for the blocks that read them so.
    tokens: Vec<f32>,
    lens: Vec<usize>,
}

/// What a block keeps for its backward pass.
#[derive(Debug)]
enum BlockPass {
    Din(Box<DinForward>),
    Dien(Box<DienForward>),
    Transformer(Box<TransformerForward>),
    Hstu {
        pass: Box<HstuForward>,
        entries: Entries,
        slates: Slates,
    },
}

impl CpuSequenceBlock {
    /// Prepares the block from its weights.
    pub(crate) fn new(weights: BlockWeights<'_>, config: &ModelConfig) -> Result<Self, Error> {
        Ok(match config.sequence.kind {
            SequenceKind::Gru | SequenceKind::Dien => Self::Dien(Box::new(Dien::new(weights, config)?)),
            SequenceKind::Sasrec | SequenceKind::Bst => {
                Self::Transformer(Box::new(Transformer::new(weights, config)?))
            }
            SequenceKind::Hstu => Self::Hstu(Box::new(Hstu::new(weights, config)?)),
            _ => Self::Din(Box::new(Din::new(weights, config, config.sequence.din())?)),
        })
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
        let (mut tokens, mut lens) = (Vec::new(), Vec::new());
        if !matches!(&*block, CpuSequenceBlock::Hstu(_)) {
            tokens = history.tokens.gather(rows, dim);
            lens = history.lens();
        }
        let read = HistoryInputs::new(&inputs.history, &inputs.request_of, [&target, &tokens], &lens);
        let kept = match &*block {
            CpuSequenceBlock::Din(din) => BlockPass::Din(Box::new(din.forward(read, mode))),
            CpuSequenceBlock::Dien(dien) => BlockPass::Dien(Box::new(dien.forward(read, mode))),
            CpuSequenceBlock::Transformer(block) => {
                BlockPass::Transformer(Box::new(block.forward(read, mode)))
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
        Self {
            block,
            kept,
            target,
            tokens,
            lens,
        }
    }

    /// What each candidate reads of its history, `[n_candidates, out]`.
    pub(crate) fn read(&self) -> &[f32] {
        match &self.kept {
            BlockPass::Din(pass) => &pass.output,
            BlockPass::Dien(pass) => &pass.output,
            BlockPass::Transformer(pass) => &pass.output,
            BlockPass::Hstu { pass, .. } => &pass.output,
        }
    }

    /// Carries the gradient of [`Self::read`] back, and that of DIEN's auxiliary loss if its weight is not 0: adds that of the batch's unique rows to `rows [n_unique, dim]`, and
    /// returns those of the block's weights that learn, by name.
    pub(crate) fn backward(
        &self,
        inputs: &Inputs,
        (read, next_entry): (&[f32], (f32, u64)),
        rows: &mut [f32],
        learning: Learning,
    ) -> NamedGradients {
        let history = &inputs.history;
        let dim = rows.len() / inputs.rows.len().max(1);
        let read_by = HistoryInputs::new(
            &inputs.history,
            &inputs.request_of,
            [&self.target, &self.tokens],
            &self.lens,
        );
        match (&*self.block, &self.kept) {
            (CpuSequenceBlock::Din(din), BlockPass::Din(pass)) => {
                let gradients = din.backward(read_by, pass, read, learning);
                history.tokens.scatter(&gradients.tokens, dim, rows);
                history.target.scatter(&gradients.target, dim, rows);
                gradients.weights
            }
            (CpuSequenceBlock::Dien(dien), BlockPass::Dien(pass)) => {
                let (weight, seed) = next_entry;
                let negatives = match weight > 0.0 {
                    true => inputs.negatives(seed),
                    false => Vec::new(),
                };
                let loss = (weight > 0.0).then_some(NextEntryLoss {
                    weight,
                    negatives: &negatives,
                });
                let gradients = dien.backward(read_by, pass, (read, loss), learning);
                history.tokens.scatter(&gradients.tokens, dim, rows);
                history.target.scatter(&gradients.target, dim, rows);
                gradients.weights
            }
            (CpuSequenceBlock::Transformer(block), BlockPass::Transformer(pass)) => {
                let gradients = block.backward(read_by, pass, read, learning);
                history.tokens.scatter(&gradients.tokens, dim, rows);
                history.target.scatter(&gradients.target, dim, rows);
                gradients.weights
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
                let gradients = hstu.backward(read_by, pass, read, learning);
                entries.scatter(&gradients.rows, dim, rows);
                history.target.scatter(&gradients.tokens, dim, rows);
                gradients.weights
            }
            _ => unreachable!("a pass goes back through the block that made it"),
        }
    }
}
