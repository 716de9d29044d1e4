//! Where records go that could not be used: written out with their coordinates, never in the stream's way.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use metrics::counter;
use ouzel_sample::{Record, Reject, Stream};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde::Serialize;
use tracing::warn;

use crate::feeder::{self, Deliveries};
use crate::metrics::{DEAD_LETTERS, DEAD_LETTERS_LOST};
use crate::{Error, KafkaConfig, Topics};

/// How much of a payload is kept for the reader, unless configured otherwise.
pub const DEFAULT_PREFIX_BYTES: usize = 512;

/// How long a full queue may hold the stream up for one dead letter.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// The sink of rejected records.
///
/// On Kafka a record of topic `t` goes to `t.dlq` under the key `topic/partition/offset`: written again after
/// a crash it has the same key, so a compacted topic holds it once. Headers `topic`, `partition`, `offset`,
/// `reason`, `detail`, `size` and `blake3` say the rest; the value is the payload's beginning.
pub struct DeadLetters {
    sink: Sink,
    topics: Topics,
    prefix_bytes: usize,
    is_lossy: bool,
}

enum Sink {
    Kafka(Box<BaseProducer<Deliveries>>),
    File { path: PathBuf, file: BufWriter<File> },
    Discard,
}

/// One line of the file variant.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    reason: &'a str,
    detail: &'a str,
    size: usize,
    blake3: &'a str,
    payload: Option<std::borrow::Cow<'a, str>>,
}

impl DeadLetters {
    /// Dead letters to the `.dlq` topics beside the three streams.
    ///
    /// # Errors
    /// When a property is refused.
    pub fn kafka(config: &KafkaConfig) -> Result<Self, Error> {
        let names = Stream::WITH_SAMPLES.map(|stream| (stream, config.topics.dead_letters(stream)));
        let producer = feeder::producer(&config.bootstrap, &config.properties, names.into())?;
        Ok(Self::to(Sink::Kafka(Box::new(producer)), config.topics.clone()))
    }

    /// Dead letters to an NDJSON file, which is made anew: for replays.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn file(path: &Path, topics: Topics) -> Result<Self, Error> {
        let file = File::create(path).map_err(|source| Error::File {
            attempt: "create",
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::to(
            Sink::File {
                path: path.to_owned(),
                file: BufWriter::new(file),
            },
            topics,
        ))
    }

    /// Dead letters to nowhere; they are still counted by the decoder.
    #[must_use]
    pub fn discard() -> Self {
        Self::to(Sink::Discard, Topics::default())
    }

    fn to(sink: Sink, topics: Topics) -> Self {
        Self {
            sink,
            topics,
            prefix_bytes: DEFAULT_PREFIX_BYTES,
            is_lossy: false,
        }
    }

    /// Keeps `n` bytes of each payload; 0 keeps none, where payloads are personal.
    #[must_use]
    pub fn with_prefix_bytes(mut self, n: usize) -> Self {
        self.prefix_bytes = n;
        self
    }

    /// Writes one record out. Never fails the stream: what cannot be written is counted and warned of once.
    pub fn send(&mut self, record: &Record, reject: &Reject) {
        let stream = record.position.partition.stream;
        let partition = record.position.partition.partition;
        let offset = record.position.offset;
        let payload = record.payload.as_deref();
        let size = payload.map_or(0, <[u8]>::len);
        let prefix = payload.map(|payload| &payload[..size.min(self.prefix_bytes)]);
        let hash = payload.map_or_else(String::new, |payload| blake3::hash(payload).to_hex().to_string());
        let topic = self.topics.name(stream);
        match &mut self.sink {
            Sink::Discard => {}
            Sink::Kafka(producer) => {
                let to = self.topics.dead_letters(stream);
                let key = format!("{topic}/{partition}/{offset}");
                let mut letter = BaseRecord::to(&to).key(key.as_str()).headers(feeder::headers(&[
                    ("topic", topic),
                    ("partition", &partition.to_string()),
                    ("offset", &offset.to_string()),
                    ("reason", reject.reason.name()),
                    ("detail", &reject.detail),
                    ("size", &size.to_string()),
                    ("blake3", &hash),
                ]));
                letter.payload = prefix;
                if let Err(error) = feeder::enqueue(producer, letter, MAX_WAIT) {
                    self.lost(stream, 1, &error.to_string());
                }
            }
            Sink::File { file, .. } => {
                let line = Line {
                    topic,
                    partition,
                    offset,
                    reason: reject.reason.name(),
                    detail: &reject.detail,
                    size,
                    blake3: &hash,
                    payload: prefix.map(String::from_utf8_lossy),
                };
                let written = serde_json::to_writer(&mut *file, &line)
                    .map_err(std::io::Error::from)
                    .and_then(|()| file.write_all(b"\n"));
                match written {
                    Ok(()) => counter!(DEAD_LETTERS, "stream" => stream.name()).increment(1),
                    Err(error) => self.lost(stream, 1, &error.to_string()),
                }
            }
        }
    }

    /// Handles deliveries that have come. Call it now and then, once per chunk.
    pub fn poll(&mut self) {
        if let Sink::Kafka(producer) = &self.sink {
            producer.poll(Duration::ZERO);
            self.count_deliveries();
        }
    }

    /// Waits until everything is written out. Call it before dropping: what is queued then is lost.
    ///
    /// # Errors
    /// When something was not, since the last call.
    pub fn flush(&mut self, timeout: Duration) -> Result<(), Error> {
        match &mut self.sink {
            Sink::Discard => Ok(()),
            Sink::Kafka(producer) => {
                let outcome = feeder::flush(producer, timeout);
                self.count_deliveries();
                outcome
            }
            Sink::File { path, file } => file.flush().map_err(|source| Error::File {
                attempt: "write",
                path: path.clone(),
                source,
            }),
        }
    }

    fn count_deliveries(&mut self) {
        let Sink::Kafka(producer) = &self.sink else { return };
        let counts = producer.context().state().take_counts();
        for (stream, (n_delivered, n_failed)) in counts {
            counter!(DEAD_LETTERS, "stream" => stream.name()).increment(n_delivered);
            if n_failed > 0 {
                self.lost(stream, n_failed, "the broker did not take it");
            }
        }
    }

    fn lost(&mut self, stream: Stream, n: u64, why: &str) {
        counter!(DEAD_LETTERS_LOST, "stream" => stream.name()).increment(n);
        if !std::mem::replace(&mut self.is_lossy, true) {
            let topic = self.topics.dead_letters(stream);
            warn!(
                topic,
                why, "dead letters are being lost; they stay counted by reason"
            );
        }
    }
}
