//! Names and descriptions of the metrics of this crate.
//!
//! Sources and the decoder count once per chunk of records, never per record. Labels come from closed sets:
//! `stream` is a stream name, `reason` a [`ouzel_sample::RejectReason`].

use metrics::{Unit, describe_counter, describe_gauge};

/// Declares metrics: a constant for each name, documented with the description, and `describe`.
macro_rules! metrics {
    ($($describe:ident $unit:ident $name:ident = $metric:literal: $text:literal;)*) => {
        $(#[doc = concat!($text, ".")] pub const $name: &str = $metric;)*

        /// Describes every metric of this crate to the installed recorder.
        pub fn describe() {
            $($describe!($name, Unit::$unit, $text);)*
        }
    };
}

metrics! {
    describe_counter Count RECORDS = "ouzel_ingest_records_total": "records read from the log, by stream";
    describe_counter Bytes BYTES = "ouzel_ingest_bytes_total": "bytes of payload read from the log, by stream";
    describe_counter Count EVENTS = "ouzel_ingest_events_total": "events decoded, by stream";
    describe_counter Count DELETED = "ouzel_ingest_deleted_items_total": "items deleted by their events";
    describe_counter Count REJECTED = "ouzel_ingest_rejected_total": "records rejected, by stream and reason";
    describe_counter Count UNKNOWN_FIELDS = "ouzel_ingest_unknown_fields_total":
        "fields that are not part of the event format, ignored, by stream";
    describe_counter Count IGNORED_FIELDS = "ouzel_ingest_ignored_fields_total":
        "values of the event format that ouzel does not use yet, by stream";
    describe_counter Count OFFSET_DUPLICATES = "ouzel_ingest_offset_duplicates_total":
        "records dropped because their offset was read before, by stream";
    describe_counter Count OFFSET_GAPS = "ouzel_ingest_offset_gaps_total":
        "offsets without a record (transaction markers or compaction), by stream";
    describe_counter Count BROKER_ERRORS = "ouzel_ingest_broker_errors_total":
        "broker errors after which polling continued, by kind";
    describe_counter Count DEAD_LETTERS = "ouzel_ingest_dead_letters_total":
        "rejected records written out with their coordinates, by stream";
    describe_counter Count DEAD_LETTERS_LOST = "ouzel_ingest_dead_letters_lost_total":
        "rejected records that could not be written out, by stream";
    describe_counter Count STORE_FAILURES = "ouzel_ingest_store_failures_total":
        "failures of the join store on disk, each followed by a rebuild or by joining in memory";
    describe_counter Count STORE_REWRITES = "ouzel_ingest_store_rewrites_total":
        "rewrites of the join store's files after they had grown";
    describe_gauge Count STORE_COLD = "ouzel_ingest_store_cold_requests": "open impressions that are only on disk";
    describe_gauge Bytes STORE_BYTES = "ouzel_ingest_store_bytes": "size of the join store's files";
    describe_counter Count TIER_RECORDS = "ouzel_ingest_tier_records_total":
        "records written by the join tier, by kind";
    describe_counter Count TIER_BEGUN = "ouzel_ingest_tier_begun_total":
        "partitions that the join tier started to join, by how: new, warmed up, or with an incomplete warm-up";
    describe_counter Count TIER_LOST = "ouzel_ingest_tier_lost_records_total":
        "records that the log lost before the join tier joined them";
    describe_counter Count TIER_STALE = "ouzel_ingest_tier_stale_total":
        "join records dropped by the learner as duplicates, by kind";
    describe_counter Count TIER_ABANDONED = "ouzel_ingest_tier_abandoned_items_total":
        "shown items whose outcome the join tier never reported; should stay 0";
}
