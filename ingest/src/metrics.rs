//! The metrics of this crate.
//!
//! Sources and the decoder count once per chunk of records. Labels come from closed sets: `stream` is a stream name,
//! `reason` a [`ouzel_sample::RejectReason`]; or from bounded ones: names of fields and actions.

ouzel_sample::metric_names! {
    counter RECORDS = "ouzel_ingest_records_total", Count, "Records read from the log, by stream.";
    counter BYTES = "ouzel_ingest_bytes_total", Bytes, "Bytes of payload read from the log, by stream.";
    counter EVENTS = "ouzel_ingest_events_total", Count, "Events decoded, by stream.";
    counter DELETED = "ouzel_ingest_deleted_items_total", Count, "Items deleted by their events.";
    counter ITEM_UPDATES = "ouzel_ingest_item_updates_total", Count,
        "Partial item events, by outcome: merged into a known item, new, or stale.";
    counter REJECTED = "ouzel_ingest_rejected_total", Count, "Records rejected, by stream and reason.";
    counter QUARANTINED_ITEMS = "ouzel_ingest_quarantined_items_total", Count,
        "Items of slates that a quarantine excludes; whole records are among the rejected.";
    counter UNREAD_FIELDS = "ouzel_ingest_unread_fields_total", Count,
        "Fields that nothing reads, by stream and name; at most 64 names a stream are counted apart.";
    counter UNUSED_ACTIONS = "ouzel_ingest_unused_actions_total", Count,
        "Actions that no task learns from, by name; at most 64 names are counted apart.";
    gauge UNLEARNED_NUMBERS = "ouzel_ingest_unlearned_numbers", Count,
        "Numbers of shown items and requests that are not learned, because there are more than 256 names of numbers.";
    gauge UNLISTED_ACTIONS = "ouzel_ingest_unlisted_actions", Count,
        "Actions since the start that are in no list of the long past: their item has no category, author or tag.";
    gauge EVICTED_PROFILES = "ouzel_ingest_evicted_profiles", Count,
        "Profiles of users forgotten because there are more than `features.max_users`.";
    counter OFFSET_DUPLICATES = "ouzel_ingest_offset_duplicates_total", Count,
        "Records dropped because their offset was read before, by stream.";
    counter OFFSET_GAPS = "ouzel_ingest_offset_gaps_total", Count,
        "Offsets without a record (transaction markers or compaction), by stream.";
    counter SCHEMA_REQUESTS = "ouzel_ingest_schema_requests_total", Count,
        "Requests to the schema registry, by outcome: found, unusable, unknown or failed.";
    counter BROKER_ERRORS = "ouzel_ingest_broker_errors_total", Count,
        "Broker errors after which polling continued, by kind.";
    counter DEAD_LETTERS = "ouzel_ingest_dead_letters_total", Count,
        "Rejected records written out with their coordinates, by stream.";
    counter DEAD_LETTERS_LOST = "ouzel_ingest_dead_letters_lost_total", Count,
        "Rejected records that could not be written out, by stream.";
    counter LATE_COPIES = "ouzel_ingest_late_copies_total", Count,
        "Late records copied to their topic, by stream.";
    counter LATE_COPIES_LOST = "ouzel_ingest_late_copies_lost_total", Count,
        "Late records that could not be copied, by stream.";
    counter STORE_FAILURES = "ouzel_ingest_store_failures_total", Count,
        "Failures of the join store on disk, each followed by a rebuild or by joining in memory.";
    counter STORE_REWRITES = "ouzel_ingest_store_rewrites_total", Count,
        "Rewrites of the join store's files after they had grown.";
    gauge STORE_COLD = "ouzel_ingest_store_cold_requests", Count, "Open impressions that are only on disk.";
    gauge STORE_BYTES = "ouzel_ingest_store_bytes", Bytes, "Size of the join store's files.";
    counter TIER_RECORDS = "ouzel_ingest_tier_records_total", Count,
        "Records written by the join tier, by kind.";
    counter TIER_BEGUN = "ouzel_ingest_tier_begun_total", Count,
        "Partitions that the join tier started to join, by how: new, warmed up, or with an incomplete warm-up.";
    counter TIER_LOST = "ouzel_ingest_tier_lost_records_total", Count,
        "Records that the log lost before the join tier joined them.";
    counter TIER_STALE = "ouzel_ingest_tier_stale_total", Count,
        "Join records dropped by the learner as duplicates, by kind.";
    counter TIER_ABANDONED = "ouzel_ingest_tier_abandoned_items_total", Count,
        "Shown items whose outcome the join tier never reported; should stay 0.";
}
