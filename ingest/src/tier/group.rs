//! Decides which process owns which pair of partitions: a consumer group over the impressions topic.
//!
//! Its consumer is assigned partitions and keeps them paused: a [`KafkaSource`](crate::KafkaSource) reads them, at
//! explicit offsets. The group's committed offsets say up to where each pair was reported, for lag and as the point
//! from which a new owner reports again; the watermark there is the commit's metadata.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use metrics::counter;
use ouzel_sample::settings::Period;
use ouzel_sample::{EventTime, Stream};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::{debug, error, info, warn};

use crate::join::JoinConfig;
use crate::metrics::{TIER_BEGUN, TIER_LOST};
use crate::source::kafka::{ClientLog, REQUEST_TIMEOUT, partitions_of, properties};
use crate::tier::config::TierConfig;
use crate::tier::start::{LogRange, ReportProgress, StartPoint, StartProblem};
use crate::{Error, KafkaConfig, Topics};

/// A member that loses its instance name once in this time takes it back: a client that asks twice to become a member,
/// because the first answer is slow, may lose the name to itself.
const FENCED_ONCE_IN: Duration = Duration::from_secs(60);

/// The membership of this process.
pub struct Group {
    consumer: BaseConsumer<ClientLog>,
    kafka: KafkaConfig,
    config: TierConfig,
    topics: Topics,
    owned: BTreeSet<i32>,
    max_future_skew_ms: i64,
    /// When it last lost its instance name.
    fenced: Option<Instant>,
}

impl Group {
    /// Asks to become a member. The topics must have the same number of partitions; `max_future_skew` is how far an event may
    /// be dated after its record.
    ///
    /// # Errors
    /// When no broker answers, a topic is missing, the topics do not fit each other or a property is refused.
    pub fn join(kafka: &KafkaConfig, config: &TierConfig, max_future_skew: Period) -> Result<Self, Error> {
        let group = Self {
            consumer: consumer(kafka, config)?,
            kafka: kafka.clone(),
            config: config.clone(),
            topics: kafka.topics.clone(),
            owned: BTreeSet::new(),
            max_future_skew_ms: max_future_skew.ms(),
            fenced: None,
        };
        let [impressions, actions] = [&group.topics.impressions, &group.topics.actions];
        let n = |topic: &str| Ok(partitions_of(&group.consumer, topic, &kafka.bootstrap)?.len());
        let (n_impressions, n_actions) = (n(impressions)?, n(actions)?);
        if n_impressions != n_actions {
            return Err(Error::PartitionCountMismatch {
                impressions: impressions.clone(),
                n_impressions,
                actions: actions.clone(),
                n_actions,
            });
        }
        group.subscribe()?;
        Ok(group)
    }

    /// Serves the membership, waiting up to `timeout`; to be called every few seconds at least. Returns the partitions
    /// of this process when they have changed.
    ///
    /// # Errors
    /// When this process can never be a member again, as when another one took its instance name.
    pub fn poll(&mut self, timeout: Duration) -> Result<Option<BTreeSet<i32>>, Error> {
        // Partitions are paused, but a record may be under way already; the source reads it too.
        if let Some(Err(error)) = self.consumer.poll(timeout) {
            let code = error.rdkafka_error_code();
            let is_final = matches!(error, KafkaError::MessageConsumptionFatal(_))
                || matches!(code, Some(Code::FencedInstanceId | Code::Fatal));
            if is_final {
                return self.rejoin(&error).map(Some);
            }
            debug!(%error, "the join group reports an error");
        }
        let assignment = self
            .consumer
            .assignment()
            .map_err(|error| Error::broker("ask for", "the partitions of this process", &error))?;
        let owned: BTreeSet<i32> = assignment
            .elements()
            .iter()
            .map(|element| element.partition())
            .collect();
        if owned == self.owned {
            return Ok(None);
        }
        let difference = |minuend: &BTreeSet<i32>, subtrahend: &BTreeSet<i32>| {
            minuend.difference(subtrahend).copied().collect::<Vec<_>>()
        };
        info!(
            assigned = ?difference(&owned, &self.owned),
            revoked = ?difference(&self.owned, &owned),
            partitions = owned.len(),
            "partitions of this process changed"
        );
        self.consumer
            .pause(&assignment)
            .map_err(|error| Error::broker("pause", "the group's own reading", &error))?;
        self.owned.clone_from(&owned);
        Ok(Some(owned))
    }

    /// Becomes a member again, without partitions, after `error` has ended the membership.
    fn rejoin(&mut self, error: &KafkaError) -> Result<BTreeSet<i32>, Error> {
        let is_fenced = self
            .consumer
            .client()
            .fatal_error()
            .is_some_and(|(code, _)| code == Code::FencedInstanceId);
        if !is_fenced || self.fenced.is_some_and(|at| at.elapsed() < FENCED_ONCE_IN) {
            return Err(Error::broker("stay in", "the join group", error));
        }
        warn!(
            instance = self.config.instance,
            "another member has taken this instance name: taking it back, once"
        );
        self.fenced = Some(Instant::now());
        self.consumer = consumer(&self.kafka, &self.config)?;
        self.subscribe()?;
        self.owned.clear();
        Ok(BTreeSet::new())
    }

    fn subscribe(&self) -> Result<(), Error> {
        let topic = self.topics.impressions.as_str();
        self.consumer
            .subscribe(&[topic])
            .map_err(|error| Error::broker("subscribe to", topic, &error))
    }

    /// The point where to start reading a pair of partitions. Logs and counts how it was found.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn start_point(&self, partition: i32, config: &JoinConfig) -> Result<StartPoint, Error> {
        let log = [
            self.log_range(Stream::Impressions, partition)?,
            self.log_range(Stream::Actions, partition)?,
        ];
        let committed = self.committed(partition)?;
        let time = committed.and_then(|progress| progress.warm_up_ms(config, self.max_future_skew_ms));
        let warm_up = time.and_then(|ms| self.offsets_from(partition, ms, log));
        let (start, problem) = StartPoint::choose(log, committed, warm_up);
        let [impressions, actions] = start.offsets;
        let reported = start.reported.map(|until| (until.impressions, until.actions));
        let how = match problem {
            None if start.reported.is_some() => "warm",
            None => "anew",
            Some(StartProblem::WarmUpTruncated) => {
                warn!(
                    partition,
                    impressions,
                    actions,
                    "the log no longer holds the whole warm-up: reading starts at its first record, and earlier records \
                     may be joined again or not at all"
                );
                "short"
            }
            Some(StartProblem::RecordsLost(n)) => {
                counter!(TIER_LOST).increment(n.unsigned_abs());
                error!(
                    partition,
                    impressions,
                    actions,
                    lost = n,
                    "records were deleted from the log before they were joined: set its retention longer than the \
                     tier may stand still"
                );
                "lost"
            }
            Some(StartProblem::LogRecreated) => {
                error!(
                    partition,
                    impressions,
                    actions,
                    "the log ends before the committed offsets: it was truncated or recreated, and is joined from \
                     its start"
                );
                "truncated"
            }
        };
        counter!(TIER_BEGUN, "how" => how).increment(1);
        info!(
            partition,
            how,
            impressions,
            actions,
            ?reported,
            "joining a pair of partitions"
        );
        Ok(start)
    }

    /// Commits the point up to which each pair was reported. Every record before it must have been delivered.
    ///
    /// # Errors
    /// When the broker refuses, as for a partition that has moved meanwhile.
    pub fn commit(&self, progress: &[(i32, ReportProgress)]) -> Result<(), Error> {
        let failed =
            |error: KafkaError| Error::broker("commit offsets of", self.topics.impressions.as_str(), &error);
        let mut list = TopicPartitionList::new();
        for (partition, progress) in progress {
            let offsets = [
                (&self.topics.impressions, progress.impressions),
                (&self.topics.actions, progress.actions),
            ];
            for (topic, offset) in offsets {
                let mut element = list.add_partition(topic, *partition);
                element.set_offset(Offset::Offset(offset)).map_err(failed)?;
                element.set_metadata(progress.watermark.0.to_string());
            }
        }
        if list.count() == 0 {
            return Ok(());
        }
        self.consumer.commit(&list, CommitMode::Sync).map_err(failed)
    }

    fn log_range(&self, stream: Stream, partition: i32) -> Result<LogRange, Error> {
        let topic = self.topics.name(stream);
        let (low, high) = self
            .consumer
            .fetch_watermarks(topic, partition, REQUEST_TIMEOUT)
            .map_err(|error| Error::broker("fetch watermarks of", format!("{topic}[{partition}]"), &error))?;
        Ok(LogRange { low, high })
    }

    fn list(&self, partition: i32, offset: Offset) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        for topic in [&self.topics.impressions, &self.topics.actions] {
            list.add_partition_offset(topic, partition, offset)?;
        }
        Ok(list)
    }

    /// The committed point of a pair, if both of its partitions have one.
    fn committed(&self, partition: i32) -> Result<Option<ReportProgress>, Error> {
        let failed = |error| {
            Error::broker(
                "fetch committed offsets of",
                self.topics.impressions.as_str(),
                &error,
            )
        };
        let list = self.list(partition, Offset::Invalid).map_err(failed)?;
        let list = self
            .consumer
            .committed_offsets(list, REQUEST_TIMEOUT)
            .map_err(failed)?;
        let mut offsets = Vec::new();
        let mut watermark = None;
        for topic in [&self.topics.impressions, &self.topics.actions] {
            let Some(element) = list.find_partition(topic, partition) else {
                return Ok(None);
            };
            element.error().map_err(failed)?;
            let Offset::Offset(offset) = element.offset() else {
                return Ok(None);
            };
            offsets.push(offset);
            watermark = element.metadata().parse().ok();
        }
        if watermark.is_none() {
            warn!(
                partition,
                "the committed offsets carry no watermark, so another program wrote them: warming up from the start of \
                 the log"
            );
        }
        Ok(Some(ReportProgress {
            impressions: offsets[0],
            actions: offsets[1],
            watermark: watermark.map_or(EventTime::MIN, EventTime),
        }))
    }

    /// The first offsets of records from `ms` on, the end of the log where there is none. `None` where the broker cannot
    /// tell.
    fn offsets_from(&self, partition: i32, ms: i64, log: [LogRange; 2]) -> Option<[i64; 2]> {
        let answer = self
            .list(partition, Offset::Offset(ms.max(0)))
            .and_then(|list| self.consumer.offsets_for_times(list, REQUEST_TIMEOUT));
        let list = answer
            .inspect_err(
                |error| warn!(partition, %error, "cannot look up the offsets of the warm-up by time"),
            )
            .ok()?;
        let mut offsets = [0; 2];
        for ((topic, first), range) in [&self.topics.impressions, &self.topics.actions]
            .into_iter()
            .zip(&mut offsets)
            .zip(log)
        {
            let element = list.find_partition(topic, partition)?;
            element.error().ok()?;
            *first = match element.offset() {
                Offset::Offset(offset) => offset,
                Offset::End => range.high,
                _ => return None,
            };
        }
        Some(offsets)
    }
}

fn consumer(kafka: &KafkaConfig, config: &TierConfig) -> Result<BaseConsumer<ClientLog>, Error> {
    let mut settings = properties::consumer(&kafka.bootstrap, &kafka.properties)?;
    settings
        .set("group.id", &config.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", config.session_timeout.ms().to_string())
        .set(
            "heartbeat.interval.ms",
            (config.session_timeout.ms() / 4).clamp(1, 3000).to_string(),
        )
        // It reads nothing, so it needs no start and no read-ahead.
        .set("auto.offset.reset", "latest")
        .set("enable.partition.eof", "false")
        .set("queued.min.messages", "1")
        .set("fetch.message.max.bytes", "1024");
    if !config.instance.is_empty() {
        settings.set("group.instance.id", &config.instance);
    }
    settings
        .create_with_context(ClientLog::default())
        .map_err(|error| Error::client(&error))
}
