//! Gradients of a batch's loss by every weight that learns.

use tch::{Device, Kind, TchError, Tensor};

use crate::error::Error;
use crate::host_slice::{to_vec, values};
use crate::inputs::Pool;
use crate::net::to_i64;
use crate::torch::Bags;

/// Gradients of a loss that is a sum over a batch's samples.
#[derive(Debug)]
pub struct Gradients {
    /// By dense weight, in the order of [`Net::weights`](crate::Net::weights); none for a weight that stays as it is.
    pub dense: Vec<Option<Tensor>>,
    /// By unique embedding row of the batch.
    pub rows: RowGradient,
    /// By unique weight of the wide part, `[n_unique]`.
    pub wide: Vec<f32>,
}

impl Gradients {
    /// Sum of the squares of all dense gradients, in their order; finite exactly when each of them is.
    pub fn dense_squares(&self) -> Result<f64, Error> {
        let mut total = 0.0;
        for gradient in self.dense.iter().flatten() {
            let gradient = gradient.f_contiguous()?;
            total += match values(&gradient) {
                Some(values) => sum_of_squares(values),
                None => f64::try_from(gradient.f_square()?.f_sum(Kind::Double)?)?,
            };
        }
        Ok(total)
    }
}

/// Gradient of a batch's unique rows, `[n_unique, dim]`, in the memory that holds the rows.
#[derive(Debug)]
pub enum RowGradient {
    /// Of rows in the host tables.
    Host {
        /// Floats of a row.
        dim: usize,
        /// Row-major.
        values: Vec<f32>,
    },
    /// Of rows cached on a device, see [`DeviceRows`](crate::DeviceRows).
    Device(Tensor),
}

impl RowGradient {
    /// Zeros for rows on `device`, or in the host tables.
    pub(crate) fn zeros(n: usize, dim: usize, device: Option<Device>) -> Result<Self, TchError> {
        Ok(match device {
            Some(device) => {
                let shape = [to_i64(n), to_i64(dim)];
                Self::Device(Tensor::f_zeros(shape, (Kind::Float, device))?)
            }
            None => Self::Host {
                dim,
                values: vec![0.0; n * dim],
            },
        })
    }

    /// Adds the gradient of a pool's segments, `[.., n_segments, dim]`, to their rows.
    pub(crate) fn add(&mut self, pool: &Pool, gradient: &Tensor) -> Result<(), TchError> {
        match self {
            Self::Host { dim, values } => pool.scatter(&to_vec(gradient)?, *dim, values),
            Self::Device(sum) => {
                let (n, dim) = sum.size2()?;
                let n = usize::try_from(n).unwrap_or(0);
                let bags = Bags::new(&pool.transposed(n), sum.device())?;
                let _sum = sum.f_add_(&bags.sum(&gradient.f_reshape([-1, dim])?)?)?;
            }
        }
        Ok(())
    }

    /// Sum of squares; finite exactly when each value is.
    pub fn squares(&self) -> Result<f64, Error> {
        match self {
            Self::Host { values, .. } => Ok(sum_of_squares(values)),
            Self::Device(sum) => {
                let squares = sum.f_to_kind(Kind::Double)?.f_square()?;
                Ok(f64::try_from(squares.f_sum(Kind::Double)?)?)
            }
        }
    }

    /// Multiplies every value.
    pub fn scale(&mut self, factor: f64) -> Result<(), Error> {
        match self {
            Self::Host { values, .. } => {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "a factor in (0, 1) needs no more digits"
                )]
                let factor = factor as f32;
                values.iter_mut().for_each(|value| *value *= factor);
            }
            Self::Device(sum) => {
                let _sum = sum.f_mul_scalar_(factor)?;
            }
        }
        Ok(())
    }

    /// Keeps the first `widths[i]` values of row `i` and zeroes the others. Returns whether any row is narrower than `dim`.
    pub fn truncate(&mut self, widths: &[usize]) -> Result<bool, Error> {
        match self {
            Self::Host { dim, values } => {
                for (row, width) in values.chunks_exact_mut(*dim).zip(widths) {
                    row[*width..].fill(0.0);
                }
                Ok(widths.iter().any(|width| width < dim))
            }
            Self::Device(sum) => {
                let (_, dim) = sum.size2()?;
                let widths: Vec<i64> = widths.iter().map(|width| to_i64(*width)).collect();
                if widths.iter().all(|width| *width == dim) {
                    return Ok(false);
                }
                let widths = Tensor::f_from_slice(&widths)?.f_unsqueeze(1)?;
                let column = Tensor::f_arange(dim, (Kind::Int64, Device::Cpu))?;
                let is_behind = column.f_ge_tensor(&widths)?.f_to_device(sum.device())?;
                let _sum = sum.f_masked_fill_(&is_behind, 0.0)?;
                Ok(true)
            }
        }
    }
}

/// Sum of squares in double precision; finite exactly when each value is.
fn sum_of_squares(values: &[f32]) -> f64 {
    // Eight sums side by side: each addition of a single sum would wait for the one before.
    let mut sums = [0.0f64; 8];
    let chunks = values.chunks_exact(sums.len());
    let rest: f64 = chunks.remainder().iter().map(|g| f64::from(*g).powi(2)).sum();
    for chunk in chunks {
        for (sum, g) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(*g).powi(2);
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_on_a_device_are_truncated_and_measured_like_rows_on_the_host() {
        let values: Vec<f32> = (0..12u8).map(|n| f32::from(n) - 5.0).collect();
        let all = |device| {
            let mut gradient = RowGradient::zeros(4, 3, device).unwrap();
            match &mut gradient {
                RowGradient::Host { values: zeros, .. } => zeros.copy_from_slice(&values),
                RowGradient::Device(sum) => *sum = Tensor::from_slice(&values).view([4, 3]),
            }
            let whole = gradient.squares().unwrap();
            assert!(!gradient.truncate(&[3; 4]).unwrap());
            assert!(gradient.truncate(&[3, 0, 2, 1]).unwrap());
            gradient.scale(0.5).unwrap();
            let squares = gradient.squares().unwrap();
            let values = match gradient {
                RowGradient::Host { values, .. } => values,
                RowGradient::Device(sum) => to_vec(&sum).unwrap(),
            };
            (values, whole.to_bits(), squares.to_bits())
        };
        let (host, device) = (all(None), all(Some(Device::Cpu)));
        assert_eq!(host, device);
        assert_eq!(
            host.0,
            [-2.5, -2.0, -1.5, 0.0, 0.0, 0.0, 0.5, 1.0, 0.0, 2.0, 0.0, 0.0]
        );
    }

    #[test]
    fn the_dense_norm_covers_all_weights_and_shows_values_that_are_not_finite() {
        let squares = |tensors: Vec<Option<Tensor>>| {
            let gradients = Gradients {
                dense: tensors,
                rows: RowGradient::zeros(0, 1, None).unwrap(),
                wide: Vec::new(),
            };
            gradients.dense_squares().unwrap()
        };
        let found = squares(vec![
            Some(Tensor::from_slice(&[1.0f32, 2.0])),
            None,
            Some(Tensor::from_slice(&[-3.0f32, 0.0]).view([2, 1])),
        ]);
        assert!((found - 14.0).abs() < 1e-12);
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(!squares(vec![Some(Tensor::from_slice(&[1.0, bad]))]).is_finite());
        }
        assert!(sum_of_squares(&[f32::MAX; 100]).is_finite());
    }
}
