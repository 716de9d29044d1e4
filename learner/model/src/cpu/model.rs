//! The cpu backend: forward and backward passes in loops of our own, without autograd.

use std::sync::Arc;

use super::content_linear::ContentLinear;
use super::contrast::Contrast;
use super::din::Din;
use super::fq_former::{FoldedFqFormer, FqFormer};
use super::grad_mode::GradMode;
use super::interest::Interest;
use super::pass::{BatchContents, CpuBlocks, CpuPass, PassModes};
use super::sequence::CpuSequenceBlock;
use super::tower::Tower;
use super::weights::BlockWeights;
use crate::backend::{Backend, Pass, Purpose};
use crate::block::Block;
use crate::config::{ModelConfig, SequenceKind};
use crate::content_cache::ContentCache;
use crate::error::Error;
use crate::inputs::{ContentInputs, Inputs};
use crate::net::Net;
use crate::weights::Weights;

/// What of a model this backend cannot run, if anything.
pub(crate) fn unsupported(config: &ModelConfig) -> Option<&'static str> {
    let (content, sequence) = (&config.content, &config.sequence);
    let has_many_layers = sequence.kind == SequenceKind::Hstu && sequence.layers != 1;
    [
        (
            sequence.kind == SequenceKind::HstuResearch,
            "HSTU in its published form",
        ),
        (has_many_layers, "HSTU of more than one layer"),
        (
            content.enabled && content.layers != 1,
            "a Fusion-Q-Former of more than one layer",
        ),
    ]
    .into_iter()
    .find_map(|(is_there, what)| is_there.then_some(what))
}

/// Runs models that [`unsupported`] has nothing against.
#[derive(Debug)]
pub(crate) struct CpuBackend {
    purpose: Purpose,
    contents: ContentCache,
    /// The Fusion-Q-Former with its weights folded together.
    fq_former: Reusable<FoldedFqFormer>,
    sequence: Reusable<CpuSequenceBlock>,
    long: Reusable<Din>,
    blocks: Reusable<CpuBlocks>,
}

/// A block prepared from its weights, kept while these are fixed.
#[derive(Debug)]
struct Reusable<T>(Option<Arc<T>>);

impl<T> Reusable<T> {
    /// The kept block, or a new one, which is kept if its weights are fixed.
    fn get(&mut self, is_fixed: bool, prepare: impl FnOnce() -> Result<T, Error>) -> Result<Arc<T>, Error> {
        if let Some(block) = &self.0 {
            return Ok(Arc::clone(block));
        }
        let block = Arc::new(prepare()?);
        self.0 = is_fixed.then(|| Arc::clone(&block));
        Ok(block)
    }
}

impl CpuBackend {
    pub(crate) fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            contents: ContentCache::default(),
            fq_former: Reusable(None),
            sequence: Reusable(None),
            long: Reusable(None),
            blocks: Reusable(None),
        }
    }

    /// Whether the weights inside a block stay as they are from pass to pass.
    fn is_fixed(&self, net: &Net, block: Block) -> bool {
        self.purpose == Purpose::Inference || net.is_fixed(block)
    }

    fn run<'a>(
        &mut self,
        net: &'a Net,
        tables: &Weights,
        inputs: &'a Inputs,
        modes: PassModes,
    ) -> Result<CpuPass<'a>, Error> {
        let config = net.config();
        let weights = BlockWeights::new(net.params(), config);
        // The head learns whatever is frozen.
        let is_fixed = self.purpose == Purpose::Inference;
        let blocks = self.blocks.get(is_fixed, || {
            Ok(CpuBlocks {
                tower: Tower::new(weights, config, config.features.mask().map(|mask| mask.to_vec()))?,
                content_linear: match config.has_content_linear() {
                    true => Some(ContentLinear::new(weights, config)?),
                    false => None,
                },
                interest: match config.interest.enabled {
                    true => Some(Interest::new(weights, config)?),
                    false => None,
                },
                contrast: match config.contrast_width {
                    0 => None,
                    _ => Some(Contrast::new(weights, config)?),
                },
            })
        })?;
        let is_fixed = self.is_fixed(net, Block::Sequence);
        let sequence = match config.sequence.kind {
            SequenceKind::Mean => None,
            _ => Some(
                self.sequence
                    .get(is_fixed, || CpuSequenceBlock::new(weights, config))?,
            ),
        };
        let is_fixed = self.is_fixed(net, Block::LongHistory);
        let long = match config.long_history.enabled {
            true => Some(
                self.long
                    .get(is_fixed, || Din::new(weights, config, config.long_history.din()))?,
            ),
            false => None,
        };
        let contents = match &inputs.contents {
            Some(contents) if config.content.enabled => self.contents(net, contents)?,
            _ => BatchContents::default(),
        };
        Ok(CpuPass::new(
            net,
            inputs,
            tables,
            (blocks, sequence, long),
            modes,
            contents,
        ))
    }

    /// Content vectors of a batch: computed to learn, or from the cache while their weights are fixed.
    fn contents(&mut self, net: &Net, inputs: &ContentInputs) -> Result<BatchContents, Error> {
        let config = net.config();
        let block = || FqFormer::new(BlockWeights::new(net.params(), config), config).map(Arc::new);
        if !self.is_fixed(net, Block::Content) {
            let (targets, past) = inputs.frozen.split_at(inputs.n_targets);
            let block = block()?;
            let pass = block.forward(targets);
            let mut vectors = pass.vectors().to_vec();
            // Folding the weights anew is wasted where no history has content.
            if !past.is_empty() {
                vectors.extend(block.fold().forward(&past.iter().collect::<Vec<_>>()));
            }
            return Ok(BatchContents {
                vectors,
                keys: None,
                learned: Some(pass),
            });
        }
        let folded = self.fq_former.get(true, || Ok(block()?.fold()))?;
        self.contents.complete(inputs, |items| {
            let vectors = folded.forward(items);
            let keys = folded.block().interest_keys(&vectors);
            Ok((vectors, keys))
        })?;
        let (vectors, keys) = self.contents.read(&inputs.ids, config);
        Ok(BatchContents {
            vectors,
            keys: Some(keys),
            learned: None,
        })
    }
}

impl Backend for CpuBackend {
    fn forward<'a>(
        &mut self,
        net: &'a Net,
        tables: &'a Weights,
        inputs: &'a Inputs,
    ) -> Result<Box<dyn Pass + 'a>, Error> {
        let mode = |block| match net.is_fixed(block) {
            true => GradMode::Inputs,
            false => GradMode::Weights,
        };
        let modes = PassModes {
            sequence: mode(Block::Sequence),
            long: mode(Block::LongHistory),
        };
        Ok(Box::new(self.run(net, tables, inputs, modes)?))
    }

    fn score(&mut self, net: &Net, tables: &Weights, inputs: &Inputs) -> Result<Vec<f32>, Error> {
        Ok(self.run(net, tables, inputs, PassModes::NONE)?.into_logits())
    }

    fn reset(&mut self, _net: &Net) {
        *self = Self::new(self.purpose);
    }

    fn take_contents(&mut self) -> ContentCache {
        std::mem::take(&mut self.contents)
    }

    fn put_contents(&mut self, contents: ContentCache) {
        self.contents = contents;
    }
}
