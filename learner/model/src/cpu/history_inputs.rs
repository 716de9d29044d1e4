//! What a block reads that has the history as tokens.

use std::ops::Range;

use super::kernel::index;
use crate::inputs;

/// Width of a bucket of time differences, in natural logarithms of seconds; as in [`crate::blocks::hstu`].
const BUCKET: f32 = 0.301;

/// Candidates and histories of a batch as tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HistoryInputs<'a> {
    /// Candidates, `[n_candidates, width]`.
    pub(crate) target: &'a [f32],
    /// Histories, left-aligned, `[n_requests, len, width]`.
    pub(crate) tokens: &'a [f32],
    /// Entries of each history, `[n_requests]`.
    pub(crate) lens: &'a [usize],
    /// Seconds from each entry to the request, `[n_requests, len]`.
    pub(crate) ages: &'a [f32],
    /// The request of each candidate, `[n_candidates]`.
    pub(crate) request_of: &'a [i64],
    /// Places for entries of a history, count.
    pub(crate) len: usize,
}

impl<'a> HistoryInputs<'a> {
    /// Candidates `target [n_candidates, width]`, each reading the history `request_of [n_candidates]` of `histories`, whose
    /// tokens and lengths are given.
    pub(super) fn new(
        histories: &'a inputs::HistoryInputs,
        request_of: &'a [i64],
        [target, tokens]: [&'a [f32]; 2],
        lens: &'a [usize],
    ) -> Self {
        Self {
            target,
            tokens,
            lens,
            ages: &histories.ages,
            request_of,
            len: histories.len,
        }
    }

    /// The same with other tokens, unless there are none.
    pub(super) fn with_tokens(self, tokens: &'a [f32]) -> Self {
        match tokens.is_empty() {
            true => self,
            false => Self { tokens, ..self },
        }
    }

    /// The place of each entry among the tokens, and the bucket of its time, the last of `n_buckets` at most.
    pub(super) fn times(self, n_buckets: usize) -> impl Iterator<Item = (usize, usize)> {
        let entries = self.lens.iter().enumerate();
        let places = entries.flat_map(move |(request, n)| request * self.len..request * self.len + n);
        places.map(move |place| (place, time_bucket(self.ages[place]).min(n_buckets - 1)))
    }

    /// The entries of a request's history, `[n, width]`, and their count.
    pub(super) fn history(&self, request: i64, width: usize) -> (&'a [f32], usize) {
        let places = self.places(request, width);
        (&self.tokens[places.clone()], places.len() / width.max(1))
    }

    /// Where the entries of a request's history are, among rows of `width` floats a place.
    pub(super) fn places(&self, request: i64, width: usize) -> Range<usize> {
        let request = index(request);
        let n = self.lens.get(request).copied().unwrap_or(0);
        let start = request * self.len * width;
        start..start + n * width
    }
}

/// The bucket of a time difference in seconds.
pub(super) fn time_bucket(seconds: f32) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the logarithm of at least 1, rounded down"
    )]
    let bucket = (seconds.abs().max(1.0).ln() / BUCKET) as usize;
    bucket
}
