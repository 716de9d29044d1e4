//! Content vectors of a batch by the Fusion-Q-Former: learned in this pass, or cached while their weights are fixed.

use tch::{Device, Tensor};

use ouzel_sample::{ItemVectors, N_MODALITIES};

use super::{TorchBackend, upload};
use crate::blocks::content_linear;
use crate::blocks::fq_former::{self, Frozen};
use crate::content_cache::key_width;
use crate::error::Error;
use crate::host_slice::to_vec;
use crate::inputs::ContentInputs;
use crate::net::{Net, to_i64};

/// What a forward pass reads of the frozen vectors of a batch.
#[derive(Debug, Default)]
pub(crate) struct ReadVectors {
    /// None without a Fusion-Q-Former.
    pub(crate) contents: Option<ContentVectors>,
    /// The linear term of each content of a candidate, `[n_targets, n_tasks]`; none without that term.
    pub(crate) linear: Option<Tensor>,
}

/// The distinct contents of a batch, those of candidates first.
#[derive(Debug)]
pub(crate) struct ContentVectors {
    /// Content vectors of candidates, `[n_targets, out]`; gradients flow back through them while they learn.
    pub(crate) targets: Tensor,
    /// Content vectors of the whole batch without gradients, `[n, out]`: a history's contents learn as candidates.
    pub(crate) all: Tensor,
    /// Their keys of content interest without an adapter, `[n, width]`; none without that block.
    pub(crate) keys: Option<Tensor>,
}

impl TorchBackend {
    /// The content vectors of a batch.
    pub(super) fn content_vectors(
        &mut self,
        net: &Net,
        inputs: &ContentInputs,
    ) -> Result<ContentVectors, Error> {
        if self.has_fixed_contents(net) {
            return self.cached_contents(net, inputs);
        }
        let (targets, past) = inputs.frozen.split_at(inputs.n_targets);
        let past = match past {
            [] => None,
            _ => Some(tch::no_grad(|| self.fq_former(net, past))?),
        };
        let targets = self.fq_former(net, targets)?;
        let all = match &past {
            Some(past) => Tensor::f_cat(&[&targets.f_detach()?, past], 0)?,
            None => targets.f_detach()?,
        };
        Ok(ContentVectors {
            keys: keys(net, &all)?,
            targets,
            all,
        })
    }

    /// The same from the cache, computed item by item where it has none yet.
    fn cached_contents(&mut self, net: &Net, inputs: &ContentInputs) -> Result<ContentVectors, Error> {
        let _no_grad = tch::no_grad_guard();
        let mut cache = std::mem::take(&mut self.contents);
        let completed = cache.complete(inputs, |items| {
            let (mut vectors, mut item_keys) = (Vec::new(), Vec::new());
            for item in items {
                let vector = self.fq_former(net, std::slice::from_ref(*item))?;
                if let Some(keys) = keys(net, &vector)? {
                    item_keys.extend(to_vec(&keys)?);
                }
                vectors.extend(to_vec(&vector)?);
            }
            Ok((vectors, item_keys))
        });
        self.contents = cache;
        completed?;
        let config = net.config();
        let (out, width) = (config.content.out(), key_width(config));
        let (vectors, item_keys) = self.contents.read(&inputs.ids, config);
        let shape = |width: usize| [to_i64(inputs.ids.len()), to_i64(width)];
        let all = upload(&vectors, &shape(out), self.device)?;
        Ok(ContentVectors {
            targets: all.f_narrow(0, 0, to_i64(inputs.n_targets))?,
            all,
            keys: match config.interest.enabled {
                true => Some(upload(&item_keys, &shape(width), self.device)?),
                false => None,
            },
        })
    }

    /// The linear term of the candidates' contents, `[n_targets, n_tasks]`.
    pub(super) fn content_linear(&self, net: &Net, inputs: &ContentInputs) -> Result<Tensor, Error> {
        let frozen = gather_frozen(inputs.targets(), net.config().linear_widths(), self.device)?;
        content_linear::forward(net.params(), &frozen)
    }

    /// Content vectors of items, `[n, out]`.
    fn fq_former(&self, net: &Net, items: &[ItemVectors]) -> Result<Tensor, Error> {
        let config = &net.config().content;
        let frozen = gather_frozen(items, config.vector_widths, self.device)?;
        fq_former::forward(net.params(), config, &frozen)
    }
}

/// Keys of content interest without their adapter; none without that block.
fn keys(net: &Net, vectors: &Tensor) -> Result<Option<Tensor>, Error> {
    match net.config().interest.enabled {
        true => Ok(Some(net.params().base("interest.key", vectors)?)),
        false => Ok(None),
    }
}

/// The frozen vectors of items as tensors. A vector of another width than the model reads counts as missing.
pub(crate) fn gather_frozen(
    items: &[ItemVectors],
    widths: [usize; N_MODALITIES],
    device: Device,
) -> Result<Frozen, Error> {
    let mut present = vec![0.0; items.len() * N_MODALITIES];
    let mut vectors: [Option<Tensor>; N_MODALITIES] = [const { None }; N_MODALITIES];
    for (modality, width) in widths.into_iter().enumerate() {
        if width == 0 {
            continue;
        }
        let mut values = vec![0.0; items.len() * width];
        for (at, item) in items.iter().enumerate() {
            let vector = item[modality].as_ref().map(|vector| &vector.values);
            if let Some(vector) = vector.filter(|vector| vector.len() == width) {
                values[at * width..(at + 1) * width].copy_from_slice(vector);
                present[at * N_MODALITIES + modality] = 1.0;
            }
        }
        vectors[modality] = Some(upload(&values, &[to_i64(items.len()), to_i64(width)], device)?);
    }
    Ok(Frozen {
        vectors,
        present: upload(&present, &[to_i64(items.len()), to_i64(N_MODALITIES)], device)?,
    })
}
