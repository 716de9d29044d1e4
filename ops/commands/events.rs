//! `ouzel events`: shows how records are read as events.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use ouzel_ingest::mapping::{Metadata, READY_MADE, RecordContext};
use ouzel_ingest::{Decoder, KafkaConfig, KafkaSource, Polled, Source, Topics, first_rows};
use ouzel_sample::{Positions, Record, Stream};

use crate::cli::{EventsVerb, StreamName, TryArgs};
use crate::config::Config;
use crate::error::{ErrorExt, Exit};
use crate::pipeline::spec::decoder;

/// Characters shown of a record and of an event.
const SHOWN: usize = 600;
/// Longest wait for the records of a topic.
const WAIT: Duration = Duration::from_secs(10);

/// Runs the command.
pub(super) fn run(verb: &EventsVerb, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match verb {
        EventsVerb::Try(args) => try_records(args, out),
        EventsVerb::Mappings { name: None } => {
            for (name, text) in READY_MADE {
                let first = text
                    .lines()
                    .next()
                    .unwrap_or("# The contract itself, also with one event per shown item.");
                let sentence = first
                    .trim_start_matches("# ")
                    .split_inclusive(". ")
                    .next()
                    .unwrap_or_default();
                writeln!(out, "{name:<20} {}", sentence.trim_end())?;
            }
            Ok(Exit::Ok)
        }
        EventsVerb::Mappings { name: Some(name) } => {
            let Some((_, text)) = READY_MADE.iter().find(|(known, _)| known == name) else {
                return Err(anyhow!("no mapping is called {name:?}"))
                    .hint("ouzel events mappings")
                    .exit(Exit::Usage);
            };
            // As a section of a configuration file.
            for line in text.lines() {
                let line = line
                    .strip_prefix('[')
                    .map_or(line.to_owned(), |table| format!("[events.{table}"));
                writeln!(out, "{line}")?;
            }
            Ok(Exit::Ok)
        }
    }
}

/// The outcomes of one stream.
#[derive(Default)]
struct Outcomes {
    used: usize,
    /// Events of a file that have no time of their own.
    without_time: usize,
    refused: BTreeMap<String, usize>,
    unread: BTreeMap<String, usize>,
}

fn try_records(args: &TryArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let config = Config::load_or_default(args.config.as_deref())?;
    let streams = match args.stream {
        Some(StreamName::Impressions) => vec![Stream::Impressions],
        Some(StreamName::Actions) => vec![Stream::Actions],
        Some(StreamName::Items) => vec![Stream::Items],
        Some(StreamName::Users) => vec![Stream::Users],
        None => Stream::EVENTS.to_vec(),
    };
    let mut decoder = decoder(&config)?;
    let (name, records) = match (&args.file, &args.topic) {
        (Some(file), _) => (file_name(file), file_records(file, args.records)?),
        (None, Some(topic)) => {
            let kafka = config.kafka_config().exit(Exit::Usage)?;
            decoder = decoder.with_formats(Arc::clone(&kafka.formats));
            (topic.clone(), topic_records(kafka, topic, args.records)?)
        }
        (None, None) => return Err(anyhow!("name a file or a topic")).exit(Exit::Usage),
    };
    let is_file = args.file.is_some();
    let mut outcomes: BTreeMap<&str, Outcomes> = BTreeMap::new();
    for (n, record) in records.iter().enumerate() {
        writeln!(out, "record {}: {}", n + 1, shown(&decoder, &streams, record))?;
        for stream in &streams {
            let outcome = outcomes.entry(stream.name()).or_default();
            // As in a data folder, whose first impression gives the time.
            let default_ts = (is_file && stream.is_catalog()).then_some(0);
            let context = RecordContext {
                metadata: Metadata::of(record, &name),
                default_ts,
                ..RecordContext::default()
            };
            try_record(&decoder, *stream, record, &context, outcome, out)?;
        }
    }
    writeln!(out)?;
    let mut is_any_used = false;
    for (stream, outcome) in &outcomes {
        is_any_used |= outcome.used > 0;
        writeln!(
            out,
            "{stream}: {} of {} records are events",
            outcome.used,
            records.len()
        )?;
        if outcome.without_time > 0 {
            writeln!(
                out,
                "  {} x without a time, shown as 0: in a data folder it is that of the first impression, in a topic \
                 such a record is rejected",
                outcome.without_time
            )?;
        }
        for (reason, n) in &outcome.refused {
            writeln!(out, "  {n} x {reason}")?;
        }
        if !outcome.unread.is_empty() {
            let names: Vec<&str> = outcome.unread.keys().map(String::as_str).collect();
            writeln!(out, "  fields that nothing reads: {}", names.join(", "))?;
        }
    }
    Ok(if is_any_used { Exit::Ok } else { Exit::Check })
}

fn try_record(
    decoder: &Decoder,
    stream: Stream,
    record: &Record,
    context: &RecordContext<'_>,
    outcome: &mut Outcomes,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let payload = record.payload.as_deref().unwrap_or_default();
    let json = decoder.json_of(stream, payload);
    match json.and_then(|json| decoder.events_of(stream, &json, context)) {
        Ok(mapped) => {
            outcome.used += 1;
            for name in mapped.unread {
                *outcome.unread.entry(name).or_default() += 1;
            }
            for event in mapped.events {
                writeln!(out, "  {stream}: {}", shortened(&event.to_string()))?;
                outcome.without_time +=
                    usize::from(context.default_ts.is_some_and(|ts| event["ts_ms"] == ts));
            }
        }
        Err(reject) => {
            writeln!(out, "  {stream}: {}: {}", reject.reason.name(), reject.detail)?;
            *outcome
                .refused
                .entry(format!("{}: {}", reject.reason.name(), reject.detail))
                .or_default() += 1;
        }
    }
    Ok(())
}

/// A record as JSON, by the first stream whose format reads it.
fn shown(decoder: &Decoder, streams: &[Stream], record: &Record) -> String {
    let payload = record.payload.as_deref().unwrap_or_default();
    let read = streams
        .iter()
        .find_map(|stream| decoder.json_of(*stream, payload).ok());
    shortened(&String::from_utf8_lossy(read.as_deref().unwrap_or(payload)))
}

fn file_records(path: &Path, n: usize) -> anyhow::Result<Vec<Record>> {
    let lines = first_rows(path, n)?;
    let record = |(i, line)| Record {
        position: ouzel_sample::PartitionId::new(Stream::Impressions, 0).at(i),
        timestamp_ms: None,
        payload: Some(line),
        metadata: None,
    };
    Ok((1..).zip(lines).map(record).collect())
}

/// The first records of a topic, as far as they arrive in time.
fn topic_records(kafka: KafkaConfig, topic: &str, n: usize) -> anyhow::Result<Vec<Record>> {
    let kafka = KafkaConfig {
        topics: Topics {
            impressions: topic.to_owned(),
            ..kafka.topics
        },
        streams: vec![Stream::Impressions],
        with_metadata: vec![Stream::Impressions],
        ..kafka
    };
    let mut source = KafkaSource::open(&kafka, &Positions::default(), None)?;
    let (mut records, started) = (Vec::new(), Instant::now());
    while records.len() < n && started.elapsed() < WAIT {
        match source
            .poll(Duration::from_millis(100))
            .with_context(|| format!("cannot read {topic}"))?
        {
            Polled::Records(read) => records.extend(read),
            Polled::AtEnd(_) if !records.is_empty() => break,
            _ => {}
        }
    }
    records.truncate(n);
    Ok(records)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
