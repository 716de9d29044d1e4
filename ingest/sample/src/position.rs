//! Where a record stands in the log, and how far the log was read.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The logs ouzel reads: the three that others write, and the one that its join tier does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// The item catalog.
    Items,
    /// JoinResultReceiver shown to users.
    Impressions,
    /// What users did with them.
    Actions,
    /// What the join tier made of those two; read instead of them where the learner does not join itself.
    Samples,
}

impl Stream {
    /// The three that others write, in merge order: what an event may refer to sorts before it.
    pub const ALL: [Stream; 3] = [Stream::Items, Stream::Impressions, Stream::Actions];
    /// What a learner reads behind the join tier, in merge order.
    pub const TIER: [Stream; 2] = [Stream::Items, Stream::Samples];
    /// Every one there is.
    pub const EVERY: [Stream; 4] = [
        Stream::Items,
        Stream::Impressions,
        Stream::Actions,
        Stream::Samples,
    ];

    /// The stream's name in configuration, metrics and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stream::Items => "items",
            Stream::Impressions => "impressions",
            Stream::Actions => "actions",
            Stream::Samples => "samples",
        }
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
    /// Which log.
    pub stream: Stream,
    /// Partition number, from 0.
    pub partition: i32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.stream, self.partition)
    }
}

/// The coordinates of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Which partition.
    pub partition: PartitionId,
    /// Offset within it.
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.partition, self.offset)
    }
}

/// For each partition, the offset of the next record to read.
///
/// Serialises as a list sorted by partition, so equal positions are equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(PartitionId, i64)>", into = "Vec<(PartitionId, i64)>")]
pub struct Positions {
    next: BTreeMap<PartitionId, i64>,
}

impl Positions {
    /// Next offset to read of `partition`, if it was ever assigned.
    #[must_use]
    pub fn next(&self, partition: PartitionId) -> Option<i64> {
        self.next.get(&partition).copied()
    }

    /// Sets the next offset to read.
    pub fn set(&mut self, partition: PartitionId, next_offset: i64) {
        self.next.insert(partition, next_offset);
    }

    /// Moves past `position`. Returns false, and changes nothing, when it was passed before.
    pub fn advance(&mut self, position: Position) -> bool {
        let next = self.next.entry(position.partition).or_insert(position.offset);
        if position.offset < *next {
            return false;
        }
        *next = position.offset + 1;
        true
    }

    /// Every partition with its next offset, in order of partition.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, i64)> + '_ {
        self.next.iter().map(|(partition, next)| (*partition, *next))
    }

    /// True when no partition is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next.is_empty()
    }
}

impl From<Vec<(PartitionId, i64)>> for Positions {
    fn from(list: Vec<(PartitionId, i64)>) -> Self {
        Self {
            next: list.into_iter().collect(),
        }
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
    fn advancing_never_goes_back() {
        let partition = PartitionId {
            stream: Stream::Actions,
            partition: 0,
        };
        let mut positions = Positions::default();
        assert!(positions.advance(Position { partition, offset: 5 }));
        assert!(!positions.advance(Position { partition, offset: 5 }));
        assert!(positions.advance(Position { partition, offset: 9 }));
        assert_eq!(positions.next(partition), Some(10));
    }
}
