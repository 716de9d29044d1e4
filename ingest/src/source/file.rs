//! Contract events from files: one NDJSON file per stream, plain, gzip or zstd.
//!
//! A stream's file is its partition 0 and a line's number, from 0, is its offset, so positions of a replay
//! mean the same on every run. Blank lines are skipped and keep their number.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ouzel_sample::{PartitionId, Position, Positions, Record, Stream};
use serde::Deserialize;

use super::{Lane, Lanes, Lines, PartitionState, Polled, Source};
use crate::Error;

/// A bounded source over files.
#[derive(Debug)]
pub struct FileSource {
    lanes: Lanes<FileLane>,
}

#[derive(Debug)]
struct FileLane {
    id: PartitionId,
    lines: Lines,
    /// First line to hand out.
    from: i64,
}

impl FileSource {
    /// Opens one file per stream; a stream without a file has no partition. Lines before `from` are skipped.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn open(files: &BTreeMap<Stream, PathBuf>, from: &Positions) -> Result<Self, Error> {
        let mut lanes = Vec::with_capacity(files.len());
        for (stream, path) in files {
            lanes.push(FileLane::open(*stream, path, from)?);
        }
        Ok(Self {
            lanes: Lanes::new(lanes),
        })
    }
}

impl FileLane {
    fn open(stream: Stream, path: &Path, from: &Positions) -> Result<(PartitionState, Self), Error> {
        let id = PartitionId { stream, partition: 0 };
        let from = from.next(id).unwrap_or(0);
        let state = PartitionState {
            id,
            name: path.display().to_string(),
            low: 0,
            high: None,
            next: from,
        };
        Ok((
            state,
            Self {
                id,
                lines: Lines::open(path)?,
                from,
            },
        ))
    }
}

impl Lane for FileLane {
    fn read(&mut self) -> Result<Option<Record>, Error> {
        while let Some((number, line)) = self.lines.read()? {
            let offset = i64::try_from(number)
                .map_err(|_| self.lines.error_at(number, "too many lines".to_owned()))?;
            if offset < self.from || line.trim_ascii().is_empty() {
                continue;
            }
            return Ok(Some(Record {
                position: Position {
                    partition: self.id,
                    offset,
                },
                timestamp_ms: stated_time(&line),
                payload: Some(line),
            }));
        }
        Ok(None)
    }
}

/// The event's own time: a file has no timestamps beside it.
fn stated_time(line: &[u8]) -> Option<i64> {
    #[derive(Deserialize)]
    struct Stated {
        ts_ms: i64,
    }
    serde_json::from_slice::<Stated>(line)
        .ok()
        .map(|stated| stated.ts_ms)
}

impl Source for FileSource {
    fn poll(&mut self, timeout: Duration) -> Result<Polled, Error> {
        self.lanes.poll(timeout)
    }

    fn pause(&mut self, partitions: &[PartitionId]) -> Result<(), Error> {
        self.lanes.pause(partitions);
        Ok(())
    }

    fn resume(&mut self, partitions: &[PartitionId]) -> Result<(), Error> {
        self.lanes.resume(partitions);
        Ok(())
    }

    fn partitions(&self) -> Vec<PartitionState> {
        self.lanes.partitions()
    }
}
