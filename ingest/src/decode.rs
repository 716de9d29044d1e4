//! Bytes to events, by the contract.
//!
//! A [`Decoder`] is pure: the same record under the same configuration decodes to the same event or to the
//! same [`Reject`]. It knows nothing of brokers, files or clocks; the only reference for "too far ahead" is
//! the record's own timestamp.
//!
//! What the contract leaves open is settled here: `null` means absent; an empty string is no value of an
//! attribute; an item's title comes before its texts; attributes are categorical, numbers among an item's
//! features are checked and not read yet.

mod classify;
mod reveal;
mod tally;
#[cfg(test)]
mod tests;
mod wire;

use std::borrow::Cow;

use ouzel_sample::{
    Action, Attribute, AttributeField, DecodedRecord, Deletion, Event, EventTime, Id, IdKind, IdSpace,
    Impression, Item, MAX_ID_BYTES, Record, Reject, RejectReason, ShownItem, Stream, TaskId,
};

pub use reveal::Reveal;
use tally::Tally;
use wire::{OneOrMany, Pairs, Scalar, Text};

use crate::tier::Wire;

/// 1990-01-01: earlier than any log, later than a zero, a second count or an uptime taken for a time.
const EARLIEST_MS: i64 = 631_152_000_000;
/// 2201-01-01: later times are microseconds or noise.
const LATEST_MS: i64 = 7_289_654_400_000;

/// Bounds on a single record, checked before they cost anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest payload, bytes.
    pub max_record_bytes: usize,
    /// Most items in a slate, at most 65,535.
    pub max_items: usize,
    /// Most attribute values of an item or a request, and most names among its features or context.
    pub max_attributes: usize,
    /// Most texts of an item, its title included.
    pub max_texts: usize,
    /// Most values in an item's vectors together.
    pub max_vector_values: usize,
    /// How far event time may run ahead of the record's timestamp, ms.
    pub max_future_skew_ms: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_record_bytes: 64 * 1024,
            max_items: 1000,
            max_attributes: 512,
            max_texts: 64,
            max_vector_values: 8192,
            max_future_skew_ms: 5000,
        }
    }
}

/// Decodes records of every stream.
#[derive(Debug)]
pub struct Decoder {
    ids: IdSpace,
    tasks: Vec<String>,
    limits: Limits,
    tier: Wire,
    tally: Tally,
}

/// Fields of one record that did not become part of its event.
#[derive(Clone, Copy, Debug, Default)]
struct Skipped {
    unknown: u64,
    ignored: u64,
}

impl Decoder {
    /// A decoder whose `tasks` are the action names in task order; a [`TaskId`] is an index into it.
    #[must_use]
    pub fn new(ids: IdSpace, tasks: Vec<String>, limits: Limits) -> Self {
        Self {
            tier: Wire::new(ids, tasks.clone()),
            ids,
            tasks,
            limits,
            tally: Tally::default(),
        }
    }

    /// The event of `record`, or why there is none. Never panics, whatever the payload.
    #[must_use]
    pub fn decode(&self, record: &Record) -> DecodedRecord {
        let stream = record.position.partition.stream;
        let event = self.event(record);
        match &event {
            Ok((_, skipped)) => self.tally.event(stream, skipped.unknown, skipped.ignored),
            Err(reject) => self.tally.reject(stream, reject.reason),
        }
        DecodedRecord {
            position: record.position,
            timestamp_ms: record.timestamp_ms,
            event: event.map(|(event, _)| event),
        }
    }

    /// Adds what was decoded since the last call to the process's metrics. Call it once per chunk.
    pub fn report(&self) {
        self.tally.report();
    }

    /// Decodes without counting.
    fn peek(&self, record: &Record) -> Result<Event, Reject> {
        self.event(record).map(|(event, _)| event)
    }

    fn event(&self, record: &Record) -> Result<(Event, Skipped), Reject> {
        let Some(payload) = record.payload.as_deref() else {
            return Err(Reject::new(RejectReason::NullValue, "the record has no value"));
        };
        let max = self.limits.max_record_bytes;
        let stream = record.position.partition.stream;
        // What the tier makes of a record within the bound may be larger.
        if payload.len() > max && stream != Stream::Samples {
            let detail = format!("{} bytes, at most {max} are taken", payload.len());
            return Err(Reject::new(RejectReason::TooLarge, detail));
        }
        let refuse = |error: serde_json::Error| classify::classify(stream, payload, &error);
        match stream {
            Stream::Impressions => {
                let wire: wire::Impression<'_> = serde_json::from_slice(payload).map_err(refuse)?;
                let skipped = Skipped {
                    unknown: wire.n_unknown + sum(&wire.items, |shown| shown.n_unknown),
                    ignored: wire.n_ignored + sum(&wire.items, |shown| shown.n_ignored),
                };
                Ok((Event::Impression(self.impression(&wire, record)?), skipped))
            }
            Stream::Actions => {
                let wire: wire::Action<'_> = serde_json::from_slice(payload).map_err(refuse)?;
                let skipped = Skipped {
                    unknown: wire.n_unknown,
                    ignored: wire.n_ignored,
                };
                Ok((Event::Action(self.action(&wire, record)?), skipped))
            }
            Stream::Items => {
                let wire: wire::Item<'_> = serde_json::from_slice(payload).map_err(refuse)?;
                if wire.deleted == Some(true) {
                    let deletion = Deletion {
                        item: self.id(IdKind::Item, "item_id", wire.item_id.as_ref())?,
                        ts: self.time(wire.ts_ms, record)?,
                    };
                    let skipped = Skipped {
                        unknown: wire.n_unknown,
                        ignored: wire.n_ignored,
                    };
                    return Ok((Event::Deletion(deletion), skipped));
                }
                let (item, n_numbers) = self.item(&wire, record)?;
                let skipped = Skipped {
                    unknown: wire.n_unknown,
                    ignored: wire.n_ignored + n_numbers,
                };
                Ok((Event::Item(Box::new(item)), skipped))
            }
            Stream::Samples => {
                let told = self.tier.decode(payload)?;
                Ok((Event::JoinRecord(Box::new(told)), Skipped::default()))
            }
        }
    }

    fn impression(&self, wire: &wire::Impression<'_>, record: &Record) -> Result<Impression, Reject> {
        let request = self.id(IdKind::Request, "request_id", wire.request_id.as_ref())?;
        let user = self.id(IdKind::User, "user_id", wire.user_id.as_ref())?;
        let ts = self.time(wire.ts_ms, record)?;
        let shown = wire.items.as_ref().ok_or_else(|| missing("items"))?;
        if shown.is_empty() {
            return Err(Reject::new(RejectReason::MissingField, "`items` is empty"));
        }
        at_most(self.limits.max_items, shown.len(), "items in the slate")?;
        let mut items = Vec::with_capacity(shown.len());
        for (i, shown) in shown.iter().enumerate() {
            let item = self
                .id(IdKind::Item, "item_id", shown.item_id.as_ref())
                .map_err(|reject| Reject::new(reject.reason, format!("items[{i}]: {}", reject.detail)))?;
            items.push(ShownItem {
                item,
                position: shown.position,
            });
        }
        if let Some(second) = second_of_a_pair(&items) {
            let detail = format!("items[{second}] is in the slate already");
            return Err(Reject::new(RejectReason::DuplicateItem, detail));
        }
        let context = match &wire.context {
            Some(pairs) => self.context(pairs)?,
            None => Vec::new(),
        };
        Ok(Impression {
            request,
            user,
            ts,
            items,
            context,
            known_actions: None,
        })
    }

    fn action(&self, wire: &wire::Action<'_>, record: &Record) -> Result<Action, Reject> {
        let request = self.id(IdKind::Request, "request_id", wire.request_id.as_ref())?;
        let item = self.id(IdKind::Item, "item_id", wire.item_id.as_ref())?;
        let user = self.id(IdKind::User, "user_id", wire.user_id.as_ref())?;
        let ts = self.time(wire.ts_ms, record)?;
        let name = wire.action.as_ref().ok_or_else(|| missing("action"))?;
        let task = self
            .tasks
            .iter()
            .position(|task| task.as_str() == &**name)
            .and_then(|index| TaskId::try_from(index).ok())
            .ok_or_else(|| {
                let brief: String = name.chars().take(32).collect();
                Reject::new(RejectReason::UnknownAction, format!("no task is named {brief:?}"))
            })?;
        if wire.value.is_some_and(|value| !value.is_finite()) {
            return Err(Reject::new(
                RejectReason::NonFinite,
                "`value` does not fit a 32-bit float",
            ));
        }
        Ok(Action {
            request,
            item,
            user,
            ts,
            task,
            value: wire.value,
        })
    }

    /// The item, and how many numeric features it has that nothing reads yet.
    fn item(&self, wire: &wire::Item<'_>, record: &Record) -> Result<(Item, u64), Reject> {
        let name = wire.item_id.as_ref();
        let id = self.id(IdKind::Item, "item_id", name)?;
        let ts = self.time(wire.ts_ms, record)?;
        let mut attributes = Vec::new();
        let mut add = |field, name: &str, value: &str| {
            if !value.is_empty() {
                attributes.push(Attribute {
                    field,
                    value: self.ids.attribute(name, value),
                });
            }
        };
        for value in texts(wire.category.as_ref()) {
            add(AttributeField::Category, "category", value);
        }
        for value in texts(wire.author.as_ref()) {
            add(AttributeField::Author, "author", value);
        }
        let mut n_numbers = 0;
        let features = wire.features.as_ref().map_or(&[][..], |pairs| &pairs.0);
        at_most(self.limits.max_attributes, features.len(), "features")?;
        for (name, values) in features {
            for scalar in values.as_slice() {
                match scalar {
                    Scalar::Text(text) => add(AttributeField::Tag, name, text),
                    Scalar::Bool(flag) => {
                        add(AttributeField::Tag, name, if *flag { "true" } else { "false" })
                    }
                    // The parser has refused numbers that are not finite.
                    Scalar::Integer(_) | Scalar::Unsigned(_) | Scalar::Float(_) => n_numbers += 1,
                    Scalar::Null => {}
                }
            }
        }
        attributes.sort_unstable();
        attributes.dedup();
        at_most(self.limits.max_attributes, attributes.len(), "attributes")?;
        let texts: Vec<String> = wire
            .title
            .iter()
            .chain(texts(wire.text.as_ref()))
            .filter(|text| !text.is_empty())
            .map(|text| (**text).to_owned())
            .collect();
        at_most(self.limits.max_texts, texts.len(), "texts")?;
        let item = Item {
            id,
            name: name.map(|name| (**name).to_owned()).unwrap_or_default(),
            ts,
            attributes,
            texts,
            image: wire
                .image
                .as_ref()
                .filter(|image| !image.is_empty())
                .map(|image| (**image).to_owned()),
            vectors: self.vectors(wire.vectors.as_ref())?,
        };
        Ok((item, n_numbers))
    }

    fn vectors(&self, pairs: Option<&Pairs<'_, Vec<f32>>>) -> Result<Vec<(String, Vec<f32>)>, Reject> {
        let mut vectors: Vec<(String, Vec<f32>)> = Vec::new();
        let mut n_values = 0;
        for (name, values) in pairs.map_or(&[][..], |pairs| &pairs.0) {
            if values.iter().any(|value| !value.is_finite()) {
                let brief: String = name.chars().take(32).collect();
                let detail = format!("`vectors.{brief}` holds a value that does not fit a 32-bit float");
                return Err(Reject::new(RejectReason::NonFinite, detail));
            }
            n_values += values.len();
            if !values.is_empty() {
                vectors.push(((**name).to_owned(), values.clone()));
            }
        }
        at_most(self.limits.max_vector_values, n_values, "values in vectors")?;
        vectors.sort_by(|a, b| a.0.cmp(&b.0));
        vectors.dedup_by(|later, first| later.0 == first.0);
        Ok(vectors)
    }

    fn context(&self, pairs: &Pairs<'_, OneOrMany<Scalar<'_>>>) -> Result<Vec<Id>, Reject> {
        at_most(self.limits.max_attributes, pairs.0.len(), "context fields")?;
        let mut context = Vec::with_capacity(pairs.0.len());
        for (name, values) in &pairs.0 {
            for scalar in values.as_slice() {
                let value = as_category(scalar);
                if !value.is_empty() {
                    context.push(self.ids.attribute(name, &value));
                }
            }
        }
        context.sort_unstable();
        context.dedup();
        at_most(self.limits.max_attributes, context.len(), "context values")?;
        Ok(context)
    }

    fn id(&self, kind: IdKind, field: &str, text: Option<&Text<'_>>) -> Result<Id, Reject> {
        let text = text.ok_or_else(|| missing(field))?;
        if text.is_empty() {
            return Err(Reject::new(RejectReason::BadId, format!("`{field}` is empty")));
        }
        if text.len() > MAX_ID_BYTES {
            let detail = format!(
                "`{field}` has {} bytes, at most {MAX_ID_BYTES} are taken",
                text.len()
            );
            return Err(Reject::new(RejectReason::BadId, detail));
        }
        Ok(self.ids.id(kind, text))
    }

    fn time(&self, ts_ms: Option<i64>, record: &Record) -> Result<EventTime, Reject> {
        let ts_ms = ts_ms.ok_or_else(|| missing("ts_ms"))?;
        if ts_ms < EARLIEST_MS {
            let detail = format!("`ts_ms` {ts_ms} is before 1990; milliseconds since 1970 are expected");
            return Err(Reject::new(RejectReason::TooOld, detail));
        }
        if ts_ms >= LATEST_MS {
            let detail = format!("`ts_ms` {ts_ms} is after 2200; milliseconds since 1970 are expected");
            return Err(Reject::new(RejectReason::Future, detail));
        }
        let max = self.limits.max_future_skew_ms;
        if let Some(ahead) = record
            .timestamp_ms
            .map(|at| ts_ms.saturating_sub(at))
            .filter(|ahead| *ahead > max)
        {
            let detail = format!("`ts_ms` is {ahead} ms later than the record's timestamp, at most {max} ms");
            return Err(Reject::new(RejectReason::Future, detail));
        }
        Ok(EventTime(ts_ms))
    }
}

fn missing(field: &str) -> Reject {
    Reject::new(RejectReason::MissingField, format!("`{field}` is missing"))
}

fn at_most(max: usize, n: usize, what: &str) -> Result<(), Reject> {
    if n <= max {
        return Ok(());
    }
    Err(Reject::new(
        RejectReason::TooMany,
        format!("{n} {what}, at most {max} are taken"),
    ))
}

fn texts<'a, 'de>(field: Option<&'a OneOrMany<Text<'de>>>) -> impl Iterator<Item = &'a Text<'de>> {
    field.map_or(&[][..], OneOrMany::as_slice).iter()
}

fn sum(items: &Option<Vec<wire::Shown<'_>>>, count: impl Fn(&wire::Shown<'_>) -> u64) -> u64 {
    items.iter().flatten().map(count).sum()
}

/// A scalar as the text that is hashed; `7`, `7.0` and `"7"` are the same category.
fn as_category<'a>(scalar: &'a Scalar<'_>) -> Cow<'a, str> {
    match scalar {
        Scalar::Text(text) => Cow::Borrowed(text),
        Scalar::Bool(true) => Cow::Borrowed("true"),
        Scalar::Bool(false) => Cow::Borrowed("false"),
        Scalar::Integer(number) => Cow::Owned(number.to_string()),
        Scalar::Unsigned(number) => Cow::Owned(number.to_string()),
        Scalar::Float(number) => Cow::Owned(number.to_string()),
        Scalar::Null => Cow::Borrowed(""),
    }
}

/// Where the first item stands that an earlier place of the slate holds already.
fn second_of_a_pair(items: &[ShownItem]) -> Option<usize> {
    // A slate of usual size is compared quicker than sorted.
    if items.len() > 24 {
        let mut sorted: Vec<Id> = items.iter().map(|shown| shown.item).collect();
        sorted.sort_unstable();
        if sorted.windows(2).all(|pair| pair[0] != pair[1]) {
            return None;
        }
    }
    (1..items.len()).find(|i| items[..*i].iter().any(|earlier| earlier.item == items[*i].item))
}
