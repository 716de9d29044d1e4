//! A linear term over the frozen vectors of an item.

use tch::Tensor;

use ouzel_sample::MODALITIES;

use super::fq_former::Frozen;
use crate::error::Error;
use crate::params::Params;

/// The sum over the modalities of `W_m v_m`, with a row of `W_m` for each task. A missing vector adds 0.
///
/// # Shapes
/// `v_m [n, width]`, `linear.NAME [n_tasks, width]` -> `[n, n_tasks]`
pub fn forward(params: &Params, frozen: &Frozen) -> Result<Tensor, Error> {
    let mut sum: Option<Tensor> = None;
    for (name, vectors) in MODALITIES.iter().zip(&frozen.vectors) {
        let Some(vectors) = vectors else { continue };
        let term = vectors.f_matmul(&params.get(&format!("linear.{name}"))?.f_tr()?)?;
        sum = Some(match sum {
            Some(sum) => sum + term,
            None => term,
        });
    }
    sum.ok_or_else(|| Error::MissingWeight {
        name: "linear".to_owned(),
        n_present: params.tensors().len(),
    })
}
