//! The read position of one partition, which checks that offsets are continuous.
//!
//! librdkafka has repeated records after a resume (librdkafka issue 4637) and has moved to another offset although
//! configured to fail (issue 4224).

/// The read position of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// First offset of the log when the source was opened.
    pub(super) low: i64,
    /// End of the log when the source was opened.
    pub(super) high: i64,
    /// Next offset expected.
    pub(super) next: i64,
    /// Where a bounded read ends, exclusive.
    pub(super) until: Option<i64>,
    /// First offset of a gap that is not checked yet.
    pub(super) gap: Option<i64>,
    /// Nothing more is read.
    pub(super) is_done: bool,
}

/// How the offset of a record relates to the read position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OffsetCheck {
    /// It is next; the `n_skipped` offsets before it had no record.
    Next { n_skipped: u64 },
    /// It was read before.
    Duplicate,
    /// It is at or after the end of a bounded read.
    BeyondEnd,
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
    /// Transaction markers and compaction leave harmless gaps, retention leaves a loss. Only the log's low watermark
    /// tells them apart, so a gap stays noted until [`Cursor::take_lost_offset`] has checked it.
    pub(super) fn advance(&mut self, offset: i64) -> OffsetCheck {
        if self.is_done || self.until.is_some_and(|until| offset >= until) {
            self.is_done = true;
            return OffsetCheck::BeyondEnd;
        }
        if offset < self.next {
            return OffsetCheck::Duplicate;
        }
        let n_skipped = offset.abs_diff(self.next);
        if n_skipped > 0 && self.gap.is_none() {
            self.gap = Some(self.next);
        }
        self.next = offset + 1;
        self.is_done = self.until.is_some_and(|until| self.next >= until);
        OffsetCheck::Next { n_skipped }
    }

    /// Checks a noted gap against the log's present low watermark. Returns the first lost offset, if any.
    pub(super) fn take_lost_offset(&mut self, low: i64) -> Option<i64> {
        self.gap.take().filter(|missing| low > *missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_offset_is_accepted_once() {
        let mut cursor = Cursor::new(0, 10, 3, None);
        assert_eq!(cursor.advance(2), OffsetCheck::Duplicate);
        assert_eq!(cursor.advance(3), OffsetCheck::Next { n_skipped: 0 });
        assert_eq!(cursor.advance(3), OffsetCheck::Duplicate);
        assert_eq!(cursor.advance(6), OffsetCheck::Next { n_skipped: 2 });
        assert_eq!((cursor.next, cursor.gap), (7, Some(4)));
    }

    #[test]
    fn a_gap_is_a_loss_only_when_the_log_starts_after_it() {
        let gap = Cursor {
            gap: Some(4),
            ..Cursor::new(0, 10, 7, None)
        };
        for (low, lost) in [(0, None), (4, None), (5, Some(4)), (9, Some(4))] {
            let mut cursor = gap;
            assert_eq!(cursor.take_lost_offset(low), lost, "low watermark {low}");
            assert_eq!(cursor.gap, None);
        }
    }

    #[test]
    fn the_first_gap_is_the_one_that_is_checked() {
        let mut cursor = Cursor::new(0, 100, 0, None);
        for offset in [2, 7] {
            assert!(matches!(cursor.advance(offset), OffsetCheck::Next { .. }));
        }
        assert_eq!(cursor.take_lost_offset(1), Some(0));
    }

    #[test]
    fn a_bounded_cursor_accepts_nothing_at_or_after_its_end() {
        let mut cursor = Cursor::new(0, 10, 0, Some(2));
        assert_eq!(cursor.advance(0), OffsetCheck::Next { n_skipped: 0 });
        assert!(!cursor.is_done);
        assert_eq!(cursor.advance(1), OffsetCheck::Next { n_skipped: 0 });
        assert!(cursor.is_done);
        assert_eq!(cursor.advance(2), OffsetCheck::BeyondEnd);
        assert!(Cursor::new(0, 10, 5, Some(5)).is_done);
    }
}
