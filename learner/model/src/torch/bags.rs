//! [`Pool`] on a device: weighted sums of rows by `embedding_bag`.
//!
//! A bag adds up its members in order, so sums have the pool's order on any device. The gradient of a row is a bag of the
//! transposed pool.

use tch::{Device, Kind, TchError, Tensor};

use crate::inputs::Pool;
use crate::net::to_i64;

/// The segments of a pool on a device.
#[derive(Debug)]
pub(crate) struct Bags {
    n: i64,
    members: Tensor,
    starts: Tensor,
    coefficients: Tensor,
}

impl Bags {
    /// Copies a pool to a device.
    pub(crate) fn new(pool: &Pool, device: Device) -> Result<Self, TchError> {
        let (mut members, mut coefficients) = (Vec::new(), Vec::new());
        let mut starts = vec![0];
        for segment in pool.segments() {
            members.extend(segment.iter().map(|(row, _)| to_i64(*row)));
            coefficients.extend(segment.iter().map(|(_, coefficient)| *coefficient));
            starts.push(to_i64(members.len()));
        }
        let put = |tensor: Tensor| tensor.f_to_device(device);
        Ok(Self {
            n: to_i64(pool.len()),
            members: put(Tensor::f_from_slice(&members)?)?,
            starts: put(Tensor::f_from_slice(&starts)?)?,
            coefficients: put(Tensor::f_from_slice(&coefficients)?)?,
        })
    }

    /// Sums rows into segments, without recording gradients: [`Pool::gather`] on a device.
    ///
    /// # Shapes
    /// `rows [n_rows, dim]` -> `[n_segments, dim]`
    pub(crate) fn sum(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        if self.members.numel() == 0 {
            let (_, dim) = rows.size2()?;
            return Tensor::f_zeros([self.n, dim], (Kind::Float, rows.device()));
        }
        const SUM: i64 = 0;
        let rows = rows.f_detach()?.f_contiguous()?;
        let coefficients = Some(&self.coefficients);
        let (sums, ..) = tch::no_grad(|| {
            Tensor::f_embedding_bag(
                &rows,
                &self.members,
                &self.starts,
                false,
                SUM,
                false,
                coefficients,
                true,
            )
        })?;
        Ok(sums)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host_slice::to_vec;

    proptest! {
        /// Sums and gradients are those of the pool, also for segments and rows without members.
        #[test]
        fn bags_sum_what_pools_sum(
            segments in prop::collection::vec(prop::collection::vec((0usize..5, -2.0f32..2.0), 0..4), 1..6),
            seed in 0u64..1000,
        ) {
            let mut pool = Pool::default();
            for segment in &segments {
                pool.segment(segment.iter().copied());
            }
            let draw = |stream, n: usize| -> Vec<f32> { (0..n).map(|i| crate::normal(seed, stream, i as u64)).collect() };
            let tensor = |values: &[f32]| Tensor::from_slice(values).view([-1, 3]);
            let near = |found: &Tensor, expected: &[f32]| {
                let found = to_vec(found).unwrap();
                found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5)
            };
            let (rows, gradient) = (draw(0, 15), draw(1, pool.len() * 3));
            let bags = Bags::new(&pool, Device::Cpu).unwrap();
            prop_assert!(near(&bags.sum(&tensor(&rows)).unwrap(), &pool.gather(&rows, 3)));
            let mut scattered = vec![0.0; 15];
            pool.scatter(&gradient, 3, &mut scattered);
            let bags = Bags::new(&pool.transposed(5), Device::Cpu).unwrap();
            prop_assert!(near(&bags.sum(&tensor(&gradient)).unwrap(), &scattered));
        }
    }
}
