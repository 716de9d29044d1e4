//! Gates `2 sigmoid(W_2 relu(W_1 x + b_1) + b_2)`, which start at 1: of fields (SENet) and of hidden layers (PPNet).
//!
//! SENet: the mean of each field of user and candidate decides how much of each field the first layer reads (Huang et al. 2019,
//! section 3.2, which has ReLU in place of the second sigmoid). Pairwise products read the fields as they are.
//!
//! PPNet: the rows of user, item and item's attributes decide how much of each unit of a hidden layer the next one reads (Chang et
//! al. 2023, section 3.3). No gradient flows into these rows, and they are normalised, since new rows are near 0.

use tch::{Kind, Tensor};

use super::norm;
use crate::error::Error;
use crate::params::Params;

const EPSILON: f64 = 1e-5;

fn gate(params: &Params, name: &str, x: &Tensor) -> Result<Tensor, Error> {
    let hidden = params.linear(&format!("{name}.in"), x)?.f_relu()?;
    Ok(params.linear(&format!("{name}.out"), &hidden)?.f_sigmoid()? * 2.0)
}

/// The gate of each field of a candidate, `[n, n_fields]`, from the fields of user and candidate, `[n, n_fields, dim]`.
pub fn of_fields(params: &Params, fields: &Tensor) -> Result<Tensor, Error> {
    gate(
        params,
        "field_gate",
        &fields.f_mean_dim([2i64].as_slice(), false, Kind::Float)?,
    )
}

/// The gate of each unit of the hidden layer `layer`, `[n, width]`, from rows side by side, `[n, n_rows * dim]`.
pub fn of_layer(params: &Params, layer: usize, rows: &Tensor) -> Result<Tensor, Error> {
    let rows = norm(&rows.f_detach()?, None, None, EPSILON)?;
    gate(params, &format!("gate{layer}"), &rows)
}
