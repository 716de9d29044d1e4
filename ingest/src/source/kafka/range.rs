//! A piece of the log to replay.

use ouzel_sample::{PartitionId, Positions, Stream};
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::reader::{REQUEST_TIMEOUT, Reader};
use crate::Error;

/// One end of a range, the same for every partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeBound {
    /// An offset.
    Offset(i64),
    /// A record timestamp, ms since the epoch: the first record at or after it.
    TimeMs(i64),
}

/// From where to where impressions and actions are read; `to` is exclusive.
///
/// The item catalog is part of the state and is read from its start, whatever `from` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Where to start; the start of the log if absent.
    pub from: Option<RangeBound>,
    /// Where to end; the high watermark found at the start if absent.
    pub to: Option<RangeBound>,
}

impl Reader {
    /// The offsets `range` stands for in this stream. An offset behind the end of a partition means its end;
    /// one before its start is left as it is, for [`Reader::place`] to refuse.
    pub(super) fn resolve(&self, range: &Range) -> Result<(Positions, Positions), Error> {
        let from = if self.stream == Stream::Items {
            None
        } else {
            range.from
        };
        let from = self.bound(from, |low, _| low)?;
        let until = self.bound(range.to, |_, high| high)?;
        Ok((from, until))
    }

    fn bound(&self, bound: Option<RangeBound>, default: fn(i64, i64) -> i64) -> Result<Positions, Error> {
        let at_time = match bound {
            Some(RangeBound::TimeMs(ms)) => Some(self.offsets_at(ms)?),
            _ => None,
        };
        let mut positions = Positions::default();
        for state in self.partitions() {
            let high = state.high.unwrap_or(state.next);
            let offset = match bound {
                None => default(state.low, high),
                Some(RangeBound::Offset(offset)) => offset.min(high),
                Some(RangeBound::TimeMs(_)) => at_time
                    .as_ref()
                    .and_then(|found| found.next(state.id))
                    .unwrap_or(high)
                    .min(high),
            };
            positions.set(state.id, offset);
        }
        Ok(positions)
    }

    /// Offset of the first record at or after `ms`, for partitions that have one.
    fn offsets_at(&self, ms: i64) -> Result<Positions, Error> {
        let failed = |error| Error::broker("look up offsets by time in", self.topic.as_str(), &error);
        let mut asked = TopicPartitionList::new();
        for state in self.partitions() {
            // The list carries the time where the answer carries the offset.
            asked
                .add_partition_offset(&self.topic, state.id.partition, Offset::Offset(ms))
                .map_err(failed)?;
        }
        let answer = self
            .consumer
            .offsets_for_times(asked, REQUEST_TIMEOUT)
            .map_err(failed)?;
        let mut found = Positions::default();
        for element in answer.elements() {
            // The call is fine when its elements are not.
            element.error().map_err(failed)?;
            if let Offset::Offset(offset) = element.offset() {
                found.set(
                    PartitionId {
                        stream: self.stream,
                        partition: element.partition(),
                    },
                    offset,
                );
            }
        }
        Ok(found)
    }
}
