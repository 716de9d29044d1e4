//! The pooled head: the last hidden layer of a candidate, less the mean and less the maximum of its slate.

use tch::{Kind, Tensor};

use crate::error::Error;

/// The slates of a batch as tensors, padded to the longest.
#[derive(Debug)]
pub struct Slates {
    /// The members of each request, `[n_requests, len]`; any candidate in padding.
    pub members: Tensor,
    /// 1 for a member, 0 in padding, `[n_requests, len, 1]`.
    pub valid: Tensor,
}

/// Mean and maximum of each slate.
///
/// # Shapes
/// `hidden [n_candidates, width]` -> `[n_requests, 2 * width]`
pub fn stats(hidden: &Tensor, slates: &Slates) -> Result<Tensor, Error> {
    let (n_requests, len) = slates.members.size2()?;
    let members = hidden
        .f_index_select(0, &slates.members.f_flatten(0, -1)?)?
        .f_view([n_requests, len, -1])?;
    let along = [1i64];
    let sum = (&members * &slates.valid).f_sum_dim_intlist(along.as_slice(), false, Kind::Float)?;
    let count = slates
        .valid
        .f_sum_dim_intlist(along.as_slice(), false, Kind::Float)?;
    let padding = slates.valid.f_eq(0.0)?;
    let max = members
        .f_masked_fill(&padding, f64::from(f32::MIN))?
        .f_amax(along.as_slice(), false)?;
    Ok(Tensor::f_cat(&[sum.f_div(&count.f_clamp_min(1.0)?)?, max], 1)?)
}

/// The differences of each candidate from the mean and the maximum of its slate.
///
/// # Shapes
/// `hidden [n_candidates, width]`, `stats [n_requests, 2 * width]`, `request_of [n_candidates]` -> `[n_candidates, 2 * width]`
pub fn differences(hidden: &Tensor, stats: &Tensor, request_of: &Tensor) -> Result<Tensor, Error> {
    let both = Tensor::f_cat(&[hidden, hidden], 1)?;
    Ok(both.f_sub(&stats.f_index_select(0, request_of)?)?)
}
