//! The second-order term of a factorisation machine, in its linear-time form (Rendle 2010, lemma 3.1).

use tch::{Kind, Tensor};

use crate::error::Error;

/// `0.5 (|sum of fields|^2 - sum of |field|^2)` of each candidate with its request, each side summed once.
///
/// # Shapes
/// `user [n_requests, fields, dim]`, `candidate [n_candidates, fields, dim]`, `request_of [n_candidates]` ->
/// `[n_candidates]`
pub fn second_order(user: &Tensor, candidate: &Tensor, request_of: &Tensor) -> Result<Tensor, Error> {
    let of_request = |x: &Tensor| x.f_index_select(0, request_of);
    let sum = (of_request(&sum(user, &[1])?)? + sum(candidate, &[1])?).f_square()?;
    let squares = of_request(&sum_squares(user)?)? + sum_squares(candidate)?;
    Ok((sum.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)? - squares) * 0.5)
}

fn sum(x: &Tensor, dims: &[i64]) -> Result<Tensor, Error> {
    Ok(x.f_sum_dim_intlist(dims, false, Kind::Float)?)
}

fn sum_squares(x: &Tensor) -> Result<Tensor, Error> {
    sum(&x.f_square()?, &[1, 2])
}
