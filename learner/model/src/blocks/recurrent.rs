//! A recurrent scan over a history: gated recurrent units (Cho et al. 2014, eq. 5 to 8), whose update gate may be scaled by
//! attention (Zhou et al. 2019, eq. 5 and 6).
//!
//! With gates `[r, z, n]` of the input, `G x + b`, and of the state, `U h + c`:
//!
//! ```text
//! r = sigmoid(Gx_r + Uh_r)    z = sigmoid(Gx_z + Uh_z)    n = tanh(Gx_n + r * Uh_n)
//! GRU      h' = z * h + (1 - z) * n
//! AUGRU    h' = (1 - a z) * h + a z * n      a: the attention of the candidate to the entry
//! ```
//!
//! The two orientations of `z` are those of the papers: a pre-trained `z` of one is the negative of the other's.

use tch::Tensor;

use crate::error::Error;
use crate::params::Params;

/// The inputs of a scan over `n` entries; all but the last dimension of a state are broadcast over `gates`.
#[derive(Debug)]
pub struct Steps<'a> {
    /// Gates of the inputs, `[.., n, 3 width]`.
    pub gates: &'a Tensor,
    /// 1 where there is an entry, 0 in padding, `[.., n]`.
    pub valid: &'a Tensor,
    /// Attention to each entry, `[.., n]`; none for a plain GRU.
    pub attention: Option<&'a Tensor>,
}

/// The state after each entry, `n` tensors shaped as `start [.., width]`; padding leaves a state as it is.
///
/// `layer` names the linear layer `U h + c`.
pub fn scan(params: &Params, layer: &str, start: Tensor, steps: &Steps<'_>) -> Result<Vec<Tensor>, Error> {
    let width = start.size().last().copied().unwrap_or(1);
    let n = steps.valid.size().last().copied().unwrap_or(0);
    let mut state = start;
    let mut states = Vec::new();
    for at in 0..n {
        let of_input = steps.gates.f_select(-2, at)?;
        let of_state = params.linear(layer, &state)?;
        let part = |gates: &Tensor, part: i64| gates.f_narrow(-1, part * width, width);
        let gate = |at: i64| -> Result<Tensor, Error> {
            Ok((part(&of_input, at)? + part(&of_state, at)?).f_sigmoid()?)
        };
        let (reset, update) = (gate(0)?, gate(1)?);
        let new = (part(&of_input, 2)? + reset * part(&of_state, 2)?).f_tanh()?;
        // The share of the new value.
        let share = match steps.attention {
            None => update.f_neg()?.f_add_scalar(1.0)?,
            Some(attention) => update.f_mul(&attention.f_select(-1, at)?.f_unsqueeze(-1)?)?,
        };
        let next = &state + share * (new - &state);
        let is_entry = steps.valid.f_select(-1, at)?.f_unsqueeze(-1)?.f_gt(0.5)?;
        state = next.f_where_self(&is_entry, &state)?;
        states.push(state.shallow_clone());
    }
    Ok(states)
}
