//! Publishes versions of the model to the scorers, and measures how fresh they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};

use ouzel_learner::validation::{Bucket, Progressive};
use ouzel_learner::{Trainer, metrics as names};
use ouzel_sample::Batch;
use ouzel_serving::{Published, Version};
use ouzel_snapshot::SnapshotId;

use super::status::PipelineStatus;
use crate::failpoint::{self, FailPoint};
use crate::telemetry::clock::Clock;
use crate::telemetry::float;
use crate::telemetry::metrics::FRESHNESS_SECONDS;

/// Shortest time between two published versions. A version costs the learner a copy of each page that it then writes,
/// so not every batch makes one.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

/// Number of batches between two updates of the metrics by bucket, which take as long as a step.
const BUCKETS_EVERY: u64 = 50;

/// The publishing side of a learner.
pub struct Publisher {
    published: Arc<Published<Version>>,
    clock: Arc<dyn Clock>,
    /// Record timestamps of actions that were learned and are not served yet, ms.
    unserved: Vec<i64>,
    last: Instant,
    has_news: bool,
    /// The next batch when the metrics by bucket were last updated.
    buckets_updated: Option<u64>,
}

impl Publisher {
    /// A publisher that has published nothing.
    #[must_use]
    pub fn new(published: Arc<Published<Version>>, clock: Arc<dyn Clock>) -> Self {
        Self {
            published,
            clock,
            unserved: Vec::new(),
            last: Instant::now(),
            has_news: false,
            buckets_updated: None,
        }
    }

    /// Records that a batch was learned.
    pub fn learned(&mut self, batch: &Batch) {
        let actions = batch.samples.iter().filter_map(|sample| sample.action_record_ms);
        self.unserved.extend(actions);
        self.has_news = true;
    }

    /// How long the learner may wait for its next input.
    #[must_use]
    pub fn patience(&self) -> Duration {
        if self.has_news {
            PUBLISH_EVERY.saturating_sub(self.last.elapsed())
        } else {
            PUBLISH_EVERY
        }
    }

    /// True when there is something new and the last version is old enough.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.has_news && self.last.elapsed() >= PUBLISH_EVERY
    }

    /// Frees replaced versions that no scorer uses any more.
    pub fn sweep(&self) {
        self.published.sweep();
    }

    /// Publishes the weights of `trainer` under the id of their newest snapshot.
    pub fn publish(
        &mut self,
        latest: SnapshotId,
        trainer: &mut Trainer,
        status: &PipelineStatus,
    ) -> anyhow::Result<()> {
        self.publish_snapshot(latest, trainer)?;
        failpoint::reach(FailPoint::VersionPublished);
        let now = self.clock.now_ms();
        for recorded in &self.unserved {
            #[expect(clippy::cast_precision_loss, reason = "a delay in a histogram")]
            histogram!(FRESHNESS_SECONDS).record((now - recorded) as f64 / 1000.0);
        }
        status.add_freshness(self.unserved.drain(..).map(|recorded| now - recorded));
        self.published_now();
        Ok(())
    }

    /// Publishes weights that are not the newest: those of a pinned snapshot or after a rollback.
    pub fn publish_snapshot(&self, id: SnapshotId, trainer: &mut Trainer) -> anyhow::Result<()> {
        let version = Version::new(&id.to_string(), trainer.weights()?)?;
        self.published.publish(Arc::new(version));
        Ok(())
    }

    /// Publishes nothing while a snapshot is pinned: what is not served is not fresh, and must not pile up.
    pub fn skip(&mut self) {
        self.unserved.clear();
        self.published_now();
    }

    fn published_now(&mut self) {
        (self.last, self.has_news) = (Instant::now(), false);
    }

    /// Updates the validation and table metrics.
    pub fn report(&mut self, trainer: &mut Trainer, progressive: &Progressive, status: &PipelineStatus) {
        let (window, total) = (progressive.window(), progressive.total());
        for (name, value) in [
            (names::AUC, window.auc),
            (names::GAUC, window.gauc),
            (names::NE, window.ne),
            (names::CALIBRATION, window.calibration),
        ] {
            if let Some(value) = value {
                gauge!(name).set(value);
            }
        }
        if window.samples > 0 {
            self.report_buckets(trainer.next_batch(), progressive);
        }
        for (table, n) in trainer.tables() {
            gauge!(names::ROWS, "table" => table).set(float(n as u64));
        }
        gauge!(names::WAITING).set(float(trainer.n_waiting() as u64));
        if let Some((n, n_carried)) = trainer.device_rows() {
            gauge!(names::DEVICE_ROWS).set(float(n as u64));
            counter!(names::DEVICE_ROWS_CARRIED).increment(n_carried);
        }
        status.set_figures(window, total);
    }

    fn report_buckets(&mut self, next_batch: u64, progressive: &Progressive) {
        let is_recent = |updated| next_batch < updated + BUCKETS_EVERY;
        if self.buckets_updated.is_some_and(is_recent) {
            return;
        }
        self.buckets_updated = Some(next_batch);
        for (side, buckets) in progressive.window_buckets().sides() {
            for (bucket, bucket_name) in Bucket::ALL {
                let figures = buckets.figures(bucket);
                for (name, value) in [
                    (names::BUCKET_AUC, figures.auc),
                    (names::BUCKET_NE, figures.ne),
                    (names::BUCKET_CALIBRATION, figures.calibration),
                    (names::BUCKET_SAMPLES, Some(float(figures.samples))),
                ] {
                    // A figure that the window no longer has must not keep its old value.
                    gauge!(name, "side" => side, "bucket" => bucket_name).set(value.unwrap_or(f64::NAN));
                }
            }
        }
    }
}
