//! The names of this room's metrics, and nothing else: recording happens where the fact is known.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Scoring requests answered, by `outcome`: `ok`, or the `code` of the error reply.
pub const REQUESTS_TOTAL: &str = "ouzel_serving_requests_total";
/// From the complete head of a scoring request to its reply, seconds.
pub const REQUEST_SECONDS: &str = "ouzel_serving_request_seconds";
/// Computing the scores of one request on a worker, seconds.
pub const SCORE_SECONDS: &str = "ouzel_serving_score_seconds";
/// Requests waiting for a worker.
pub const QUEUE_REQUESTS: &str = "ouzel_serving_queue_requests";
/// Candidates scored.
pub const CANDIDATES_TOTAL: &str = "ouzel_serving_candidates_total";
/// Requests a worker dropped unscored, because nobody waited for the reply any more.
pub const ABANDONED_TOTAL: &str = "ouzel_serving_abandoned_total";
/// Published versions still in memory: the current one and older ones a request may hold.
pub const LIVE_VERSIONS: &str = "ouzel_serving_live_versions";
/// Versions swapped in since the start.
pub const SWAPS_TOTAL: &str = "ouzel_serving_swaps_total";
/// Number of the version that new requests are computed by; 0 before the first.
pub const VERSION: &str = "ouzel_serving_version";

/// Upper bounds of the histogram buckets in seconds, 100 us to 2.5 s; the default deadline is one of them. The
/// exporter must be given them, or it renders summaries.
pub const SECONDS_BUCKETS: [f64; 13] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5,
];

/// Registers help texts and units. Call once, after the recorder is installed.
pub fn describe() {
    describe_counter!(
        REQUESTS_TOTAL,
        Unit::Count,
        "scoring requests answered, by outcome: ok, or the code of the error reply"
    );
    describe_histogram!(
        REQUEST_SECONDS,
        Unit::Seconds,
        "from the complete head of a scoring request to its reply"
    );
    describe_histogram!(
        SCORE_SECONDS,
        Unit::Seconds,
        "computing the scores of one request on a worker"
    );
    describe_gauge!(QUEUE_REQUESTS, Unit::Count, "requests waiting for a worker");
    describe_counter!(CANDIDATES_TOTAL, Unit::Count, "candidates scored");
    describe_counter!(
        ABANDONED_TOTAL,
        Unit::Count,
        "requests dropped unscored because their deadline had passed or their client had gone"
    );
    describe_gauge!(
        LIVE_VERSIONS,
        Unit::Count,
        "published model versions still in memory"
    );
    describe_counter!(
        SWAPS_TOTAL,
        Unit::Count,
        "model versions swapped in since the start"
    );
    describe_gauge!(
        VERSION,
        Unit::Count,
        "number of the version that new requests are computed by"
    );
}
