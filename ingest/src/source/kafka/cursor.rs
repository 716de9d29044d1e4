//! How far one partition has been read, and what the next offset means.
//!
//! The broker is trusted for bytes, not for continuity: librdkafka has repeated records after a resume
//! (librdkafka issue 4637) and has moved to another offset although told to fail (issue 4224).

/// The reading of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// First offset of the log when it was opened.
    pub(super) low: i64,
    /// End of the log when it was opened.
    pub(super) high: i64,
    /// Next offset expected.
    pub(super) next: i64,
    /// Where a bounded read ends, exclusive.
    pub(super) until: Option<i64>,
    /// First offset of a gap that is not explained yet.
    pub(super) gap: Option<i64>,
    /// Nothing more is wanted of it.
    pub(super) is_done: bool,
}

/// What to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Take it; `n_skipped` offsets before it had no record.
    Take { n_skipped: u64 },
    /// It was read before.
    Duplicate,
    /// It lies at or behind the end of a bounded read.
    Beyond,
}

impl Cursor {
    pub(super) fn new(low: i64, high: i64, next: i64, until: Option<i64>) -> Self {
        let is_done = until.is_some_and(|until| next >= until);
        Self {
            low,
            high,
            next,
            until,
            gap: None,
            is_done,
        }
    }

    /// Moves past `offset`.
    ///
    /// A gap is legitimate where transaction markers or compaction took offsets, and a loss where retention
    /// did; only the log's low watermark tells, so the gap stays noted until [`Cursor::explain`] has seen it.
    pub(super) fn step(&mut self, offset: i64) -> Step {
        if self.is_done || self.until.is_some_and(|until| offset >= until) {
            self.is_done = true;
            return Step::Beyond;
        }
        if offset < self.next {
            return Step::Duplicate;
        }
        let n_skipped = offset.abs_diff(self.next);
        if n_skipped > 0 && self.gap.is_none() {
            self.gap = Some(self.next);
        }
        self.next = offset + 1;
        self.is_done = self.until.is_some_and(|until| self.next >= until);
        Step::Take { n_skipped }
    }

    /// Judges a noted gap by the log's present low watermark: the lost offset, if records were lost.
    pub(super) fn explain(&mut self, low: i64) -> Option<i64> {
        self.gap.take().filter(|missing| low > *missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_step_forward_once() {
        let mut cursor = Cursor::new(0, 10, 3, None);
        assert_eq!(cursor.step(2), Step::Duplicate);
        assert_eq!(cursor.step(3), Step::Take { n_skipped: 0 });
        assert_eq!(cursor.step(3), Step::Duplicate);
        assert_eq!(cursor.step(6), Step::Take { n_skipped: 2 });
        assert_eq!((cursor.next, cursor.gap), (7, Some(4)));
    }

    #[test]
    fn a_gap_is_a_loss_only_when_the_log_starts_behind_it() {
        let gap = Cursor {
            gap: Some(4),
            ..Cursor::new(0, 10, 7, None)
        };
        for (low, lost) in [(0, None), (4, None), (5, Some(4)), (9, Some(4))] {
            let mut cursor = gap;
            assert_eq!(cursor.explain(low), lost, "low watermark {low}");
            assert_eq!(cursor.gap, None);
        }
    }

    #[test]
    fn the_first_gap_is_the_one_to_explain() {
        let mut cursor = Cursor::new(0, 100, 0, None);
        for offset in [2, 7] {
            assert!(matches!(cursor.step(offset), Step::Take { .. }));
        }
        assert_eq!(cursor.explain(1), Some(0));
    }

    #[test]
    fn a_bounded_cursor_takes_nothing_at_or_behind_its_end() {
        let mut cursor = Cursor::new(0, 10, 0, Some(2));
        assert_eq!(cursor.step(0), Step::Take { n_skipped: 0 });
        assert!(!cursor.is_done);
        assert_eq!(cursor.step(1), Step::Take { n_skipped: 0 });
        assert!(cursor.is_done);
        assert_eq!(cursor.step(2), Step::Beyond);
        assert!(Cursor::new(0, 10, 5, Some(5)).is_done);
    }
}
