//! Transformers over the history: SASRec (Kang and McAuley 2018) and BST (Chen et al. 2019).
//!
//! Both encode the history under a causal mask by the layers of Vaswani et al. 2017, each sublayer behind its norm:
//!
//! ```text
//! y = x + W_o softmax(Q K^T / sqrt(width of a key)) V + b_o      Q, K and V of norm(x)
//! z = y + W_2 relu(W_1 norm(y) + b_1) + b_2
//! ```
//!
//! SASRec: an entry is its token plus a learned position, counted back from the newest entry. The state `h` after the newest
//! entry is read as `[h, h * e]` with the candidate's token `e`: the sum of the second part is the paper's score `h e`, and no
//! candidate reads the history itself. The paper normalises queries alone; here keys and values are normalised too.
//!
//! BST: a candidate is one more row at the end, which sees the history and itself and no other candidate. In place of a position
//! it has the time from an entry to the request, in buckets. The paper lets entries see later ones; under the causal mask the
//! history is encoded once for all candidates.

use tch::{Kind, Tensor};

use super::hstu::bucket;
use super::{History, masked_softmax, norm};
use crate::config::{SequenceConfig, SequenceKind};
use crate::error::Error;
use crate::groups::Layout;
use crate::params::Params;

const EPSILON: f64 = 1e-5;

/// What each candidate reads: for SASRec `[n_candidates, 2 width]`, 0 without a history; for BST `[n_candidates, width]`.
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
    let token = params.linear("sequence.token", target)?;
    let encoded = Encoded::new(params, config, history)?;
    if config.kind == SequenceKind::Bst {
        let now = params.get("sequence.time")?.f_select(0, 0)?;
        let mut rows = layout.group(&(token + now))?;
        let valid = layout.of_request(&encoded.valid)?;
        for (layer, read) in encoded.layers.iter().zip(&encoded.read) {
            let past = Read {
                key: layout.of_request(&read.key)?,
                value: layout.of_request(&read.value)?,
            };
            rows = layer.candidates(&rows, &past, &valid)?;
        }
        return layout.ungroup(&last_norm(params, &rows)?);
    }
    let rows = encoded.newest(history)?;
    let rows = match (encoded.layers.last(), encoded.read.last()) {
        (Some(layer), Some(read)) => layer.attend(&rows, read, &encoded.valid)?,
        _ => rows,
    };
    let has_entries = history.valid.f_amax([1i64].as_slice(), true)?;
    let state = last_norm(params, &rows)?.f_squeeze_dim(1)? * has_entries;
    let state = layout.per_candidate(&state)?;
    Ok(Tensor::f_cat(&[&state, &(&state * token)], 1)?)
}

/// The state after each entry, `[n_requests, n, width]`: the newest one is what SASRec reads.
pub fn states(params: &Params, config: &SequenceConfig, history: &History) -> Result<Tensor, Error> {
    let encoded = Encoded::new(params, config, history)?;
    let rows = match (encoded.layers.last(), encoded.read.last()) {
        (Some(layer), Some(read)) => layer.attend(&encoded.rows, read, &encoded.causal()?)?,
        _ => encoded.rows,
    };
    last_norm(params, &rows)
}

fn last_norm(params: &Params, rows: &Tensor) -> Result<Tensor, Error> {
    norm(
        rows,
        Some(params.get("sequence.norm.weight")?),
        Some(params.get("sequence.norm.bias")?),
        EPSILON,
    )
}

/// The history before the last layer.
struct Encoded<'a> {
    layers: Vec<Layer<'a>>,
    /// Keys and values of each layer.
    read: Vec<Read>,
    /// Inputs of the last layer, `[n_requests, n, width]`.
    rows: Tensor,
    /// 1 where there is an entry, `[n_requests, 1, 1, n]`.
    valid: Tensor,
}

impl<'a> Encoded<'a> {
    fn new(params: &'a Params, config: &SequenceConfig, history: &History) -> Result<Self, Error> {
        let layers = (0..config.layers).map(|index| Layer::new(params, config, index));
        let mut encoded = Self {
            layers: layers.collect(),
            read: Vec::new(),
            rows: embed(params, config, history)?,
            valid: history.valid.f_unsqueeze(1)?.f_unsqueeze(1)?,
        };
        let causal = encoded.causal()?;
        for index in 0..encoded.layers.len() {
            let layer = &encoded.layers[index];
            let read = layer.read(&encoded.rows)?;
            if index + 1 < encoded.layers.len() {
                encoded.rows = layer.attend(&encoded.rows, &read, &causal)?;
            }
            encoded.read.push(read);
        }
        Ok(encoded)
    }

    /// Which entries an entry sees: itself and those before it, `[n_requests, 1, n, n]`.
    fn causal(&self) -> Result<Tensor, Error> {
        let n = self.rows.size()[1];
        let earlier = Tensor::f_ones([n, n], (Kind::Float, self.rows.device()))?.f_tril(0)?;
        Ok(earlier.f_mul(&self.valid)?)
    }

    /// The row of each request's newest entry, `[n_requests, 1, width]`; any without one.
    fn newest(&self, history: &History) -> Result<Tensor, Error> {
        let n = history
            .valid
            .f_sum_dim_intlist([1i64].as_slice(), true, Kind::Int64)?;
        let width = self.rows.size()[2];
        let at = (n - 1)
            .f_clamp_min(0)?
            .f_unsqueeze(-1)?
            .f_expand([-1, 1, width], false)?;
        Ok(self.rows.f_gather(1, &at, false)?)
    }
}

/// Entries as rows: token and position, or token and time.
fn embed(params: &Params, config: &SequenceConfig, history: &History) -> Result<Tensor, Error> {
    let (table, index) = if config.kind == SequenceKind::Bst {
        (params.get("sequence.time")?, bucket(&history.ages)?)
    } else {
        let positions = params.get("sequence.position")?;
        // Counted back from the newest entry, which stands at 0; anything in padding.
        let after = history.valid.f_flip([1])?.f_cumsum(1, Kind::Int64)?.f_flip([1])?;
        (positions, (after - 1).f_clamp(0, positions.size()[0] - 1)?)
    };
    let place = Tensor::f_embedding(table, &index, -1, false, false)?;
    Ok(params.linear("sequence.token", &history.tokens)? + place)
}

/// Keys and values, `[b, heads, n, width of a head]`.
struct Read {
    key: Tensor,
    value: Tensor,
}

/// A layer of attention and a feed-forward network.
struct Layer<'a> {
    params: &'a Params,
    name: String,
    heads: i64,
    key: i64,
    value: i64,
}

impl<'a> Layer<'a> {
    fn new(params: &'a Params, config: &SequenceConfig, index: usize) -> Self {
        let size = |n: usize| i64::try_from(n).unwrap_or(1);
        Self {
            params,
            name: format!("sequence.layer{index}"),
            heads: size(config.heads),
            key: size(config.key_width),
            value: size(config.value_width),
        }
    }

    fn linear(&self, part: &str, x: &Tensor) -> Result<Tensor, Error> {
        self.params.linear(&format!("{}.{part}", self.name), x)
    }

    fn norm(&self, part: &str, x: &Tensor) -> Result<Tensor, Error> {
        let get = |of: &str| self.params.get(&format!("{}.{part}.{of}", self.name));
        norm(x, Some(get("weight")?), Some(get("bias")?), EPSILON)
    }

    /// `[b, n, heads * width]` by head: `[b, heads, n, width]`.
    fn by_head(&self, x: &Tensor, width: i64) -> Result<Tensor, Error> {
        let (b, n, _) = x.size3()?;
        Ok(x.f_reshape([b, n, self.heads, width])?.f_transpose(1, 2)?)
    }

    fn read(&self, x: &Tensor) -> Result<Read, Error> {
        let both = self.linear("key_value", &self.norm("norm", x)?)?;
        let keys = self.heads * self.key;
        Ok(Read {
            key: self.by_head(&both.f_narrow(2, 0, keys)?, self.key)?,
            value: self.by_head(&both.f_narrow(2, keys, self.heads * self.value)?, self.value)?,
        })
    }

    /// Queries, divided by the root of their width.
    fn query(&self, x: &Tensor) -> Result<Tensor, Error> {
        let query = self.by_head(&self.linear("query", &self.norm("norm", x)?)?, self.key)?;
        #[expect(clippy::cast_precision_loss, reason = "a width")]
        let root = (self.key as f64).sqrt();
        Ok(query / root)
    }

    /// Rows that attend to others; `sees [.., n]` is 1 where they may.
    fn attend(&self, x: &Tensor, read: &Read, sees: &Tensor) -> Result<Tensor, Error> {
        let scores = self.query(x)?.f_matmul(&read.key.f_transpose(2, 3)?)?;
        let shares = masked_softmax(&scores.f_to_kind(Kind::Float)?, sees)?;
        self.finish(x, &shares.f_matmul(&read.value)?)
    }

    /// Candidates attend to the history and each to itself.
    fn candidates(&self, x: &Tensor, past: &Read, valid: &Tensor) -> Result<Tensor, Error> {
        let (query, own) = (self.query(x)?, self.read(x)?);
        let n = valid.size()[3];
        let scores = query.f_matmul(&past.key.f_transpose(2, 3)?)?;
        let of_own = (&query * &own.key).f_sum_dim_intlist([-1i64].as_slice(), true, Kind::Float)?;
        let scores = Tensor::f_cat(&[scores.f_to_kind(Kind::Float)?, of_own], 3)?;
        let itself = valid.f_narrow(3, 0, 1)?.f_ones_like()?;
        let shares = masked_softmax(&scores, &Tensor::f_cat(&[valid, &itself], 3)?)?;
        let read = shares.f_narrow(3, 0, n)?.f_matmul(&past.value)? + shares.f_narrow(3, n, 1)? * own.value;
        self.finish(x, &read)
    }

    /// The layer's output from what its rows read, `[b, heads, n, value]`.
    fn finish(&self, x: &Tensor, read: &Tensor) -> Result<Tensor, Error> {
        let (b, n) = (x.size()[0], x.size()[1]);
        let read = read
            .f_transpose(1, 2)?
            .f_reshape([b, n, self.heads * self.value])?;
        let y = x + self.linear("out", &read)?;
        let hidden = self.linear("expand", &self.norm("ffn_norm", &y)?)?.f_relu()?;
        Ok(&y + self.linear("contract", &hidden)?)
    }
}
