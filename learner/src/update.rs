//! One step of all optimizers, from the gradients of a batch.

use ouzel_model::{Feature, Gradients, Inputs, Key, RowGradient, WeightGroup};
use ouzel_sample::{Id, Sample};

use crate::clip::{Clipped, factor};
use crate::error::Error;
use crate::lifecycle::BatchRows;
use crate::optim::{ftrl, row_adagrad, row_adagrad_on_device};
use crate::schedule::Schedule;
use crate::step::StepReport;
use crate::trainer::Trainer;

/// The batch that a gradient is the sum over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Learned<'a> {
    /// What the forward pass read.
    pub(crate) inputs: &'a Inputs,
    /// The samples of the batch.
    pub(crate) samples: &'a [Sample],
    /// Deleted items, which have no rows any more.
    pub(crate) deleted: &'a [Id],
    /// Sum of the loss over the samples, nats.
    pub(crate) loss: f32,
}

impl Trainer {
    /// Updates every weight that has a gradient, or none when the loss or any gradient is not finite.
    ///
    /// Ids without a row take no gradient, and add nothing to its norm. Wide weights are neither clipped, since a sample
    /// adds at most its own share of 1 to their gradient, nor on the schedule: FTRL has its own.
    pub(crate) fn update(&mut self, batch: Learned<'_>, gradients: Gradients) -> Result<StepReport, Error> {
        let dense_squares = gradients.dense_squares()?;
        let Gradients {
            dense,
            mut rows,
            wide,
        } = gradients;
        let mut row_squares = rows.squares()?;
        let is_finite = batch.loss.is_finite()
            && dense_squares.is_finite()
            && row_squares.is_finite()
            && wide.iter().all(|g| g.is_finite());
        if !is_finite {
            return Ok(StepReport {
                is_learned: false,
                ..StepReport::default()
            });
        }
        self.n_samples += batch.samples.len() as u64;
        let places = self.admit(batch.inputs, batch.samples, batch.deleted);
        self.mark_seen(batch.inputs, &places);
        if rows.truncate(&self.row_widths(&batch.inputs.rows, &places))? {
            row_squares = rows.squares()?;
        }
        let rates = self.rates();
        let row_factor = factor(row_squares, self.config.optimizer.clip_rows);
        if let Some(factor) = row_factor {
            rows.scale(factor)?;
        }
        self.update_rows(&batch.inputs.rows, &places, &rows, rates.rows)?;
        ftrl(&mut self.weights.wide, &places.wide, &wide, &self.config);
        let dense_factor = factor(dense_squares, self.config.optimizer.clip_dense);
        let weights = self.model.net().weights().map(|(spec, weight)| {
            let rate = match spec.group {
                WeightGroup::Head | WeightGroup::Retrieval => rates.head,
                WeightGroup::Base | WeightGroup::Adapter | WeightGroup::Readout | WeightGroup::Contrast => {
                    rates.blocks
                }
            };
            (weight, rate)
        });
        let stepped = self.dense.step(
            weights,
            &dense,
            self.mean_factor(batch.samples.len(), dense_factor),
        );
        stepped.map_err(ouzel_model::Error::from)?;
        Ok(StepReport {
            clipped: Clipped {
                dense: dense_factor.is_some(),
                rows: row_factor.is_some(),
            },
            n_admitted: places.n_admitted,
            n_waiting: places.n_waiting,
            ..StepReport::default()
        })
    }

    /// Updates the rows that have a place, in the tables or where the device caches them.
    fn update_rows(
        &mut self,
        keys: &[Key],
        places: &BatchRows,
        gradient: &RowGradient,
        rates: [f32; Feature::N],
    ) -> Result<(), Error> {
        let tables = &mut self.weights.rows;
        match (gradient, self.model.device_rows()) {
            (RowGradient::Device(gradient), Some(cached)) => {
                row_adagrad_on_device(cached, tables, (keys, &places.rows), gradient, rates)
                    .map_err(ouzel_model::Error::from)?;
            }
            (RowGradient::Host { values, .. }, None) => {
                row_adagrad(tables, keys, &places.rows, values, rates);
            }
            _ => unreachable!("a gradient is where its rows are"),
        }
        Ok(())
    }

    /// Floats of each row that take a gradient: none of an id without a row, and none beyond a narrow row.
    fn row_widths(&self, keys: &[Key], places: &BatchRows) -> Vec<usize> {
        let widths = Feature::ALL.map(|feature| self.weights.rows.width(feature));
        let width = |(key, row): (&Key, &Option<u32>)| row.map_or(0, |_| widths[key.feature.index()]);
        keys.iter().zip(&places.rows).map(width).collect()
    }

    /// Factor of a dense gradient that is the sum over `n` samples: clipped, and a mean. A batch that is not full counts as
    /// if it were.
    fn mean_factor(&self, n: usize, clipped: Option<f64>) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a batch's size")]
        let n = n.max(self.config.batch_min_samples) as f64;
        Some(clipped.unwrap_or(1.0) / n)
    }

    /// Learning rates after the samples learned from so far.
    pub(crate) fn rates(&self) -> Rates {
        let config = &self.config;
        let factor = Schedule::new(config).factor(self.n_samples);
        let head = config.optimizer.dense_rate * factor;
        #[expect(clippy::cast_possible_truncation, reason = "a rate needs no more digits")]
        let rows = Feature::ALL.map(|feature| {
            let own = config.rows.rules(feature).rate;
            let rate = if own > 0.0 { own } else { config.optimizer.row_rate };
            rate * factor as f32
        });
        Rates {
            head,
            blocks: config.optimizer.block_rate / config.optimizer.dense_rate * head,
            rows,
        }
    }
}

/// Learning rates of one step.
pub(crate) struct Rates {
    /// Of dense weights of the group `Head`.
    pub(crate) head: f64,
    /// Of all other dense weights.
    blocks: f64,
    /// Of embedding rows by feature.
    pub(crate) rows: [f32; Feature::N],
}
