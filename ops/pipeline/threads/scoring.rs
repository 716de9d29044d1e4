//! What scores requests: a scorer for each thread, and the indexes of the catalog that they look for items in.

use std::sync::Arc;

use ouzel_sample::EventTime;
use ouzel_serving::{Features, ItemIndex, Published, Scorer, run_indexer};

use super::Running;
use crate::supervisor::Task;

impl Running<'_> {
    /// A scorer of the served version.
    pub(super) fn scorer(&self) -> anyhow::Result<Scorer> {
        let of_time = self.run.clone();
        // A scorer reads features up to and including the newest joined event.
        let now = move || EventTime(of_time.get().status.event_time().0.saturating_add(1));
        Ok(Scorer::new(
            Arc::clone(&self.published),
            self.features(),
            self.config.id_space(),
            Arc::new(now),
            self.config.learner_config().device()?,
            self.config.score_expression()?,
        ))
    }

    /// The feature state of the newest run.
    fn features(&self) -> Features {
        let run = self.run.clone();
        Arc::new(move || Arc::clone(&run.get().features))
    }

    /// Starts the thread that keeps the index of the catalog up to date, if the model has towers. Returns the indexes.
    pub(super) fn index(&mut self) -> anyhow::Result<Arc<Published<ItemIndex>>> {
        let indexes = Arc::new(Published::without_metrics());
        if !self.config.model.retrieval.is_on() {
            return Ok(indexes);
        }
        let (published, features) = (Arc::clone(&self.published), self.features());
        let (shutdown, out) = (self.process.shutdown.clone(), Arc::clone(&indexes));
        self.process.supervisor.spawn(Task::Index, move || {
            run_indexer(&published, &features, &out, || shutdown.is_triggered());
            Ok(())
        })?;
        Ok(indexes)
    }
}
