//! One step of all optimizers, from the gradients of a batch.

use tch::{TchError, Tensor};

use ouzel_model::{is_adapter, is_base};
use ouzel_sample::Id;

use crate::clip::{Clipped, factor, scale, squares, squares_of};
use crate::optim::{ftrl, row_adagrad};
use crate::schedule::Schedule;
use crate::trainer::Trainer;

/// Gradients of a batch's loss, summed over its samples.
#[derive(Debug)]
pub(crate) struct Gradient<'a> {
    /// The loss itself, nats.
    pub(crate) loss: f32,
    /// Samples that it is the sum over, count.
    pub(crate) n_samples: u64,
    /// By dense weight, in the order of the net's parameters; none for one that stands still.
    pub(crate) dense: &'a [Option<Tensor>],
    /// By embedding row.
    pub(crate) rows: RowGradient<'a>,
    /// By weight of the wide part.
    pub(crate) wide: RowGradient<'a>,
}

/// The gradient by some rows of a table.
///
/// # Shapes
/// `keys [n_unique]`, `values [n_unique, dim]`
#[derive(Debug)]
pub(crate) struct RowGradient<'a> {
    pub(crate) keys: &'a [Id],
    pub(crate) values: &'a mut [f32],
}

/// What became of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Updated {
    /// False when it was skipped because the loss or a gradient was not finite.
    pub(crate) is_learned: bool,
    /// What was too long.
    pub(crate) clipped: Clipped,
}

impl Trainer {
    /// Moves every weight that has a gradient; none when anything is not finite.
    ///
    /// Wide weights are not clipped: a sample adds at most its own share of 1 to their gradient. Nor are they on the
    /// schedule: FTRL has its own.
    pub(crate) fn update(&mut self, gradient: Gradient<'_>) -> Result<Updated, TchError> {
        let Gradient {
            loss,
            n_samples,
            dense,
            rows,
            wide,
        } = gradient;
        let (of_dense, of_rows) = (squares_of(dense)?, squares(rows.values));
        let is_finite = loss.is_finite()
            && of_dense.is_finite()
            && of_rows.is_finite()
            && wide.values.iter().all(|g| g.is_finite());
        if !is_finite {
            return Ok(Updated::default());
        }
        self.n_samples += n_samples;
        let (dense_rate, row_rate) = self.rates();
        let by_rows = factor(of_rows, self.config.clip_rows);
        if let Some(factor) = by_rows {
            scale(rows.values, factor);
        }
        for key in rows.keys {
            self.weights.rows.insert(*key);
        }
        row_adagrad(&mut self.weights.rows, rows.keys, rows.values, row_rate);
        ftrl(&mut self.weights.wide, wide.keys, wide.values, &self.config);

        let by_dense = factor(of_dense, self.config.clip_dense);
        let block_rate = self.config.block_rate / self.config.dense_rate * dense_rate;
        let params = self.net.params().map(|(name, weight)| {
            let is_read = matches!(
                name,
                "first.content" | "first.interest" | "first.sequence" | "fm.content"
            );
            let is_block = is_read || is_base(name) || is_adapter(name) || name.starts_with("cic.");
            (weight, if is_block { block_rate } else { dense_rate })
        });
        self.dense.step(params, dense, by_dense)?;
        let clipped = Clipped {
            dense: by_dense.is_some(),
            rows: by_rows.is_some(),
        };
        Ok(Updated {
            is_learned: true,
            clipped,
        })
    }

    /// Rates of dense weights and of rows at the samples learned from so far.
    fn rates(&self) -> (f64, f32) {
        let factor = Schedule::new(&self.config).factor(self.n_samples);
        #[expect(clippy::cast_possible_truncation, reason = "a rate needs no more digits")]
        let row_rate = self.config.row_rate * factor as f32;
        (self.config.dense_rate * factor, row_rate)
    }
}
