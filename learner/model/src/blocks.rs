//! The blocks that a model is made of: functions of named weights and tensors, the same in training and in scoring.
//!
//! Three primitives carry them all: attention of a candidate over a history ([`din`], [`interest`], the candidate's
//! side of [`hstu`]), a causal encoder of a history ([`hstu`]), and self-attention over tokens ([`fq_former`]).

pub mod contrast;
pub mod din;
pub mod fm;
pub mod fq_former;
pub mod head;
pub mod hstu;
pub mod interest;

use tch::{Kind, Tensor};

use crate::error::Error;

/// The user's history as tokens, oldest first, left-aligned.
#[derive(Debug)]
pub struct History {
    /// `[n_requests, n, token]`; rows of padding are 0.
    pub tokens: Tensor,
    /// 1 where there is an entry, 0 in padding, `[n_requests, n]`.
    pub valid: Tensor,
    /// Which task's action each entry was, `[n_requests, n]`, integers.
    pub tasks: Tensor,
    /// How long before the request each entry was, seconds, `[n_requests, n]`.
    pub ages: Tensor,
}

/// Layer normalisation over the last dimension.
pub(crate) fn norm(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor, Error> {
    let width = x.size().last().copied().unwrap_or(1);
    Ok(x.f_layer_norm([width], weight, bias, eps, false)?)
}

/// Softmax over the last dimension among places that are valid, `valid` being broadcast over `scores`; all 0 where
/// none is.
pub(crate) fn masked_softmax(scores: &Tensor, valid: &Tensor) -> Result<Tensor, Error> {
    let masked = scores + (valid - 1.0) * 1e9;
    let any = valid.f_amax([-1i64].as_slice(), true)?;
    Ok(masked.f_softmax(-1, Kind::Float)? * any)
}
