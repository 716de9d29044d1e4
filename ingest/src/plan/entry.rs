//! One entry of the plan log, and its compact form.

use ouzel_sample::{ContentHash, Id, N_MODALITIES, PartitionId};
use serde::{Deserialize, Serialize};

use crate::join::Mark;

/// Consecutive records of one partition: from the record at `from` up to and excluding offset `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OffsetRun {
    /// The partition.
    pub partition: PartitionId,
    /// Offset of its first record.
    pub from: i64,
    /// One past the offset of its last record.
    pub to: i64,
}

/// An item whose contents were encoded, and the contents by modality.
pub type Encoded = (Id, [Option<ContentHash>; N_MODALITIES]);

/// The records read and the decisions made between two batches. First the runs were read, in order; then the marks were
/// applied, in order; then the vectors came into use; then, with `flush`, the open batch was closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Compact", into = "Compact")]
pub struct PlanEntry {
    /// Its number.
    pub seq: u64,
    /// The records read.
    pub runs: Vec<OffsetRun>,
    /// Partitions that became idle or active.
    pub marks: Vec<(PartitionId, Mark)>,
    /// Items whose vectors came into use.
    pub encoded: Vec<Encoded>,
    /// The open batch was closed before it was full.
    pub flush: bool,
}

impl PlanEntry {
    /// True without a record and without a decision.
    pub fn is_empty(&self) -> bool {
        let Self {
            seq: _,
            runs,
            marks,
            encoded,
            flush,
        } = self;
        runs.is_empty() && marks.is_empty() && encoded.is_empty() && !flush
    }
}

/// Runs alternate between few partitions, each continuing where it stopped: an index, a gap and a length, three bytes for
/// most runs.
#[derive(Serialize, Deserialize)]
struct Compact {
    seq: u64,
    /// The partitions in order of first use, with the offset of their first run.
    starts: Vec<(PartitionId, i64)>,
    /// Index into `starts`, offsets skipped since the partition's last run, length.
    runs: Vec<(u32, i64, i64)>,
    marks: Vec<(PartitionId, Mark)>,
    encoded: Vec<Encoded>,
    flush: bool,
}

impl From<PlanEntry> for Compact {
    fn from(entry: PlanEntry) -> Self {
        let mut starts: Vec<(PartitionId, i64)> = Vec::new();
        let mut ends: Vec<i64> = Vec::new();
        let mut runs = Vec::with_capacity(entry.runs.len());
        for run in entry.runs {
            let known = starts
                .iter()
                .position(|(partition, _)| *partition == run.partition);
            let index = known.unwrap_or_else(|| {
                starts.push((run.partition, run.from));
                ends.push(run.from);
                starts.len() - 1
            });
            let gap = run.from.wrapping_sub(ends[index]);
            ends[index] = run.to;
            // An entry has far fewer partitions than 2^32.
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            runs.push((index, gap, run.to.wrapping_sub(run.from)));
        }
        Self {
            seq: entry.seq,
            starts,
            runs,
            marks: entry.marks,
            encoded: entry.encoded,
            flush: entry.flush,
        }
    }
}

impl From<Compact> for PlanEntry {
    fn from(compact: Compact) -> Self {
        let mut ends = compact.starts.clone();
        let mut runs = Vec::with_capacity(compact.runs.len());
        for (index, gap, len) in compact.runs {
            // The checksum was verified: no writer wrote an index out of range.
            let Some((partition, end)) = usize::try_from(index).ok().and_then(|index| ends.get_mut(index))
            else {
                continue;
            };
            let from = end.wrapping_add(gap);
            *end = from.wrapping_add(len);
            runs.push(OffsetRun {
                partition: *partition,
                from,
                to: *end,
            });
        }
        Self {
            seq: compact.seq,
            runs,
            marks: compact.marks,
            encoded: compact.encoded,
            flush: compact.flush,
        }
    }
}
