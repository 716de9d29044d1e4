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

use ouzel_sample::{DENSE_NAMES, MODALITIES};

use crate::blocks::{contrast, din, fm, head, hstu, interest};
use crate::config::{MatmulPrecision, ModelConfig, SequenceKind};
use crate::content_cache::ContentCache;
use crate::cpu::{
    BatchContents, CpuForward, CpuModel, CpuSequenceBlock, FqFormer, GradMode, Interest, Tower,
};
use crate::error::Error;
use crate::host_slice::to_vec;
use crate::inputs::Inputs;
use crate::leaves::{BatchRows, BatchTensors, ContentSource, len};
use crate::params::Params;
use crate::shapes::{is_adapter, is_base, shapes};
use crate::weights::{Array, Dense, Weights};

mod contents;

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
    kept: RefCell<ContentCache>,
    /// Whether the sequence block runs in plain loops.
    is_by_hand: bool,
    /// That block, while its weights stand still.
    sequence: RefCell<Option<Arc<CpuSequenceBlock>>>,
    /// Whether contents from which no gradient goes back are made in plain loops.
    has_content_by_hand: bool,
    /// Their block, while its weights stand still.
    content: RefCell<Option<Arc<FqFormer>>>,
    /// Whether everything from there to the logits runs in plain loops.
    is_all_by_hand: bool,
    /// Those loops, where no weight moves.
    hand: RefCell<Option<Arc<CpuModel>>>,
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
    /// The pass where it ran in plain loops: then no gradient goes back through `logits`.
    pub hand: Option<CpuForward>,
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
        let is_by_hand = has_no_adapter && device == Device::Cpu && CpuSequenceBlock::runs(&config);
        let has_no_torch = is_by_hand || config.sequence.kind == SequenceKind::Mean;
        let params = Params::new(params, config.lora.scale());
        let is_all_by_hand = has_no_torch && device == Device::Cpu && Tower::runs(&config, &params);
        // Plain loops round what pays; what is left to libtorch beside them is too small for it.
        let products = match is_all_by_hand {
            true => MatmulPrecision::F32,
            false => config.products,
        };
        let params = params.with(products);
        let has_content_by_hand =
            device == Device::Cpu && products == MatmulPrecision::F32 && FqFormer::runs(&config);
        Ok(Self {
            is_all_by_hand,
            hand: RefCell::default(),
            params,
            prior: Tensor::f_from_slice(&weights.prior)?.f_to_device(device)?,
            mask: mask(&config, device)?,
            frozen: weights.frozen,
            kept: RefCell::default(),
            is_by_hand,
            sequence: RefCell::default(),
            has_content_by_hand,
            content: RefCell::default(),
            is_still: false,
            config,
            device,
        })
    }

    /// A network that only scores: what depends on an item and its weights alone is computed once. Takes over what
    /// `before` has kept, where both have the same frozen base.
    #[must_use]
    pub fn into_inference(mut self, before: Option<Net>) -> Self {
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

    /// A network that leaves everything to libtorch, as on any other device: what plain loops are held to.
    #[must_use]
    pub fn by_torch(mut self) -> Self {
        self.is_by_hand = false;
        self.has_content_by_hand = false;
        self.is_all_by_hand = false;
        self.params = self.params.with(self.config.products);
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

    /// 1 for features that are read, else 0; none where all are.
    #[cfg(test)]
    pub(crate) fn mask(&self) -> Option<&Tensor> {
        self.mask.as_ref()
    }

    /// Says what the base weights are from now on: a number once they are frozen.
    pub fn set_frozen(&mut self, frozen: Option<u64>) {
        self.frozen = frozen;
        self.kept = RefCell::default();
        self.sequence = RefCell::default();
        self.content = RefCell::default();
        self.hand = RefCell::default();
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
    pub fn gather(&self, inputs: &Inputs, weights: &Weights) -> Result<BatchTensors, Error> {
        self.gather_rows(inputs, &BatchRows::plain(inputs, weights), weights)
    }

    /// The same of a batch's rows, wherever they are.
    pub fn gather_rows(
        &self,
        inputs: &Inputs,
        rows: &BatchRows<'_>,
        weights: &Weights,
    ) -> Result<BatchTensors, Error> {
        let back = match self.is_frozen() {
            true => GradMode::Inputs,
            false => GradMode::Weights,
        };
        self.gather_for(inputs, rows, weights, back)
    }

    fn gather_for(
        &self,
        inputs: &Inputs,
        rows: &BatchRows<'_>,
        weights: &Weights,
        back: GradMode,
    ) -> Result<BatchTensors, Error> {
        let (device, by_hand) = (self.device, self.by_hand()?);
        let source = |contents: &_| self.source(contents);
        BatchTensors::gather(inputs, rows, weights, device, by_hand, back, source)
    }

    /// The sequence block where it runs in plain loops: on the CPU, without adapters.
    fn by_hand(&self) -> Result<Option<Arc<CpuSequenceBlock>>, Error> {
        let make = || CpuSequenceBlock::new(&self.params, &self.config);
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

    /// All from the blocks to the logits, where it runs in plain loops.
    fn all_by_hand(&self) -> Result<Option<Arc<CpuModel>>, Error> {
        if !self.is_all_by_hand {
            return Ok(None);
        }
        let mut last = self.hand.borrow_mut();
        if let Some(hand) = last.as_ref() {
            return Ok(Some(Arc::clone(hand)));
        }
        let mask = self.mask.as_ref().map(to_vec).transpose()?;
        let interest = match self.config.interest.enabled {
            true => Some(Interest::new(&self.params, &self.config.lora)?),
            false => None,
        };
        let hand = Arc::new(CpuModel {
            tower: Tower::new(&self.params, &self.config, mask)?,
            interest,
        });
        // Heads and adapters learn whatever is frozen.
        if self.is_still {
            *last = Some(Arc::clone(&hand));
        }
        Ok(Some(hand))
    }

    /// Outputs of a batch.
    pub fn forward(&self, inputs: &Inputs, leaves: &BatchTensors) -> Result<Outputs, Error> {
        match self.all_by_hand()? {
            Some(hand) => self.forward_by_hand(hand, inputs, leaves),
            None => self.forward_by_torch(leaves),
        }
    }

    fn forward_by_hand(
        &self,
        hand: Arc<CpuModel>,
        inputs: &Inputs,
        leaves: &BatchTensors,
    ) -> Result<Outputs, Error> {
        let mut made = BatchContents::default();
        let mut contents = None;
        if let Some(leaves) = &leaves.contents {
            let (targets, vectors) = self.content_vectors(leaves)?;
            made.vectors = to_vec(&vectors)?;
            made.keys = match &leaves.source {
                ContentSource::Kept { keys, .. } => Some(to_vec(keys)?),
                ContentSource::Frozen { .. } | ContentSource::ByHand { .. } => None,
            };
            contents = Some(targets);
        }
        let pass = CpuForward::new(hand, inputs, leaves, made, &self.prior)?;
        let logits = Tensor::f_from_slice(pass.logits())?;
        Ok(Outputs {
            logits: logits.f_view([len(inputs.n_candidates()), len(self.config.n_tasks())])?,
            auxiliary: None,
            contents,
            hand: Some(pass),
        })
    }

    /// The same by libtorch, as on any other device.
    pub(crate) fn forward_by_torch(&self, leaves: &BatchTensors) -> Result<Outputs, Error> {
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
            hand: None,
        })
    }

    /// The contrast of ids and contents of a batch's distinct contents; none for fewer than two.
    pub fn contrast(
        &self,
        leaves: &BatchTensors,
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
        self.score_rows(inputs, &BatchRows::plain(inputs, weights), weights)
    }

    /// The same of a batch's rows, wherever they are.
    pub fn score_rows(
        &self,
        inputs: &Inputs,
        rows: &BatchRows<'_>,
        weights: &Weights,
    ) -> Result<Vec<f32>, Error> {
        let outputs = tch::no_grad(|| {
            let leaves = self.gather_for(inputs, rows, weights, GradMode::None)?;
            self.forward(inputs, &leaves)
        })?;
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
