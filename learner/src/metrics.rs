//! Metric names of this crate.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Samples learned from.
pub const SAMPLES: &str = "ouzel_learner_samples_total";
/// Batches learned from.
pub const BATCHES: &str = "ouzel_learner_batches_total";
/// Batches skipped, by reason.
pub const SKIPPED: &str = "ouzel_learner_batches_skipped_total";
/// Steps whose gradient was longer than allowed and was shortened, by part.
pub const CLIPPED: &str = "ouzel_learner_steps_clipped_total";
/// Time of one step.
pub const STEP_SECONDS: &str = "ouzel_learner_step_seconds";
/// Rows by table.
pub const ROWS: &str = "ouzel_learner_rows";
/// Ids that had waited for a row and got it.
pub const ADMITTED: &str = "ouzel_learner_rows_admitted_total";
/// AdmissionCounter of ids that went on waiting for a row.
pub const SIGHTINGS: &str = "ouzel_learner_sightings_waiting_total";
/// Ids that wait for a row.
pub const WAITING: &str = "ouzel_learner_waiting_ids";
/// Rows forgotten, by reason: a full table, expiry, or a deleted item.
pub const FORGOTTEN: &str = "ouzel_learner_rows_forgotten_total";
/// Rows that a device other than the CPU keeps.
pub const DEVICE_ROWS: &str = "ouzel_learner_device_rows";
/// Rows carried to it, because it had not kept them.
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
/// The three figures of the window by how well items or users were known, by side and bucket.
pub const BUCKET_AUC: &str = "ouzel_learner_bucket_auc_ratio";
/// See [`BUCKET_AUC`].
pub const BUCKET_NE: &str = "ouzel_learner_bucket_normalised_entropy_ratio";
/// See [`BUCKET_AUC`].
pub const BUCKET_CALIBRATION: &str = "ouzel_learner_bucket_calibration_ratio";
/// Samples of the window in each bucket.
pub const BUCKET_SAMPLES: &str = "ouzel_learner_bucket_samples";

/// Tells the recorder what each name means.
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
        "rows forgotten, by reason: full for those that had learned least of a full table, expired, deleted"
    );
    describe_counter!(
        ADMITTED,
        Unit::Count,
        "ids that were sighted often enough, by rows.*.sightings and users, and got a row"
    );
    describe_counter!(
        SIGHTINGS,
        Unit::Count,
        "sightings of ids that were not sighted often enough yet"
    );
    describe_gauge!(WAITING, Unit::Count, "ids whose sightings are counted");
    describe_gauge!(DEVICE_ROWS, Unit::Count, "rows in the memory of learner.device");
    describe_counter!(
        DEVICE_ROWS_CARRIED,
        Unit::Count,
        "rows carried to learner.device; beside the rows that batches read, how often learner.device_rows is too few"
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
