//! What fresh weights are worth: shown items scored by versions that are published every so often in event time.
//!
//! The log is learned as always. Beside that, each period has a version of its own: the newest weights of the moment it was
//! published. Features are as of the impression whatever the version, as in serving.

use std::sync::Arc;

use serde::Serialize;

use ouzel_learner::validation::Figures;
use ouzel_learner::{FixedModel, Trainer};
use ouzel_sample::settings::Period;
use ouzel_sample::{Batch, EventTime, FeatureQuery, FeatureState, Impression, ShownSlate};

use super::rescored::Rescored;
use crate::config::Config;

/// Figures of versions that are published every so often.
#[derive(Debug, Serialize)]
pub(super) struct PublishingFigures {
    /// Time between two versions, event time.
    pub(super) publish_every: Period,
    /// Number of versions published.
    pub(super) versions: u64,
    /// Figures of the second half.
    #[serde(flatten)]
    pub(super) figures: Figures,
}

/// The versions of one period.
struct Publisher {
    every: Period,
    version: Option<FixedModel>,
    next: EventTime,
    n_versions: u64,
}

/// Scores every slate with the version of each period.
pub(super) struct Publishing {
    publishers: Vec<Publisher>,
    rescored: Rescored,
}

impl Publishing {
    /// Publishes a version after each of these periods.
    pub(super) fn new(periods: &[Period]) -> Self {
        let publisher = |every: &Period| Publisher {
            every: *every,
            version: None,
            next: EventTime::MIN,
            n_versions: 0,
        };
        Self {
            publishers: periods.iter().map(publisher).collect(),
            rescored: Rescored::new(periods.len()),
        }
    }

    /// Scores the slate of an impression that is about to be shown, after publishing what is due by its time.
    pub(super) fn score(
        &mut self,
        impression: &Impression,
        features: &FeatureState,
        (trainer, config): (&mut Trainer, &Config),
    ) -> anyhow::Result<()> {
        if self.publishers.is_empty() {
            return Ok(());
        }
        let query = FeatureQuery::of(impression);
        let (request, candidates) = features.read(&query);
        let vectors = features.vectors_of(std::iter::once(&request), candidates.iter());
        let slate = ShownSlate {
            request: Arc::new(request),
            candidates: candidates.into_iter().map(Arc::new).collect(),
        };
        let n_tasks = trainer.model().n_tasks();
        let mut logits = vec![Vec::with_capacity(self.publishers.len()); impression.items.len()];
        for publisher in &mut self.publishers {
            let version = publisher.due(impression.ts, trainer, config)?;
            let scored = version.score_slate(&slate, &vectors)?;
            for (of_item, scored) in logits.iter_mut().zip(scored.chunks_exact(n_tasks)) {
                of_item.push(scored[0]);
            }
        }
        for (shown, logits) in impression.items.iter().zip(logits) {
            self.rescored.insert(impression.request, shown.item, logits);
        }
        Ok(())
    }

    /// Records the outcomes of a batch.
    pub(super) fn learning(&mut self, batch: &Batch) {
        self.rescored.learning(batch);
    }

    /// The figures from `middle` on, in the order of the periods.
    pub(super) fn figures(&self, middle: EventTime) -> Vec<PublishingFigures> {
        let figures = self
            .publishers
            .iter()
            .enumerate()
            .map(|(way, publisher)| PublishingFigures {
                publish_every: publisher.every,
                versions: publisher.n_versions,
                figures: self.rescored.figures(way, middle),
            });
        figures.collect()
    }
}

impl Publisher {
    /// The version that serves at `now`.
    fn due(
        &mut self,
        now: EventTime,
        trainer: &mut Trainer,
        config: &Config,
    ) -> anyhow::Result<&mut FixedModel> {
        if now >= self.next {
            self.version = None;
        }
        let version = match self.version.take() {
            Some(version) => version,
            None => {
                self.next = now.plus_ms(self.every.ms());
                self.n_versions += 1;
                FixedModel::new(trainer.weights()?, config.learner_config().device()?)?
            }
        };
        Ok(self.version.insert(version))
    }
}
