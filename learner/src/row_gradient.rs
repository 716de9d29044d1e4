//! The gradient of a batch's unique rows, beside the rows: in plain numbers, or on their device.

use tch::{Device, Kind, TchError, Tensor};

use ouzel_model::host_slice::to_vec;
use ouzel_model::{Bags, Pool};

use crate::clip::{scale, squares};

/// By unique row, `[n_unique, dim]`.
#[derive(Debug)]
pub(crate) enum RowGradient {
    Plain { dim: usize, values: Vec<f32> },
    Hot(Tensor),
}

impl RowGradient {
    /// Of rows on `device`, or else in the tables.
    pub(crate) fn zeros(n: usize, dim: usize, device: Option<Device>) -> Result<Self, TchError> {
        Ok(match device {
            Some(device) => Self::Hot(Tensor::f_zeros([long(n), long(dim)], (Kind::Float, device))?),
            None => Self::Plain {
                dim,
                values: vec![0.0; n * dim],
            },
        })
    }

    /// The numbers, where they are plain.
    pub(crate) fn plain(&mut self) -> Option<&mut [f32]> {
        match self {
            Self::Plain { values, .. } => Some(values),
            Self::Hot(_) => None,
        }
    }

    /// Adds the gradient of a pool's segments, `[.., n_segments, dim]` in row-major order.
    pub(crate) fn add(&mut self, pool: &Pool, gradient: &Tensor) -> Result<(), TchError> {
        match self {
            Self::Plain { dim, values } => pool.scatter(&to_vec(gradient)?, *dim, values),
            Self::Hot(sum) => {
                let (n, dim) = sum.size2()?;
                let n = usize::try_from(n).unwrap_or(0);
                let bags = Bags::new(&pool.transposed(n), sum.device())?;
                let _sum = sum.f_add_(&bags.sum(&gradient.f_reshape([-1, dim])?)?)?;
            }
        }
        Ok(())
    }

    /// Sum of squares; finite exactly when all numbers are.
    pub(crate) fn squares(&self) -> Result<f64, TchError> {
        match self {
            Self::Plain { values, .. } => Ok(squares(values)),
            Self::Hot(sum) => f64::try_from(sum.f_to_kind(Kind::Double)?.f_square()?.f_sum(Kind::Double)?),
        }
    }

    pub(crate) fn scale(&mut self, factor: f64) -> Result<(), TchError> {
        match self {
            Self::Plain { values, .. } => scale(values, factor),
            Self::Hot(sum) => {
                let _sum = sum.f_mul_scalar_(factor)?;
            }
        }
        Ok(())
    }

    /// Keeps the first `widths` of each row's numbers and makes the others 0. False when they keep them all.
    pub(crate) fn cut(&mut self, widths: &[usize]) -> Result<bool, TchError> {
        match self {
            Self::Plain { dim, values } => {
                for (row, width) in values.chunks_exact_mut(*dim).zip(widths) {
                    row[*width..].fill(0.0);
                }
                Ok(widths.iter().any(|width| width < dim))
            }
            Self::Hot(sum) => {
                let (_, dim) = sum.size2()?;
                if widths.iter().all(|width| long(*width) == dim) {
                    return Ok(false);
                }
                let widths: Vec<i64> = widths.iter().map(|width| long(*width)).collect();
                let widths = Tensor::f_from_slice(&widths)?.f_unsqueeze(1)?;
                let place = Tensor::f_arange(dim, (Kind::Int64, Device::Cpu))?;
                let is_behind = place.f_ge_tensor(&widths)?.f_to_device(sum.device())?;
                let _sum = sum.f_masked_fill_(&is_behind, 0.0)?;
                Ok(true)
            }
        }
    }
}

fn long(n: usize) -> i64 {
    i64::try_from(n).expect("a length below 2^63")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_a_device_are_cut_and_measured_as_plain_ones_are() {
        let values: Vec<f32> = (0..12u8).map(|n| f32::from(n) - 5.0).collect();
        let all = |device| {
            let mut gradient = RowGradient::zeros(4, 3, device).unwrap();
            match &mut gradient {
                RowGradient::Plain { values: zeros, .. } => zeros.copy_from_slice(&values),
                RowGradient::Hot(sum) => *sum = Tensor::from_slice(&values).view([4, 3]),
            }
            let whole = gradient.squares().unwrap();
            assert!(!gradient.cut(&[3; 4]).unwrap());
            assert!(gradient.cut(&[3, 0, 2, 1]).unwrap());
            gradient.scale(0.5).unwrap();
            let squares = gradient.squares().unwrap();
            let values = match gradient {
                RowGradient::Plain { values, .. } => values,
                RowGradient::Hot(sum) => to_vec(&sum).unwrap(),
            };
            (values, whole.to_bits(), squares.to_bits())
        };
        let (plain, hot) = (all(None), all(Some(Device::Cpu)));
        assert_eq!(plain, hot);
        assert_eq!(
            plain.0,
            [-2.5, -2.0, -1.5, 0.0, 0.0, 0.0, 0.5, 1.0, 0.0, 2.0, 0.0, 0.0]
        );
    }
}
