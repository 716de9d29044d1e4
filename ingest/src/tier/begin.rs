//! Where a unit begins that another process, or nobody, has run before.
//!
//! Its state is a function of the log from a while before the point that it goes on from, so it is built by
//! reading that while again without event anything. How long that is follows from the windows; where it starts
//! in the log, from timestamps: an event is dated at most the future skew after its record, so everything before
//! the first record of that time is older than all that still matters.

use ouzel_sample::{EventTime, Position, Stream};

use crate::join::JoinConfig;

/// How far a unit has come, and everything that it had to tell by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Next impression to be joined.
    pub impressions: i64,
    /// Next action.
    pub actions: i64,
    /// Its watermark.
    pub watermark: EventTime,
}

impl Progress {
    /// True for a record that was joined by then.
    #[must_use]
    pub fn covers(&self, position: Position) -> bool {
        position.offset < self.next(position.partition.stream)
    }

    /// Next offset of this stream.
    pub(crate) fn next(&self, stream: Stream) -> i64 {
        match stream {
            Stream::Actions => self.actions,
            _ => self.impressions,
        }
    }

    /// The record timestamp from which a unit must read again to be as it was here, ms; `None` for the start.
    #[must_use]
    pub fn warm_up_ms(&self, config: &JoinConfig, max_future_skew_ms: i64) -> Option<i64> {
        (self.watermark != EventTime::MIN).then(|| {
            let span = config.warm_up_ms(max_future_skew_ms);
            self.watermark.plus_ms(-span).0
        })
    }
}

/// What one partition of the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its first offset.
    pub low: i64,
    /// One past its last.
    pub high: i64,
}

/// Where a unit begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// First offset to read of impressions and of actions.
    pub from: [i64; 2],
    /// Up to here everything was told before.
    pub told_until: Option<Progress>,
}

/// Something about a beginning that an operator must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The log starts after where the warm-up should: duplicates and late actions of what is gone may be told
    /// again.
    Short,
    /// The log starts after where the unit stood: so many records were never joined.
    Lost(i64),
    /// The log ends before where the unit stood: it was truncated or made anew, and is joined from its start.
    Anew,
}

impl Begin {
    /// Where to begin in what the log holds (impressions, actions), from `committed`, if anything was; `found` are
    /// the offsets of the warm-up's start, if it has one.
    #[must_use]
    pub fn plan(
        log: [Held; 2],
        committed: Option<Progress>,
        found: Option<[i64; 2]>,
    ) -> (Self, Option<Trouble>) {
        let lows = log.map(|held| held.low);
        let fresh = Self {
            from: lows,
            told_until: None,
        };
        let Some(progress) = committed else {
            return (fresh, None);
        };
        let stood = [progress.impressions, progress.actions];
        if stood.iter().zip(&log).any(|(stood, held)| *stood > held.high) {
            return (fresh, Some(Trouble::Anew));
        }
        let wanted = found.unwrap_or(lows);
        let from = [0, 1].map(|i| wanted[i].min(stood[i]).max(lows[i]));
        let begin = Self {
            from,
            told_until: Some(progress),
        };
        let n_lost: i64 = lows
            .iter()
            .zip(stood)
            .map(|(low, stood)| (low - stood).max(0))
            .sum();
        let is_short = (0..2).any(|i| lows[i] > 0 && wanted[i].min(stood[i]) <= lows[i]);
        let trouble = match (n_lost, is_short) {
            (1.., _) => Some(Trouble::Lost(n_lost)),
            (_, true) => Some(Trouble::Short),
            (_, false) => None,
        };
        (begin, trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: [Held; 2] = [Held { low: 100, high: 900 }, Held { low: 0, high: 500 }];

    fn stood(impressions: i64, actions: i64) -> Option<Progress> {
        Some(Progress {
            impressions,
            actions,
            watermark: EventTime(7),
        })
    }

    #[test]
    fn a_unit_begins_at_its_warm_up_or_says_why_not() {
        let lows = [100, 0];
        for (committed, found, from, trouble) in [
            (None, None, lows, None),
            (stood(800, 400), Some([300, 200]), [300, 200], None),
            // A partition that was silent since.
            (stood(300, 400), Some([900, 200]), [300, 200], None),
            (
                stood(800, 400),
                Some([100, 200]),
                [100, 200],
                Some(Trouble::Short),
            ),
            (stood(800, 400), None, lows, Some(Trouble::Short)),
            (stood(40, 0), Some([100, 0]), lows, Some(Trouble::Lost(60))),
            (stood(901, 400), Some([300, 200]), lows, Some(Trouble::Anew)),
        ] {
            let (begin, said) = Begin::plan(LOG, committed, found);
            assert_eq!((begin.from, said), (from, trouble), "{committed:?} {found:?}");
            let is_told = committed.is_some() && trouble != Some(Trouble::Anew);
            assert_eq!(begin.told_until.is_some(), is_told);
        }
    }
}
