//! Deep Interest Network: attention of a candidate over the history by an MLP (Zhou et al. 2018, section 4.3).
//!
//! The scores are not normalised, so that the output grows with the user's activity. With several heads an entry has a score
//! for each of them. Entries may carry the time to the request, whose bucket has a row that is added to the token (as in Pi et
//! al. 2020, section 3.2, which appends it).
//!
//! Of the first layer's four blocks, for
//! `[q, k, q - k, q * k]`, only that of the product needs every pair; the others are computed once a candidate or
//! once an entry and added.

use tch::{Kind, Tensor};

use super::{History, hstu::bucket};
use crate::error::Error;
use crate::groups::Layout;
use crate::params::Params;

/// The output of each candidate, `[n_candidates, heads * token]`. `prefix` is the first part of the names of the weights.
///
/// # Shapes
/// `target [n_candidates, token]`
pub fn forward(
    params: &Params,
    prefix: &str,
    target: &Tensor,
    history: &History,
    layout: &Layout,
) -> Result<Tensor, Error> {
    let width = target.size()[1];
    let layer = |part: &str| format!("{prefix}.{part}");
    let first = params.weight(&layer("first"))?;
    let block = |at: i64| first.f_narrow(1, at * width, width);
    let of_query = (block(0)? + block(2)?).f_tr()?;
    let of_key = (block(1)? - block(2)?).f_tr()?;

    let entries = match params.find(&layer("time")) {
        Some(times) => {
            &history.tokens + Tensor::f_embedding(times, &bucket(&history.ages)?, -1, false, false)?
        }
        None => history.tokens.shallow_clone(),
    };
    let tokens = layout.of_request(&entries)?;
    let keys = layout.of_request(&entries.f_matmul(&of_key)?)?.f_unsqueeze(1)?;
    let query = layout.group(target)?;
    let queries = (query.f_matmul(&of_query)? + params.get(&layer("first.bias"))?).f_unsqueeze(2)?;
    // [n_groups, width, len, token]
    let pairs = query.f_unsqueeze(2)? * tokens.f_unsqueeze(1)?;
    let hidden = (pairs.f_matmul(&block(3)?.f_tr()?)? + keys + queries).f_silu()?;
    let hidden = params.linear(&layer("second"), &hidden)?.f_silu()?;
    // [n_groups, width, heads, len]
    let scores = params
        .linear(&layer("score"), &hidden)?
        .f_to_kind(Kind::Float)?
        .f_transpose(2, 3)?;
    let valid = layout
        .of_request(&history.valid)?
        .f_unsqueeze(1)?
        .f_unsqueeze(1)?;
    let read = (scores * valid).f_matmul(&tokens.f_unsqueeze(1)?)?;
    layout.ungroup(&read.f_flatten(2, 3)?)
}
