//! Fusion-Q-Former: an item's content vector from tokens of its frozen vectors (EM3, Deng et al. 2024, section 3.2).
//!
//! Learned queries and one token a modality attend to each other; the queries' outputs, concatenated, are the content
//! vector. Its length does not depend on the number of modalities, and the token of a missing modality is masked. The norm
//! follows the attention, and there is no feed-forward layer, as in the authors' code.

use tch::{Kind, Tensor};

use ouzel_sample::{MODALITIES, N_MODALITIES};

use super::norm;
use crate::config::ContentConfig;
use crate::error::Error;
use crate::params::Params;

/// Frozen vectors of a list of items.
#[derive(Debug)]
pub struct Frozen {
    /// `[n, width]` by modality; none for one that the model does not read, and 0 where an item has no vector.
    pub vectors: [Option<Tensor>; N_MODALITIES],
    /// 1 where an item has the modality, else 0, `[n, N_MODALITIES]`.
    pub present: Tensor,
}

/// The content vectors of items, `[n, queries * width]`.
pub fn forward(params: &Params, config: &ContentConfig, frozen: &Frozen) -> Result<Tensor, Error> {
    let n = frozen.present.size()[0];
    // The same for every item, so that the first layer computes their part once.
    let mut queries = params.get("content.queries")?.f_unsqueeze(0)?;
    let n_queries = queries.size()[1];
    let (mut tokens, mut absent) = (Vec::new(), Vec::new());
    // Images before texts, as in the paper's equation.
    for modality in (0..N_MODALITIES).rev() {
        if let (Some(vectors), Some(name)) = (&frozen.vectors[modality], MODALITIES.get(modality)) {
            tokens.push(params.linear(&format!("content.{name}"), vectors)?);
            let column = i64::try_from(modality).unwrap_or(0);
            absent.push((frozen.present.f_narrow(1, column, 1)? - 1.0) * 1e9);
        }
    }
    let last = config.layers.saturating_sub(1);
    for layer in 0..last {
        let name = format!("content.layer{layer}");
        let mut x = vec![queries.f_expand([n, -1, -1], false)?];
        for token in &tokens {
            x.push(token.f_unsqueeze(1)?);
        }
        let x = self_attention(params, &name, &Tensor::f_cat(&x, 1)?, &absent, config.heads)?;
        queries = x.f_narrow(1, 0, n_queries)?;
        tokens = x.f_narrow(1, n_queries, x.size()[1] - n_queries)?.f_unbind(1)?;
    }
    if config.layers > 0 {
        let name = format!("content.layer{last}");
        queries = last_layer(params, &name, &queries, &tokens, &absent, config.heads)?;
    }
    Ok(queries.f_expand([n, -1, -1], false)?.f_flatten(1, 2)?)
}

/// The last layer, of which only the queries' outputs are read: `[n, queries, width]`.
///
/// A score against a key `W x + b` is computed as `(q W) x + q b`: with few queries and tokens, neither keys nor a matrix
/// product an item is needed.
///
/// # Shapes
/// `queries [n, queries, width]`, or `[1, ..]` where all items share them; each of `tokens [n, width]`, and of `absent
/// [n, 1]`, which is added to its scores
fn last_layer(
    params: &Params,
    name: &str,
    queries: &Tensor,
    tokens: &[Tensor],
    absent: &[Tensor],
    heads: usize,
) -> Result<Tensor, Error> {
    let (shared, n_queries, width) = queries.size3()?;
    let heads = i64::try_from(heads).unwrap_or(1);
    let head = width / heads;
    let part = |part: &str| -> Result<Tensor, Error> {
        let x = params.linear(&format!("{name}.{part}"), queries)?;
        Ok(x.f_reshape([shared, n_queries, heads, head])?.f_transpose(1, 2)?)
    };
    // [.., heads, queries, head]
    let query = part("query")? / scale(head);
    let (keys, values) = (part("key")?, part("value")?);
    let weight = params
        .weight(&format!("{name}.key"))?
        .f_reshape([heads, head, width])?;
    let projected = query
        .f_matmul(&weight)?
        .f_reshape([shared, heads * n_queries, width])?;
    let bias = match params.find(&format!("{name}.key.bias")) {
        Some(bias) => query.f_matmul(&bias.f_reshape([1, heads, head, 1])?)?,
        None => query.f_zeros_like()?.f_narrow(3, 0, 1)?,
    };
    let n = tokens.first().map_or(shared, |token| token.size()[0]);
    let own = query.f_matmul(&keys.f_transpose(2, 3)?)?;
    let mut scores = vec![own.f_expand([n, -1, -1, -1], false)?];
    for (token, absent) in tokens.iter().zip(absent) {
        let score = match shared {
            1 => token.f_matmul(&projected.f_squeeze_dim(0)?.f_tr()?)?,
            _ => projected.f_matmul(&token.f_unsqueeze(2)?)?,
        };
        let absent = absent.f_reshape([n, 1, 1, 1])?;
        scores.push(score.f_reshape([n, heads, n_queries, 1])? + &bias + absent);
    }
    // [n, heads, queries, queries and tokens]
    let shares = Tensor::f_cat(&scores, 3)?.f_softmax(-1, Kind::Float)?;
    let share = |at: i64| shares.f_narrow(3, at, 1);
    let mut read = share(0)? * values.f_narrow(2, 0, 1)?;
    for at in 1..n_queries {
        read += share(at)? * values.f_narrow(2, at, 1)?;
    }
    for (token, at) in tokens.iter().zip(n_queries..) {
        let value = params.linear(&format!("{name}.value"), token)?;
        read += share(at)? * value.f_reshape([n, heads, 1, head])?;
    }
    let read = read.f_transpose(1, 2)?.f_reshape([n, n_queries, width])?;
    layer_norm(params, name, &read, queries)
}

/// One layer on `x [n, tokens, width]`, queries first; `absent` as in [`last_layer`].
fn self_attention(
    params: &Params,
    name: &str,
    x: &Tensor,
    absent: &[Tensor],
    heads: usize,
) -> Result<Tensor, Error> {
    let (n, n_tokens, width) = x.size3()?;
    let heads = i64::try_from(heads).unwrap_or(1);
    let head = width / heads;
    let n_queries = n_tokens - i64::try_from(absent.len()).unwrap_or(0);
    let mut mask = vec![x.f_new_zeros([n, n_queries], (Kind::Float, x.device()))?];
    mask.extend(absent.iter().map(Tensor::shallow_clone));
    let mask = Tensor::f_cat(&mask, 1)?.f_reshape([n, 1, 1, n_tokens])?;
    let part = |part: &str| -> Result<Tensor, Error> {
        let x = params.linear(&format!("{name}.{part}"), x)?;
        Ok(x.f_reshape([n, n_tokens, heads, head])?.f_transpose(1, 2)?)
    };
    let scores = part("query")?.f_matmul(&part("key")?.f_transpose(2, 3)?)? / scale(head) + mask;
    let read = scores.f_softmax(-1, Kind::Float)?.f_matmul(&part("value")?)?;
    let read = read.f_transpose(1, 2)?.f_reshape([n, n_tokens, width])?;
    layer_norm(params, name, &read, x)
}

/// The layer's output from its inputs `x` and what they read.
fn layer_norm(params: &Params, name: &str, read: &Tensor, x: &Tensor) -> Result<Tensor, Error> {
    norm(
        &(params.linear(&format!("{name}.out"), read)? + x),
        params.find(&format!("{name}.norm.weight")),
        params.find(&format!("{name}.norm.bias")),
        1e-5,
    )
}

#[expect(clippy::cast_precision_loss, reason = "a head's width")]
fn scale(head: i64) -> f64 {
    (head as f64).sqrt()
}
