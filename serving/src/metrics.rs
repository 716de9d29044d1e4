//! The metrics of this crate.

ouzel_sample::metric_names! {
    counter REQUESTS_TOTAL = "ouzel_serving_requests_total", Count,
        "Scoring requests answered, by outcome: `ok`, or the `code` of the error reply.";
    histogram REQUEST_SECONDS = "ouzel_serving_request_seconds", Seconds,
        "Time from the complete head of a scoring request to its reply.";
    histogram SCORE_SECONDS = "ouzel_serving_score_seconds", Seconds,
        "Time to compute the scores of one request on a worker.";
    gauge QUEUE_REQUESTS = "ouzel_serving_queue_requests", Count, "Requests waiting for a worker.";
    counter CANDIDATES_TOTAL = "ouzel_serving_candidates_total", Count, "Candidates scored.";
    counter ABANDONED_TOTAL = "ouzel_serving_abandoned_total", Count,
        "Requests dropped unscored because their deadline had passed or their client had gone.";
    gauge LIVE_VERSIONS = "ouzel_serving_live_versions", Count,
        "Published model versions still in memory: the current one, and older ones that a request may hold.";
    counter SWAPS_TOTAL = "ouzel_serving_swaps_total", Count, "Model versions swapped in since the start.";
    gauge VERSION = "ouzel_serving_version", Count,
        "Number of the version that new requests are computed by; 0 before the first.";
}

/// Upper bounds of the histogram buckets in seconds, 100 us to 2.5 s; the default deadline is one of them. The
/// exporter must be given them, or it renders summaries.
pub const SECONDS_BUCKETS: [f64; 13] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5,
];
