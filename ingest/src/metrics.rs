//! Names of what ingest counts, and their descriptions.
//!
//! Sources and decoder count once per chunk of records, never per record. Labels are from closed sets:
//! `stream` is one of three, `reason` one of [`ouzel_sample::RejectReason`].

use metrics::{Unit, describe_counter, describe_gauge};

/// Records read, by stream.
pub const RECORDS: &str = "ouzel_ingest_records_total";
/// Bytes of payload read, by stream.
pub const BYTES: &str = "ouzel_ingest_bytes_total";
/// Events decoded, by stream.
pub const EVENTS: &str = "ouzel_ingest_events_total";
/// Items deleted by their events.
pub const DELETED: &str = "ouzel_ingest_deleted_items_total";
/// Records that could not be used, by stream and reason.
pub const REJECTED: &str = "ouzel_ingest_rejected_total";
/// Fields no contract names, by stream.
pub const UNKNOWN_FIELDS: &str = "ouzel_ingest_unknown_fields_total";
/// Values the contract has a place for and nothing reads yet, by stream.
pub const IGNORED_FIELDS: &str = "ouzel_ingest_ignored_fields_total";
/// Records seen before and dropped by offset, by stream.
pub const OFFSET_DUPLICATES: &str = "ouzel_ingest_offset_duplicates_total";
/// Offsets that no record was read for, by stream: transaction markers or compaction.
pub const OFFSET_GAPS: &str = "ouzel_ingest_offset_gaps_total";
/// Broker errors that polling went on after, by kind.
pub const BROKER_ERRORS: &str = "ouzel_ingest_broker_errors_total";
/// Records written to a dead-letter topic or file, by stream.
pub const DEAD_LETTERS: &str = "ouzel_ingest_dead_letters_total";
/// Dead letters that could not be written, by stream.
pub const DEAD_LETTERS_LOST: &str = "ouzel_ingest_dead_letters_lost_total";
/// Failures of the join store on disk, each of which made it start anew or fall back to memory.
pub const STORE_FAILURES: &str = "ouzel_ingest_store_failures_total";
/// How often the join store on disk was written anew because its files had grown.
pub const STORE_REWRITES: &str = "ouzel_ingest_store_rewrites_total";
/// Open impressions that only the join store's disk has.
pub const STORE_COLD: &str = "ouzel_ingest_store_cold_requests";
/// Size of the join store's files.
pub const STORE_BYTES: &str = "ouzel_ingest_store_bytes";

/// Records written by the join tier, by what they tell.
pub const TIER_RECORDS: &str = "ouzel_ingest_tier_records_total";
/// Units of the join tier taken up, by how: anew, warmed up, or with a warm-up that the log no longer holds.
pub const TIER_BEGUN: &str = "ouzel_ingest_tier_begun_total";
/// Records that the log lost before the join tier joined them.
pub const TIER_LOST: &str = "ouzel_ingest_tier_lost_records_total";
/// Records of the join tier that said what was heard before, by what they tell; the learner drops them.
pub const TIER_STALE: &str = "ouzel_ingest_tier_stale_total";
/// Shown items whose outcome the join tier never told. Should stay 0.
pub const TIER_ABANDONED: &str = "ouzel_ingest_tier_abandoned_items_total";

/// Describes every metric of this module to the installed recorder.
pub fn describe() {
    let table = [
        (RECORDS, "records read from the log"),
        (BYTES, "bytes of payload read from the log"),
        (EVENTS, "events decoded"),
        (DELETED, "items deleted by their events"),
        (REJECTED, "records that could not be used, by reason"),
        (UNKNOWN_FIELDS, "fields that no contract names, kept out"),
        (IGNORED_FIELDS, "values the contract names and nothing reads yet"),
        (
            OFFSET_DUPLICATES,
            "records dropped because their offset was read before",
        ),
        (
            OFFSET_GAPS,
            "offsets without a record: transaction markers or compaction",
        ),
        (BROKER_ERRORS, "broker errors that polling went on after"),
        (
            DEAD_LETTERS,
            "rejected records written out with their coordinates",
        ),
        (
            DEAD_LETTERS_LOST,
            "rejected records that could not be written out",
        ),
        (
            STORE_FAILURES,
            "failures of the join store on disk; the state was or will be rebuilt",
        ),
        (STORE_REWRITES, "times the join store's files were written anew"),
        (TIER_RECORDS, "records written by the join tier"),
        (TIER_BEGUN, "units of the join tier taken up"),
        (TIER_LOST, "records lost by the log before they were joined"),
        (TIER_STALE, "records of the join tier that were heard before"),
        (
            TIER_ABANDONED,
            "shown items whose outcome the join tier never told; should stay 0",
        ),
    ];
    for (name, text) in table {
        let unit = if name == BYTES { Unit::Bytes } else { Unit::Count };
        describe_counter!(name, unit, text);
    }
    describe_gauge!(STORE_COLD, Unit::Count, "open impressions that only the disk has");
    describe_gauge!(STORE_BYTES, Unit::Bytes, "size of the join store's files");
}
