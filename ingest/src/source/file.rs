//! Events from files: one NDJSON file per stream, plain, gzip or zstd.
//!
//! A file is partition 0 of its stream and a line number, from 0, is an offset, so positions mean the same in every
//! replay. Blank lines are skipped and keep their number.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ouzel_sample::{PartitionId, Positions, Record, Stream};
use serde::Deserialize;

use super::api::PartitionState;
use super::bounded::{BoundedSource, PartitionReader};
use super::lines::LineReader;
use crate::error::Error;

/// A bounded source over files.
pub type FileSource = BoundedSource<FileReader>;

/// Reads one file as a partition.
#[derive(Debug)]
pub struct FileReader {
    id: PartitionId,
    lines: LineReader,
    /// First line to deliver.
    from: i64,
}

impl FileSource {
    /// Opens one file per stream, from the lines in `from` on; a stream without a file has no partition.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn open(files: &BTreeMap<Stream, PathBuf>, from: &Positions) -> Result<Self, Error> {
        let mut partitions = Vec::with_capacity(files.len());
        for (stream, path) in files {
            let id = PartitionId::new(*stream, 0);
            let from = from.next(id).unwrap_or(0);
            let state = PartitionState {
                id,
                name: path.display().to_string(),
                low: 0,
                high: None,
                next: from,
            };
            let lines = LineReader::open(path)?;
            partitions.push((state, FileReader { id, lines, from }));
        }
        Ok(Self::over(partitions))
    }
}

impl PartitionReader for FileReader {
    fn read(&mut self) -> Result<Option<Record>, Error> {
        while let Some((number, line)) = self.lines.read()? {
            let offset = i64::try_from(number)
                .map_err(|_| self.lines.error_at(number, "too many lines".to_owned()))?;
            if offset < self.from || line.trim_ascii().is_empty() {
                continue;
            }
            return Ok(Some(Record {
                position: self.id.at(offset),
                timestamp_ms: event_time_ms(&line),
                payload: Some(line),
                metadata: None,
            }));
        }
        Ok(None)
    }
}

/// The event time stated in a line; it stands in for the record timestamp that a file does not have.
fn event_time_ms(line: &[u8]) -> Option<i64> {
    #[derive(Deserialize)]
    struct Timed {
        ts_ms: i64,
    }
    let timed: Option<Timed> = serde_json::from_slice(line).ok();
    timed.map(|timed| timed.ts_ms)
}
