//! The forward pass of a network in tensors: what each block computes, added up to logits.

use tch::Tensor;

use ouzel_sample::N_DENSE;

use super::{BatchTensors, ReadVectors, upload};
use crate::blocks::{dien, din, fm, gate, head, hstu, interest, slate_pool, transformer};
use crate::config::SequenceKind;
use crate::error::Error;
use crate::feature_norm::LIMIT;
use crate::fields::{CANDIDATE_FIELDS, USER_FIELDS};
use crate::net::{Net, to_i64};

/// The outputs of a forward pass, and the content vectors that the contrast reads.
#[derive(Debug)]
pub(crate) struct TorchOutputs {
    /// `[n_candidates, n_tasks]`
    pub(crate) logits: Tensor,
    /// `[n_candidates, n_tasks * auxiliary]`; none without auxiliary logits.
    pub(crate) auxiliary: Option<Tensor>,
    /// The distinct contents of candidates, `[n_targets, out]`; none without content.
    pub(crate) contents: Option<Tensor>,
}

/// Computes a batch. `mask [N_DENSE]` is 1 for live features that are read; none where all are.
pub(crate) fn forward(
    net: &Net,
    mask: Option<&Tensor>,
    batch: &BatchTensors,
    ReadVectors { contents, linear }: ReadVectors,
) -> Result<TorchOutputs, Error> {
    let (config, params) = (net.config(), net.params());
    let of_request = |x: &Tensor| x.f_index_select(0, &batch.request_of);
    let product = |x: &Tensor, weight: &str| -> Result<Tensor, Error> {
        params.product(x, &params.get(weight)?.f_tr()?, None)
    };
    let mut first = fields(net, batch)?
        + product(&live_features(net, mask, &batch.dense)?, "first.dense")?
        + params.get("first.bias")?;
    let mut fields = batch.candidate.shallow_clone();
    if let (Some(contents), Some(indices)) = (&contents, &batch.contents) {
        let target = contents.targets.f_index_select(0, &indices.of_candidate)?;
        first += product(&target, "first.content")?;
        if config.fm {
            let field = product(&target, "fm.content")?;
            fields = Tensor::f_cat(&[fields, field.f_unsqueeze(1)?], 1)?;
        }
        if let (Some(keys), Some(layout)) = (&contents.keys, &batch.layout) {
            let past = interest::Contents {
                vectors: contents.all.shallow_clone(),
                keys: keys.shallow_clone(),
                of_history: indices.of_history.shallow_clone(),
                valid: indices.valid.shallow_clone(),
            };
            first += product(
                &interest::forward(params, &target, &past, layout)?,
                "first.interest",
            )?;
        }
    }
    if let Some(read) = sequence(net, batch)? {
        first += product(&read, "first.sequence")?;
    }
    if let (Some(long), Some(target)) = (&batch.long, &batch.target) {
        let read = din::forward(params, "long", target, &long.lists, &long.layout)?;
        first += product(&read, "first.long")?;
    }
    let rows = config.ppnet.then(|| gate_rows(batch)).transpose()?;
    let close = |layer: usize, hidden: Tensor| -> Result<Tensor, Error> {
        Ok(match &rows {
            Some(rows) => hidden * gate::of_layer(params, layer, rows)?,
            None => hidden,
        })
    };
    let mut hidden = close(0, first.f_relu()?)?;
    for layer in 1..config.hidden.len() {
        let next = params.linear(&format!("hidden{layer}"), &hidden)?.f_relu()?;
        hidden = close(layer, next)?;
    }
    let auxiliary = match config.auxiliary {
        0 => None,
        _ => Some(params.linear("aux", &hidden.f_detach()?)?),
    };
    let mut logits =
        head::forward(params, &config.head, config.n_tasks(), &hidden)? + of_request(&batch.prior)?;
    if config.wide {
        logits += batch.wide.f_unsqueeze(1)?;
    }
    if config.fm {
        logits += fm::second_order(&batch.user, &fields, &batch.request_of)?.f_unsqueeze(1)?;
    }
    if let Some(slates) = &batch.slates {
        let stats = slate_pool::stats(&hidden, slates)?;
        let differences = slate_pool::differences(&hidden, &stats, &batch.request_of)?;
        logits += differences.f_matmul(&params.get("pool.weight")?.f_tr()?)?;
    }
    if let (Some(linear), Some(indices)) = (linear, &batch.contents) {
        logits += linear.f_index_select(0, &indices.of_candidate)?;
    }
    Ok(TorchOutputs {
        logits,
        auxiliary,
        contents: contents.map(|contents| contents.targets),
    })
}

/// The fields of user and candidate through the first layer, each weighed by its gate where there are gates, `[n_candidates, first]`.
fn fields(net: &Net, batch: &BatchTensors) -> Result<Tensor, Error> {
    let params = net.params();
    let of_request = |x: &Tensor| x.f_index_select(0, &batch.request_of);
    let product = |x: &Tensor, weight: &str| -> Result<Tensor, Error> {
        params.product(&x.f_flatten(1, -1)?, &params.get(weight)?.f_tr()?, None)
    };
    if !net.config().senet {
        return Ok(
            of_request(&product(&batch.user, "first.user")?)? + product(&batch.candidate, "first.candidate")?
        );
    }
    let fields = Tensor::f_cat(&[&of_request(&batch.user)?, &batch.candidate], 1)?;
    let gated = gate::of_fields(params, &fields)?.f_unsqueeze(-1)? * fields;
    let (of_user, of_candidate) = (to_i64(USER_FIELDS), to_i64(CANDIDATE_FIELDS));
    Ok(product(&gated.f_narrow(1, 0, of_user)?, "first.user")?
        + product(&gated.f_narrow(1, of_user, of_candidate)?, "first.candidate")?)
}

/// The rows that the gates of hidden layers read of each candidate, `[n_candidates, GATE_ROWS * dim]`.
fn gate_rows(batch: &BatchTensors) -> Result<Tensor, Error> {
    let user = batch.user.f_select(1, 0)?.f_index_select(0, &batch.request_of)?;
    Ok(Tensor::f_cat(&[user, batch.candidate.f_flatten(1, -1)?], 1)?)
}

/// What the sequence block reads of the history, `[n_candidates, out]`; none without that block.
fn sequence(net: &Net, batch: &BatchTensors) -> Result<Option<Tensor>, Error> {
    let (Some(history), Some(target), Some(layout)) = (&batch.history, &batch.target, &batch.layout) else {
        return Ok(None);
    };
    let (config, params) = (&net.config().sequence, net.params());
    Ok(match config.kind {
        SequenceKind::Mean => None,
        SequenceKind::Din => Some(din::forward(params, "sequence", target, history, layout)?),
        SequenceKind::Gru => Some(dien::last_state(params, history, layout)?),
        SequenceKind::Dien => Some(dien::forward(params, target, history, layout)?),
        SequenceKind::Sasrec | SequenceKind::Bst => {
            Some(transformer::forward(params, config, target, history, layout)?)
        }
        SequenceKind::Hstu | SequenceKind::HstuResearch => {
            Some(hstu::forward(params, config, target, history, layout)?)
        }
    })
}

/// Live features as the first layer reads them: normalized, with learned values for missing ones, and without those it
/// does not read.
fn live_features(net: &Net, mask: Option<&Tensor>, dense: &Tensor) -> Result<Tensor, Error> {
    let read = match net.scale() {
        Some(scale) => {
            let lanes = [to_i64(N_DENSE)];
            let mean = upload(&scale.mean, &lanes, dense.device())?;
            let factor = upload(&scale.factor, &lanes, dense.device())?;
            ((dense - mean) * factor).f_clamp(-f64::from(LIMIT), f64::from(LIMIT))?
        }
        None => dense.shallow_clone(),
    };
    let read = match net.params().find("missing") {
        // Every fixed transform of a live feature maps "nothing known" to 0.
        Some(missing) => missing.f_where_self(&dense.f_eq(0.0)?, &read)?,
        None => read,
    };
    Ok(match mask {
        Some(mask) => read * mask,
        None => read,
    })
}
