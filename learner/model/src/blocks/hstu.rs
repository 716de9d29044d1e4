//! Hierarchical sequential transduction units: pointwise attention without softmax (Zhai et al. 2024, section 3.2).
//!
//! The history is encoded once a request under a causal mask; a candidate is one more row at its end, which sees the
//! history and itself and no other candidate. The keys and values of each layer are thus all that candidates need
//! of a request. Scores are divided by a constant of the model, never by the length of a batch, so a score does not
//! depend on who else is in it.

use tch::{Kind, Tensor};

use super::{History, norm};
use crate::config::{SequenceConfig, SequenceKind};
use crate::error::Error;
use crate::groups::Layout;
use crate::params::Params;

/// Buckets of time differences, count.
pub const TIME_BUCKETS: i64 = 129;
/// Factor between two buckets, as a difference of natural logarithms.
const BUCKET: f64 = 0.301;
const EPSILON: f64 = 1e-6;

/// Each candidate's row after the last layer, `[n_candidates, width]`.
///
/// # Shapes
/// `target [n_candidates, token]`
pub fn forward(
    params: &Params,
    config: &SequenceConfig,
    target: &Tensor,
    history: &History,
    layout: &Layout,
) -> Result<Tensor, Error> {
    let form = Form::new(config);
    let (past, target) = embed(params, config, target, history)?;
    let mut past = past;
    let mut target = layout.group(&target)?;
    let times = Times::new(history)?;
    for index in 0..config.layers {
        let name = format!("sequence.layer{index}");
        let bias = form.bias(params, &name, &times)?;
        let layer = Layer {
            params,
            name: &name,
            form: &form,
            history,
            bias: bias.as_ref(),
        };
        let rows = Rows::project(&layer, &target)?;
        // Nothing reads the history's rows of the last layer, so they need neither queries nor gates.
        let is_last = index + 1 == config.layers;
        let (read, next) = if is_last {
            (Read::project(&layer, &past)?, None)
        } else {
            let user = Rows::project(&layer, &past)?;
            let next = user.read_causal(&layer, &past)?;
            (user.read, Some(next))
        };
        target = rows.read_past(&layer, &target, &read, layout)?;
        past = next.unwrap_or(past);
    }
    layout.ungroup(&target)
}

/// The input rows of history and candidates: the sum of item, its attribute, action, position and time.
fn embed(
    params: &Params,
    config: &SequenceConfig,
    target: &Tensor,
    history: &History,
) -> Result<(Tensor, Tensor), Error> {
    let actions = params.get("sequence.action")?;
    let placeholder = actions.f_select(0, -1)?;
    let mut past = params.linear("sequence.token", &history.tokens)?
        + Tensor::f_embedding(actions, &history.tasks, -1, false, false)?;
    let mut target = params.linear("sequence.token", target)? + placeholder;
    if config.kind == SequenceKind::Hstu {
        // Entries are counted back from the candidates, which all stand at 0.
        let positions = params.get("sequence.position")?;
        let after = history.valid.f_flip([1])?.f_cumsum(1, Kind::Float)?.f_flip([1])?;
        let last = positions.size()[0] - 1;
        let index = after.f_clamp(0.0, as_f64(last))?.f_to_kind(Kind::Int64)?;
        let times = params.get("sequence.time")?;
        past = past
            + Tensor::f_embedding(positions, &index, -1, false, false)?
            + Tensor::f_embedding(times, &bucket(&history.ages)?, -1, false, false)?;
        target = target + positions.f_select(0, 0)? + times.f_select(0, 0)?;
    }
    Ok((past, target))
}

/// A layer and the history that it attends to.
struct Layer<'a> {
    params: &'a Params,
    name: &'a str,
    form: &'a Form,
    history: &'a History,
    bias: Option<&'a Bias>,
}

/// Sizes of a layer, and its published form.
struct Form {
    heads: i64,
    key: i64,
    value: i64,
    /// Constant that scores are divided by.
    n: f64,
    is_research: bool,
}

impl Form {
    fn new(config: &SequenceConfig) -> Self {
        let size = |n: usize| i64::try_from(n).unwrap_or(1);
        Self {
            heads: size(config.heads),
            key: size(config.key_width),
            value: size(config.value_width),
            n: as_f64(size(config.history_len.max(1))),
            is_research: config.kind == SequenceKind::HstuResearch,
        }
    }

    /// The layer's inputs after its norm.
    fn norm(&self, params: &Params, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        let weight = |part: &str| params.find(&format!("{name}.norm.{part}"));
        norm(x, weight("weight"), weight("bias"), EPSILON)
    }

    fn activate(&self, z: Tensor) -> Result<Tensor, Error> {
        Ok(if self.is_research { z.f_silu()? } else { z })
    }

    /// The columns of `z [b, n, ..]` from `from` on, by head: `[b, heads, n, width]`.
    fn heads(&self, z: &Tensor, from: i64, width: i64) -> Result<Tensor, Error> {
        let (b, n, _) = z.size3()?;
        let part = z.f_narrow(2, from, self.heads * width)?;
        Ok(part.f_reshape([b, n, self.heads, width])?.f_transpose(1, 2)?)
    }

    fn attend(&self, scores: Tensor) -> Result<Tensor, Error> {
        let scores = if self.is_research {
            scores
        } else {
            scores / as_f64(self.key).sqrt()
        };
        Ok(scores.f_silu()? / self.n)
    }

    /// The relative bias of the research form: history to history, candidates to history, and a candidate to itself.
    fn bias(&self, params: &Params, name: &str, times: &Times) -> Result<Option<Bias>, Error> {
        if !self.is_research {
            return Ok(None);
        }
        let positions = params.get(&format!("{name}.rab.position"))?;
        let by_time = params.get(&format!("{name}.rab.time"))?;
        let middle = (positions.size()[0] - 1) / 2;
        let n = times.ages.size()[1];
        let device = times.ages.device();
        let place = |from: Tensor, to: Tensor| (to - from + middle).f_clamp(0, 2 * middle);
        let at = Tensor::f_arange(n, (Kind::Int64, device))?;
        let rows = place(at.f_unsqueeze(1)?, at.f_unsqueeze(0)?)?;
        let past = positions.f_take(&rows)? + by_time.f_take(&times.between)?;
        // A candidate is one place behind the last entry, whatever the padding.
        let back = place(times.n_valid.f_unsqueeze(1)?, at.f_unsqueeze(0)?)?;
        let target = positions.f_take(&back)? + by_time.f_take(&bucket(&times.ages)?)?;
        Ok(Some(Bias {
            past: past.f_unsqueeze(1)?,
            target: target.f_unsqueeze(1)?.f_unsqueeze(1)?,
            own: positions.f_select(0, middle)? + by_time.f_select(0, 0)?,
        }))
    }
}

/// Relative biases of scores, shared by the heads.
struct Bias {
    /// `[n_requests, 1, n, n]`
    past: Tensor,
    /// `[n_requests, 1, 1, n]`
    target: Tensor,
    /// A scalar.
    own: Tensor,
}

/// Times of the entries, for the research form.
struct Times {
    ages: Tensor,
    /// Number of entries of each request, `[n_requests]`.
    n_valid: Tensor,
    /// Buckets of the time from each entry to the entry behind each row, `[n_requests, n, n]`.
    between: Tensor,
}

impl Times {
    fn new(history: &History) -> Result<Self, Error> {
        let ages = history.ages.shallow_clone();
        let n = ages.size()[1];
        // The entry behind each row; behind the last entry comes the request, of age 0.
        let zero = ages.f_narrow(1, 0, n.min(1))?.f_zeros_like()?;
        let after = Tensor::f_cat(&[&ages, &zero], 1)?.f_narrow(1, n.min(1), n)?;
        let between = bucket(&(ages.f_unsqueeze(1)? - after.f_unsqueeze(2)?))?;
        Ok(Self {
            n_valid: history
                .valid
                .f_sum_dim_intlist([1i64].as_slice(), false, Kind::Int64)?,
            ages,
            between,
        })
    }
}

/// Keys and values of rows `[b, n, width]`.
struct Read {
    /// `[b, heads, n, value]`
    value: Tensor,
    /// `[b, heads, n, key]`
    key: Tensor,
}

impl Read {
    /// Projects rows that attend to nothing themselves.
    fn project(layer: &Layer<'_>, x: &Tensor) -> Result<Self, Error> {
        let Layer {
            params, name, form, ..
        } = *layer;
        let (values, keys) = (form.heads * form.value, form.heads * form.key);
        let outputs = [(values, values), (2 * values + keys, keys)];
        let z = params.outputs(&format!("{name}.uvqk"), &form.norm(params, name, x)?, &outputs)?;
        let z = form.activate(z)?;
        Ok(Self {
            value: form.heads(&z, 0, form.value)?,
            key: form.heads(&z, values, form.key)?,
        })
    }
}

/// Rows `[b, n, width]` that attend to others.
struct Rows {
    /// `[b, n, heads * value]`
    gate: Tensor,
    /// `[b, heads, n, key]`
    query: Tensor,
    read: Read,
}

impl Rows {
    fn project(layer: &Layer<'_>, x: &Tensor) -> Result<Self, Error> {
        let Layer {
            params, name, form, ..
        } = *layer;
        let z = params.linear(&format!("{name}.uvqk"), &form.norm(params, name, x)?)?;
        let z = form.activate(z)?;
        let (values, keys) = (form.heads * form.value, form.heads * form.key);
        let gate = z.f_narrow(2, 0, values)?;
        Ok(Self {
            gate: if form.is_research { gate } else { gate.f_silu()? },
            query: form.heads(&z, 2 * values, form.key)?,
            read: Read {
                value: form.heads(&z, values, form.value)?,
                key: form.heads(&z, 2 * values + keys, form.key)?,
            },
        })
    }

    /// Rows of the history attend to earlier rows and themselves.
    fn read_causal(&self, layer: &Layer<'_>, x: &Tensor) -> Result<Tensor, Error> {
        let n = x.size()[1];
        let mut scores = self.query.f_matmul(&self.read.key.f_transpose(2, 3)?)?;
        if let Some(bias) = layer.bias {
            scores += &bias.past;
        }
        let causal = Tensor::f_ones([n, n], (Kind::Float, x.device()))?.f_tril(0)?;
        let valid = layer.history.valid.f_unsqueeze(1)?.f_unsqueeze(1)?;
        let read = (layer.form.attend(scores)? * causal * valid).f_matmul(&self.read.value)?;
        self.out(layer, x, &read)
    }

    /// Candidates attend to their request's history and themselves.
    fn read_past(
        &self,
        layer: &Layer<'_>,
        x: &Tensor,
        user: &Read,
        layout: &Layout,
    ) -> Result<Tensor, Error> {
        let form = layer.form;
        let keys = layout.of_request(&user.key)?;
        let mut scores = self.query.f_matmul(&keys.f_transpose(2, 3)?)?;
        let mut own =
            (&self.query * &self.read.key).f_sum_dim_intlist([-1i64].as_slice(), true, Kind::Float)?;
        if let Some(bias) = layer.bias {
            scores += layout.of_request(&bias.target)?;
            own += &bias.own;
        }
        let valid = layout
            .of_request(&layer.history.valid)?
            .f_unsqueeze(1)?
            .f_unsqueeze(1)?;
        let past = (form.attend(scores)? * valid).f_matmul(&layout.of_request(&user.value)?)?;
        let read = past + form.attend(own)? * &self.read.value;
        self.out(layer, x, &read)
    }

    /// The layer's output from what its rows read, `[b, heads, n, value]`.
    fn out(&self, layer: &Layer<'_>, x: &Tensor, read: &Tensor) -> Result<Tensor, Error> {
        let Layer {
            params, name, form, ..
        } = *layer;
        let (b, n) = (x.size()[0], x.size()[1]);
        let read = read
            .f_transpose(1, 2)?
            .f_reshape([b, n, form.heads * form.value])?;
        let weight = |part: &str| params.find(&format!("{name}.out_norm.{part}"));
        let normed = norm(&read, weight("weight"), weight("bias"), EPSILON)?;
        let gated = &self.gate * normed;
        let row = if form.is_research {
            gated
        } else {
            Tensor::f_cat(&[&self.gate, &read, &gated], 2)?
        };
        Ok(params.linear(&format!("{name}.out"), &row)? + x)
    }
}

/// The bucket of a time difference in seconds, by the logarithm of its absolute value.
pub(super) fn bucket(seconds: &Tensor) -> Result<Tensor, Error> {
    let bucket = (seconds.f_abs()?.f_clamp_min(1.0)?.f_log()? / BUCKET).f_floor()?;
    Ok(bucket
        .f_clamp(0.0, as_f64(TIME_BUCKETS - 1))?
        .f_to_kind(Kind::Int64)?)
}

#[expect(clippy::cast_precision_loss, reason = "sizes")]
fn as_f64(n: i64) -> f64 {
    n as f64
}
