//! Log positions: the coordinates of a record, and the next offset to read of each partition.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A log that ouzel reads: four that producers write, and the output of the join tier.
///
/// Streams are ordered as records of one time are merged. Snapshots and the plan log store the place in this declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// The item catalog.
    Items,
    /// Slates shown to users.
    Impressions,
    /// What users did with the shown items.
    Actions,
    /// Join records of the join tier; the learner reads them in place of impressions and actions.
    Samples,
    /// Profiles of users. A deployment may have none.
    Users,
}

impl Stream {
    /// The streams that producers write, in merge order: a record refers only to streams before its own.
    pub const EVENTS: [Stream; 4] = [Stream::Items, Stream::Users, Stream::Impressions, Stream::Actions];
    /// The streams that a learner behind the join tier reads, in merge order.
    pub const BEHIND_TIER: [Stream; 3] = [Stream::Items, Stream::Users, Stream::Samples];
    /// All five streams, in merge order.
    pub const WITH_SAMPLES: [Stream; 5] = [
        Stream::Items,
        Stream::Users,
        Stream::Impressions,
        Stream::Actions,
        Stream::Samples,
    ];

    /// True of items and users, streams of which the newest version counts.
    ///
    /// They are read whole at a first start, and hold no event time.
    #[must_use]
    pub fn is_catalog(self) -> bool {
        matches!(self, Stream::Items | Stream::Users)
    }

    /// The name of the stream in configuration, metrics and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stream::Items => "items",
            Stream::Impressions => "impressions",
            Stream::Actions => "actions",
            Stream::Samples => "samples",
            Stream::Users => "users",
        }
    }

    /// The place among records of one time.
    fn merge_rank(self) -> u8 {
        match self {
            Stream::Items => 0,
            Stream::Users => 1,
            Stream::Impressions => 2,
            Stream::Actions => 3,
            Stream::Samples => 4,
        }
    }
}

impl Ord for Stream {
    fn cmp(&self, other: &Self) -> Ordering {
        self.merge_rank().cmp(&other.merge_rank())
    }
}

impl PartialOrd for Stream {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One partition of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    /// The stream.
    pub stream: Stream,
    /// The partition number, from 0.
    pub partition: i32,
}

impl PartitionId {
    /// Partition number `partition` of `stream`.
    #[must_use]
    pub const fn new(stream: Stream, partition: i32) -> Self {
        Self { stream, partition }
    }

    /// The position of the record at `offset`.
    #[must_use]
    pub const fn at(self, offset: i64) -> Position {
        Position {
            partition: self,
            offset,
        }
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.stream, self.partition)
    }
}

/// The coordinates of one record: partition and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The partition.
    pub partition: PartitionId,
    /// The offset in the partition.
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.partition, self.offset)
    }
}

/// The next offset to read of each partition.
///
/// Serialises as a list sorted by partition, so equal positions are equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(PartitionId, i64)>", into = "Vec<(PartitionId, i64)>")]
pub struct Positions {
    next: BTreeMap<PartitionId, i64>,
}

impl Positions {
    /// The next offset to read of `partition`; `None` for a partition that is not contained.
    #[must_use]
    pub fn next(&self, partition: PartitionId) -> Option<i64> {
        self.next.get(&partition).copied()
    }

    /// Sets the next offset to read.
    pub fn set(&mut self, partition: PartitionId, next_offset: i64) {
        self.next.insert(partition, next_offset);
    }

    /// Moves past `position`. Returns false and changes nothing when it was passed before.
    pub fn advance(&mut self, position: Position) -> bool {
        let next = self.next.entry(position.partition).or_insert(position.offset);
        if position.offset < *next {
            return false;
        }
        *next = position.offset + 1;
        true
    }

    /// Every partition with its next offset, sorted by partition.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, i64)> + '_ {
        self.next.iter().map(|(partition, next)| (*partition, *next))
    }

    /// True when no partition is contained.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next.is_empty()
    }
}

impl From<Vec<(PartitionId, i64)>> for Positions {
    fn from(list: Vec<(PartitionId, i64)>) -> Self {
        list.into_iter().collect()
    }
}

impl From<Positions> for Vec<(PartitionId, i64)> {
    fn from(positions: Positions) -> Self {
        positions.next.into_iter().collect()
    }
}

impl FromIterator<(PartitionId, i64)> for Positions {
    fn from_iter<T: IntoIterator<Item = (PartitionId, i64)>>(iter: T) -> Self {
        Self {
            next: iter.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advancing_never_moves_backwards() {
        let partition = PartitionId::new(Stream::Actions, 0);
        let mut positions = Positions::default();
        assert!(positions.advance(partition.at(5)));
        assert!(!positions.advance(partition.at(5)));
        assert!(positions.advance(partition.at(9)));
        assert_eq!(positions.next(partition), Some(10));
    }

    #[test]
    fn streams_are_listed_in_merge_order_and_stored_as_before_there_were_users() {
        assert!(
            Stream::WITH_SAMPLES.is_sorted() && Stream::EVENTS.is_sorted() && Stream::BEHIND_TIER.is_sorted()
        );
        let stored = [
            Stream::Items,
            Stream::Impressions,
            Stream::Actions,
            Stream::Samples,
            Stream::Users,
        ];
        assert_eq!(postcard::to_stdvec(&stored).unwrap(), [0, 1, 2, 3, 4]);
    }
}
