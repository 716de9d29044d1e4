//! Embedding rows cached on the learner's device, and the host tables they are written back to.
//!
//! Between two versions the tables lag behind the device. Whoever shows them to others flushes first.

use ouzel_model::{Model, Weights};

use crate::error::Error;
use crate::trainer::Trainer;

impl Trainer {
    /// The same trainer on the torch backend, with rows cached as on a GPU: the reference for the `cpu` backend.
    pub fn on_torch(mut self) -> Result<Self, Error> {
        let weights = self.weights()?;
        self.model = Model::on_torch(&weights, self.config.device()?)?;
        self.model.cache_rows(&weights.rows, self.config.device_rows)?;
        Ok(self)
    }

    /// Number of rows cached on the device, and of rows copied there since the last call; none on the CPU.
    pub fn device_rows(&mut self) -> Option<(usize, u64)> {
        let cached = self.model.device_rows()?;
        Some((cached.len(), cached.take_n_copied()))
    }

    /// Writes cached rows back to the host tables.
    pub(crate) fn flush_device_rows(&mut self) -> Result<(), Error> {
        if let Some(cached) = self.model.device_rows() {
            let flushed = cached.flush(&mut self.weights.rows);
            flushed.map_err(ouzel_model::Error::from)?;
        }
        Ok(())
    }

    /// Removes rows from the tables by `remove`, and from the cache with them. Returns what `remove` does.
    pub(crate) fn remove_rows<T>(&mut self, remove: impl FnOnce(&mut Weights) -> T) -> Result<T, Error> {
        self.flush_device_rows()?;
        let removed = remove(&mut self.weights);
        if let Some(cached) = self.model.device_rows() {
            cached.forget(&self.weights.rows);
        }
        Ok(removed)
    }
}
