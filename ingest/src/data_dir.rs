//! A folder of logged data, read as events in event-time order.
//!
//! Each file holds the records of one stream, one a line: `impressions`, `clicks`, `actions` and `feedback`, `items`,
//! `users`, and `user_history`, one user a line. Files are JSON lines or CSV, plain, gzip or zstd, or Parquet. Records go through the mapping and the checks that
//! records of Kafka go through; a row that cannot be used is counted and goes to the dead letters. The events of the
//! whole folder are held in memory.

mod parquet;
mod rows;
pub(crate) mod source;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ouzel_sample::{PartitionId, Record, Reject, RejectReason, Stream};
use serde_json::Value;

use crate::accounts::{Accounts, StreamAccount};
use crate::decode::Decoder;
use crate::error::Error;
use crate::mapping::{Metadata, RecordContext};
use rows::{Added, Slates};
use table::{Row, Table};

pub use rows::DataEvent;

/// A file's name and the action of its rows that do not name one.
type NamedFile = (&'static str, Option<&'static str>);

/// The files of each stream, in the order in which they are read.
const FILES: [(Stream, &[NamedFile]); 4] = [
    (Stream::Impressions, &[("impressions", None)]),
    (
        Stream::Actions,
        &[("clicks", Some("click")), ("actions", None), ("feedback", None)],
    ),
    (Stream::Items, &[("items", None)]),
    (Stream::Users, &[("users", None)]),
];

/// The dump of a topic that carries several streams: each takes what its mapping selects by `where`.
const SHARED: NamedFile = ("events", None);

/// The first `n` rows of a file of JSON lines, CSV or Parquet, as JSON.
///
/// A row of Parquet that JSON cannot express is empty.
///
/// # Errors
/// When the file cannot be read.
pub fn first_rows(path: &Path, n: usize) -> Result<Vec<Vec<u8>>, Error> {
    let mut table = Table::open(path)?;
    let mut first = Vec::new();
    while first.len() < n
        && let Some(row) = table.next()?
    {
        first.push(row.text);
    }
    Ok(first)
}

/// Counts and times of a data folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataSummary {
    /// Number of slates.
    pub n_requests: u64,
    /// Number of shown items.
    pub n_impressions: u64,
    /// Number of actions by name, those of no task left out.
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

/// How a folder is read.
#[derive(Default)]
pub struct ReadOptions<'a> {
    /// Ends at the first row that cannot be used.
    pub is_strict: bool,
    /// Receives each rejected row: the file, the line from 1, the row and the reason.
    pub on_reject: Option<&'a mut dyn FnMut(RejectedRow<'_>)>,
}

/// A row that cannot be used.
#[derive(Clone, Copy, Debug)]
pub struct RejectedRow<'a> {
    /// The file.
    pub path: &'a Path,
    /// Its line, from 1.
    pub line: u64,
    /// The row.
    pub row: &'a [u8],
    /// Why it cannot be used.
    pub reject: &'a Reject,
    /// The stream of the file.
    pub stream: Stream,
}

/// The contents of a data folder.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Items and users, then everything else by event time, impressions before actions of the same time.
    events: Vec<DataEvent>,
    /// Indices into `events` by stream; the n-th event of a stream is its record at offset n.
    by_stream: BTreeMap<Stream, Vec<usize>>,
    histories: Histories,
    history_account: StreamAccount,
    summary: DataSummary,
    accounts: Accounts,
}

impl DataDir {
    /// Reads the folder at `path` through `decoder`.
    ///
    /// # Errors
    /// When there are no impressions or a file cannot be read; with `is_strict`, at the first row that cannot be used.
    pub fn open(path: &Path, decoder: &Decoder, options: &mut ReadOptions<'_>) -> Result<Self, Error> {
        let mut reader = FolderReader {
            path,
            decoder,
            options,
            accounts: Accounts::default(),
        };
        let mut summary = DataSummary::default();
        let mut slates = Slates::new(decoder.max_items());
        let mut events = Vec::new();
        for (stream, files) in FILES {
            let default_ts = stream.is_catalog().then_some(summary.first_ts);
            let shared = decoder.is_selective(stream).then_some(&SHARED);
            let mut found = None;
            for (name, default_action) in files.iter().chain(shared) {
                let file = reader.file(name, stream, (*default_action, default_ts), &mut |event| {
                    if stream == Stream::Impressions {
                        return slates.add(event);
                    }
                    if stream == Stream::Actions {
                        let action = event.get("action").and_then(Value::as_str).unwrap_or_default();
                        *summary.n_actions.entry(action.to_owned()).or_default() += 1;
                    }
                    events.push(DataEvent::new(stream, &event));
                    Added::Used
                })?;
                found = found.or(file);
            }
            if stream == Stream::Impressions {
                reader.require_rows(found)?;
                events = std::mem::take(&mut slates)
                    .into_events()
                    .map(|slate| summary.slate(&slate))
                    .collect();
                summary.mid_ts = summary.first_ts + (summary.last_ts - summary.first_ts) / 2;
            }
        }
        let (histories, history_account) = reader.histories()?;
        let accounts = reader.accounts;
        summary.n_items = accounts.of(Stream::Items).used;
        events.sort_by_key(|event| (!event.stream.is_catalog(), event.ts_ms, event.stream));
        let mut by_stream: BTreeMap<Stream, Vec<usize>> = BTreeMap::new();
        for (i, event) in events.iter().enumerate() {
            by_stream.entry(event.stream).or_default().push(i);
        }
        Ok(Self {
            path: path.to_owned(),
            events,
            by_stream,
            histories,
            history_account,
            summary,
            accounts,
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

    /// What became of the rows of each stream.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// What became of the rows of the histories.
    pub fn history_account(&self) -> &StreamAccount {
        &self.history_account
    }

    /// All events: items and users first, then by event time, impressions before actions of the same time.
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
            metadata: None,
        })
    }
}

impl DataSummary {
    /// Counts a slate and returns its event.
    fn slate(&mut self, slate: &Value) -> DataEvent {
        let event = DataEvent::new(Stream::Impressions, slate);
        let is_first = self.n_requests == 0;
        self.n_requests += 1;
        self.n_impressions += slate["items"].as_array().map_or(0, Vec::len) as u64;
        self.first_ts = if is_first {
            event.ts_ms
        } else {
            self.first_ts.min(event.ts_ms)
        };
        self.last_ts = if is_first {
            event.ts_ms
        } else {
            self.last_ts.max(event.ts_ms)
        };
        event
    }
}

/// Users with the items that they acted on.
type Histories = Vec<(String, Vec<String>)>;

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Reads the files of a folder and accounts for their rows.
struct FolderReader<'a, 'b> {
    path: &'a Path,
    decoder: &'a Decoder,
    options: &'a mut ReadOptions<'b>,
    accounts: Accounts,
}

impl FolderReader<'_, '_> {
    /// Calls `event` with every event of the file `name`. Returns the file, if there is one.
    fn file(
        &mut self,
        name: &str,
        stream: Stream,
        (default_action, default_ts): (Option<&str>, Option<i64>),
        event: &mut dyn FnMut(Value) -> Added,
    ) -> Result<Option<PathBuf>, Error> {
        let Some(file) = self.find(name) else {
            return Ok(None);
        };
        let topic = file_name(&file);
        let mut table = Table::open(&file)?;
        while let Some(Row { line, text, fault }) = table.next()? {
            let context = RecordContext {
                metadata: Metadata {
                    topic: &topic,
                    offset: i64::try_from(line).unwrap_or(i64::MAX),
                    ..Metadata::default()
                },
                default_action,
                default_ts,
            };
            let account = self.accounts.entry(stream);
            let events = match fault {
                Some(reject) => Err(reject),
                None => self.decoder.events_of(stream, &text, &context),
            };
            match events {
                Ok(mapped) => {
                    mapped.unread.iter().for_each(|field| account.add_unread(field));
                    let added: Vec<Added> = mapped.events.into_iter().map(&mut *event).collect();
                    if added.contains(&Added::Used) {
                        account.add_used(1);
                    } else {
                        account.add_repeated();
                    }
                }
                Err(reject) => {
                    account.add_rejected(&reject, || format!("{topic}:{line}"));
                    if self.options.is_strict && !reject.reason.is_unneeded() {
                        return Err(Error::Line {
                            path: file,
                            line,
                            detail: reject.detail,
                        });
                    }
                    if let Some(on_reject) = &mut self.options.on_reject
                        && !reject.reason.is_unneeded()
                    {
                        on_reject(RejectedRow {
                            path: &file,
                            line,
                            row: &text,
                            reject: &reject,
                            stream,
                        });
                    }
                }
            }
        }
        Ok(Some(file))
    }

    /// The histories of users before the log.
    fn histories(&mut self) -> Result<(Histories, StreamAccount), Error> {
        let (mut histories, mut account) = (Vec::new(), StreamAccount::default());
        let Some(file) = self.find("user_history") else {
            return Ok((histories, account));
        };
        let name = file_name(&file);
        let mut table = Table::open(&file)?;
        while let Some(Row { line, text, fault }) = table.next()? {
            let malformed =
                |error: serde_json::Error| Reject::new(RejectReason::MalformedJson, error.to_string());
            let row: Result<Value, Reject> = match fault {
                Some(reject) => Err(reject),
                None => serde_json::from_slice(&text).map_err(malformed),
            };
            match row.and_then(|row| rows::history(&row)) {
                Ok(history) => {
                    histories.push(history);
                    account.add_used(1);
                }
                Err(reject) if self.options.is_strict => {
                    return Err(Error::Line {
                        path: file,
                        line,
                        detail: reject.detail,
                    });
                }
                Err(reject) => account.add_rejected(&reject, || format!("{name}:{line}")),
            }
        }
        Ok((histories, account))
    }

    /// Refuses a folder without a row of impressions.
    fn require_rows(&self, file: Option<PathBuf>) -> Result<(), Error> {
        match file {
            None => Err(Error::NoDataFile {
                path: self.path.to_owned(),
                missing: "impressions",
            }),
            Some(path) if self.accounts.of(Stream::Impressions).read == 0 => {
                Err(Error::EmptyDataFile { path })
            }
            Some(_) => Ok(()),
        }
    }

    fn find(&self, name: &str) -> Option<PathBuf> {
        let files = [
            "jsonl",
            "jsonl.gz",
            "jsonl.zst",
            "csv",
            "csv.gz",
            "csv.zst",
            "parquet",
        ];
        let mut files = files
            .map(|extension| self.path.join(format!("{name}.{extension}")))
            .into_iter();
        files.find(|file| file.is_file())
    }
}
