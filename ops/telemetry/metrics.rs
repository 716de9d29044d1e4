//! Metrics of the process and of the pipeline as a whole.

ouzel_sample::metric_names! {
    histogram FRESHNESS_SECONDS = "ouzel_freshness_seconds", Seconds,
        "Time from an action's record timestamp to the moment the served model contains it.";
    counter SNAPSHOTS_SKIPPED_TOTAL = "ouzel_ops_snapshots_skipped_total", Count,
        "Snapshots skipped because the previous one was still being written.";
    counter EVENTS_TOTAL = "ouzel_ops_events_total", Count, "Records joined, items included.";
    gauge PENDING = "ouzel_ops_pending_items", Count, "Shown items whose attribution windows are open.";
    gauge WATERMARK_SECONDS = "ouzel_ops_watermark_timestamp_seconds", Seconds,
        "Watermark in event time, seconds since 1970: no event that is on time is older.";
    gauge EVENT_LAG_SECONDS = "ouzel_ops_event_lag_seconds", Seconds,
        "Time from the newest joined event to now.";
    counter OUTCOMES_TOTAL = "ouzel_ops_join_outcomes_total", Count,
        "Records and shown items of the primary task, by outcome.";
    gauge ACTION_COVERAGE = "ouzel_ops_action_coverage_ratio", Count,
        "Matched actions over all actions that were matched or came too late.";
    gauge REMOTE_AGE = "ouzel_ops_remote_age_seconds", Seconds,
        "Age of the newest snapshot of the remote copy.";
    counter REMOTE_FAILURES = "ouzel_ops_remote_failures_total", Count,
        "Attempts to send to the remote copy that failed; each is made again.";
    gauge SNAPSHOT_AGE_SECONDS = "ouzel_ops_snapshot_age_seconds", Seconds,
        "Time since the last snapshot was written.";
    gauge ITEMS_TO_ENCODE = "ouzel_ops_items_to_encode", Count, "Items whose content waits to be encoded.";
    counter CONTENTS_OUT_OF_REACH = "ouzel_ops_contents_out_of_reach_total", Count,
        "Pictures that are missing, too large, or outside their folder.";
    counter VECTORS_LOST = "ouzel_ops_vectors_lost_total", Count,
        "Content vectors named by a snapshot or the plan log that could not be restored.";
    gauge LEARNING = "ouzel_ops_learning", Count,
        "1 while the log is read and learned; 0 while the daemon only serves: it cannot read its log, or a gate or an operator has stopped it.";
    counter LOST_RECORDS = "ouzel_ops_lost_records_total", Count,
        "Offsets that the log no longer held and that were skipped by --accept-loss, by stream.";
    gauge RESIDENT_BYTES = "ouzel_ops_resident_bytes", Bytes, "Resident memory of this process.";
    gauge PLAN_STALLED = "ouzel_ops_plan_stalled", Count,
        "1 while the plan log cannot be written and learning waits for it.";
    counter PLAN_STALLS_TOTAL = "ouzel_ops_plan_stalls_total", Count,
        "Times that the plan log could not be written.";
    gauge GATE_HELD = "ouzel_ops_gate_held", Count,
        "1 while a gate keeps new versions from serving: the last good one serves on.";
    counter GATE_VERSIONS = "ouzel_ops_gate_versions_total", Count,
        "Versions checked before they serve, by outcome: `good` or `refused`.";
    counter GATE_INTERVALS = "ouzel_ops_gate_intervals_total", Count,
        "Intervals of samples compared with those before.";
    counter GATE_BREACHES = "ouzel_ops_gate_breaches_total", Count,
        "Versions refused and intervals that tripped the breaker, by gate.";
    counter GATE_SWAPS_BACK = "ouzel_ops_gate_swaps_back_total", Count,
        "Automatic swaps back to an earlier version.";
    counter CANDIDATES_WITHDRAWN = "ouzel_ops_candidates_withdrawn_total", Count,
        "Candidates that ended by themselves: their scores were not finite, or they could not score or keep up.";
    counter SECOND_BATCHES = "ouzel_ops_second_learner_batches_total", Count, "Batches that a second learner has learned.";
    gauge SECOND_BEHIND = "ouzel_ops_second_learner_behind_batches", Count,
        "Batches that the serving learner has learned and a second one has not; at 1024 that one is withdrawn.";
    counter SECOND_STATES_FAILED = "ouzel_ops_second_learner_states_failed_total", Count,
        "States of a second learner that were not written: a restart from there withdraws it.";
    gauge PRIMARY = "ouzel_ops_primary", Count,
        "1 while this daemon is the writer of its state directory; 0 while it is a standby.";
    gauge LEASE_EPOCH = "ouzel_ops_lease_epoch", Count,
        "Number of this writer, higher than that of every writer before; 0 for a standby.";
    gauge STANDBY_LAG = "ouzel_ops_standby_lag_batches", Count,
        "Entries of the plan log that a standby has read and not joined, and batches that it has joined and not learned.";
    counter STANDBY_COMPARED = "ouzel_ops_standby_compared_total", Count,
        "Snapshots of the writer that a standby compared with its own state, by outcome: `equal` or `different`.";
    counter STANDBY_RESYNCS = "ouzel_ops_standby_resyncs_total", Count,
        "Times that a standby started again from the newest snapshot.";
    counter TAKE_OVERS = "ouzel_ops_take_overs_total", Count, "Times that this daemon has taken over from another one.";
    gauge TIER_UNITS = "ouzel_ops_tier_units", Count, "Pairs of partitions that this process joins.";
    counter TIER_RELEASED_TOTAL = "ouzel_ops_tier_joined_records_total", Count,
        "Records joined by this process of the join tier, warm-ups included.";
    counter TASK_FAILURES = "ouzel_ops_task_failures_total", Count,
        "Tasks that ended in an error or a panic, by task.";
    gauge BUILD = "ouzel_ops_build", Count, "Always 1; the label is the version of this program.";
}
