//! A batch as tensors on a device: gathered rows and everything else it brings. Computes nothing.

use tch::{Device, Tensor};

use ouzel_sample::N_DENSE;

use super::{Bags, upload, upload_indices};
use crate::blocks::History;
use crate::blocks::slate_pool::Slates;
use crate::config::TOKEN_FIELDS;
use crate::error::Error;
use crate::fields::{CANDIDATE_FIELDS, USER_FIELDS};
use crate::groups::Layout;
use crate::inputs::{ContentInputs, HistoryInputs, Inputs, Pool};
use crate::net::to_i64;
use crate::weights::Weights;

/// The tensors of a batch. Autograd tracks those that are sums of embedding rows, see [`BatchTensors::track`].
#[derive(Debug)]
pub(crate) struct BatchTensors {
    /// `[n_requests, USER_FIELDS, dim]`
    pub(crate) user: Tensor,
    /// `[n_candidates, CANDIDATE_FIELDS, dim]`
    pub(crate) candidate: Tensor,
    /// Sums of the wide part, `[n_candidates]`.
    pub(crate) wide: Tensor,
    /// Live features, `[n_candidates, N_DENSE]`.
    pub(crate) dense: Tensor,
    /// Offsets of the logits, `[n_requests, n_tasks]`.
    pub(crate) prior: Tensor,
    /// The request of each candidate, `[n_candidates]`.
    pub(crate) request_of: Tensor,
    /// The history; none without a block that reads it.
    pub(crate) history: Option<History>,
    /// The lists of the long past; none without the block that reads them.
    pub(crate) long: Option<LongTensors>,
    /// Candidates as tokens, `[n_candidates, TOKEN_FIELDS * dim]`; none without a block that reads them.
    pub(crate) target: Option<Tensor>,
    /// Which content each candidate and each history entry has; none without content.
    pub(crate) contents: Option<ContentIndices>,
    /// Candidates grouped by request; none without attention over a history.
    pub(crate) layout: Option<Layout>,
    /// The slates; none without a pooled head.
    pub(crate) slates: Option<Slates>,
}

/// Lists of past actions.
#[derive(Debug)]
pub(crate) struct LongTensors {
    /// The lists, `n_lists` in place of `n_requests`.
    pub(crate) lists: History,
    /// Candidates grouped by list.
    pub(crate) layout: Layout,
}

/// Indices into the distinct contents of a batch.
#[derive(Debug)]
pub(crate) struct ContentIndices {
    /// By candidate, `[n_candidates]`.
    pub(crate) of_candidate: Tensor,
    /// By history entry, `[n_requests, len]`; any in padding.
    pub(crate) of_history: Tensor,
    /// 1 where an entry has content, else 0, `[n_requests, len]`.
    pub(crate) valid: Tensor,
    /// Distinct contents of candidates, each with a candidate that has it; none for fewer than two.
    pub(crate) contrasted: Option<[Tensor; 2]>,
}

/// The weights of a batch's unique rows, `[n_unique, dim]`.
#[derive(Debug)]
pub(crate) enum UniqueRows {
    /// Read from the host tables.
    Host(Vec<f32>),
    /// Read from the rows cached on the device.
    Device(Tensor),
}

impl BatchTensors {
    /// Gathers a batch from its rows and the wide part of `tables`. `prior [n_tasks]` is that of requests without their own.
    pub(crate) fn gather(
        inputs: &Inputs,
        rows: &UniqueRows,
        tables: &Weights,
        prior: &[f32],
        device: Device,
    ) -> Result<Self, Error> {
        let dim = tables.rows.dim();
        let wide = Inputs::read(&inputs.wide, &tables.wide);
        let (n_requests, n_candidates) = (to_i64(inputs.n_requests()), to_i64(inputs.n_candidates()));
        let sums = |pool: &Pool, shape: &[i64]| -> Result<Tensor, Error> {
            match rows {
                UniqueRows::Host(rows) => upload(&pool.gather(rows, dim), shape, device),
                UniqueRows::Device(rows) => Ok(Bags::new(pool, device)?.sum(rows)?.f_view(shape)?),
            }
        };
        let token = to_i64(TOKEN_FIELDS * dim);
        let put = |history: &HistoryInputs| -> Result<History, Error> {
            let len = to_i64(history.len);
            let shape = [to_i64(history.valid.len()) / len.max(1), len];
            Ok(History {
                tokens: sums(&history.tokens, &[shape[0], len, token])?,
                valid: upload(&history.valid, &shape, device)?,
                tasks: upload_indices(&history.tasks, device)?.f_view(shape)?,
                ages: upload(&history.ages, &shape, device)?,
            })
        };
        let history = match inputs.history.len {
            0 => None,
            _ => Some(put(&inputs.history)?),
        };
        let long = match &inputs.long {
            Some(long) => Some(LongTensors {
                lists: put(&long.lists)?,
                layout: Layout::new(&long.groups, device)?,
            }),
            None => None,
        };
        let target = &inputs.history.target;
        Ok(Self {
            user: sums(&inputs.user, &[n_requests, to_i64(USER_FIELDS), to_i64(dim)])?,
            candidate: sums(
                &inputs.candidate,
                &[n_candidates, to_i64(CANDIDATE_FIELDS), to_i64(dim)],
            )?,
            wide: upload(&inputs.wide_sum.gather(&wide, 1), &[n_candidates], device)?,
            dense: upload(&inputs.dense, &[n_candidates, to_i64(N_DENSE)], device)?,
            prior: upload(&inputs.priors(prior), &[n_requests, to_i64(prior.len())], device)?,
            request_of: upload_indices(&inputs.request_of, device)?,
            history,
            long,
            target: match target.is_empty() {
                true => None,
                false => Some(sums(target, &[n_candidates, token])?),
            },
            contents: match &inputs.contents {
                Some(contents) => Some(ContentIndices::gather(contents, device)?),
                None => None,
            },
            layout: match inputs.groups.place.is_empty() {
                true => None,
                false => Some(Layout::new(&inputs.groups, device)?),
            },
            slates: match &inputs.members {
                Some(members) => Some(gather_slates(
                    members,
                    &inputs.request_of,
                    inputs.n_requests(),
                    device,
                )?),
                None => None,
            },
        })
    }

    /// Records gradients of everything that was read from the tables.
    pub(crate) fn track(&mut self, inputs: &Inputs) {
        for (sums, _) in self.row_sums(inputs) {
            *sums = sums.set_requires_grad(true);
        }
        self.wide = self.wide.set_requires_grad(true);
    }

    /// The tensors that are sums of embedding rows, each with the pool that made it.
    pub(crate) fn row_sums<'a>(&'a mut self, inputs: &'a Inputs) -> Vec<(&'a mut Tensor, &'a Pool)> {
        let mut sums = vec![
            (&mut self.user, &inputs.user),
            (&mut self.candidate, &inputs.candidate),
        ];
        if let Some(history) = &mut self.history {
            sums.push((&mut history.tokens, &inputs.history.tokens));
        }
        if let (Some(long), Some(lists)) = (&mut self.long, &inputs.long) {
            sums.push((&mut long.lists.tokens, &lists.lists.tokens));
        }
        if let Some(target) = &mut self.target {
            sums.push((target, &inputs.history.target));
        }
        sums
    }
}

impl ContentIndices {
    fn gather(inputs: &ContentInputs, device: Device) -> Result<Self, Error> {
        let shape = [to_i64(inputs.valid.len() / inputs.len.max(1)), to_i64(inputs.len)];
        let (contents, candidates): (Vec<i64>, Vec<i64>) = inputs.contrasted.iter().copied().unzip();
        Ok(Self {
            of_candidate: upload_indices(&inputs.of_candidate, device)?,
            of_history: upload_indices(&inputs.of_history, device)?.f_view(shape)?,
            valid: upload(&inputs.valid, &shape, device)?,
            contrasted: match contents.len() > 1 {
                true => Some([
                    upload_indices(&contents, device)?,
                    upload_indices(&candidates, device)?,
                ]),
                false => None,
            },
        })
    }
}

/// The members of each slate, padded to the longest.
pub(crate) fn gather_slates(
    members: &[bool],
    request_of: &[i64],
    n_requests: usize,
    device: Device,
) -> Result<Slates, Error> {
    let mut slates: Vec<Vec<i64>> = vec![Vec::new(); n_requests];
    for (candidate, (request, is_member)) in (0i64..).zip(request_of.iter().zip(members)) {
        let slate = usize::try_from(*request).ok().and_then(|at| slates.get_mut(at));
        if let Some(slate) = slate.filter(|_| *is_member) {
            slate.push(candidate);
        }
    }
    let len = slates.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let (mut places, mut valid) = (Vec::new(), Vec::new());
    for mut slate in slates {
        valid.extend((0..len).map(|at| f32::from(u8::from(at < slate.len()))));
        slate.resize(len, 0);
        places.extend(slate);
    }
    let shape = [to_i64(n_requests), to_i64(len)];
    Ok(Slates {
        members: upload_indices(&places, device)?.f_view(shape)?,
        valid: upload(&valid, &shape, device)?.f_unsqueeze(-1)?,
    })
}
