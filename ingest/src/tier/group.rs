//! Who runs which unit: a consumer group over the impressions topic, used for membership alone.
//!
//! Its consumer is assigned partitions, and keeps them paused: a [`KafkaSource`](crate::KafkaSource) reads them, at
//! explicit offsets. What is committed to the group is how far each unit has told everything, for lag and as the
//! point from which a new owner has to tell again; the watermark there is the commit's metadata.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use metrics::counter;
use ouzel_sample::{EventTime, Stream};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::{debug, error, info, warn};

use crate::join::JoinConfig;
use crate::metrics::{TIER_BEGUN, TIER_LOST};
use crate::source::kafka::{Client, REQUEST_TIMEOUT, partitions_of, properties};
use crate::tier::begin::{Held, Trouble};
use crate::tier::{Begin, Progress};
use crate::{Error, KafkaConfig, Topics};

/// Nobody else is taken to have this process's name if it loses it once in so long: a client that asks twice to
/// become a member, because the first answer is slow, may lose it to itself.
const ONCE_IN: Duration = Duration::from_secs(60);

/// How a process takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// The group.
    pub group: String,
    /// A name that stays with the process over restarts: within the session's timeout it gets its units back and
    /// nobody else moves. Empty: it leaves when it stops, and its units move at once.
    pub instance: String,
    /// How long a member may be silent before its units move, ms.
    pub session_timeout_ms: i64,
    /// How far an event may be dated after its record, ms.
    pub max_future_skew_ms: i64,
}

/// The membership of this process.
pub struct Group {
    consumer: BaseConsumer<Client>,
    kafka: KafkaConfig,
    config: GroupConfig,
    topics: Topics,
    owned: BTreeSet<i32>,
    max_future_skew_ms: i64,
    /// When it last lost its name.
    fenced: Option<Instant>,
}

impl Group {
    /// Asks to become a member. The topics must have equally many partitions.
    ///
    /// # Errors
    /// When no broker answers, a topic is missing, the topics do not fit each other or a property is refused.
    pub fn join(kafka: &KafkaConfig, config: &GroupConfig) -> Result<Self, Error> {
        let group = Self {
            consumer: consumer(kafka, config)?,
            kafka: kafka.clone(),
            config: config.clone(),
            topics: kafka.topics.clone(),
            owned: BTreeSet::new(),
            max_future_skew_ms: config.max_future_skew_ms,
            fenced: None,
        };
        let [impressions, actions] = [&group.topics.impressions, &group.topics.actions];
        let n = |topic: &str| Ok(partitions_of(&group.consumer, topic, &kafka.bootstrap)?.len());
        let (n_impressions, n_actions) = (n(impressions)?, n(actions)?);
        if n_impressions != n_actions {
            return Err(Error::Unequal {
                impressions: impressions.clone(),
                n_impressions,
                actions: actions.clone(),
                n_actions,
            });
        }
        group.subscribe()?;
        Ok(group)
    }

    /// Serves the membership, waiting up to `timeout`; to be called every few seconds at least. Returns the units
    /// of this process when they have changed.
    ///
    /// # Errors
    /// When this process can never be a member again, as when another one took its instance name.
    pub fn poll(&mut self, timeout: Duration) -> Result<Option<BTreeSet<i32>>, Error> {
        // Partitions are paused, but a record may be under way already; it is read elsewhere.
        if let Some(Err(error)) = self.consumer.poll(timeout) {
            let code = error.rdkafka_error_code();
            let is_final = matches!(error, KafkaError::MessageConsumptionFatal(_))
                || matches!(code, Some(Code::FencedInstanceId | Code::Fatal));
            if is_final {
                return self.rejoin(&error).map(Some);
            }
            debug!(%error, "the join group");
        }
        let assignment = self
            .consumer
            .assignment()
            .map_err(|error| Error::broker("ask for", "the units of this process", &error))?;
        let owned: BTreeSet<i32> = assignment
            .elements()
            .iter()
            .map(|element| element.partition())
            .collect();
        if owned == self.owned {
            return Ok(None);
        }
        let difference =
            |of: &BTreeSet<i32>, from: &BTreeSet<i32>| of.difference(from).copied().collect::<Vec<_>>();
        info!(
            taken_up = ?difference(&owned, &self.owned),
            given_up = ?difference(&self.owned, &owned),
            units = owned.len(),
            "units changed"
        );
        self.consumer
            .pause(&assignment)
            .map_err(|error| Error::broker("pause", "the group's own reading", &error))?;
        self.owned.clone_from(&owned);
        Ok(Some(owned))
    }

    /// Becomes a member anew, without units, after `error` has ended the membership.
    fn rejoin(&mut self, error: &KafkaError) -> Result<BTreeSet<i32>, Error> {
        let is_fenced = self
            .consumer
            .client()
            .fatal_error()
            .is_some_and(|(code, _)| code == Code::FencedInstanceId);
        if !is_fenced || self.fenced.is_some_and(|at| at.elapsed() < ONCE_IN) {
            return Err(Error::broker("stay in", "the join group", error));
        }
        warn!(
            instance = self.config.instance,
            "another member has this instance name: it is taken back, once"
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

    /// Where the unit of `partition` begins, which is said and counted.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn begin(&self, partition: i32, config: &JoinConfig) -> Result<Begin, Error> {
        let log = [
            self.held(Stream::Impressions, partition)?,
            self.held(Stream::Actions, partition)?,
        ];
        let committed = self.committed(partition)?;
        let time = committed.and_then(|progress| progress.warm_up_ms(config, self.max_future_skew_ms));
        let found = match time {
            None => None,
            Some(ms) => self.found(partition, ms, log),
        };
        let (begin, trouble) = Begin::plan(log, committed, found);
        let [impressions, actions] = begin.from;
        let told = begin.told_until.map(|told| (told.impressions, told.actions));
        let how = match trouble {
            None if begin.told_until.is_some() => "warm",
            None => "anew",
            Some(Trouble::Short) => {
                warn!(
                    unit = partition,
                    impressions,
                    actions,
                    "the log no longer holds the whole warm-up: it begins at what there is, and what came before may \
                     be joined again or not be joined"
                );
                "short"
            }
            Some(Trouble::Lost(n)) => {
                counter!(TIER_LOST).increment(n.unsigned_abs());
                error!(
                    unit = partition,
                    impressions,
                    actions,
                    lost = n,
                    "records that were never joined are gone from the log: keep it longer than the tier may stand"
                );
                "lost"
            }
            Some(Trouble::Anew) => {
                error!(
                    unit = partition,
                    impressions,
                    actions,
                    "the log ends before the committed offsets: it was truncated or made anew, and is joined from \
                     its start"
                );
                "truncated"
            }
        };
        counter!(TIER_BEGUN, "how" => how).increment(1);
        info!(unit = partition, how, impressions, actions, ?told, "unit begins");
        Ok(begin)
    }

    /// Commits how far units have come: all that they had to tell by then was delivered.
    ///
    /// # Errors
    /// When the broker refuses, as for a unit that has moved meanwhile.
    pub fn commit(&self, progress: &[(i32, Progress)]) -> Result<(), Error> {
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

    fn topic(&self, stream: Stream) -> &str {
        self.topics.name(stream)
    }

    fn held(&self, stream: Stream, partition: i32) -> Result<Held, Error> {
        let topic = self.topic(stream);
        let (low, high) = self
            .consumer
            .fetch_watermarks(topic, partition, REQUEST_TIMEOUT)
            .map_err(|error| Error::broker("fetch watermarks of", format!("{topic}[{partition}]"), &error))?;
        Ok(Held { low, high })
    }

    fn list(&self, partition: i32, offset: Offset) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        for topic in [&self.topics.impressions, &self.topics.actions] {
            list.add_partition_offset(topic, partition, offset)?;
        }
        Ok(list)
    }

    /// What was committed for a unit, if all of it was.
    fn committed(&self, partition: i32) -> Result<Option<Progress>, Error> {
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
                unit = partition,
                "the committed offsets are not the join's own: it warms up from the log's start"
            );
        }
        Ok(Some(Progress {
            impressions: offsets[0],
            actions: offsets[1],
            watermark: watermark.map_or(EventTime::MIN, EventTime),
        }))
    }

    /// First offsets of records from `ms` on, the end of the log where there is none; `None` where the broker
    /// cannot tell.
    fn found(&self, partition: i32, ms: i64, log: [Held; 2]) -> Option<[i64; 2]> {
        let answer = self
            .list(partition, Offset::Offset(ms.max(0)))
            .and_then(|list| self.consumer.offsets_for_times(list, REQUEST_TIMEOUT));
        let list = answer
            .inspect_err(|error| warn!(unit = partition, %error, "cannot look up the warm-up by time"))
            .ok()?;
        let mut found = [0; 2];
        for ((topic, found), held) in [&self.topics.impressions, &self.topics.actions]
            .into_iter()
            .zip(&mut found)
            .zip(log)
        {
            let element = list.find_partition(topic, partition)?;
            element.error().ok()?;
            *found = match element.offset() {
                Offset::Offset(offset) => offset,
                Offset::End => held.high,
                _ => return None,
            };
        }
        Some(found)
    }
}

fn consumer(kafka: &KafkaConfig, config: &GroupConfig) -> Result<BaseConsumer<Client>, Error> {
    let mut settings = properties::consumer(&kafka.bootstrap, &kafka.properties)?;
    settings
        .set("group.id", &config.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", config.session_timeout_ms.to_string())
        .set(
            "heartbeat.interval.ms",
            (config.session_timeout_ms / 4).clamp(1, 3000).to_string(),
        )
        // It reads nothing: where it would start and how far it would read ahead are of no account.
        .set("auto.offset.reset", "latest")
        .set("enable.partition.eof", "false")
        .set("queued.min.messages", "1")
        .set("fetch.message.max.bytes", "1024");
    if !config.instance.is_empty() {
        settings.set("group.instance.id", &config.instance);
    }
    settings
        .create_with_context(Client::default())
        .map_err(|error| Error::client(&error))
}
