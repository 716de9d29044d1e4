//! What a block reads that has the history as tokens.

use std::ops::Range;

use super::kernel::index;

/// Candidates and histories of a batch as tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HistoryInputs<'a> {
    /// Candidates, `[n_candidates, width]`.
    pub(crate) target: &'a [f32],
    /// Histories, left-aligned, `[n_requests, len, width]`.
    pub(crate) tokens: &'a [f32],
    /// Entries of each history, `[n_requests]`.
    pub(crate) lens: &'a [usize],
    /// The request of each candidate, `[n_candidates]`.
    pub(crate) request_of: &'a [i64],
    /// Places for entries of a history, count.
    pub(crate) len: usize,
}

impl<'a> HistoryInputs<'a> {
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
