//! The metrics of this crate.

ouzel_sample::metric_names! {
    counter REQUESTS_TOTAL = "ouzel_serving_requests_total", Count,
        "Scoring requests answered, by outcome: `ok`, or the `code` of the error reply.";
    histogram REQUEST_SECONDS = "ouzel_serving_request_seconds", Seconds,
        "Time from the complete head of a scoring request to its reply.";
    histogram SCORE_SECONDS = "ouzel_serving_score_seconds", Seconds,
        "Time to compute the scores of one request on a worker.";
    histogram RETRIEVE_SECONDS = "ouzel_serving_retrieve_seconds", Seconds,
        "Time to find the items of one request on a worker, ranking included.";
    histogram INDEX_SECONDS = "ouzel_serving_index_seconds", Seconds,
        "Time to compute the vectors of all items of the catalog under one version.";
    gauge INDEX_ITEMS = "ouzel_serving_index_items", Count, "Items that requests for recommendations are answered from.";
    gauge INDEX_LEFT_OUT = "ouzel_serving_index_left_out_items", Count,
        "Items of the catalog that are never recommended because an index is full.";
    gauge QUEUE_REQUESTS = "ouzel_serving_queue_requests", Count, "Requests waiting for a worker.";
    counter CANDIDATES_TOTAL = "ouzel_serving_candidates_total", Count, "Candidates scored.";
    counter SCORES_NOT_FINITE_TOTAL = "ouzel_serving_scores_not_finite_total", Count,
        "Candidates whose score by serving.score is not a finite number; they rank last.";
    counter FALLBACK_TOTAL = "ouzel_serving_fallback_total", Count,
        "Candidates scored by their popularity instead of the model, by reason: `no_version` is served, `not_finite` is their score by the version, or it `failed`.";
    counter CANDIDATE_REQUESTS_TOTAL = "ouzel_serving_candidate_requests_total", Count,
        "Requests of the share of a candidate, by variant and outcome: `scored`, `dropped` by a shadow that is behind, or `failed`, which the served version answered.";
    counter ABANDONED_TOTAL = "ouzel_serving_abandoned_total", Count,
        "Requests dropped unscored because their deadline had passed or their client had gone.";
    counter EVENT_CALLS_TOTAL = "ouzel_serving_event_calls_total", Count,
        "Calls of /v1/events answered, by outcome: `ok`, or the `code` of the error reply.";
    histogram EVENT_CALL_SECONDS = "ouzel_serving_event_call_seconds", Seconds,
        "Time from the complete head of a call of /v1/events to its reply.";
    counter EVENTS_WRITTEN_TOTAL = "ouzel_serving_events_written_total", Count,
        "Posted events that the broker has acknowledged, by stream.";
    counter EVENTS_REFUSED_TOTAL = "ouzel_serving_events_refused_total", Count,
        "Posted events that cannot be used, by stream and reason; their calls wrote nothing.";
    gauge LIVE_VERSIONS = "ouzel_serving_live_versions", Count,
        "Published model versions still in memory: the current one, and older ones that a request may hold.";
    counter SWAPS_TOTAL = "ouzel_serving_swaps_total", Count, "Model versions swapped in since the start.";
    gauge VERSION = "ouzel_serving_version", Count,
        "Number of the version that new requests are computed by; 0 before the first.";
}
