//! The Kafka source: several topics read as one source.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ouzel_sample::{PartitionId, Positions, Record};

use super::config::KafkaConfig;
use super::new_partitions::PartitionWatcher;
use super::range::{ReplayBound, ReplayRange};
use super::reader::TopicReader;
use crate::error::Error;
use crate::formats::RecordFormats;
use crate::source::api::{PartitionState, Polled, Source};

/// Longest wait on one topic while others may have records; also the longest that a record waits unseen.
const MAX_WAIT: Duration = Duration::from_millis(5);

/// Time between two checks of offset gaps against the low watermarks.
const CHECK_GAPS_EVERY: Duration = Duration::from_secs(1);

/// A source over the topics of a Kafka cluster.
pub struct KafkaSource {
    readers: Vec<TopicReader>,
    /// Index of the reader that the next poll starts with.
    next_reader: usize,
    ready: VecDeque<Result<Polled, Error>>,
    paused: BTreeSet<PartitionId>,
    /// Results of paused partitions that were already read.
    held_back: BTreeMap<PartitionId, VecDeque<Polled>>,
    /// Next offset to deliver, by partition.
    delivered: Positions,
    last_gap_check: Option<Instant>,
    formats: Arc<RecordFormats>,
    /// Finds new partitions, where they are wanted.
    watcher: Option<PartitionWatcher>,
}

impl KafkaSource {
    /// Reads every partition of the configured streams from `from`, or from its start when `from` does not name it.
    ///
    /// With `until` (exclusive), reading ends with [`Polled::Finished`] and partitions that `until` does not name
    /// are not read. Without, partitions that a topic gains are added.
    ///
    /// # Errors
    /// When no broker answers, a topic is missing, a property is refused, or a position lies outside of the log.
    pub fn open(config: &KafkaConfig, from: &Positions, until: Option<&Positions>) -> Result<Self, Error> {
        let mut source = Self::connect(
            config,
            |_| true,
            |reader| reader.set_range(from, until, config.is_whole_log_expected),
        )?;
        if until.is_none() {
            source.watcher = Some(PartitionWatcher::connect(config)?);
        }
        Ok(source)
    }

    /// Reads `range`, up to its end or the high watermarks found now.
    ///
    /// # Errors
    /// As [`KafkaSource::open`].
    pub fn open_range(config: &KafkaConfig, range: &ReplayRange) -> Result<Self, Error> {
        Self::connect(
            config,
            |_| true,
            |reader| {
                let (from, until) = reader.resolve(range)?;
                reader.set_range(&from, Some(&until), config.is_whole_log_expected)
            },
        )
    }

    /// Reads only the partitions that `from` names, from there on.
    ///
    /// # Errors
    /// As [`KafkaSource::open`].
    pub fn open_only(config: &KafkaConfig, from: &Positions) -> Result<Self, Error> {
        let is_named = |id| from.next(id).is_some();
        Self::connect(config, is_named, |reader| reader.set_range(from, None, false))
    }

    /// The first offset that the log of each partition still holds.
    ///
    /// # Errors
    /// When no broker answers or a topic is missing.
    pub fn starts(config: &KafkaConfig) -> Result<Positions, Error> {
        let source = Self::connect(config, |_| true, |_| Ok(()))?;
        let states = source.readers.iter().flat_map(TopicReader::partitions);
        Ok(states.map(|state| (state.id, state.low)).collect())
    }

    /// The first record at or after `ms` by its timestamp, or the end of the log without one, of each partition of events.
    ///
    /// # Errors
    /// When no broker answers or a topic is missing.
    pub fn positions_at(config: &KafkaConfig, ms: i64) -> Result<Positions, Error> {
        let source = Self::connect(config, |id| !id.stream.is_catalog(), |_| Ok(()))?;
        let range = ReplayRange {
            from: Some(ReplayBound::TimeMs(ms)),
            to: None,
        };
        let mut positions = Positions::default();
        for reader in &source.readers {
            let (from, _) = reader.resolve(&range)?;
            from.iter().for_each(|(id, next)| positions.set(id, next));
        }
        Ok(positions)
    }

    fn connect(
        config: &KafkaConfig,
        is_wanted: impl Fn(PartitionId) -> bool,
        set_range: impl Fn(&mut TopicReader) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let mut source = Self {
            readers: Vec::with_capacity(config.streams.len()),
            next_reader: 0,
            ready: VecDeque::new(),
            paused: BTreeSet::new(),
            held_back: BTreeMap::new(),
            delivered: Positions::default(),
            last_gap_check: None,
            formats: Arc::clone(&config.formats),
            watcher: None,
        };
        for stream in &config.streams {
            let mut reader = TopicReader::connect(config, *stream, &is_wanted)?;
            set_range(&mut reader)?;
            source.readers.push(reader);
        }
        for reader in &source.readers {
            reader.assign()?;
            for state in reader.partitions() {
                source.delivered.set(state.id, state.next);
            }
            source.ready.extend(reader.done().map(|id| Ok(Polled::AtEnd(id))));
        }
        Ok(source)
    }

    /// The next result whose partition is not paused.
    fn deliver(&mut self) -> Option<Result<Polled, Error>> {
        while !self.is_waiting_for_schemas()
            && let Some(next) = self.ready.pop_front()
        {
            let polled = match next {
                Ok(polled) => polled,
                Err(error) => return Some(Err(error)),
            };
            let last = match &polled {
                Polled::Records(records) => records.last().map(|record| record.position),
                _ => None,
            };
            let partition = match &polled {
                Polled::AtEnd(id) => Some(*id),
                _ => last.map(|last| last.partition),
            };
            if let Some(id) = partition.filter(|id| self.paused.contains(id)) {
                self.held_back.entry(id).or_default().push_back(polled);
                continue;
            }
            if let Some(last) = last {
                self.delivered.set(last.partition, last.offset + 1);
            }
            return Some(Ok(polled));
        }
        None
    }

    /// True while the next records name schemas that the registry has not answered for.
    fn is_waiting_for_schemas(&self) -> bool {
        let Some(Ok(Polled::Records(records))) = self.ready.front() else {
            return false;
        };
        let is_paused = |record: &Record| self.paused.contains(&record.position.partition);
        !records.first().is_some_and(is_paused) && !self.formats.are_readable(records)
    }

    /// Checks noted offset gaps, at most once per [`CHECK_GAPS_EVERY`].
    fn check_gaps(&mut self) -> Result<(), Error> {
        if self
            .last_gap_check
            .is_some_and(|last| last.elapsed() < CHECK_GAPS_EVERY)
        {
            return Ok(());
        }
        for reader in self.readers.iter_mut().filter(|reader| reader.has_gap()) {
            self.last_gap_check = Some(Instant::now());
            reader.check_gaps()?;
        }
        Ok(())
    }

    fn add_new_partitions(&mut self) -> Result<(), Error> {
        let Some(watcher) = &mut self.watcher else {
            return Ok(());
        };
        for id in watcher.check(&mut self.readers)? {
            self.delivered.set(id, 0);
            self.ready.push_back(Ok(Polled::Added(id)));
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.held_back.is_empty() && self.readers.iter().all(TopicReader::is_done)
    }
}

impl Source for KafkaSource {
    fn poll(&mut self, timeout: Duration) -> Result<Polled, Error> {
        let deadline = Instant::now() + timeout;
        self.check_gaps()?;
        self.add_new_partitions()?;
        loop {
            if let Some(polled) = self.deliver() {
                return polled;
            }
            if !self.ready.is_empty() {
                // A request to the registry is made at most once a second; until then nothing more is read.
                std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
                return Ok(Polled::Idle);
            }
            if self.is_finished() {
                return Ok(Polled::Finished);
            }
            let n = self.readers.len();
            for i in (self.next_reader..self.next_reader + n).map(|i| i % n) {
                self.readers[i].read(Duration::ZERO, &mut self.ready);
                if !self.ready.is_empty() {
                    self.next_reader = (i + 1) % n;
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
            self.readers[self.next_reader].read(left.min(MAX_WAIT), &mut self.ready);
            self.next_reader = (self.next_reader + 1) % n;
        }
    }

    fn pause(&mut self, partitions: &[PartitionId]) -> Result<(), Error> {
        for reader in &self.readers {
            reader.pause(partitions)?;
        }
        self.paused.extend(partitions);
        Ok(())
    }

    fn resume(&mut self, partitions: &[PartitionId]) -> Result<(), Error> {
        for reader in &self.readers {
            reader.resume(partitions)?;
        }
        for id in partitions {
            self.paused.remove(id);
            // Held-back results are older than everything read since.
            for polled in self.held_back.remove(id).into_iter().flatten().rev() {
                self.ready.push_front(Ok(polled));
            }
        }
        Ok(())
    }

    fn partitions(&self) -> Vec<PartitionState> {
        let mut partitions: Vec<_> = self.readers.iter().flat_map(TopicReader::partitions).collect();
        for state in &mut partitions {
            state.next = self.delivered.next(state.id).unwrap_or(state.next);
        }
        partitions
    }
}
