//! The forward pass, the same for training and serving.
//!
//! `logit = prior + wide + FM + head(first layer)`. The first layer adds what each block gives through weights of its
//! own: the fields of user and candidate, the live features, the candidate's content, what its content finds in the
//! user's past, and what the sequence block reads of it. So the user side is computed once a request and candidates
//! only gather it, and a model is a choice of blocks.
//!
//! Auxiliary logits, where a label policy needs them, are linear in the last hidden layer. No gradient goes back
//! through them: a model with them learns the same primary logits as one without.

use std::cell::RefCell;
use std::sync::Arc;

use tch::{Device, Tensor};

use ouzel_sample::{DENSE_NAMES, ItemVectors, MODALITIES};

use crate::blocks::interest::Contents;
use crate::blocks::{contrast, din, fm, fq_former, head, hstu, interest};
use crate::config::{ModelConfig, SequenceKind};
use crate::error::Error;
use crate::fused::{ByHand, FqFormer};
use crate::inputs::{ContentInputs, Inputs};
use crate::kept::Kept;
use crate::leaves::{ContentLeaves, ContentSource, Leaves, frozen, len};
use crate::params::Params;
use crate::plain::to_vec;
use crate::shapes::{is_adapter, is_base, shapes};
use crate::weights::{Array, Dense, Weights};

/// The dense weights as tensors on one device, owned by one thread.
#[derive(Debug)]
pub struct Net {
    config: ModelConfig,
    params: Params,
    prior: Tensor,
    /// 1 for features that are read, else 0; none where all are.
    mask: Option<Tensor>,
    /// Number of the base weights, once they are frozen.
    frozen: Option<u64>,
    /// What was computed of the base weights alone.
    kept: RefCell<Kept>,
    /// Whether the sequence block runs in plain loops.
    is_by_hand: bool,
    /// That block, while its weights stand still.
    sequence: RefCell<Option<Arc<ByHand>>>,
    /// Whether contents from which no gradient goes back are made in plain loops.
    has_content_by_hand: bool,
    /// Their block, while its weights stand still.
    content: RefCell<Option<Arc<FqFormer>>>,
    /// Whether no weight of this network will move.
    is_still: bool,
    device: Device,
}

/// What comes out of the network.
#[derive(Debug)]
pub struct Outputs {
    /// `[n_candidates, n_tasks]`, of what the model's [`Output`](crate::Output) says.
    pub logits: Tensor,
    /// `[n_candidates, n_tasks * auxiliary]`; none where the model has no auxiliary logits.
    pub auxiliary: Option<Tensor>,
    /// The content vectors of the batch's candidates, each once; none without content.
    pub contents: Option<Tensor>,
}

impl Net {
    /// Tensors of a version's dense weights.
    pub fn new(weights: &Weights, device: Device) -> Result<Self, Error> {
        let config = weights.config.clone();
        let mut params = Vec::new();
        for shape in shapes(&config) {
            let array = weights.array(&shape.name, &shape.extents)?;
            let extents: Vec<i64> = shape.extents.iter().map(|n| len(*n)).collect();
            let tensor = Tensor::f_from_slice(&array.values)?
                .f_reshape(&extents)?
                .f_to_device(device)?;
            params.push((shape.name, tensor));
        }
        let has_no_adapter = !params
            .iter()
            .any(|(name, _)| is_adapter(name) && name.starts_with("sequence."));
        Ok(Self {
            params: Params::new(params, config.lora.scale()).with(config.products),
            prior: Tensor::f_from_slice(&weights.prior)?.f_to_device(device)?,
            mask: mask(&config, device)?,
            frozen: weights.frozen,
            kept: RefCell::default(),
            is_by_hand: has_no_adapter && device == Device::Cpu && ByHand::runs(&config),
            sequence: RefCell::default(),
            has_content_by_hand: device == Device::Cpu && FqFormer::runs(&config),
            content: RefCell::default(),
            is_still: false,
            config,
            device,
        })
    }

    /// A network that only scores: what depends on an item and its weights alone is computed once. Takes over what
    /// `before` has kept, where both have the same frozen base.
    #[must_use]
    pub fn still(mut self, before: Option<Net>) -> Self {
        self.is_still = true;
        if let Some(before) = before
            && self.frozen.is_some()
            && self.frozen == before.frozen
            && !self.config.contents_learn_frozen()
        {
            self.kept = before.kept;
        }
        self
    }

    /// Where it computes.
    #[must_use]
    pub fn device(&self) -> Device {
        self.device
    }

    /// The dense weights with their names.
    pub fn params(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.params.iter()
    }

    /// Whether a weight learns: the base until it is frozen, adapters from then on, and all others always.
    #[must_use]
    pub fn is_learned(&self, name: &str) -> bool {
        match self.frozen {
            Some(_) => !is_base(name),
            None => !is_adapter(name),
        }
    }

    /// Whether the base is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Says what the base weights are from now on: a number once they are frozen.
    pub fn set_frozen(&mut self, frozen: Option<u64>) {
        self.frozen = frozen;
        self.kept = RefCell::default();
        self.sequence = RefCell::default();
        self.content = RefCell::default();
    }

    /// Replaces the offset of each task's logit.
    pub fn set_prior(&mut self, prior: &[f32]) -> Result<(), Error> {
        self.prior = Tensor::f_from_slice(prior)?.f_to_device(self.device)?;
        Ok(())
    }

    /// The dense weights as plain arrays.
    pub fn export(&self) -> Result<Dense, Error> {
        self.params()
            .map(|(name, tensor)| {
                let shape = tensor
                    .size()
                    .iter()
                    .map(|n| usize::try_from(*n).unwrap_or(0))
                    .collect();
                let values = to_vec(tensor)?.into();
                Ok((name.to_owned(), Array { shape, values }))
            })
            .collect()
    }

    /// A batch as tensors, to be learned from.
    pub fn gather(&self, inputs: &Inputs, weights: &Weights) -> Result<Leaves, Error> {
        self.gather_for(inputs, weights, true)
    }

    fn gather_for(&self, inputs: &Inputs, weights: &Weights, goes_back: bool) -> Result<Leaves, Error> {
        let by_hand = self.by_hand()?;
        Leaves::gather(inputs, weights, self.device, by_hand, goes_back, |contents| {
            self.source(contents)
        })
    }

    /// The sequence block where it runs in plain loops: on the CPU, without adapters.
    fn by_hand(&self) -> Result<Option<Arc<ByHand>>, Error> {
        let make = || ByHand::new(&self.params, &self.config);
        self.is_by_hand
            .then(|| self.made(&self.sequence, make))
            .transpose()
    }

    /// The block that makes contents, where it runs in plain loops.
    fn content_by_hand(&self) -> Result<Option<Arc<FqFormer>>, Error> {
        let make = || FqFormer::new(&self.params, &self.config);
        self.has_content_by_hand
            .then(|| self.made(&self.content, make))
            .transpose()
    }

    /// A block made of its weights: anew while they move.
    fn made<T>(
        &self,
        last: &RefCell<Option<Arc<T>>>,
        make: impl FnOnce() -> Result<T, Error>,
    ) -> Result<Arc<T>, Error> {
        let mut last = last.borrow_mut();
        if let Some(block) = last.as_ref() {
            return Ok(Arc::clone(block));
        }
        let block = Arc::new(make()?);
        if self.is_still || self.is_frozen() {
            *last = Some(Arc::clone(&block));
        }
        Ok(block)
    }

    /// Outputs of a batch.
    pub fn forward(&self, leaves: &Leaves) -> Result<Outputs, Error> {
        let of_request = |x: &Tensor| x.f_index_select(0, &leaves.request_of);
        let of = |x: &Tensor, weight: &str| -> Result<Tensor, Error> {
            self.params.product(x, &self.params.get(weight)?.f_tr()?, None)
        };
        let mut first = of_request(&of(&leaves.user.f_flatten(1, -1)?, "first.user")?)?
            + of(&leaves.candidate.f_flatten(1, -1)?, "first.candidate")?
            + of(&self.features(&leaves.dense)?, "first.dense")?
            + self.params.get("first.bias")?;
        let mut fields = leaves.candidate.shallow_clone();
        let mut contents = None;
        if let Some(leaves_of) = &leaves.contents {
            let (targets, past) = self.contents(leaves_of)?;
            let of_candidate = targets.f_index_select(0, &leaves_of.of_candidate)?;
            first += of(&of_candidate, "first.content")?;
            if self.config.fm {
                let field = of(&of_candidate, "fm.content")?;
                fields = Tensor::f_cat(&[fields, field.f_unsqueeze(1)?], 1)?;
            }
            if let (true, Some(layout)) = (self.config.interest.enabled, &leaves.layout) {
                let found = interest::forward(&self.params, &of_candidate, &past, layout)?;
                first += of(&found, "first.interest")?;
            }
            contents = Some(targets);
        }
        if let Some(pass) = &leaves.pass {
            first += of(&pass.read, "first.sequence")?;
        }
        if let (Some(history), Some(target), Some(layout)) = (&leaves.history, &leaves.target, &leaves.layout)
        {
            let sequence = &self.config.sequence;
            let read = match sequence.kind {
                SequenceKind::Mean => None,
                SequenceKind::Din => Some(din::forward(&self.params, target, history, layout)?),
                SequenceKind::Hstu | SequenceKind::HstuResearch => {
                    Some(hstu::forward(&self.params, sequence, target, history, layout)?)
                }
            };
            if let Some(read) = read {
                first += of(&read, "first.sequence")?;
            }
        }
        let mut hidden = first.f_relu()?;
        for layer in 1..self.config.hidden.len() {
            hidden = self.params.linear(&format!("hidden{layer}"), &hidden)?.f_relu()?;
        }
        let auxiliary = match self.params.find("aux.weight") {
            Some(_) => Some(self.params.linear("aux", &hidden.f_detach()?)?),
            None => None,
        };
        let mut logits =
            head::forward(&self.params, &self.config.head, self.config.n_tasks(), &hidden)? + &self.prior;
        if self.config.wide {
            logits += leaves.wide.f_unsqueeze(1)?;
        }
        if self.config.fm {
            let products = fm::second_order(&leaves.user, &fields, &leaves.request_of)?;
            logits += products.f_unsqueeze(1)?;
        }
        Ok(Outputs {
            logits,
            auxiliary,
            contents,
        })
    }

    /// The contrast of ids and contents of a batch's distinct contents; none for fewer than two.
    pub fn contrast(
        &self,
        leaves: &Leaves,
        outputs: &Outputs,
        temperature: f64,
    ) -> Result<Option<Tensor>, Error> {
        let (Some(contents), Some(target), Some(of)) = (&outputs.contents, &leaves.target, &leaves.contents)
        else {
            return Ok(None);
        };
        let Some((places, candidates)) = of.contrasted.as_ref().filter(|_| self.config.contrast > 0) else {
            return Ok(None);
        };
        let ids = target.f_index_select(0, candidates)?;
        let contents = contents.f_index_select(0, places)?;
        Ok(Some(contrast::loss(&self.params, &ids, &contents, temperature)?))
    }

    /// The log-odds of each outcome as plain numbers, without recording gradients, `[n_candidates * n_tasks]`.
    pub fn score(&self, inputs: &Inputs, weights: &Weights) -> Result<Vec<f32>, Error> {
        let outputs = tch::no_grad(|| self.forward(&self.gather_for(inputs, weights, false)?))?;
        let logits = to_vec(&outputs.logits)?.into_iter();
        let lines = weights.calibration.iter().cycle();
        Ok(logits
            .zip(lines)
            .map(|(logit, line)| line.apply(self.config.output.log_odds(logit)))
            .collect())
    }

    /// Live features as the model reads them.
    fn features(&self, dense: &Tensor) -> Result<Tensor, Error> {
        let dense = match self.params.find("missing") {
            // In every transform 0 stands for "nothing known".
            Some(missing) => missing.f_where_self(&dense.f_eq(0.0)?, dense)?,
            None => dense.shallow_clone(),
        };
        Ok(match &self.mask {
            Some(mask) => dense * mask,
            None => dense,
        })
    }

    /// Content vectors of the batch's candidates, and all of them to be read as the past, from which no gradient
    /// goes back: a history's contents are learned when they are candidates.
    fn contents(&self, leaves: &ContentLeaves) -> Result<(Tensor, Contents), Error> {
        let (targets, vectors, keys) = match &leaves.source {
            ContentSource::Kept { vectors, keys } => {
                let targets = vectors.f_narrow(0, 0, leaves.n_targets)?;
                (targets, vectors.shallow_clone(), keys.shallow_clone())
            }
            ContentSource::Frozen { targets, past } => {
                let targets = fq_former::forward(&self.params, &self.config.content, targets)?;
                let mut vectors = targets.f_detach()?;
                if let Some(past) = past {
                    vectors = Tensor::f_cat(&[&vectors, past], 0)?;
                }
                let keys = self.keys(&vectors)?;
                (targets, vectors, keys)
            }
        };
        let past = Contents {
            vectors,
            keys,
            of_history: leaves.of_history.shallow_clone(),
            valid: leaves.valid.shallow_clone(),
        };
        Ok((targets, past))
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
    fn source(&self, inputs: &ContentInputs) -> Result<ContentSource, Error> {
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
                (None, _) => Some(self.by_torch(past)?),
            };
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
                let vector = self.by_torch(std::slice::from_ref(*item))?;
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
    fn by_torch(&self, items: &[ItemVectors]) -> Result<Tensor, Error> {
        let items = frozen(items, &self.config.content, self.device)?;
        tch::no_grad(|| fq_former::forward(&self.params, &self.config.content, &items))
    }
}

/// Which features are read; none where all are.
fn mask(config: &ModelConfig, device: Device) -> Result<Option<Tensor>, Error> {
    let set = config.features;
    if set.counters && set.similarity {
        return Ok(None);
    }
    let is_similarity = |name: &str| {
        let name = name.strip_prefix("slate_").unwrap_or(name);
        MODALITIES.iter().any(|modality| {
            name.strip_prefix(modality)
                .is_some_and(|rest| rest.starts_with('_'))
        })
    };
    let mask = DENSE_NAMES.map(|name| {
        let is_read = if is_similarity(name) {
            set.similarity
        } else {
            set.counters
        };
        f32::from(u8::from(is_read))
    });
    Ok(Some(Tensor::f_from_slice(&mask)?.f_to_device(device)?))
}
