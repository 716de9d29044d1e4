//! Content-ID contrast: the ids of an item and its content become alike in one space (EM3, Deng et al. 2024, section 3.4).
//!
//! The loss is InfoNCE in both directions over the distinct items of a batch, each against all others.

use tch::{Kind, Tensor};

use crate::error::Error;
use crate::params::Params;

/// The smallest length that a vector is divided by.
const EPSILON: f64 = 1e-5;

/// `0.5 (L_c2i + L_i2c)`, each a mean over distinct items; 0 for fewer than two.
///
/// # Shapes
/// `ids [n, ids]`: rows of an item's ids side by side, `content [n, out]`
pub fn loss(params: &Params, ids: &Tensor, content: &Tensor, temperature: f64) -> Result<Tensor, Error> {
    let ids = to_unit_length(&params.linear("cic.id", ids)?)?;
    let content = to_unit_length(&params.linear("cic.content", content)?)?;
    let scores = content.f_matmul(&ids.f_tr()?)? / temperature;
    let of_pairs = scores.f_diagonal(0, 0, 1)?;
    let direction = |dim: i64| -> Result<Tensor, Error> {
        let all = scores.f_logsumexp([dim].as_slice(), false)?;
        Ok((all - &of_pairs).f_mean(Kind::Float)?)
    };
    Ok((direction(1)? + direction(0)?) * 0.5)
}

fn to_unit_length(x: &Tensor) -> Result<Tensor, Error> {
    let length = x.f_norm_scalaropt_dim(2.0, [-1i64].as_slice(), true)?;
    Ok(x / length.f_clamp_min(EPSILON)?)
}
