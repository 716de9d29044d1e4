//! A part of the log to replay.

use ouzel_sample::Positions;
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::Offset;

use super::connect::{REQUEST_TIMEOUT, once_led};
use super::cursor::Cursor;
use super::reader::TopicReader;
use crate::error::Error;

/// One end of a replay range, the same for every partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayBound {
    /// An offset.
    Offset(i64),
    /// A record timestamp, ms since the epoch: the first record at or after it.
    TimeMs(i64),
}

/// The part of impressions and actions to replay; `to` is exclusive.
///
/// Items and users are part of the state and always read from their start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayRange {
    /// The start; the start of the log if absent.
    pub from: Option<ReplayBound>,
    /// The end; the present high watermarks if absent.
    pub to: Option<ReplayBound>,
}

impl TopicReader {
    /// The first and last offsets of `range` in this topic. An offset after the end of a partition becomes its end; one
    /// before its start is left for [`TopicReader::set_range`] to refuse.
    pub(super) fn resolve(&self, range: &ReplayRange) -> Result<(Positions, Positions), Error> {
        let from = range.from.filter(|_| !self.stream.is_catalog());
        let from = self.resolve_bound(from, |low, _| low)?;
        let until = self.resolve_bound(range.to, |_, high| high)?;
        Ok((from, until))
    }

    fn resolve_bound(
        &self,
        bound: Option<ReplayBound>,
        default: fn(i64, i64) -> i64,
    ) -> Result<Positions, Error> {
        let at_time = match bound {
            Some(ReplayBound::TimeMs(ms)) => self.offsets_at(ms)?,
            _ => Positions::default(),
        };
        let offset = |(partition, cursor): (&i32, &Cursor)| {
            let id = self.id(*partition);
            let offset = match bound {
                None => default(cursor.low, cursor.high),
                Some(ReplayBound::Offset(offset)) => offset.min(cursor.high),
                Some(ReplayBound::TimeMs(_)) => at_time.next(id).unwrap_or(cursor.high).min(cursor.high),
            };
            (id, offset)
        };
        Ok(self.cursors.iter().map(offset).collect())
    }

    /// The offset of the first record at or after `ms`, for partitions that have one.
    fn offsets_at(&self, ms: i64) -> Result<Positions, Error> {
        let failed = |error| Error::broker("look up offsets by time in", self.topic.as_str(), &error);
        // The request carries the time in the place of the offset.
        let offsets = once_led(|| {
            let times = self.offsets(self.cursors.keys().map(|partition| (*partition, ms)))?;
            let offsets = self.consumer.offsets_for_times(times, REQUEST_TIMEOUT)?;
            // The call may succeed although an element failed.
            offsets
                .elements()
                .iter()
                .try_for_each(|element| element.error())?;
            Ok(offsets)
        });
        let offsets = offsets.map_err(failed)?;
        let mut positions = Positions::default();
        for element in offsets.elements() {
            if let Offset::Offset(offset) = element.offset() {
                positions.set(self.id(element.partition()), offset);
            }
        }
        Ok(positions)
    }
}
