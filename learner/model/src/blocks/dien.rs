//! Deep Interest Evolution Network: a recurrent scan of the history for each candidate (Zhou et al. 2019, section 4).
//!
//! A GRU extracts an interest from each prefix of the history, once a request. A candidate attends to these interests, by
//! `softmax_j(s_j A e)`, and a second scan, whose update gate is scaled by that attention, evolves the interest that is near
//! the candidate. Its last state is the output. The second scan is the only part that is computed per candidate and entry.
//!
//! Candidates and entries are normalised before anything reads them, unlike in the paper: new rows are near 0, where gates do
//! not move and all attention is alike. In training an auxiliary loss may teach the states what comes next.

use tch::{Kind, Reduction, Tensor};

use super::recurrent::{Steps, scan};
use super::{History, masked_softmax, norm};
use crate::error::Error;
use crate::groups::Layout;
use crate::params::Params;

const EPSILON: f64 = 1e-5;

/// The evolved interest of each candidate, `[n_candidates, width]`; 0 without a history.
///
/// # Shapes
/// `target [n_candidates, token]`
pub fn forward(
    params: &Params,
    target: &Tensor,
    history: &History,
    layout: &Layout,
) -> Result<Tensor, Error> {
    let states = Tensor::f_stack(&extract(params, history)?, 1)?;
    let gates = layout
        .of_request(&params.linear("sequence.evolve.input", &states)?)?
        .f_unsqueeze(1)?;
    let states = layout.of_request(&states)?;
    let valid = layout.of_request(&history.valid)?.f_unsqueeze(1)?;
    // [n_groups, width of a group, state]
    let query = params.linear(
        "sequence.attention",
        &layout.group(&norm(target, None, None, EPSILON)?)?,
    )?;
    let scores = query
        .f_matmul(&states.f_transpose(1, 2)?)?
        .f_to_kind(Kind::Float)?;
    let attention = masked_softmax(&scores, &valid)?;
    let steps = Steps {
        gates: &gates,
        valid: &valid,
        attention: Some(&attention),
    };
    let evolved = scan(params, "sequence.evolve.state", query.f_zeros_like()?, &steps)?;
    layout.ungroup(evolved.last().unwrap_or(&query))
}

/// The last state of the GRU alone, the same for all candidates of a request, `[n_candidates, width]`; 0 without a history
/// (Hidasi et al. 2016, section 3).
pub fn last_state(params: &Params, history: &History, layout: &Layout) -> Result<Tensor, Error> {
    let states = extract(params, history)?;
    let last = states.last().unwrap_or(&history.tokens);
    layout.per_candidate(last)
}

/// DIEN's auxiliary loss: the state after an entry tells the next entry from an item that did not come (Zhou et al. 2019, eq. 7).
///
/// The mean over all entries but the first of each history, `-ln s(h A e) - ln(1 - s(h A m))`, with the entry `e`, a candidate
/// `m` of the batch that is another item, the state `h` before the entry and the matrix `A` of the attention. 0 without any.
///
/// # Shapes
/// `target [n_candidates, token]`; `pairs`: places of entries among `[n_requests * n]`, and the candidate against each
pub fn next_entry_loss(
    params: &Params,
    target: &Tensor,
    history: &History,
    pairs: &[(i64, i64)],
) -> Result<Tensor, Error> {
    let (places, negatives): (Vec<i64>, Vec<i64>) = pairs.iter().copied().unzip();
    let index = |values: &[i64]| -> Result<Tensor, Error> {
        Ok(Tensor::f_from_slice(values)?.f_to_device(target.device())?)
    };
    let states = Tensor::f_stack(&extract(params, history)?, 1)?.f_flatten(0, 1)?;
    let before = states.f_index_select(0, &(index(&places)? - 1))?;
    let read = |rows: &Tensor, at: &[i64]| -> Result<Tensor, Error> {
        let rows = norm(rows, None, None, EPSILON)?.f_index_select(0, &index(at)?)?;
        let read = params.linear("sequence.attention", &rows)?;
        Ok((read * &before).f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?)
    };
    let next = read(&history.tokens.f_flatten(0, 1)?, &places)?;
    let others = read(target, &negatives)?;
    let of = |logits: &Tensor, label: &Tensor| {
        logits.f_binary_cross_entropy_with_logits(label, None::<&Tensor>, None::<&Tensor>, Reduction::Sum)
    };
    let sum = of(&next, &next.f_ones_like()?)? + of(&others, &others.f_zeros_like()?)?;
    #[expect(clippy::cast_precision_loss, reason = "entries of a batch")]
    let n = pairs.len().max(1) as f64;
    Ok(sum / n)
}

/// The state of the extracting GRU after each entry, each `[n_requests, width]`.
fn extract(params: &Params, history: &History) -> Result<Vec<Tensor>, Error> {
    let gates = params.linear(
        "sequence.extract.input",
        &norm(&history.tokens, None, None, EPSILON)?,
    )?;
    let width = gates.size().last().copied().unwrap_or(3) / 3;
    let start = gates.f_select(1, 0)?.f_narrow(-1, 0, width)?.f_zeros_like()?;
    let steps = Steps {
        gates: &gates,
        valid: &history.valid,
        attention: None,
    };
    scan(params, "sequence.extract.state", start, &steps)
}
