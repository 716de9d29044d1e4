//! Rows on the learner's device: read from there, and in the tables again whenever these are looked at.
//!
//! Between two versions the tables are behind: only what is [cooled](Trainer::flush_device_rows) may be shown to others.

use ouzel_model::{BatchRows, BatchTensors, DeviceRows, Inputs, Weights};

use crate::error::Error;
use crate::trainer::Trainer;

impl Trainer {
    /// Keeps rows on the device from now on.
    pub(crate) fn enable_device_cache(&mut self) -> Result<(), Error> {
        let hot = DeviceRows::new(&self.weights.rows, self.config.device_rows, self.net.device());
        self.hot = Some(hot.map_err(ouzel_model::Error::from)?);
        Ok(())
    }

    /// Has the tables hold what the rows are.
    pub(crate) fn flush_device_rows(&mut self) -> Result<(), Error> {
        match &mut self.hot {
            Some(hot) => Ok(hot
                .flush(&mut self.weights.rows)
                .map_err(ouzel_model::Error::from)?),
            None => Ok(()),
        }
    }

    /// Has the tables forget rows. Returns what `forget` does.
    pub(crate) fn release<T>(&mut self, forget: impl FnOnce(&mut Weights) -> T) -> Result<T, Error> {
        self.flush_device_rows()?;
        let forgotten = forget(&mut self.weights);
        if let Some(hot) = &mut self.hot {
            hot.forget(&self.weights.rows);
        }
        Ok(forgotten)
    }

    /// A batch as tensors, to be learned from.
    pub(crate) fn gather(&self, inputs: &Inputs) -> Result<BatchTensors, Error> {
        self.with_rows(inputs, |rows| self.net.gather_rows(inputs, rows, &self.weights))
    }

    /// The log-odds of each outcome, `[n_candidates * n_tasks]`.
    pub(crate) fn score(&self, inputs: &Inputs) -> Result<Vec<f32>, Error> {
        self.with_rows(inputs, |rows| self.net.score_rows(inputs, rows, &self.weights))
    }

    fn with_rows<T>(
        &self,
        inputs: &Inputs,
        read: impl FnOnce(&BatchRows<'_>) -> Result<T, ouzel_model::Error>,
    ) -> Result<T, Error> {
        Ok(match &self.hot {
            Some(hot) => {
                let rows = hot.read(&inputs.rows, &self.weights.rows);
                read(&BatchRows::Hot(&rows.map_err(ouzel_model::Error::from)?))?
            }
            None => read(&BatchRows::plain(inputs, &self.weights))?,
        })
    }
}
