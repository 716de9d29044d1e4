//! Publishes versions of the model to the scorers and measures their freshness.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};

use ouzel_learner::model::Weights;
use ouzel_learner::validation::{Bucket, Figures, Progressive};
use ouzel_learner::{Trainer, metrics as names};
use ouzel_sample::Batch;
use ouzel_serving::{Published, Version};
use ouzel_snapshot::SnapshotId;
use ouzel_verify::failpoint::{self, FailPoint};

use super::status::PipelineStatus;
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::FRESHNESS_SECONDS;
use crate::telemetry::{float, seconds};

/// Shortest time between two published versions. After a version, the learner copies each page that it writes.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

/// Batches between two updates of the metrics by bucket and of further tasks, which take as long as a step.
const DETAILS_EVERY: u64 = 50;

/// The publishing side of a learner.
pub(crate) struct Publisher {
    published: Arc<Published<Version>>,
    clock: Arc<dyn Clock>,
    /// Record timestamps of actions that are learned and not served, ms.
    unserved: Vec<i64>,
    last: Instant,
    has_new_weights: bool,
    /// The version that serves, with the number of its scores that were not finite when it was published.
    current: Option<(Arc<Version>, u64)>,
    /// The newest version that had served before an interval of good data ended.
    good: Option<Arc<Version>>,
    /// The last one of these that later ones are compared with.
    compared: Option<Arc<Version>>,
    /// The next batch when the metrics by bucket and of further tasks were last updated.
    details_updated: Option<u64>,
}

impl Publisher {
    /// A publisher that has published nothing.
    pub(crate) fn new(published: Arc<Published<Version>>, clock: Arc<dyn Clock>) -> Self {
        Self {
            published,
            clock,
            unserved: Vec::new(),
            last: Instant::now(),
            has_new_weights: false,
            current: None,
            good: None,
            compared: None,
            details_updated: None,
        }
    }

    /// Records that a batch was learned.
    pub(crate) fn learned(&mut self, batch: &Batch) {
        let actions = batch.samples.iter().filter_map(|sample| sample.action_record_ms);
        self.unserved.extend(actions);
        self.has_new_weights = true;
    }

    /// How long the learner may wait for its next input.
    pub(crate) fn idle_timeout(&self) -> Duration {
        if self.has_new_weights {
            PUBLISH_EVERY.saturating_sub(self.last.elapsed())
        } else {
            PUBLISH_EVERY
        }
    }

    /// True if the weights are new and the last version is old enough.
    pub(crate) fn is_due(&self) -> bool {
        self.has_new_weights && self.last.elapsed() >= PUBLISH_EVERY
    }

    /// Frees replaced versions that no scorer uses any more.
    pub(crate) fn sweep(&self) {
        self.published.sweep();
    }

    /// Publishes the newest weights, which descend from the snapshot `latest`.
    pub(crate) fn publish(
        &mut self,
        latest: SnapshotId,
        weights: Weights,
        status: &PipelineStatus,
    ) -> anyhow::Result<()> {
        self.publish_snapshot(latest, weights)?;
        failpoint::reach(FailPoint::VersionPublished);
        let now = self.clock.now_ms();
        for recorded in &self.unserved {
            histogram!(FRESHNESS_SECONDS).record(seconds(now - recorded));
        }
        status.add_freshness(self.unserved.drain(..).map(|recorded| now - recorded));
        self.mark_published();
        Ok(())
    }

    /// Publishes weights that are not the newest: those of a pinned snapshot or after a rollback.
    pub(crate) fn publish_snapshot(&mut self, id: SnapshotId, weights: Weights) -> anyhow::Result<()> {
        let version = Version::new(&id.to_string(), weights)?;
        self.serve(Arc::new(version));
        Ok(())
    }

    fn serve(&mut self, version: Arc<Version>) {
        self.current = Some((Arc::clone(&version), version.n_not_finite()));
        self.published.publish(version);
    }

    /// Records that an interval of good data ended while the present version served; with `is_compared`, that later ones are
    /// compared with it.
    pub(crate) fn mark_good(&mut self, is_compared: bool) {
        self.good = self.current.as_ref().map(|(version, _)| Arc::clone(version));
        if is_compared {
            self.compared.clone_from(&self.good);
        }
    }

    /// Serves the last version from before the last interval of good data ended, or the one that later ones were compared
    /// with, unless that serves already. Returns the snapshot that it descends from.
    pub(crate) fn swap_back(&mut self, to_compared: bool) -> Option<String> {
        if to_compared {
            self.good.clone_from(&self.compared);
        }
        let good = self.good.clone()?;
        if self
            .current
            .as_ref()
            .is_some_and(|(current, _)| Arc::ptr_eq(current, &good))
        {
            return None;
        }
        let snapshot = good.snapshot().to_owned();
        self.serve(good);
        Some(snapshot)
    }

    /// Number of scores by the served version, since it was published, that were not finite.
    pub(crate) fn n_not_finite(&self) -> u64 {
        let current = self.current.as_ref();
        current.map_or(0, |(version, before)| version.n_not_finite() - before)
    }

    /// Publishes nothing, because a snapshot is pinned or a gate holds new versions. Freshness is not measured for actions
    /// that a pinned snapshot never serves.
    pub(crate) fn skip(&mut self) {
        self.unserved.clear();
        self.mark_published();
    }

    fn mark_published(&mut self) {
        (self.last, self.has_new_weights) = (Instant::now(), false);
    }

    /// Updates the validation and table metrics.
    pub(crate) fn report(
        &mut self,
        trainer: &mut Trainer,
        progressive: &Progressive,
        status: &PipelineStatus,
    ) {
        let window = progressive.window();
        if let Some(primary) = trainer.model().tasks.first() {
            set_task(primary, &window);
        }
        if window.judged > 0 {
            self.report_details(trainer, progressive);
        }
        for (table, n) in trainer.tables() {
            gauge!(names::ROWS, "table" => table).set(float(n as u64));
        }
        gauge!(names::WAITING).set(float(trainer.n_waiting() as u64));
        for (member, share) in trainer.shares() {
            gauge!(names::SHARE, "member" => member).set(f64::from(share));
        }
        if let Some((n, n_carried)) = trainer.device_rows() {
            gauge!(names::DEVICE_ROWS).set(float(n as u64));
            counter!(names::DEVICE_ROWS_CARRIED).increment(n_carried);
        }
        let recall = progressive.recall.figures();
        if let Some(recall) = &recall {
            for (order, figures) in [("retrieval", recall.retrieval), ("popularity", recall.popularity)] {
                gauge!(names::RECALL, "order" => order, "k" => "10").set(figures.recall_10);
                gauge!(names::RECALL, "order" => order, "k" => "50").set(figures.recall_50);
            }
        }
        status.set_recall(recall);
        status.set_window(window);
    }

    fn report_details(&mut self, trainer: &Trainer, progressive: &Progressive) {
        let next_batch = trainer.next_batch();
        let is_recent = |updated| next_batch < updated + DETAILS_EVERY;
        if self.details_updated.is_some_and(is_recent) {
            return;
        }
        self.details_updated = Some(next_batch);
        let tasks = trainer.model().tasks.iter();
        for (task, window) in tasks.zip(progressive.window_by_task()).skip(1) {
            set_task(task, &window);
        }
        for (side, buckets) in progressive.window_buckets().sides() {
            for (bucket, bucket_name) in Bucket::ALL {
                let figures = buckets.figures(bucket);
                for (name, value) in [
                    (names::BUCKET_AUC, figures.auc),
                    (names::BUCKET_NE, figures.ne),
                    (names::BUCKET_CALIBRATION, figures.calibration),
                    (names::BUCKET_JUDGED, Some(float(figures.judged))),
                ] {
                    // Without items in the window, the gauge must not keep its old value: the page leaves NaN out.
                    gauge!(name, "side" => side, "bucket" => bucket_name).set(value.unwrap_or(f64::NAN));
                }
            }
        }
    }
}

/// Sets the validation gauges of a task. A figure that is undefined keeps its last value.
fn set_task(task: &str, window: &Figures) {
    for (name, value) in [
        (names::AUC, window.auc),
        (names::GAUC, window.gauc),
        (names::NE, window.ne),
        (names::CALIBRATION, window.calibration),
    ] {
        if let Some(value) = value {
            gauge!(name, "task" => task.to_owned()).set(value);
        }
    }
}
