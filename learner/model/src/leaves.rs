//! A batch as tensors: the rows it reads, gathered, and everything else it brings.

use std::sync::Arc;

use tch::{Device, Tensor};

use ouzel_sample::{ItemVectors, N_DENSE, N_MODALITIES};

use crate::blocks::History;
use crate::blocks::fq_former::Frozen;
use crate::config::{ContentConfig, TOKEN_FIELDS};
use crate::cpu::{ContentPass, CpuSequenceBlock, GradMode, SequencePass};
use crate::error::Error;
use crate::fields::{CANDIDATE_FIELDS, USER_FIELDS};
use crate::groups::Layout;
use crate::inputs::{Bags, ContentInputs, HistoryInputs, Inputs, Pool};
use crate::weights::Weights;

/// The tensors a batch brings. The learner asks for gradients of those made of rows, see [`BatchTensors::of_rows`].
#[derive(Debug)]
pub struct BatchTensors {
    /// `[n_requests, USER_FIELDS, dim]`
    pub user: Tensor,
    /// `[n_candidates, CANDIDATE_FIELDS, dim]`
    pub candidate: Tensor,
    /// `[n_candidates]`
    pub wide: Tensor,
    /// `[n_candidates, N_DENSE]`
    pub dense: Tensor,
    /// `[n_candidates]`
    pub request_of: Tensor,
    /// The history, where a block reads it.
    pub history: Option<History>,
    /// Candidates as tokens, where a block reads them, `[n_candidates, TOKEN_FIELDS * dim]`.
    pub target: Option<Tensor>,
    /// The contents, where a block reads them.
    pub contents: Option<ContentLeaves>,
    /// Candidates beside their requests, where a block needs them so.
    pub layout: Option<Layout>,
    /// The sequence block, where it ran in plain loops; there is no `history` then.
    pub pass: Option<SequencePass>,
}

/// The weights of a batch's unique rows, `[n_unique, dim]`.
#[derive(Debug)]
pub enum BatchRows<'a> {
    /// Read from the tables.
    Plain(Vec<f32>),
    /// On the device already, see [`DeviceRows`](crate::DeviceRows).
    Hot(&'a Tensor),
}

impl BatchRows<'_> {
    /// Those of the tables.
    #[must_use]
    pub fn plain(inputs: &Inputs, weights: &Weights) -> Self {
        Self::Plain(weights.rows.read_all(&inputs.rows))
    }
}

/// The contents of a batch.
#[derive(Debug)]
pub struct ContentLeaves {
    /// The contents themselves, those of candidates first.
    pub source: ContentSource,
    /// How many of them are candidates'.
    pub n_targets: i64,
    /// Which each candidate has, `[n_candidates]`.
    pub of_candidate: Tensor,
    /// Which each entry of a history has, `[n_requests, len]`.
    pub of_history: Tensor,
    /// 1 where an entry has content, `[n_requests, len]`.
    pub valid: Tensor,
    /// Contents with a candidate of each, to be contrasted: places among the contents, and candidates.
    pub contrasted: Option<(Tensor, Tensor)>,
}

/// Where content vectors come from.
#[derive(Debug)]
pub enum ContentSource {
    /// Made anew of frozen vectors.
    Frozen {
        /// Those of candidates' contents.
        targets: Frozen,
        /// The contents of histories, made already, `[n, out]`; none where there are no others than candidates'.
        past: Option<Tensor>,
    },
    /// The same in plain loops.
    ByHand {
        /// Those of candidates, as they were made.
        pass: Box<ContentPass>,
        /// The same as a tensor, `[n_targets, out]`; the learner asks for its gradient.
        targets: Tensor,
        /// As above.
        past: Option<Tensor>,
    },
    /// Kept, since what makes them stands still.
    Kept {
        /// `[n, out]`
        vectors: Tensor,
        /// Keys of content interest without its adapter, `[n, width]`; empty without that block.
        keys: Tensor,
    },
}

impl BatchTensors {
    /// Gathers a batch from its rows and the other weights of a version. `source` makes its contents; `by_hand` is a
    /// sequence block that runs in plain loops, and keeps what gradients need that go `back`.
    pub(crate) fn gather(
        inputs: &Inputs,
        rows: &BatchRows<'_>,
        weights: &Weights,
        device: Device,
        by_hand: Option<Arc<CpuSequenceBlock>>,
        back: GradMode,
        source: impl FnOnce(&ContentInputs) -> Result<ContentSource, Error>,
    ) -> Result<Self, Error> {
        let dim = weights.rows.dim();
        let wide = Inputs::read(&inputs.wide, &weights.wide);
        let put = Put { device };
        let (n_requests, n_candidates) = (len(inputs.n_requests()), len(inputs.n_candidates()));
        let rows_of = |pool: &Pool, shape: &[i64]| -> Result<Tensor, Error> {
            match rows {
                BatchRows::Plain(rows) => put.f32(&pool.gather(rows, dim), shape),
                BatchRows::Hot(rows) => Ok(Bags::new(pool, device)?.sum(rows)?.f_view(shape)?),
            }
        };
        let token = len(TOKEN_FIELDS * dim);
        let HistoryInputs {
            len: n,
            tokens,
            target,
            ..
        } = &inputs.history;
        let pass = match (by_hand.filter(|_| *n > 0), rows) {
            (Some(block), BatchRows::Plain(rows)) => Some(SequencePass::new(block, inputs, rows, dim, back)?),
            _ => None,
        };
        let history = if *n > 0 && pass.is_none() {
            let shape = [n_requests, len(*n)];
            Some(History {
                tokens: rows_of(tokens, &[n_requests, len(*n), token])?,
                valid: put.f32(&inputs.history.valid, &shape)?,
                tasks: put.i64(&inputs.history.tasks)?.f_view(shape)?,
                ages: put.f32(&inputs.history.ages, &shape)?,
            })
        } else {
            None
        };
        let contents = match &inputs.contents {
            Some(contents) => Some(ContentLeaves::new(contents, source(contents)?, &put)?),
            None => None,
        };
        Ok(Self {
            user: rows_of(&inputs.user, &[n_requests, len(USER_FIELDS), len(dim)])?,
            candidate: rows_of(
                &inputs.candidate,
                &[n_candidates, len(CANDIDATE_FIELDS), len(dim)],
            )?,
            wide: put.f32(&inputs.wide_sum.gather(&wide, 1), &[n_candidates])?,
            dense: put.f32(&inputs.dense, &[n_candidates, len(N_DENSE)])?,
            request_of: put.i64(&inputs.request_of)?,
            history,
            // Plain loops have read it; what is left to ask for it is the contrast.
            target: match target.is_empty() || (pass.is_some() && weights.config.contrast == 0) {
                true => None,
                false => Some(rows_of(target, &[n_candidates, token])?),
            },
            contents,
            layout: match inputs.groups.place.is_empty() {
                true => None,
                false => Some(Layout::new(&inputs.groups, device)?),
            },
            pass,
        })
    }

    /// The tensors that are sums of embedding rows, each with the pool that made it.
    pub fn of_rows<'a>(&'a mut self, inputs: &'a Inputs) -> Vec<(&'a mut Tensor, &'a Pool)> {
        let mut list = vec![
            (&mut self.user, &inputs.user),
            (&mut self.candidate, &inputs.candidate),
        ];
        if let Some(history) = &mut self.history {
            list.push((&mut history.tokens, &inputs.history.tokens));
        }
        if let Some(target) = &mut self.target {
            list.push((target, &inputs.history.target));
        }
        list
    }
}

impl ContentLeaves {
    fn new(inputs: &ContentInputs, source: ContentSource, put: &Put) -> Result<Self, Error> {
        let n_requests = len(inputs.valid.len() / inputs.len.max(1));
        let shape = [n_requests, len(inputs.len)];
        let (places, candidates): (Vec<i64>, Vec<i64>) = inputs.contrasted.iter().copied().unzip();
        Ok(Self {
            source,
            n_targets: len(inputs.n_targets),
            of_candidate: put.i64(&inputs.of_candidate)?,
            of_history: put.i64(&inputs.of_history)?.f_view(shape)?,
            valid: put.f32(&inputs.valid, &shape)?,
            contrasted: if places.len() > 1 {
                Some((put.i64(&places)?, put.i64(&candidates)?))
            } else {
                None
            },
        })
    }
}

/// Frozen vectors of a list of items as tensors. One of another width than the model reads counts as missing.
pub(crate) fn frozen(items: &[ItemVectors], config: &ContentConfig, device: Device) -> Result<Frozen, Error> {
    let put = Put { device };
    let mut present = vec![0.0; items.len() * N_MODALITIES];
    let mut vectors: [Option<Tensor>; N_MODALITIES] = [const { None }; N_MODALITIES];
    for (modality, width) in config
        .widths
        .into_iter()
        .enumerate()
        .filter(|(_, width)| *width > 0)
    {
        let mut values = vec![0.0; items.len() * width];
        for (at, item) in items.iter().enumerate() {
            let Some(vector) = item[modality]
                .as_ref()
                .filter(|vector| vector.values.len() == width)
            else {
                continue;
            };
            values[at * width..(at + 1) * width].copy_from_slice(&vector.values);
            present[at * N_MODALITIES + modality] = 1.0;
        }
        vectors[modality] = Some(put.f32(&values, &[len(items.len()), len(width)])?);
    }
    Ok(Frozen {
        vectors,
        present: put.f32(&present, &[len(items.len()), len(N_MODALITIES)])?,
    })
}

/// Puts plain numbers on a device.
struct Put {
    device: Device,
}

impl Put {
    fn f32(&self, values: &[f32], shape: &[i64]) -> Result<Tensor, Error> {
        Ok(Tensor::f_from_slice(values)?
            .f_reshape(shape)?
            .f_to_device(self.device)?)
    }

    fn i64(&self, values: &[i64]) -> Result<Tensor, Error> {
        Ok(Tensor::f_from_slice(values)?.f_to_device(self.device)?)
    }
}

/// A length as libtorch counts.
pub(crate) fn len(n: usize) -> i64 {
    i64::try_from(n).expect("a length below 2^63")
}
