//! The three streams from Kafka, by explicit offsets.
//!
//! Every stream has a consumer of its own, because an end-of-partition event names the partition's number and
//! not its topic. There is no consumer group in the data path: partitions are assigned at the offsets given,
//! nothing is committed, and a partition that a topic gains is taken up from its first record.
//!
//! A broker that is away is no error: it is counted, said once in the log, and polling goes on. A log that no
//! longer holds what is to be read next is always an error, never a silent skip.

mod client;
mod cursor;
mod growth;
pub(crate) mod properties;
mod range;
mod reader;
mod tombstone;
mod trouble;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use ouzel_sample::{PartitionId, Positions, Stream};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::{PartitionState, Polled, Source};
use crate::{Error, Topics};

pub(crate) use client::Client;
use growth::Scout;
pub use range::{Range, RangeBound};
use reader::Reader;
pub(crate) use reader::{REQUEST_TIMEOUT, partitions_of, unreachable};

/// Longest blocking wait on one stream while the others may have something; also the most that a record can
/// wait unseen.
const SLICE: Duration = Duration::from_millis(5);

/// How often gaps in the offsets are checked against the log's low watermark.
const AUDIT_EVERY: Duration = Duration::from_secs(1);

/// How to reach the log.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// Broker addresses, `host:port` separated by commas.
    pub bootstrap: String,
    /// librdkafka properties, passed through except for those ouzel owns.
    pub properties: BTreeMap<String, String>,
    /// Topic of each stream.
    pub topics: Topics,
    /// The streams that are read.
    pub streams: Vec<Stream>,
    /// Refuse a partition that is read from its start but no longer has offset 0. Set for the embedded
    /// broker, which drops old data silently; on a real one, retention before the first start is normal.
    pub is_whole_log_expected: bool,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            bootstrap: String::new(),
            properties: BTreeMap::new(),
            topics: Topics::default(),
            streams: Stream::EVENTS.to_vec(),
            is_whole_log_expected: false,
        }
    }
}

/// A source over Kafka.
pub struct KafkaSource {
    readers: Vec<Reader>,
    /// Which stream is asked first next time.
    turn: usize,
    ready: VecDeque<Result<Polled, Error>>,
    paused: BTreeSet<PartitionId>,
    /// What was read of a partition when it was already paused.
    parked: BTreeMap<PartitionId, VecDeque<Polled>>,
    /// Next offset to hand out, by partition.
    handed: Positions,
    last_audit: Option<Instant>,
    /// Looks for new partitions, where they are wanted.
    scout: Option<Scout>,
}

impl KafkaSource {
    /// Reads every partition of the three topics from `from`, or from its start where `from` does not name
    /// it; up to `until` (exclusive) where given, then [`Polled::Finished`]. With an `until`, a partition it
    /// does not name is not read at all; without, one that a topic gains is taken up.
    ///
    /// # Errors
    /// When no broker answers, a topic is missing, a property is refused, or a position lies outside of what
    /// its partition holds.
    pub fn open(config: &KafkaConfig, from: &Positions, until: Option<&Positions>) -> Result<Self, Error> {
        let mut readers = Vec::with_capacity(config.streams.len());
        for stream in config.streams.iter().copied() {
            let mut reader = Reader::connect(config, stream)?;
            reader.place(from, until, config.is_whole_log_expected)?;
            readers.push(reader);
        }
        let mut source = Self::start(readers)?;
        if until.is_none() {
            source.scout = Some(Scout::connect(config)?);
        }
        Ok(source)
    }

    /// Reads `range`, ending where it says or at the high watermarks found now.
    ///
    /// # Errors
    /// As [`KafkaSource::open`].
    pub fn open_range(config: &KafkaConfig, range: &Range) -> Result<Self, Error> {
        let mut readers = Vec::with_capacity(config.streams.len());
        for stream in config.streams.iter().copied() {
            let mut reader = Reader::connect(config, stream)?;
            let (from, until) = reader.resolve(range)?;
            reader.place(&from, Some(&until), config.is_whole_log_expected)?;
            readers.push(reader);
        }
        Self::start(readers)
    }

    /// Reads the partitions that `from` names, from there, and no others.
    ///
    /// # Errors
    /// As [`KafkaSource::open`].
    pub fn open_only(config: &KafkaConfig, from: &Positions) -> Result<Self, Error> {
        let mut readers = Vec::with_capacity(config.streams.len());
        for stream in config.streams.iter().copied() {
            let mut reader = Reader::connect_only(config, stream, from)?;
            reader.place(from, None, false)?;
            readers.push(reader);
        }
        Self::start(readers)
    }

    fn start(readers: Vec<Reader>) -> Result<Self, Error> {
        let mut source = Self {
            readers,
            turn: 0,
            ready: VecDeque::new(),
            paused: BTreeSet::new(),
            parked: BTreeMap::new(),
            handed: Positions::default(),
            last_audit: None,
            scout: None,
        };
        for reader in &source.readers {
            reader.assign()?;
            for state in reader.partitions() {
                source.handed.set(state.id, state.next);
            }
            source.ready.extend(reader.done().map(|id| Ok(Polled::AtEnd(id))));
        }
        Ok(source)
    }

    /// The next thing that is ready and not paused.
    fn deliver(&mut self) -> Option<Result<Polled, Error>> {
        while let Some(next) = self.ready.pop_front() {
            let polled = match next {
                Ok(polled) => polled,
                Err(error) => return Some(Err(error)),
            };
            let partition = match &polled {
                Polled::Records(records) => records.first().map(|record| record.position.partition),
                Polled::AtEnd(id) => Some(*id),
                Polled::Added(_) | Polled::Idle | Polled::Finished => None,
            };
            if let Some(id) = partition.filter(|id| self.paused.contains(id)) {
                self.parked.entry(id).or_default().push_back(polled);
                continue;
            }
            if let Polled::Records(records) = &polled
                && let Some(last) = records.last()
            {
                self.handed.set(last.position.partition, last.position.offset + 1);
            }
            return Some(Ok(polled));
        }
        None
    }

    /// Checks noted gaps, at most once per [`AUDIT_EVERY`].
    fn audit(&mut self) -> Result<(), Error> {
        if self.last_audit.is_some_and(|last| last.elapsed() < AUDIT_EVERY) {
            return Ok(());
        }
        for reader in &mut self.readers {
            if reader.has_gap() {
                self.last_audit = Some(Instant::now());
                reader.audit()?;
            }
        }
        Ok(())
    }

    /// Takes up partitions that a topic has gained.
    fn grow(&mut self) -> Result<(), Error> {
        let Some(scout) = &mut self.scout else {
            return Ok(());
        };
        for id in scout.look(&mut self.readers)? {
            self.handed.set(id, 0);
            self.ready.push_back(Ok(Polled::Added(id)));
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.parked.is_empty() && self.readers.iter().all(Reader::is_done)
    }

    fn by_stream(partitions: &[PartitionId], stream: Stream) -> Vec<i32> {
        partitions
            .iter()
            .filter(|id| id.stream == stream)
            .map(|id| id.partition)
            .collect()
    }
}

impl Source for KafkaSource {
    fn poll(&mut self, timeout: Duration) -> Result<Polled, Error> {
        let deadline = Instant::now() + timeout;
        self.audit()?;
        self.grow()?;
        loop {
            if let Some(polled) = self.deliver() {
                return polled;
            }
            if self.is_finished() {
                return Ok(Polled::Finished);
            }
            let n = self.readers.len();
            for i in (self.turn..self.turn + n).map(|i| i % n) {
                self.readers[i].read(Duration::ZERO, &mut self.ready);
                if !self.ready.is_empty() {
                    self.turn = (i + 1) % n;
                    break;
                }
            }
            if !self.ready.is_empty() {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Polled::Idle);
            }
            self.readers[self.turn].read(left.min(SLICE), &mut self.ready);
            self.turn = (self.turn + 1) % n;
        }
    }

    fn pause(&mut self, partitions: &[PartitionId]) -> Result<(), Error> {
        for reader in &self.readers {
            reader.pause(&Self::by_stream(partitions, reader.stream))?;
        }
        self.paused.extend(partitions);
        Ok(())
    }

    fn resume(&mut self, partitions: &[PartitionId]) -> Result<(), Error> {
        for reader in &self.readers {
            reader.resume(&Self::by_stream(partitions, reader.stream))?;
        }
        for id in partitions {
            self.paused.remove(id);
            // Ahead of whatever was read since.
            for polled in self.parked.remove(id).into_iter().flatten().rev() {
                self.ready.push_front(Ok(polled));
            }
        }
        Ok(())
    }

    fn partitions(&self) -> Vec<PartitionState> {
        let mut partitions: Vec<_> = self.readers.iter().flat_map(Reader::partitions).collect();
        for state in &mut partitions {
            state.next = self.handed.next(state.id).unwrap_or(state.next);
        }
        partitions
    }
}

/// Whether the same request may succeed later by itself.
pub(crate) fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::BrokerNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::WaitingForCoordinator
            // A broker that has just started knows of no partition for a while.
            | Code::UnknownPartition
            | Code::UnknownTopicOrPartition
            | Code::QueueFull
    )
}
