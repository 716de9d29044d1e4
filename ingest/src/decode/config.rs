//! The `[events]` section: how the records of each stream are read, and limits of one record.

use ouzel_sample::Stream;
use ouzel_sample::settings::{ByteSize, KeyError, Period, out_of_range};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::formats::PayloadFormat;
use crate::mapping::{ActionMapping, ImpressionMapping, ItemMapping, Mapping, UserMapping};

/// A little less than what librdkafka (1,000,000) and a Kafka broker (1,048,588) accept by default with their overhead.
const MAX_RECORD_BYTES: u64 = 960 << 10;

/// How records become events, and limits of one event. An event beyond a limit is rejected and goes to the dead-letter
/// topic. docs/events.md describes mappings and paths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventConfig {
    /// The ready-made mapping that the keys of `impressions`, `actions`, `items` and `users` change: `ouzel`, which
    /// is the contract itself, `ga4`, `snowplow`, `segment`, `debezium`, `connect`, `cloudevents` or `cloudevents-binary`.
    ///
    /// Set it when the events come from one of these.
    pub from: String,
    /// Size of a record's payload. The brokers and the producers have limits of their own (`message.max.bytes`).
    ///
    /// Raise it, together with those, when records with many items or long texts are rejected.
    #[schemars(extend("x-minimum" = "1B"))]
    pub max_record: ByteSize,
    /// Items of an impression.
    ///
    /// Unit: items. Raise it for longer slates.
    #[schemars(range(min = 1, max = 65_535))]
    pub max_items: usize,
    /// Attribute values of an item, of a user or of an impression's context, and names among its features.
    ///
    /// Unit: values. Raise it when such items are rejected.
    pub max_attributes: usize,
    /// Texts of an item, its title included.
    ///
    /// Unit: texts. Raise it when such items are rejected.
    pub max_texts: usize,
    /// Numbers in all vectors of an item together.
    ///
    /// Unit: floats. Raise it for wider vectors.
    pub max_vector_values: usize,
    /// How far an event may be dated after its Kafka record before it is rejected as `future`.
    ///
    /// Raise it when producers' clocks are ahead of the brokers'.
    pub max_future_skew: Period,
    #[allow(missing_docs, reason = "the doc comment of the section describes it")]
    pub impressions: ImpressionMapping,
    #[allow(missing_docs, reason = "the doc comment of the section describes it")]
    pub actions: ActionMapping,
    #[allow(missing_docs, reason = "the doc comment of the section describes it")]
    pub items: ItemMapping,
    #[allow(missing_docs, reason = "the doc comment of the section describes it")]
    pub users: UserMapping,
}

impl EventConfig {
    /// Every value that cannot be used, by its key below `events`.
    #[must_use]
    pub fn validate(&self) -> Vec<KeyError> {
        let refused = self.mappings().into_iter();
        let refused = refused.filter_map(|(stream, mapping)| Some(mapping.err()?.within(stream.name())));
        out_of_range(self).into_iter().chain(refused).collect()
    }

    /// The same limits with the contract as mapping: for events that were mapped already.
    #[must_use]
    pub fn contract(&self) -> Self {
        Self {
            impressions: ImpressionMapping::default(),
            actions: ActionMapping::default(),
            items: ItemMapping::default(),
            users: UserMapping::default(),
            ..self.clone()
        }
    }

    /// The format of a stream's records. Join records have one of their own.
    #[must_use]
    pub fn format(&self, stream: Stream) -> PayloadFormat {
        match stream {
            Stream::Impressions => self.impressions.format,
            Stream::Actions => self.actions.format,
            Stream::Items => self.items.format,
            Stream::Users => self.users.format,
            Stream::Samples => PayloadFormat::Json,
        }
    }

    /// True of a stream that reads only the records that its `where` selects.
    #[must_use]
    pub fn selects(&self, stream: Stream) -> bool {
        let conditions = match stream {
            Stream::Impressions => &self.impressions.conditions,
            Stream::Actions => &self.actions.conditions,
            Stream::Items => &self.items.conditions,
            Stream::Users => &self.users.conditions,
            Stream::Samples => return false,
        };
        !conditions.0.is_empty()
    }

    /// The streams whose mapping reads keys or headers.
    #[must_use]
    pub fn with_metadata(&self) -> Vec<Stream> {
        let reads = |mapping: &Result<Mapping, KeyError>| mapping.as_ref().is_ok_and(Mapping::reads_metadata);
        let reading = self.mappings().into_iter().filter(|(_, mapping)| reads(mapping));
        reading.map(|(stream, _)| stream).collect()
    }

    fn mappings(&self) -> [(Stream, Result<Mapping, KeyError>); Stream::EVENTS.len()] {
        [
            (Stream::Impressions, Mapping::impressions(&self.impressions)),
            (Stream::Actions, Mapping::actions(&self.actions)),
            (Stream::Items, Mapping::items(&self.items)),
            (Stream::Users, Mapping::users(&self.users)),
        ]
    }
}

impl Default for EventConfig {
    fn default() -> Self {
        Self {
            from: "ouzel".to_owned(),
            max_record: ByteSize::from_bytes(MAX_RECORD_BYTES),
            max_items: 1000,
            max_attributes: 512,
            max_texts: 64,
            max_vector_values: 8192,
            max_future_skew: Period::from_secs(5),
            impressions: ImpressionMapping::default(),
            actions: ActionMapping::default(),
            items: ItemMapping::default(),
            users: UserMapping::default(),
        }
    }
}
