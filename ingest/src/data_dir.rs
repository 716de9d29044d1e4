//! A folder of logged data, as contract events in event-time order.
//!
//! The format is one JSON object per line: `impressions` one line per shown item, `clicks`, `actions` or
//! `feedback` one per action, `items` one per item, `user_history` one per user. Each file may be plain, gzip
//! or zstd; only `impressions` must be there. The whole folder is held in memory, as the events it becomes.
//!
//! This module turns rows into events ([`rows`]) and knows nothing of ids, joining or training.

mod rows;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use ouzel_sample::{PartitionId, Position, Record, Stream};
use serde_json::{Map, Value};

use crate::Error;
use crate::source::Lines;

pub use source::DataSource;

/// Action files, and the action of a row that does not name one.
const ACTION_FILES: [(&str, Option<&str>); 3] =
    [("clicks", Some("click")), ("actions", None), ("feedback", None)];

/// One event of a data folder, ready to be produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataEvent {
    /// Which topic it belongs to.
    pub stream: Stream,
    /// The record's key: the request, or the item.
    pub key: String,
    /// Event time, ms since the epoch.
    pub ts_ms: i64,
    /// The event by the contract, JSON.
    pub payload: Vec<u8>,
}

/// What a folder holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataSummary {
    /// JoinResultReceiver.
    pub n_requests: u64,
    /// Shown items.
    pub n_impressions: u64,
    /// Rows left out because their slate already showed the item.
    pub n_repeated: u64,
    /// Actions by name.
    pub n_actions: BTreeMap<String, u64>,
    /// Items of the catalog.
    pub n_items: u64,
    /// Time of the first slate, ms since the epoch.
    pub first_ts: i64,
    /// Time of the last slate.
    pub last_ts: i64,
    /// Half way between them: where the second half begins.
    pub mid_ts: i64,
}

/// A data folder, read.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Items, then everything else by event time, impressions before actions at the same time.
    events: Vec<DataEvent>,
    /// Where each stream's events stand in `events`; a stream's n-th is its record at offset n.
    by_stream: BTreeMap<Stream, Vec<usize>>,
    histories: Vec<(String, Vec<String>)>,
    summary: DataSummary,
}

impl DataDir {
    /// Reads the folder at `path`, with the actions named, or all of them.
    ///
    /// # Errors
    /// When there are no impressions, a file cannot be read, or a line cannot be used: file and line are named.
    pub fn open(path: &Path, actions: Option<&[String]>) -> Result<Self, Error> {
        let mut summary = DataSummary::default();
        let mut events = slates(path, &mut summary)?;
        for (name, default_action) in ACTION_FILES {
            for_each_row(path, name, |row| {
                let (action, event) = rows::action(&row, default_action)?;
                if actions.is_none_or(|kept| kept.contains(&action)) {
                    *summary.n_actions.entry(action).or_default() += 1;
                    events.push(event);
                }
                Ok(())
            })?;
        }
        for_each_row(path, "items", |row| {
            summary.n_items += 1;
            events.push(rows::item(row, summary.first_ts)?);
            Ok(())
        })?;
        let mut histories = Vec::new();
        for_each_row(path, "user_history", |row| {
            histories.push(rows::history(&row)?);
            Ok(())
        })?;
        events.sort_by_key(|event| (event.stream != Stream::Items, event.ts_ms, event.stream));
        let mut by_stream: BTreeMap<Stream, Vec<usize>> = BTreeMap::new();
        for (i, event) in events.iter().enumerate() {
            by_stream.entry(event.stream).or_default().push(i);
        }
        Ok(Self {
            path: path.to_owned(),
            events,
            by_stream,
            histories,
            summary,
        })
    }

    /// Where it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Counts and times.
    #[must_use]
    pub fn summary(&self) -> &DataSummary {
        &self.summary
    }

    /// Every event: items first, then by event time, impressions before actions at the same time.
    #[must_use]
    pub fn events(&self) -> &[DataEvent] {
        &self.events
    }

    /// What users had acted on before the log begins: `(user_id, item_ids)`, oldest item first.
    #[must_use]
    pub fn histories(&self) -> &[(String, Vec<String>)] {
        &self.histories
    }

    /// The events of `stream` as records of its partition 0, stamped with their event time.
    pub fn records(&self, stream: Stream) -> impl Iterator<Item = Record> + '_ {
        (0..self.n_records(stream)).filter_map(move |n| self.record(stream, n))
    }

    fn n_records(&self, stream: Stream) -> usize {
        self.by_stream.get(&stream).map_or(0, Vec::len)
    }

    fn record(&self, stream: Stream, n: usize) -> Option<Record> {
        let event = &self.events[*self.by_stream.get(&stream)?.get(n)?];
        let partition = PartitionId { stream, partition: 0 };
        Some(Record {
            position: Position {
                partition,
                offset: i64::try_from(n).ok()?,
            },
            timestamp_ms: Some(event.ts_ms),
            payload: Some(event.payload.clone()),
        })
    }
}

/// Groups the lines of one request into one impression, in the order its first line came.
fn slates(path: &Path, summary: &mut DataSummary) -> Result<Vec<DataEvent>, Error> {
    let mut slates: Vec<rows::Slate> = Vec::new();
    let mut by_request: HashMap<String, usize> = HashMap::new();
    let is_there = for_each_row(path, "impressions", |row| {
        let shown = rows::Shown::read(&row)?;
        let at = *by_request.entry(shown.request_id.clone()).or_insert_with(|| {
            slates.push(rows::Slate::new(&shown, &row));
            slates.len() - 1
        });
        if slates[at].show(shown, &row)? {
            summary.n_impressions += 1;
        } else {
            summary.n_repeated += 1;
        }
        Ok(())
    })?;
    if !is_there || slates.is_empty() {
        return Err(Error::NoDataFile {
            path: path.to_owned(),
            missing: "impressions",
        });
    }
    summary.n_requests = slates.len() as u64;
    summary.first_ts = slates.iter().map(|slate| slate.ts_ms).min().unwrap_or_default();
    summary.last_ts = slates.iter().map(|slate| slate.ts_ms).max().unwrap_or_default();
    summary.mid_ts = summary.first_ts + (summary.last_ts - summary.first_ts) / 2;
    Ok(slates.into_iter().map(rows::Slate::into_event).collect())
}

/// Calls `row` with every line of the file `name`, if there is one; whether there is.
fn for_each_row(
    path: &Path,
    name: &str,
    mut row: impl FnMut(Map<String, Value>) -> Result<(), String>,
) -> Result<bool, Error> {
    let found = ["jsonl", "jsonl.gz", "jsonl.zst"]
        .iter()
        .map(|extension| path.join(format!("{name}.{extension}")))
        .find(|file| file.is_file());
    let Some(file) = found else { return Ok(false) };
    let mut lines = Lines::open(&file)?;
    while let Some((number, line)) = lines.read()? {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let object: Map<String, Value> =
            serde_json::from_slice(&line).map_err(|error| lines.error_at(number, error.to_string()))?;
        row(object).map_err(|detail| lines.error_at(number, detail))?;
    }
    Ok(true)
}
