//! Where the contents of a batch come from, and what is kept of them.

use tch::Tensor;

use ouzel_sample::ItemVectors;

use super::Net;
use crate::blocks::fq_former;
use crate::blocks::interest::Contents;
use crate::cpu::ContentPass;
use crate::error::Error;
use crate::host_slice::to_vec;
use crate::inputs::ContentInputs;
use crate::leaves::{ContentLeaves, ContentSource, frozen, len};

impl Net {
    /// Content vectors of the batch's candidates, and all of them to be read as the past.
    pub(super) fn contents(&self, leaves: &ContentLeaves) -> Result<(Tensor, Contents), Error> {
        let (targets, vectors) = self.content_vectors(leaves)?;
        let keys = match &leaves.source {
            ContentSource::Kept { keys, .. } => keys.shallow_clone(),
            ContentSource::Frozen { .. } | ContentSource::ByHand { .. } => self.keys(&vectors)?,
        };
        let past = Contents {
            vectors,
            keys,
            of_history: leaves.of_history.shallow_clone(),
            valid: leaves.valid.shallow_clone(),
        };
        Ok((targets, past))
    }

    /// Content vectors of the batch's candidates, and all of the batch, from which no gradient goes back: a history's
    /// contents are learned when they are candidates.
    pub(super) fn content_vectors(&self, leaves: &ContentLeaves) -> Result<(Tensor, Tensor), Error> {
        match &leaves.source {
            ContentSource::Kept { vectors, .. } => {
                let targets = vectors.f_narrow(0, 0, leaves.n_targets)?;
                Ok((targets, vectors.shallow_clone()))
            }
            ContentSource::Frozen { targets, past } => {
                let targets = fq_former::forward(&self.params, &self.config.content, targets)?;
                Ok((targets.shallow_clone(), beside(&targets, past.as_ref())?))
            }
            ContentSource::ByHand { targets, past, .. } => {
                Ok((targets.shallow_clone(), beside(targets, past.as_ref())?))
            }
        }
    }

    /// Keys of content interest without their adapter; empty without that block.
    fn keys(&self, vectors: &Tensor) -> Result<Tensor, Error> {
        if self.config.interest.enabled {
            self.params.base("interest.key", vectors)
        } else {
            Ok(vectors.f_narrow(1, 0, 0)?)
        }
    }

    /// Where the contents of a batch come from: kept while what makes them stands still.
    pub(super) fn source(&self, inputs: &ContentInputs) -> Result<ContentSource, Error> {
        let is_moving = self.frozen.is_none() || self.config.contents_learn_frozen();
        let out = self.config.content.out();
        if is_moving && !self.is_still {
            let (targets, past) = inputs.frozen.split_at(inputs.n_targets);
            // Folding the weights anew each step is for nothing where no history has content.
            let by_hand = if past.is_empty() {
                None
            } else {
                self.content_by_hand()?
            };
            let past = match (by_hand, past) {
                (_, []) => None,
                (Some(block), _) => {
                    let made = block.forward(&past.iter().collect::<Vec<_>>());
                    Some(Tensor::f_from_slice(&made)?.f_reshape([-1, len(out)])?)
                }
                (None, _) => Some(self.contents_by_torch(past)?),
            };
            if self.is_all_by_hand && self.has_content_by_hand {
                let pass = ContentPass::new(&self.params, &self.config, targets)?;
                return Ok(ContentSource::ByHand {
                    targets: Tensor::f_from_slice(pass.vectors())?
                        .f_view([len(inputs.n_targets), len(out)])?,
                    pass: Box::new(pass),
                    past,
                });
            }
            let targets = frozen(targets, &self.config.content, self.device)?;
            return Ok(ContentSource::Frozen { targets, past });
        }
        let by_hand = self.content_by_hand()?;
        let mut kept = self.kept.borrow_mut();
        kept.complete(inputs, |items| {
            if let Some(block) = &by_hand {
                let vectors = block.forward(items);
                let keys = block.keys(&vectors);
                return Ok((vectors, keys));
            }
            let (mut vectors, mut keys) = (Vec::new(), Vec::new());
            for item in items {
                let vector = self.contents_by_torch(std::slice::from_ref(*item))?;
                keys.extend(to_vec(&tch::no_grad(|| self.keys(&vector))?)?);
                vectors.extend(to_vec(&vector)?);
            }
            Ok((vectors, keys))
        })?;
        let width = if self.config.interest.enabled {
            self.config.interest.width
        } else {
            0
        };
        let (vectors, keys) = kept.read(&inputs.ids, out, width);
        let put = |values: &[f32], width: usize| -> Result<Tensor, Error> {
            let values = Tensor::f_from_slice(values)?.f_reshape([len(inputs.ids.len()), len(width)])?;
            Ok(values.f_to_device(self.device)?)
        };
        Ok(ContentSource::Kept {
            vectors: put(&vectors, out)?,
            keys: put(&keys, width)?,
        })
    }

    /// Content vectors from which no gradient goes back, `[n, out]`.
    fn contents_by_torch(&self, items: &[ItemVectors]) -> Result<Tensor, Error> {
        let items = frozen(items, &self.config.content, self.device)?;
        tch::no_grad(|| fq_former::forward(&self.params, &self.config.content, &items))
    }
}

/// Contents of candidates with those of the past behind them, from which no gradient goes back.
fn beside(targets: &Tensor, past: Option<&Tensor>) -> Result<Tensor, Error> {
    let targets = targets.f_detach()?;
    Ok(match past {
        Some(past) => Tensor::f_cat(&[&targets, past], 0)?,
        None => targets,
    })
}
