//! Metric names of this crate.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Samples learned from.
pub const SAMPLES: &str = "ouzel_learner_samples_total";
/// Batches learned from.
pub const BATCHES: &str = "ouzel_learner_batches_total";
/// Batches skipped, by reason.
pub const SKIPPED: &str = "ouzel_learner_batches_skipped_total";
/// Steps with a clipped gradient, by part.
pub const CLIPPED: &str = "ouzel_learner_steps_clipped_total";
/// Duration of one step.
pub const STEP_SECONDS: &str = "ouzel_learner_step_seconds";
/// Rows by table.
pub const ROWS: &str = "ouzel_learner_rows";
/// Ids that were admitted after waiting for a row.
pub const ADMITTED: &str = "ouzel_learner_rows_admitted_total";
/// AdmissionCounter of ids that went on waiting for a row.
pub const SIGHTINGS: &str = "ouzel_learner_sightings_waiting_total";
/// Ids that wait for a row, count.
pub const WAITING: &str = "ouzel_learner_waiting_ids";
/// Rows removed, by reason: a full table, expiry, or a deleted item.
pub const FORGOTTEN: &str = "ouzel_learner_rows_forgotten_total";
/// Rows cached on the learner's device.
pub const DEVICE_ROWS: &str = "ouzel_learner_device_rows";
/// Rows copied to the device because they were not cached.
pub const DEVICE_ROWS_CARRIED: &str = "ouzel_learner_device_rows_carried_total";
/// Progressive AUC over the window.
pub const AUC: &str = "ouzel_learner_window_auc_ratio";
/// Progressive per-request AUC over the window.
pub const GAUC: &str = "ouzel_learner_window_gauc_ratio";
/// Progressive normalised entropy over the window.
pub const NE: &str = "ouzel_learner_window_normalised_entropy_ratio";
/// Sum of predictions over sum of labels, over the window.
pub const CALIBRATION: &str = "ouzel_learner_window_calibration_ratio";
/// Jumps of the calibration within an hour of event time, by task.
pub const CALIBRATION_JUMPS: &str = "ouzel_learner_calibration_jumps_total";
/// AUC of the window by item or user bucket.
pub const BUCKET_AUC: &str = "ouzel_learner_bucket_auc_ratio";
/// Normalised entropy of the window by item or user bucket.
pub const BUCKET_NE: &str = "ouzel_learner_bucket_normalised_entropy_ratio";
/// Calibration of the window by item or user bucket.
pub const BUCKET_CALIBRATION: &str = "ouzel_learner_bucket_calibration_ratio";
/// Samples of the window in each bucket.
pub const BUCKET_SAMPLES: &str = "ouzel_learner_bucket_samples";

/// Describes all metrics to the recorder.
pub fn describe() {
    describe_counter!(SAMPLES, Unit::Count, "samples learned from");
    describe_counter!(BATCHES, Unit::Count, "batches learned from");
    describe_counter!(
        SKIPPED,
        Unit::Count,
        "batches skipped, by reason; their samples are counted as seen"
    );
    describe_counter!(
        CLIPPED,
        Unit::Count,
        "steps whose gradient was longer than optimizer.clip_dense or clip_rows allows, by part"
    );
    describe_histogram!(STEP_SECONDS, Unit::Seconds, "time of one training step");
    describe_gauge!(ROWS, Unit::Count, "rows in a table");
    describe_counter!(
        FORGOTTEN,
        Unit::Count,
        "rows removed, by reason: full (the rows of a full table that had learned least), expired, deleted"
    );
    describe_counter!(
        ADMITTED,
        Unit::Count,
        "ids that occurred often enough, by rows.*.sightings and users, and got a row"
    );
    describe_counter!(
        SIGHTINGS,
        Unit::Count,
        "sightings of ids that were not sighted often enough yet"
    );
    describe_gauge!(WAITING, Unit::Count, "ids that wait for a row");
    describe_gauge!(DEVICE_ROWS, Unit::Count, "rows in the memory of learner.device");
    describe_counter!(
        DEVICE_ROWS_CARRIED,
        Unit::Count,
        "rows copied to learner.device; many beside the rows that batches read mean that learner.device_rows is too small"
    );
    describe_gauge!(
        AUC,
        "progressive AUC of the primary task over the last window of samples"
    );
    describe_gauge!(
        GAUC,
        "mean per-request AUC of the primary task over the last window of requests"
    );
    describe_gauge!(
        NE,
        "log-loss over the entropy of the mean label, over the window; below 1 is better than a constant"
    );
    describe_gauge!(
        CALIBRATION,
        "sum of predictions over sum of labels, over the window"
    );
    describe_counter!(
        CALIBRATION_JUMPS,
        Unit::Count,
        "times that learner.calibrate moved a task's log-odds by more than 0.5 within an hour of event time, by task"
    );
    describe_gauge!(
        BUCKET_AUC,
        "progressive AUC over the window, by impressions before: new below 20, warm below 1000, hot"
    );
    describe_gauge!(
        BUCKET_NE,
        "log-loss over the entropy of the mean label, over the window, likewise"
    );
    describe_gauge!(
        BUCKET_CALIBRATION,
        "sum of predictions over sum of labels, over the window, likewise"
    );
    describe_gauge!(BUCKET_SAMPLES, Unit::Count, "samples of the window, likewise");
}
