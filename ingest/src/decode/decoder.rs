//! The decoder: maps a record to the contract of its stream, checks it, and counts the outcome.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ouzel_sample::settings::KeyError;
use ouzel_sample::{
    Action, DecodedRecord, Event, Id, IdSpace, N_MODALITIES, Record, Reject, RejectReason, Stream,
};
use serde::Deserialize;
use serde_json::Value;

use super::classify::{classify, malformed};
use super::config::EventConfig;
use super::counters::DecodeCounters;
use super::number_names::NumberNames;
use super::wire;
use crate::accounts::Accounts;
use crate::formats::RecordFormats;
use crate::mapping::{Mapped, Mapping, Metadata, RecordContext, text_of};
use crate::quarantine::Quarantine;
use crate::tier::Wire;
use crate::topics::Topics;

/// Decodes the records of every stream.
#[derive(Debug)]
pub struct Decoder {
    pub(super) ids: IdSpace,
    pub(super) tasks: Vec<String>,
    pub(super) config: EventConfig,
    pub(super) number_names: NumberNames,
    mappings: Mappings,
    /// The names of the topics, which a mapping may read.
    topics: Topics,
    formats: Arc<RecordFormats>,
    /// Width of the content vectors that the model reads, by modality; 0 for none.
    pub(super) vector_widths: Option<[usize; N_MODALITIES]>,
    tier: Wire,
    quarantine: Quarantine,
    counters: DecodeCounters,
}

/// The mapping of each stream.
#[derive(Debug)]
struct Mappings {
    impressions: StreamMapping,
    actions: StreamMapping,
    items: StreamMapping,
    users: StreamMapping,
}

impl Mappings {
    fn of(&self, stream: Stream) -> &StreamMapping {
        match stream {
            Stream::Impressions => &self.impressions,
            Stream::Actions => &self.actions,
            Stream::Items | Stream::Samples => &self.items,
            Stream::Users => &self.users,
        }
    }
}

/// Records that go straight to the mapping after one that did not have the form of the contract.
const CONTRACT_RETRY: u32 = 64;

/// The mapping of one stream.
#[derive(Debug)]
struct StreamMapping {
    mapping: Mapping,
    /// A record in the form of the contract needs no mapping.
    is_default: bool,
    /// Records left that go straight to the mapping. The event is the same; only the cost differs.
    n_skips: AtomicU32,
}

impl StreamMapping {
    fn new(mapping: Mapping, is_default: bool) -> Self {
        Self {
            mapping,
            is_default,
            n_skips: AtomicU32::new(0),
        }
    }

    /// True if the record is first read in the form of the contract.
    fn tries_contract(&self) -> bool {
        if !self.is_default {
            return false;
        }
        let n_skips = self.n_skips.load(Ordering::Relaxed);
        if n_skips > 0 {
            self.n_skips.store(n_skips - 1, Ordering::Relaxed);
        }
        n_skips == 0
    }

    fn misses_contract(&self) {
        self.n_skips.store(CONTRACT_RETRY, Ordering::Relaxed);
    }
}

/// An event with the names of the fields that nothing reads.
pub(super) type Parsed = Result<(Event, Vec<String>), Reject>;

/// Hashes the categorical value of a name.
pub(super) type HashValue = fn(&IdSpace, &str, &str) -> Id;

impl Decoder {
    /// A decoder. `tasks` are the action names in task order: a [`ouzel_sample::TaskId`] is an index into it.
    ///
    /// # Errors
    /// A mapping that cannot be used, by its key below `events`.
    pub fn new(ids: IdSpace, tasks: Vec<String>, config: EventConfig) -> Result<Self, KeyError> {
        let default = EventConfig::default();
        let mappings = Mappings {
            impressions: StreamMapping::new(
                Mapping::impressions(&config.impressions).map_err(|error| error.within("impressions"))?,
                config.impressions == default.impressions,
            ),
            actions: StreamMapping::new(
                Mapping::actions(&config.actions).map_err(|error| error.within("actions"))?,
                config.actions == default.actions,
            ),
            items: StreamMapping::new(
                Mapping::items(&config.items).map_err(|error| error.within("items"))?,
                config.items == default.items,
            ),
            users: StreamMapping::new(
                Mapping::users(&config.users).map_err(|error| error.within("users"))?,
                config.users == default.users,
            ),
        };
        Ok(Self {
            tier: Wire::new(ids, tasks.clone()),
            ids,
            tasks,
            config,
            number_names: NumberNames::default(),
            mappings,
            topics: Topics::default(),
            formats: Arc::default(),
            vector_widths: None,
            quarantine: Quarantine::default(),
            counters: DecodeCounters::default(),
        })
    }

    /// Counts vectors of other widths, which the model does not read, among the unread fields.
    #[must_use]
    pub fn with_vector_widths(mut self, widths: [usize; N_MODALITIES]) -> Self {
        self.vector_widths = Some(widths);
        self
    }

    /// Excludes what `quarantine` names from learning.
    #[must_use]
    pub fn with_quarantine(mut self, quarantine: Quarantine) -> Self {
        self.quarantine = quarantine;
        self
    }

    /// True if the mapping of `stream` takes only some records, so that several streams may share a file.
    pub fn is_selective(&self, stream: Stream) -> bool {
        self.mappings.of(stream).mapping.is_selective()
    }

    /// Names the topic of each stream, for mappings that read `@topic` or `@position`.
    #[must_use]
    pub fn with_topics(mut self, topics: Topics) -> Self {
        self.topics = topics;
        self
    }

    /// Reads records in these formats; without, all are JSON.
    #[must_use]
    pub fn with_formats(mut self, formats: Arc<RecordFormats>) -> Self {
        self.formats = formats;
        self
    }

    /// The payload as JSON text, whatever the format of `stream` is.
    ///
    /// # Errors
    /// Why it cannot be decoded.
    pub fn json_of<'a>(&self, stream: Stream, payload: &'a [u8]) -> Result<Cow<'a, [u8]>, Reject> {
        match self.formats.is_json(stream) {
            true => Ok(Cow::Borrowed(payload)),
            false => Ok(Cow::Owned(
                self.formats.value(stream, payload)?.to_string().into_bytes(),
            )),
        }
    }

    /// Decodes and counts one record. Never panics, whatever the payload.
    pub fn decode(&self, record: &Record) -> DecodedRecord {
        let stream = record.position.partition.stream;
        let parsed = self.parse(record).and_then(|(event, unread)| {
            let event = self
                .quarantine
                .apply(record, self.topics.name(stream), event, &self.formats)?;
            Ok((event, unread))
        });
        match &parsed {
            Ok((_, unread)) => self.counters.add_event(stream, unread),
            Err(reject) => self
                .counters
                .add_reject(stream, reject, || record.position.to_string()),
        }
        DecodedRecord {
            position: record.position,
            timestamp_ms: record.timestamp_ms,
            event: parsed.map(|(event, _)| event),
        }
    }

    /// Decodes a record without counting it, as a check of what a source would do with it.
    ///
    /// # Errors
    /// The reason for which it would be rejected.
    pub fn check(&self, record: &Record) -> Result<Event, Reject> {
        self.parse(record).map(|(event, _)| event)
    }

    /// Adds the counts since the last call to the process's metrics. Call it once per chunk of records.
    pub fn report(&self) {
        self.counters.report();
    }

    /// What became of the records of each stream so far.
    pub fn accounts(&self) -> Accounts {
        self.counters.accounts()
    }

    /// Items that one impression may show.
    pub(crate) fn max_items(&self) -> usize {
        self.config.max_items
    }

    /// The checked events of the contract that a payload of `stream` stands for; nothing is counted.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn events_of(
        &self,
        stream: Stream,
        payload: &[u8],
        context: &RecordContext<'_>,
    ) -> Result<Mapped, Reject> {
        self.check_size(payload)?;
        let value: Value = serde_json::from_slice(payload).map_err(|error| malformed(payload, &error))?;
        let mut mapped = self.mappings.of(stream).mapping.apply(&value, context)?;
        for event in &mapped.events {
            let (_, unread) = self.mapped(stream, event, None)?;
            mapped.unread.extend(unread);
        }
        Ok(mapped)
    }

    /// Decodes one record without counting it.
    pub(super) fn parse(&self, record: &Record) -> Parsed {
        let stream = record.position.partition.stream;
        let Some(payload) = record.payload.as_deref() else {
            return self.tombstone(record);
        };
        // A join record may be larger than the records that it was made from.
        if stream != Stream::Samples {
            self.check_size(payload)?;
        }
        if stream == Stream::Samples {
            let joined = self.tier.decode(payload)?;
            return Ok((Event::JoinRecord(Box::new(joined)), Vec::new()));
        }
        let mapping = self.mappings.of(stream);
        if self.formats.is_json(stream) && mapping.tries_contract() {
            if let Some(parsed) = self.contract(stream, payload, record.timestamp_ms) {
                return parsed;
            }
            mapping.misses_contract();
        }
        self.through_mapping(record, payload)
    }

    /// The event of a payload of any form.
    pub(super) fn through_mapping(&self, record: &Record, payload: &[u8]) -> Parsed {
        let stream = record.position.partition.stream;
        let mapping = &self.mappings.of(stream).mapping;
        let value: Value = match self.formats.is_json(stream) {
            true => serde_json::from_slice(payload).map_err(|error| malformed(payload, &error))?,
            false => self.formats.value(stream, payload)?,
        };
        let key = match mapping.reads_metadata() {
            true => self.formats.key(record)?,
            false => None,
        };
        let context = RecordContext {
            metadata: Metadata {
                key: key.as_deref(),
                ..Metadata::of(record, self.topics.name(stream))
            },
            ..RecordContext::default()
        };
        let mapped = mapping.apply(&value, &context)?;
        let mut unread = mapped.unread;
        let mut events = Vec::with_capacity(mapped.events.len());
        for event in &mapped.events {
            let (event, names) = self.mapped(stream, event, record.timestamp_ms)?;
            events.push(event);
            unread.extend(names);
        }
        Ok((one_event(events)?, unread))
    }

    fn check_size(&self, payload: &[u8]) -> Result<(), Reject> {
        if payload.len() <= self.config.max_record.len() {
            return Ok(());
        }
        let detail = format!(
            "the record has {} bytes, the limit is events.max_record = \"{}\"",
            payload.len(),
            self.config.max_record
        );
        Err(Reject::new(RejectReason::TooLarge, detail))
    }

    /// The event of a payload that has the form of the contract; `None` where only the mapping can tell.
    pub(super) fn contract(
        &self,
        stream: Stream,
        payload: &[u8],
        timestamp_ms: Option<i64>,
    ) -> Option<Parsed> {
        let parsed = match stream {
            Stream::Impressions => self.impression(&serde_json::from_slice(payload).ok()?, timestamp_ms),
            Stream::Actions => self.action(&serde_json::from_slice(payload).ok()?, timestamp_ms),
            Stream::Users => self.profile(&serde_json::from_slice(payload).ok()?, timestamp_ms),
            _ => self.item_or_deletion(&serde_json::from_slice(payload).ok()?, timestamp_ms),
        };
        let is_certain = match &parsed {
            Ok((_, unread)) => !unread
                .iter()
                .any(|name| self.mappings.of(stream).mapping.reads(name)),
            Err(reject) => reject.reason == RejectReason::UnknownAction,
        };
        is_certain.then_some(parsed)
    }

    /// The event of an event of the contract as a value.
    fn mapped(&self, stream: Stream, event: &Value, timestamp_ms: Option<i64>) -> Parsed {
        let refuse = |error: serde_json::Error| classify(stream, event, &error);
        match stream {
            Stream::Impressions => self.impression(
                &wire::Impression::deserialize(event).map_err(refuse)?,
                timestamp_ms,
            ),
            Stream::Actions => self.action(&wire::Action::deserialize(event).map_err(refuse)?, timestamp_ms),
            Stream::Users => self.profile(&wire::User::deserialize(event).map_err(refuse)?, timestamp_ms),
            _ => self.item_or_deletion(&wire::Item::deserialize(event).map_err(refuse)?, timestamp_ms),
        }
    }

    fn item_or_deletion(&self, item: &wire::Item<'_>, timestamp_ms: Option<i64>) -> Parsed {
        if item.deleted == Some(true) {
            self.deletion(item, timestamp_ms)
        } else {
            self.item(item, timestamp_ms)
        }
    }

    /// A null value: in a compacted topic it deletes the item or the profile whose id is the key.
    fn tombstone(&self, record: &Record) -> Parsed {
        let null = || Reject::new(RejectReason::NullValue, "the record has no value");
        let stream = record.position.partition.stream;
        let id_field = match stream {
            Stream::Items => "item_id",
            Stream::Users => "user_id",
            _ => return Err(null()),
        };
        let key = self.formats.key(record)?;
        let id = key.as_deref().and_then(key_id).ok_or_else(null)?;
        let ts_ms = record.timestamp_ms.ok_or_else(null)?;
        let event = serde_json::json!({ id_field: id, "ts_ms": ts_ms, "deleted": true });
        self.mapped(stream, &event, record.timestamp_ms)
    }
}

/// The id that a key states: its text, or the one field of an object, as change data capture writes keys.
fn key_id(key: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(key).ok()?;
    let Ok(Value::Object(object)) = serde_json::from_str(text) else {
        return Some(text.to_owned());
    };
    let fields = match object.get("payload") {
        Some(Value::Object(payload)) => payload,
        _ => &object,
    };
    let mut values = fields.values();
    let (id, None) = (values.next()?, values.next()) else {
        return None;
    };
    text_of(id).map(Cow::into_owned)
}

/// Actions of one record: the join tier tells them apart by a 16-bit number.
const MAX_ACTIONS: usize = 1 << 16;

/// The event of a record; the actions of an order are one.
fn one_event(mut events: Vec<Event>) -> Result<Event, Reject> {
    if events.len() > MAX_ACTIONS {
        let detail = format!(
            "{} actions; at most {MAX_ACTIONS} are read of one record",
            events.len()
        );
        return Err(Reject::new(RejectReason::TooMany, detail));
    }
    if events.len() > 1 {
        let actions: Vec<Action> = events
            .into_iter()
            .filter_map(|event| match event {
                Event::Action(action) => Some(action),
                _ => None,
            })
            .collect();
        return Ok(Event::Actions(actions));
    }
    let none = || Reject::new(RejectReason::MissingField, "the record has no event");
    events.pop().ok_or_else(none)
}
