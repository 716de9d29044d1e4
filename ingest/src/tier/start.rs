//! Where a process starts to read a pair of partitions that another process may have joined before.
//!
//! The join state is a function of the log from a while before the committed point, so a new owner reads that while
//! again without reporting anything: the warm-up. Its length follows from the windows. Its first offsets follow from
//! timestamps: an event is dated at most the future skew after its record, so every record before them is older than
//! all that still matters.

use ouzel_sample::{EventTime, Position, Stream};

use crate::join::JoinConfig;

/// The point up to which a pair of partitions was joined and every outcome reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportProgress {
    /// Offset of the next impression to join.
    pub impressions: i64,
    /// Offset of the next action to join.
    pub actions: i64,
    /// The watermark there.
    pub watermark: EventTime,
}

impl ReportProgress {
    /// True for a record before this point.
    pub fn covers(&self, position: Position) -> bool {
        position.offset < self.next(position.partition.stream)
    }

    pub(crate) fn next(&self, stream: Stream) -> i64 {
        match stream {
            Stream::Actions => self.actions,
            _ => self.impressions,
        }
    }

    /// The record timestamp from which the warm-up must read to reach the state of this point, ms. `None` for the start
    /// of the log.
    pub fn warm_up_ms(&self, config: &JoinConfig, max_future_skew_ms: i64) -> Option<i64> {
        (self.watermark != EventTime::MIN).then(|| {
            let span = config.warm_up_ms(max_future_skew_ms);
            self.watermark.plus_ms(-span).0
        })
    }
}

/// The offsets that one partition of the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// The first offset.
    pub low: i64,
    /// One past the last offset.
    pub high: i64,
}

/// Where to start reading a pair of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartPoint {
    /// First offset to read of impressions and of actions.
    pub offsets: [i64; 2],
    /// Up to here every outcome was reported before.
    pub reported: Option<ReportProgress>,
}

/// A problem of a start that an operator must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartProblem {
    /// The log no longer holds the whole warm-up: duplicates and late actions of lost records may be reported again.
    WarmUpTruncated,
    /// The log starts after the committed point: this number of records was never joined.
    RecordsLost(i64),
    /// The log ends before the committed point: it was truncated or recreated, and is joined from its start.
    LogRecreated,
}

impl StartPoint {
    /// The start in `log` (impressions, actions) after `committed`, if anything was committed. `warm_up` has the first
    /// offsets of the warm-up, if they could be found.
    pub fn choose(
        log: [LogRange; 2],
        committed: Option<ReportProgress>,
        warm_up: Option<[i64; 2]>,
    ) -> (Self, Option<StartProblem>) {
        let lows = log.map(|range| range.low);
        let fresh = Self {
            offsets: lows,
            reported: None,
        };
        let Some(progress) = committed else {
            return (fresh, None);
        };
        let committed_at = [progress.impressions, progress.actions];
        if (0..2).any(|i| committed_at[i] > log[i].high) {
            return (fresh, Some(StartProblem::LogRecreated));
        }
        let wanted = warm_up.unwrap_or(lows);
        let offsets = [0, 1].map(|i| wanted[i].min(committed_at[i]).max(lows[i]));
        let start = Self {
            offsets,
            reported: Some(progress),
        };
        let n_lost: i64 = (0..2).map(|i| (lows[i] - committed_at[i]).max(0)).sum();
        let is_short = (0..2).any(|i| lows[i] > 0 && wanted[i].min(committed_at[i]) <= lows[i]);
        let problem = match (n_lost, is_short) {
            (1.., _) => Some(StartProblem::RecordsLost(n_lost)),
            (_, true) => Some(StartProblem::WarmUpTruncated),
            (_, false) => None,
        };
        (start, problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: [LogRange; 2] = [LogRange { low: 100, high: 900 }, LogRange { low: 0, high: 500 }];

    fn committed_at(impressions: i64, actions: i64) -> Option<ReportProgress> {
        Some(ReportProgress {
            impressions,
            actions,
            watermark: EventTime(7),
        })
    }

    #[test]
    fn reading_starts_at_the_warm_up_or_a_problem_is_returned() {
        let lows = [100, 0];
        for (committed, warm_up, offsets, expected) in [
            (None, None, lows, None),
            (committed_at(800, 400), Some([300, 200]), [300, 200], None),
            // A partition that was silent since.
            (committed_at(300, 400), Some([900, 200]), [300, 200], None),
            (
                committed_at(800, 400),
                Some([100, 200]),
                [100, 200],
                Some(StartProblem::WarmUpTruncated),
            ),
            (
                committed_at(800, 400),
                None,
                lows,
                Some(StartProblem::WarmUpTruncated),
            ),
            (
                committed_at(40, 0),
                Some([100, 0]),
                lows,
                Some(StartProblem::RecordsLost(60)),
            ),
            (
                committed_at(901, 400),
                Some([300, 200]),
                lows,
                Some(StartProblem::LogRecreated),
            ),
        ] {
            let (start, problem) = StartPoint::choose(LOG, committed, warm_up);
            assert_eq!(
                (start.offsets, problem),
                (offsets, expected),
                "{committed:?} {warm_up:?}"
            );
            let is_reported = committed.is_some() && expected != Some(StartProblem::LogRecreated);
            assert_eq!(start.reported.is_some(), is_reported);
        }
    }
}
