//! The metrics of this crate.

ouzel_sample::metric_names! {
    counter SAMPLES = "ouzel_learner_samples_total", Count, "Samples learned from.";
    counter BATCHES = "ouzel_learner_batches_total", Count, "Batches learned from.";
    counter SKIPPED = "ouzel_learner_batches_skipped_total", Count,
        "Batches skipped, by reason; their samples count as learned from.";
    counter CLIPPED = "ouzel_learner_steps_clipped_total", Count,
        "Steps with a gradient clipped by optimizer.clip_dense or clip_rows, by part.";
    histogram STEP_SECONDS = "ouzel_learner_step_seconds", Seconds, "Duration of one training step.";
    gauge ROWS = "ouzel_learner_rows", Count, "Rows by table.";
    counter ADMITTED = "ouzel_learner_rows_admitted_total", Count,
        "Ids that occurred often enough, by rows.*.min_samples and min_users, and got a row.";
    counter SIGHTINGS = "ouzel_learner_sightings_waiting_total", Count,
        "Occurrences of ids that have not occurred often enough for a row.";
    gauge WAITING = "ouzel_learner_waiting_ids", Count, "Ids that wait for a row.";
    counter FORGOTTEN = "ouzel_learner_rows_forgotten_total", Count,
        "Rows removed, by reason: full (the rows of a full table that had learned least), expired, deleted.";
    gauge SHARE = "ouzel_learner_member_share_ratio", Count,
        "Share of each model of a mixture in the served log-odds, by its widths; 0 for one that sleeps or is on trial.";
    gauge DEVICE_ROWS = "ouzel_learner_device_rows", Count, "Rows cached in the memory of learner.device.";
    counter DEVICE_ROWS_CARRIED = "ouzel_learner_device_rows_carried_total", Count,
        "Rows copied to learner.device; many beside the rows that batches read mean that learner.device_rows is too small.";
    gauge AUC = "ouzel_learner_window_auc_ratio", Count,
        "Progressive AUC over the last window of samples, by task.";
    gauge GAUC = "ouzel_learner_window_gauc_ratio", Count,
        "Mean per-request AUC over the last window of samples, by task.";
    gauge NE = "ouzel_learner_window_normalised_entropy_ratio", Count,
        "Log-loss over the entropy of the mean label, over the window, by task; below 1 is better than a constant.";
    gauge CALIBRATION = "ouzel_learner_window_calibration_ratio", Count,
        "Sum of predictions over sum of labels, over the window, by task.";
    counter CALIBRATION_JUMPS = "ouzel_learner_calibration_jumps_total", Count,
        "Times that calibration moved a task's log-odds by more than 0.5 within an hour of event time, by task.";
    gauge CANDIDATE_FIGURE = "ouzel_learner_candidate_figure_ratio", Count,
        "Progressive figures over the shown items of a candidate's share since it started, by task, model and figure: `auc`, `gauc`, `log_loss`, `normalised_entropy`, `calibration`.";
    gauge CANDIDATE_DIFFERENCE = "ouzel_learner_candidate_log_loss_difference_ratio", Count,
        "Log-loss of the candidate less that of the model that learns, on the same items, by task: the mean, and the ends of its 95 % interval; below 0 the candidate is better.";
    gauge CANDIDATE_AUC_DIFFERENCE = "ouzel_learner_candidate_auc_difference_ratio", Count,
        "AUC of the candidate less that of the model that learns, by task and bound as the log-loss; above 0 the candidate is better.";
    gauge CANDIDATE_GAUC_DIFFERENCE = "ouzel_learner_candidate_gauc_difference_ratio", Count,
        "The same of the mean per-request AUC.";
    gauge RECALL = "ouzel_learner_recall_ratio", Count,
        "Progressive recall over the whole catalog since the start of the lineage, by order (`retrieval`, or `popularity` to compare) and k.";
    counter RETRIEVAL_SKIPPED = "ouzel_learner_retrieval_steps_skipped_total", Count,
        "Steps of the towers skipped because their loss or a gradient was not finite.";
    gauge BUCKET_AUC = "ouzel_learner_bucket_auc_ratio", Count,
        "AUC of the first task over the window, by earlier impressions of the item or user: new below 20, warm below 1000, hot.";
    gauge BUCKET_NE = "ouzel_learner_bucket_normalised_entropy_ratio", Count,
        "Normalised entropy of the first task over the window, by the same buckets.";
    gauge BUCKET_CALIBRATION = "ouzel_learner_bucket_calibration_ratio", Count,
        "Calibration of the first task over the window, by the same buckets.";
    gauge BUCKET_JUDGED = "ouzel_learner_bucket_judged", Count, "Shown items of the window that have a label, by the same buckets.";
}
