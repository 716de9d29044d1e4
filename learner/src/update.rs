//! One step of all optimizers, from the gradients of a batch.

use tch::{TchError, Tensor};

use ouzel_model::{Feature, Inputs, Key, is_adapter, is_base};
use ouzel_sample::{Id, Sample};

use crate::admit::Places;
use crate::clip::{Clipped, factor, squares_of};
use crate::optim::{ftrl, row_adagrad, row_adagrad_hot};
use crate::row_gradient::RowGradient;
use crate::schedule::Schedule;
use crate::trainer::Trainer;

/// Gradients of a batch's loss, summed over its samples.
#[derive(Debug)]
pub(crate) struct Gradient<'a> {
    /// The loss itself, nats.
    pub(crate) loss: f32,
    /// What was read.
    pub(crate) inputs: &'a Inputs,
    /// The samples that it is the sum over.
    pub(crate) samples: &'a [Sample],
    /// Items among them that have no rows any more.
    pub(crate) deleted: &'a [Id],
    /// By dense weight, in the order of the net's parameters; none for one that stands still.
    pub(crate) dense: &'a [Option<Tensor>],
    /// By embedding row, `[n_unique, dim]`.
    pub(crate) rows: &'a mut RowGradient,
    /// By weight of the wide part, `[n_unique]`.
    pub(crate) wide: &'a [f32],
}

/// What became of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Updated {
    /// False when it was skipped because the loss or a gradient was not finite.
    pub(crate) is_learned: bool,
    /// What was too long.
    pub(crate) clipped: Clipped,
    /// Ids that had waited for a row and got it.
    pub(crate) n_admitted: usize,
    /// AdmissionCounter of ids that wait on.
    pub(crate) n_waiting: usize,
}

impl Trainer {
    /// Moves every weight that has a gradient; none when anything is not finite.
    ///
    /// Ids that have no row have no gradient either: it stops before them, and counts for no length.
    ///
    /// Wide weights are not clipped: a sample adds at most its own share of 1 to their gradient. Nor are they on the
    /// schedule: FTRL has its own.
    pub(crate) fn update(&mut self, gradient: Gradient<'_>) -> Result<Updated, TchError> {
        let Gradient {
            loss,
            inputs,
            samples,
            deleted,
            dense,
            rows,
            wide,
        } = gradient;
        let (of_dense, of_rows) = (squares_of(dense)?, rows.squares()?);
        let is_finite = loss.is_finite()
            && of_dense.is_finite()
            && of_rows.is_finite()
            && wide.iter().all(|g| g.is_finite());
        if !is_finite {
            return Ok(Updated::default());
        }
        self.n_samples += samples.len() as u64;
        let places = self.admit(inputs, samples, deleted);
        self.see(inputs, &places);
        let is_cut = rows.cut(&self.widths(&inputs.rows, &places))?;
        let (dense_rate, row_rates) = self.rates();
        let of_rows = if is_cut { rows.squares()? } else { of_rows };
        let by_rows = factor(of_rows, self.config.clip_rows);
        if let Some(factor) = by_rows {
            rows.scale(factor)?;
        }
        let tables = &mut self.weights.rows;
        match (rows, &mut self.hot) {
            (RowGradient::Hot(rows), Some(hot)) => {
                row_adagrad_hot(hot, tables, &inputs.rows, &places.rows, rows, row_rates)?;
            }
            (rows, _) => {
                let rows = rows.plain().unwrap_or_default();
                row_adagrad(tables, &inputs.rows, &places.rows, rows, row_rates);
            }
        }
        ftrl(&mut self.weights.wide, &places.wide, wide, &self.config);

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
            n_admitted: places.n_admitted,
            n_waiting: places.n_waiting,
        })
    }

    /// Floats of each row that take a gradient: none of an id without one, and none of what lies behind a narrow row.
    fn widths(&self, keys: &[Key], places: &Places) -> Vec<usize> {
        let rows = &self.weights.rows;
        let widths = Feature::ALL.map(|feature| rows.width(feature));
        let width = |(key, row): (&Key, &Option<u32>)| row.map_or(0, |_| widths[key.feature.index()]);
        keys.iter().zip(&places.rows).map(width).collect()
    }

    /// Rates of dense weights, and of rows by feature, at the samples learned from so far.
    fn rates(&self) -> (f64, [f32; Feature::N]) {
        let factor = Schedule::new(&self.config).factor(self.n_samples);
        #[expect(clippy::cast_possible_truncation, reason = "a rate needs no more digits")]
        let row_rates = Feature::ALL.map(|feature| {
            let own = self.config.rows.of(feature).rate;
            own.unwrap_or(self.config.row_rate) * factor as f32
        });
        (self.config.dense_rate * factor, row_rates)
    }
}
