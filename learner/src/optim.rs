//! Optimizers: row-wise Adagrad for embedding rows, FTRL for the wide part, Adagrad, Adam or Shampoo for dense weights.

mod dense;
mod grow;
mod shampoo;

use ouzel_model::{DeviceRows, Feature, Key, Rows, Table};
use tch::{Kind, TchError, Tensor};

use crate::config::LearnerConfig;

pub use dense::DenseRule;
pub(crate) use dense::{DenseOptimizer, OptimizerState};

/// Optimizer state of an embedding row, floats: the accumulated mean squared gradient.
pub const ROW_STATE: usize = 1;
/// Optimizer state of a wide weight, floats: FTRL's `z` and `n`.
pub const WIDE_STATE: usize = 2;

const EPSILON: f32 = 1e-8;

/// Row-wise Adagrad: one accumulator per row, of the mean square of its gradient (Mudigere et al. 2022, section 4.1).
///
/// `places` are the rows of `keys`; `rates` are learning rates by feature.
///
/// # Shapes
/// `keys [n_unique]`, `places [n_unique]`, `gradient [n_unique, dim]`
pub(crate) fn row_adagrad(
    rows: &mut Rows,
    keys: &[Key],
    places: &[Option<u32>],
    gradient: &[f32],
    rates: [f32; Feature::N],
) {
    let gradients = gradient.chunks_exact(rows.dim());
    for ((key, row), gradient) in keys.iter().zip(places).zip(gradients) {
        let table = rows.table_mut(key.feature);
        let dim = table.dim();
        #[expect(clippy::cast_precision_loss, reason = "a row's width")]
        let width = dim as f32;
        let gradient = &gradient[..dim];
        let squares: f32 = gradient.iter().map(|g| g * g).sum();
        let Some(row) = row.filter(|_| squares > 0.0) else {
            continue;
        };
        let row = table.row_mut(row);
        row[dim] += squares / width;
        let step = rates[key.feature.index()] / (row[dim].sqrt() + EPSILON);
        for (weight, gradient) in row.iter_mut().zip(gradient) {
            *weight -= step * gradient;
        }
    }
}

/// [`row_adagrad`] for rows cached on a device.
///
/// # Shapes
/// `gradient [n_unique, dim]`
pub(crate) fn row_adagrad_on_device(
    cached: &mut DeviceRows,
    rows: &mut Rows,
    (keys, places): (&[Key], &[Option<u32>]),
    gradient: &Tensor,
    rates: [f32; Feature::N],
) -> Result<(), TchError> {
    let device = gradient.device();
    let (mut at, mut taken, mut of_each) = (Vec::new(), Vec::new(), Vec::new());
    for ((n, key), row) in (0i64..).zip(keys).zip(places) {
        let Some(row) = row else { continue };
        #[expect(clippy::cast_precision_loss, reason = "a row's width")]
        let width = rows.width(key.feature) as f32;
        at.push(n);
        taken.push((*key, *row));
        of_each.extend([width, rates[key.feature.index()]]);
    }
    if at.is_empty() {
        return Ok(());
    }
    let at = Tensor::f_from_slice(&at)?.f_to_device(device)?;
    let of_each = Tensor::f_from_slice(&of_each)?
        .f_view([-1, 2])?
        .f_to_device(device)?;
    let (widths, rates) = (of_each.f_narrow(1, 0, 1)?, of_each.f_narrow(1, 1, 1)?);
    let gradient = gradient.f_index_select(0, &at)?;
    let (_, dim) = gradient.size2()?;
    let places = cached.load(&taken, rows)?;
    cached.update(&places, |values| {
        let squares = gradient.f_square()?.f_sum_dim_intlist(1, true, Kind::Float)?;
        let sum = values.f_narrow(1, dim, 1)?.f_add(&squares.f_div(&widths)?)?;
        let step = rates.f_div(&sum.f_sqrt()?.f_add_scalar(f64::from(EPSILON))?)?;
        let weights = values.f_narrow(1, 0, dim)?.f_sub(&step.f_mul(&gradient)?)?;
        Tensor::f_cat(&[weights, sum], 1)
    })
}

/// FTRL-Proximal without L1 (McMahan et al. 2013, algorithm 1). A row is `[w, z, n]`.
///
/// # Shapes
/// `places [n_unique]`, `gradient [n_unique]`
pub(crate) fn ftrl(table: &mut Table, places: &[Option<u32>], gradient: &[f32], config: &LearnerConfig) {
    let (alpha, beta, l2) = (
        config.optimizer.wide_alpha,
        config.optimizer.wide_beta,
        config.optimizer.wide_l2,
    );
    for (row, g) in places.iter().zip(gradient) {
        let Some(row) = row else { continue };
        let [w, z, n] = table.row_mut(*row) else {
            unreachable!("a wide row is [w, z, n]")
        };
        let sigma = ((*n + g * g).sqrt() - n.sqrt()) / alpha;
        *z += g - sigma * *w;
        *n += g * g;
        *w = -*z / ((beta + n.sqrt()) / alpha + l2);
    }
}

#[cfg(test)]
mod tests {
    use ouzel_model::ModelConfig;
    use ouzel_sample::Id;

    use super::*;
    use crate::config::OptimizerConfig;

    #[test]
    fn row_adagrad_takes_the_textbook_steps() {
        let config = ModelConfig {
            dim: 2,
            row_init_std: 0.0,
            ..ModelConfig::default()
        };
        let mut rows = Rows::new(&config, ROW_STATE, 0.1);
        let key = Key::user(Id(7));
        let place = rows.insert(key);
        let (mut weight, mut accumulator) = ([0.0f64; 2], 0.1f64);
        for step in 1..=50 {
            let gradient = [0.3 / f64::from(step), -0.2];
            accumulator += (gradient[0].powi(2) + gradient[1].powi(2)) / 2.0;
            for (w, g) in weight.iter_mut().zip(gradient) {
                *w -= 0.5 * g / accumulator.sqrt();
            }
            #[expect(clippy::cast_possible_truncation, reason = "the table holds f32")]
            let gradient = gradient.map(|g| g as f32);
            row_adagrad(&mut rows, &[key], &[Some(place)], &gradient, [0.5, 0.0, 0.0]);
        }
        let row = rows.table(Feature::User).row(place);
        for (found, expected) in row.iter().zip(weight) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn ftrl_without_l2_starts_as_gradient_descent_with_alpha_over_beta() {
        let config = LearnerConfig {
            optimizer: OptimizerConfig {
                wide_alpha: 0.1,
                wide_beta: 1.0,
                wide_l2: 0.0,
                ..OptimizerConfig::default()
            },
            ..Default::default()
        };
        let mut table = Table::new("wide", 1, WIDE_STATE, 0.0, 0.0, 1);
        table.insert(Id(1));
        ftrl(&mut table, &[Some(0)], &[0.5], &config);
        // One step from zero: w = -alpha g / (beta + |g|).
        let w = table.row(0)[0];
        assert!((w + 0.1 * 0.5 / 1.5).abs() < 1e-7, "{w}");
    }
}
