//! A folder of logged data, read as events in event-time order.
//!
//! Each file has one JSON object per line: `impressions` one per shown item, `clicks`, `actions` and `feedback` one
//! per action, `items` one per item, `user_history` one per user. Files may be plain, gzip or zstd; only
//! `impressions` is required. The events of the whole folder are held in memory.

mod rows;
pub(crate) mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use ouzel_sample::{PartitionId, Record, Stream};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::source::LineReader;

pub use rows::DataEvent;

/// Action files, with the action of rows that do not name one.
const ACTION_FILES: [(&str, Option<&str>); 3] =
    [("clicks", Some("click")), ("actions", None), ("feedback", None)];

/// Counts and times of a data folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataSummary {
    /// Number of slates.
    pub n_requests: u64,
    /// Number of shown items.
    pub n_impressions: u64,
    /// Rows left out because their slate already showed the item.
    pub n_repeated: u64,
    /// Number of actions by name.
    pub n_actions: BTreeMap<String, u64>,
    /// Number of items in the catalog.
    pub n_items: u64,
    /// Event time of the first slate, ms since the epoch.
    pub first_ts: i64,
    /// Event time of the last slate, ms since the epoch.
    pub last_ts: i64,
    /// The middle between them, where the second half begins.
    pub mid_ts: i64,
}

/// The contents of a data folder.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Items, then everything else by event time, impressions before actions of the same time.
    events: Vec<DataEvent>,
    /// Indices into `events` by stream; the n-th event of a stream is its record at offset n.
    by_stream: BTreeMap<Stream, Vec<usize>>,
    histories: Vec<(String, Vec<String>)>,
    summary: DataSummary,
}

impl DataDir {
    /// Reads the folder at `path`. `actions` names the actions to keep; `None` keeps all.
    ///
    /// # Errors
    /// When there are no impressions, a file cannot be read, or a line cannot be used; names file and line.
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

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Counts and times.
    pub fn summary(&self) -> &DataSummary {
        &self.summary
    }

    /// All events: items first, then by event time, impressions before actions of the same time.
    pub fn events(&self) -> &[DataEvent] {
        &self.events
    }

    /// Items that users acted on before the log: `(user_id, item_ids)`, oldest item first.
    pub fn histories(&self) -> &[(String, Vec<String>)] {
        &self.histories
    }

    /// The events of `stream` as records of partition 0, with their event time as timestamp.
    pub fn records(&self, stream: Stream) -> impl Iterator<Item = Record> + '_ {
        (0..self.n_records(stream)).filter_map(move |n| self.record(stream, n))
    }

    pub(crate) fn n_records(&self, stream: Stream) -> usize {
        self.by_stream.get(&stream).map_or(0, Vec::len)
    }

    pub(crate) fn record(&self, stream: Stream, n: usize) -> Option<Record> {
        let event = &self.events[*self.by_stream.get(&stream)?.get(n)?];
        Some(Record {
            position: PartitionId::new(stream, 0).at(i64::try_from(n).ok()?),
            timestamp_ms: Some(event.ts_ms),
            payload: Some(event.payload.clone()),
        })
    }
}

/// Groups the impression rows by request, in the order of their first rows.
fn slates(path: &Path, summary: &mut DataSummary) -> Result<Vec<DataEvent>, Error> {
    let mut slates: Vec<rows::Slate> = Vec::new();
    let mut by_request: HashMap<String, usize> = HashMap::new();
    let exists = for_each_row(path, "impressions", |row| {
        let shown = rows::ImpressionRow::read(&row)?;
        let at = *by_request.entry(shown.request_id.clone()).or_insert_with(|| {
            slates.push(rows::Slate::new(&shown, &row));
            slates.len() - 1
        });
        if slates[at].add(shown, &row)? {
            summary.n_impressions += 1;
        } else {
            summary.n_repeated += 1;
        }
        Ok(())
    })?;
    if !exists || slates.is_empty() {
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

/// Calls `row` with every line of the file `name`. Returns false when there is no such file.
fn for_each_row(
    path: &Path,
    name: &str,
    mut row: impl FnMut(Map<String, Value>) -> Result<(), String>,
) -> Result<bool, Error> {
    let files = ["jsonl", "jsonl.gz", "jsonl.zst"].map(|extension| path.join(format!("{name}.{extension}")));
    let Some(file) = files.iter().find(|file| file.is_file()) else {
        return Ok(false);
    };
    let mut lines = LineReader::open(file)?;
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
