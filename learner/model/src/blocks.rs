//! The blocks of a model as functions of named weights and tensors: the reference for any device and for the cpu backend.
//!
//! They use four primitives: attention of a candidate over a history ([`din`], [`interest`], the candidate's side of
//! [`hstu`] and [`transformer`]), a causal encoder of a history ([`hstu`], [`transformer`]), a recurrent scan ([`recurrent`], used by [`dien`]), and
//! self-attention over tokens ([`fq_former`]).

pub mod content_linear;
pub mod contrast;
pub mod dien;
pub mod din;
pub mod fm;
pub mod fq_former;
pub mod gate;
pub mod head;
pub mod hstu;
pub mod interest;
pub mod recurrent;
pub mod slate_pool;
pub mod transformer;

use tch::{Kind, Tensor};

use crate::error::Error;

/// The user's history as tokens, oldest first, left-aligned.
#[derive(Debug)]
pub struct History {
    /// `[n_requests, n, token]`; rows of padding are 0.
    pub tokens: Tensor,
    /// 1 where there is an entry, 0 in padding, `[n_requests, n]`.
    pub valid: Tensor,
    /// The task of each entry's action, `[n_requests, n]`, integers.
    pub tasks: Tensor,
    /// Seconds from each entry to the request, `[n_requests, n]`.
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

/// Softmax over the last dimension among valid places; 0 where no place is valid. `valid` is broadcast over `scores`.
pub(crate) fn masked_softmax(scores: &Tensor, valid: &Tensor) -> Result<Tensor, Error> {
    let masked = scores + (valid - 1.0) * 1e9;
    let any = valid.f_amax([-1i64].as_slice(), true)?;
    Ok(masked.f_softmax(-1, Kind::Float)? * any)
}
