//! Dead letters: rejected records, written out with their coordinates.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use metrics::counter;
use ouzel_sample::{Record, Reject, Stream};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde::Serialize;
use tracing::warn;

use crate::error::Error;
use crate::metrics::{DEAD_LETTERS, DEAD_LETTERS_LOST};
use crate::producer::{self, DeliveryTracker};
use crate::source::KafkaConfig;
use crate::topics::Topics;

/// Most payload bytes in a dead letter.
const MAX_PAYLOAD_BYTES: usize = 512;

/// Longest time that a full queue may delay reading for one dead letter.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// The sink of rejected records.
///
/// On Kafka a record of topic `t` goes to `t.dlq` under the key `topic/partition/offset`: written again after a
/// crash it has the same key, so a compacted topic holds it once. The headers `topic`, `partition`, `offset`,
/// `reason`, `detail`, `size` and `blake3` describe it; the value is the beginning of the payload.
pub struct DeadLetters {
    sink: Sink,
    topics: Topics,
    is_lossy: bool,
}

enum Sink {
    Kafka(Box<BaseProducer<DeliveryTracker>>),
    File { path: PathBuf, file: BufWriter<File> },
    Discard,
}

/// One dead letter; a line of the file.
#[derive(Serialize)]
struct DeadLetter<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    reason: &'a str,
    detail: &'a str,
    size: usize,
    blake3: &'a str,
    payload: Option<Cow<'a, str>>,
}

impl DeadLetter<'_> {
    fn headers(&self) -> OwnedHeaders {
        let numbers = [
            self.partition.to_string(),
            self.offset.to_string(),
            self.size.to_string(),
        ];
        let headers = [
            ("topic", self.topic),
            ("partition", &numbers[0]),
            ("offset", &numbers[1]),
            ("reason", self.reason),
            ("detail", self.detail),
            ("size", &numbers[2]),
            ("blake3", self.blake3),
        ];
        let empty = OwnedHeaders::new_with_capacity(headers.len());
        headers.iter().fold(empty, |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(*value),
            })
        })
    }
}

impl DeadLetters {
    /// Dead letters to the `.dlq` topics of the streams.
    ///
    /// # Errors
    /// When a property is refused.
    pub fn kafka(config: &KafkaConfig) -> Result<Self, Error> {
        let streams = config.topics.all_streams();
        let names = streams.map(|stream| (stream, config.topics.dead_letters(stream)));
        let producer = producer::connect(&config.bootstrap, &config.properties, names.collect())?;
        Ok(Self::to(Sink::Kafka(Box::new(producer)), config.topics.clone()))
    }

    /// Dead letters to a new NDJSON file, for replays.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn file(path: &Path, topics: Topics) -> Result<Self, Error> {
        let file = File::create(path).map_err(|error| Error::file("create", path, error))?;
        let sink = Sink::File {
            path: path.to_owned(),
            file: BufWriter::new(file),
        };
        Ok(Self::to(sink, topics))
    }

    /// Drops dead letters; the decoder still counts them.
    pub fn discard() -> Self {
        Self::to(Sink::Discard, Topics::default())
    }

    fn to(sink: Sink, topics: Topics) -> Self {
        Self {
            sink,
            topics,
            is_lossy: false,
        }
    }

    /// Writes one record out. A failure is counted and logged once; it never stops the stream.
    pub fn send(&mut self, record: &Record, reject: &Reject) {
        if matches!(self.sink, Sink::Discard) {
            return;
        }
        let position = record.position;
        let stream = position.partition.stream;
        let payload = record.payload.as_deref();
        let size = payload.map_or(0, <[u8]>::len);
        let prefix = payload.map(|payload| &payload[..size.min(MAX_PAYLOAD_BYTES)]);
        let hash = payload.map_or_else(String::new, |payload| blake3::hash(payload).to_hex().to_string());
        let letter = DeadLetter {
            topic: self.topics.name(stream),
            partition: position.partition.partition,
            offset: position.offset,
            reason: reject.reason.name(),
            detail: &reject.detail,
            size,
            blake3: &hash,
            payload: prefix.map(String::from_utf8_lossy),
        };
        let written = match &mut self.sink {
            Sink::Discard => Ok(()),
            Sink::Kafka(producer) => {
                let topic = self.topics.dead_letters(stream);
                let key = format!("{}/{}/{}", letter.topic, letter.partition, letter.offset);
                let mut record = BaseRecord::to(&topic).key(key.as_str()).headers(letter.headers());
                record.payload = prefix;
                producer::enqueue(producer, record, MAX_WAIT).map_err(|error| error.to_string())
            }
            Sink::File { file, .. } => {
                let line = serde_json::to_writer(&mut *file, &letter).map_err(std::io::Error::from);
                let line = line.and_then(|()| file.write_all(b"\n"));
                line.map(|()| counter!(DEAD_LETTERS, "stream" => stream.name()).increment(1))
                    .map_err(|error| error.to_string())
            }
        };
        if let Err(why) = written {
            self.report_lost(stream, 1, &why);
        }
    }

    /// Handles arrived deliveries. Call it once per chunk of records.
    pub fn poll(&mut self) {
        if let Sink::Kafka(producer) = &self.sink {
            producer.poll(Duration::ZERO);
            self.count_deliveries();
        }
    }

    /// Waits until everything is written. Call it before dropping: dead letters still queued then are lost.
    ///
    /// # Errors
    /// When dead letters were lost since the last call.
    pub fn flush(&mut self, timeout: Duration) -> Result<(), Error> {
        match &mut self.sink {
            Sink::Discard => Ok(()),
            Sink::Kafka(producer) => {
                let outcome = producer::flush(producer, timeout);
                self.count_deliveries();
                outcome
            }
            Sink::File { path, file } => file.flush().map_err(|error| Error::file("write", path, error)),
        }
    }

    fn count_deliveries(&mut self) {
        let Sink::Kafka(producer) = &self.sink else { return };
        let counts = producer.context().state().take_counts();
        for (stream, (n_delivered, n_failed)) in counts {
            counter!(DEAD_LETTERS, "stream" => stream.name()).increment(n_delivered);
            if n_failed > 0 {
                self.report_lost(stream, n_failed, "the broker did not accept them");
            }
        }
    }

    fn report_lost(&mut self, stream: Stream, n: u64, why: &str) {
        counter!(DEAD_LETTERS_LOST, "stream" => stream.name()).increment(n);
        if !std::mem::replace(&mut self.is_lossy, true) {
            let topic = self.topics.dead_letters(stream);
            warn!(
                topic,
                why, "dead letters are being lost; rejected records are still counted by reason"
            );
        }
    }
}
