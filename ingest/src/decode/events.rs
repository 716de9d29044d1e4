//! Checks parsed JSON objects and turns them into events.

use std::borrow::Cow;
use std::fmt;

use ouzel_sample::{
    Action, Deletion, Event, EventTime, Id, IdKind, IdSpace, Impression, ItemUpdate, MAX_ID_BYTES,
    MODALITIES, Number, NumberScope, Reject, RejectReason, ShownFeatures, ShownItem, TaskId, finite_f32,
    is_category_name, sort_numbers,
};

use super::decoder::{Decoder, HashValue, Parsed};
use super::feature_changes::n_values;
use super::wire::{self, Features, OneOrMany, Pairs, Scalar, Text};

/// 1990-01-01: earlier than any log; later than 0, seconds or an uptime mistaken for a time.
pub(super) const EARLIEST_MS: i64 = 631_152_000_000;
/// Times below this are relative: a log that begins near 0 and lasts less than six days. Seconds since 1990 are larger.
const LONGEST_RELATIVE_MS: i64 = 500_000_000;
/// 2201-01-01: later times are microseconds or noise.
pub(super) const LATEST_MS: i64 = 7_289_654_400_000;

impl Decoder {
    pub(super) fn impression(&self, wire: &wire::Impression<'_>, timestamp_ms: Option<i64>) -> Parsed {
        let request = self.id(IdKind::Request, "request_id", wire.request_id.as_ref())?;
        let user = self.id(IdKind::User, "user_id", wire.user_id.as_ref())?;
        let ts = self.event_time(wire.ts_ms, timestamp_ms)?;
        let shown = wire.items.as_ref().ok_or_else(|| missing("items"))?;
        if shown.is_empty() {
            return Err(Reject::new(RejectReason::MissingField, "`items` is empty"));
        }
        check_count(
            self.config.max_items,
            "max_items",
            shown.len(),
            "items in the slate",
        )?;
        let mut unread = wire::names(&wire.unread);
        let mut items = Vec::with_capacity(shown.len());
        for (i, shown) in shown.iter().enumerate() {
            let item = self.id(IdKind::Item, "item_id", shown.item_id.as_ref());
            let item = item.map_err(|reject| Reject {
                detail: format!("items[{i}]: {}", reject.detail),
                ..reject
            })?;
            unread.extend(shown.unread.iter().map(|name| format!("items[].{}", &**name)));
            let features = match &shown.features {
                None => ShownFeatures::default(),
                Some(features) => {
                    self.features(NumberScope::Item, "features", features)
                        .map_err(|reject| Reject {
                            detail: format!("items[{i}]: {}", reject.detail),
                            ..reject
                        })?
                }
            };
            items.push(ShownItem {
                item,
                position: shown.position,
                features,
            });
        }
        let context = match &wire.context {
            None => ShownFeatures::default(),
            Some(context) => self.features(NumberScope::Context, "context", context)?,
        };
        let impression = Impression {
            request,
            user,
            ts,
            items,
            context: context.values,
            numbers: context.numbers,
            known_actions: None,
        };
        Ok((Event::Impression(impression), unread))
    }

    pub(super) fn action(&self, wire: &wire::Action<'_>, timestamp_ms: Option<i64>) -> Parsed {
        let request = wire.request_id.as_ref();
        let request = request.map(|text| self.id(IdKind::Request, "request_id", Some(text)));
        let request = request.transpose()?;
        let item = self.id(IdKind::Item, "item_id", wire.item_id.as_ref())?;
        let user = self.id(IdKind::User, "user_id", wire.user_id.as_ref())?;
        let ts = self.event_time(wire.ts_ms, timestamp_ms)?;
        let name = wire.action.as_deref().ok_or_else(|| missing("action"))?;
        let task = self.tasks.iter().position(|task| task == name);
        let Some(task) = task.and_then(|index| TaskId::try_from(index).ok()) else {
            let detail = format!(
                "no task is named {:?}; `join.tasks` lists the tasks",
                shortened(name)
            );
            return Err(Reject {
                action: Some(shortened(name)),
                ..Reject::new(RejectReason::UnknownAction, detail)
            });
        };
        if wire.value.is_some_and(|value| !value.is_finite()) {
            return Err(not_finite("`value` does not fit a 32-bit float"));
        }
        let action = Action {
            request,
            item,
            user,
            ts,
            task,
            value: wire.value,
        };
        Ok((Event::Action(action), wire::names(&wire.unread)))
    }

    pub(super) fn deletion(&self, wire: &wire::Item<'_>, timestamp_ms: Option<i64>) -> Parsed {
        let deletion = Deletion {
            item: self.id(IdKind::Item, "item_id", wire.item_id.as_ref())?,
            ts: self.event_time(wire.ts_ms, timestamp_ms)?,
        };
        Ok((Event::Deletion(deletion), wire::names(&wire.unread)))
    }

    pub(super) fn item(&self, wire: &wire::Item<'_>, timestamp_ms: Option<i64>) -> Parsed {
        let id = self.id(IdKind::Item, "item_id", wire.item_id.as_ref())?;
        let is_partial = wire.partial == Some(true);
        // A field that is absent stays in a partial event, and is empty in a full one.
        let is_given =
            |field: &str, is_present: bool| !is_partial || is_present || wire.nulls.contains(&field);
        let title = wire.title.as_deref().and_then(non_empty);
        let further: Vec<String> = texts(wire.text.as_ref())
            .filter_map(|text| non_empty(text))
            .collect();
        check_count(
            self.config.max_texts,
            "max_texts",
            usize::from(title.is_some()) + further.len(),
            "texts",
        )?;
        let image = wire.image.as_deref().and_then(non_empty);
        let update = ItemUpdate {
            id,
            name: wire.item_id.as_deref().unwrap_or_default().to_owned(),
            ts: self.event_time(wire.ts_ms, timestamp_ms)?,
            categories: is_given("category", wire.category.is_some())
                .then(|| self.values("category", wire.category.as_ref())),
            authors: is_given("author", wire.author.is_some())
                .then(|| self.values("author", wire.author.as_ref())),
            clears_features: !is_partial || wire.nulls.contains(&"features"),
            features: self.feature_changes(NumberScope::Item, IdSpace::attribute, wire.features.as_ref())?,
            title: is_given("title", wire.title.is_some()).then_some(title),
            texts: is_given("text", wire.text.is_some()).then_some(further),
            image: is_given("image", wire.image.is_some()).then_some(image),
            vectors: self.vectors(wire.vectors.as_ref())?,
        };
        let mut unread = wire::names(&wire.unread);
        unread.extend(self.unread_vectors(&update.vectors));
        let n_values = update
            .categories
            .iter()
            .chain(&update.authors)
            .map(Vec::len)
            .sum::<usize>()
            + update
                .features
                .iter()
                .map(|(_, change)| n_values(change))
                .sum::<usize>();
        self.check_attributes(n_values, "attributes")?;
        let event = match is_partial {
            true => Event::ItemUpdate(Box::new(update)),
            false => Event::Item(Box::new(update.apply(None))),
        };
        Ok((event, unread))
    }

    /// Refuses more attribute values than are allowed.
    pub(super) fn check_attributes(&self, n: usize, what: impl fmt::Display) -> Result<(), Reject> {
        check_count(self.config.max_attributes, "max_attributes", n, what)
    }

    /// Hashed texts of a field, without empty ones.
    fn values(&self, name: &str, field: Option<&OneOrMany<Text<'_>>>) -> Vec<Id> {
        let given = texts(field).flat_map(|text| match name {
            // Logs that name several categories in one text separate them so.
            "category" => text.split('|').collect::<Vec<&str>>(),
            _ => vec![&**text],
        });
        let given = given.filter(|text| !text.is_empty());
        given.map(|text| self.ids.attribute(name, text)).collect()
    }

    /// Vectors that the model does not read: of another modality, or of another width.
    fn unread_vectors(&self, vectors: &[(String, Vec<f32>)]) -> Vec<String> {
        let Some(widths) = self.vector_widths else {
            return Vec::new();
        };
        let unread = vectors.iter().filter_map(|(name, values)| {
            let read = MODALITIES.iter().zip(widths).find(|(known, _)| *known == name);
            match read {
                Some((_, width)) if width == values.len() => None,
                Some((_, width)) => Some(format!("vectors.{name} of {} numbers, not {width}", values.len())),
                None => Some(format!("vectors.{}", shortened(name))),
            }
        });
        unread.collect()
    }

    fn vectors(&self, pairs: Option<&Pairs<'_, Vec<f32>>>) -> Result<Vec<(String, Vec<f32>)>, Reject> {
        let mut vectors: Vec<(String, Vec<f32>)> = Vec::new();
        let mut n_values = 0;
        for (name, values) in pairs.map_or(&[][..], |pairs| &pairs.0) {
            if let Some(i) = values.iter().position(|value| !value.is_finite()) {
                let name = shortened(name);
                return Err(not_finite(format!(
                    "`vectors.{name}[{i}]` does not fit a 32-bit float"
                )));
            }
            n_values += values.len();
            if !values.is_empty() {
                vectors.push(((**name).to_owned(), values.clone()));
            }
        }
        check_count(
            self.config.max_vector_values,
            "max_vector_values",
            n_values,
            "values in vectors",
        )?;
        vectors.sort_by(|a, b| a.0.cmp(&b.0));
        vectors.dedup_by(|later, first| later.0 == first.0);
        Ok(vectors)
    }

    /// The values of an object of features: categorical ones, sorted and distinct, and numbers.
    ///
    /// A number is categorical in a list and under a name that ends in `_id`.
    fn features(
        &self,
        scope: NumberScope,
        field: &str,
        Pairs(pairs): &Features<'_>,
    ) -> Result<ShownFeatures, Reject> {
        self.check_attributes(pairs.len(), format_args!("names in `{field}`"))?;
        let (mut values, mut numbers) = (Vec::with_capacity(pairs.len()), Vec::new());
        for (name, of_name) in pairs {
            match self.number(scope, field, (&**name, of_name))? {
                Some(number) => numbers.push(number),
                None => values.extend(self.categories(IdSpace::attribute, name, of_name)),
            }
        }
        values.sort_unstable();
        values.dedup();
        sort_numbers(&mut numbers);
        self.check_attributes(values.len(), format_args!("values in `{field}`"))?;
        Ok(ShownFeatures { values, numbers })
    }

    /// The numeric value of a name; none where it is categorical.
    pub(super) fn number(
        &self,
        scope: NumberScope,
        field: &str,
        (name, of_name): (&str, &OneOrMany<Scalar<'_>>),
    ) -> Result<Option<Number>, Reject> {
        let OneOrMany::One(scalar) = of_name else {
            return Ok(None);
        };
        let Some(value) = number(scalar).filter(|_| !is_category_name(name)) else {
            return Ok(None);
        };
        let value = finite_f32(value).ok_or_else(|| {
            let name = shortened(name);
            not_finite(format!("`{field}.{name}` does not fit a 32-bit float"))
        })?;
        let id = self.ids.number(scope, name);
        self.number_names.see(scope, id, name);
        Ok(Some(Number { name: id, value }))
    }

    /// The hashed categorical values of a name.
    pub(super) fn categories<'a>(
        &'a self,
        hash: HashValue,
        name: &'a str,
        of_name: &'a OneOrMany<Scalar<'_>>,
    ) -> impl Iterator<Item = Id> + 'a {
        let texts = of_name.as_slice().iter().map(category);
        let texts = texts.filter(|text| !text.is_empty());
        texts.map(move |text| hash(&self.ids, name, &text))
    }

    pub(super) fn id(&self, kind: IdKind, field: &str, text: Option<&Text<'_>>) -> Result<Id, Reject> {
        let text = text.ok_or_else(|| missing(field))?;
        let detail = match text.len() {
            0 => format!("`{field}` is empty"),
            1..=MAX_ID_BYTES => return Ok(self.ids.id(kind, text)),
            n => format!("`{field}` has {n} bytes, the limit is {MAX_ID_BYTES}"),
        };
        Err(Reject::new(RejectReason::BadId, detail))
    }

    pub(super) fn event_time(
        &self,
        ts_ms: Option<i64>,
        timestamp_ms: Option<i64>,
    ) -> Result<EventTime, Reject> {
        let ts_ms = ts_ms.ok_or_else(|| missing("ts_ms"))?;
        if ts_ms < EARLIEST_MS {
            // A log with a time of its own, which begins near 0. In Kafka the record's timestamp tells it apart from a
            // broken producer.
            let is_relative = (0..LONGEST_RELATIVE_MS).contains(&ts_ms)
                && timestamp_ms.is_none_or(|timestamp| timestamp < EARLIEST_MS);
            if is_relative {
                return Ok(EventTime(ts_ms));
            }
            let detail = format!(
                "the event time `ts_ms`, {ts_ms}, is before 1990 in milliseconds{}",
                unit_hint(ts_ms)
            );
            return Err(Reject::new(RejectReason::TooOld, detail));
        }
        if ts_ms >= LATEST_MS {
            let detail = format!(
                "the event time `ts_ms`, {ts_ms}, is after 2200 in milliseconds{}",
                unit_hint(ts_ms)
            );
            return Err(Reject::new(RejectReason::Future, detail));
        }
        let max = self.config.max_future_skew.ms();
        let ahead = timestamp_ms.map(|timestamp| ts_ms.saturating_sub(timestamp));
        if let Some(ahead) = ahead.filter(|ahead| *ahead > max) {
            let detail = format!(
                "the event time `ts_ms` is {ahead} ms ahead of the record's timestamp, the limit is events.max_future_skew = {}",
                self.config.max_future_skew
            );
            return Err(Reject::new(RejectReason::Future, detail));
        }
        Ok(EventTime(ts_ms))
    }
}

/// The unit that a time outside of the accepted range looks like, and the setting that reads it.
fn unit_hint(ts_ms: i64) -> String {
    let range = EARLIEST_MS..LATEST_MS;
    let units = [
        ("seconds", "s", ts_ms.checked_mul(1000)),
        ("microseconds", "us", Some(ts_ms / 1000)),
        ("nanoseconds", "ns", Some(ts_ms / 1_000_000)),
    ];
    let fits = |(_, _, ms): &&(&str, &str, Option<i64>)| ms.is_some_and(|ms| range.contains(&ms));
    units
        .iter()
        .find(fits)
        .map_or_else(String::new, |(unit, key, _)| {
            format!(
                "; it looks like {unit}: set time.unit = \"{key}\" in the stream's section below [events]"
            )
        })
}

fn missing(field: &str) -> Reject {
    Reject::new(RejectReason::MissingField, format!("`{field}` is missing"))
}

fn not_finite(detail: impl Into<String>) -> Reject {
    Reject::new(RejectReason::NonFinite, detail)
}

fn check_count(max: usize, key: &str, n: usize, what: impl fmt::Display) -> Result<(), Reject> {
    if n <= max {
        return Ok(());
    }
    let detail = format!("{n} {what}, the limit is events.{key} = {max}");
    Err(Reject::new(RejectReason::TooMany, detail))
}

/// A producer's own name, shortened to fit a message.
pub(super) fn shortened(name: &str) -> String {
    name.chars().take(32).collect()
}

fn texts<'a, 'de>(field: Option<&'a OneOrMany<Text<'de>>>) -> impl Iterator<Item = &'a Text<'de>> {
    field.map_or(&[][..], OneOrMany::as_slice).iter()
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The value of a number.
#[expect(clippy::cast_precision_loss, reason = "an f32 is made of it")]
fn number(scalar: &Scalar<'_>) -> Option<f64> {
    match scalar {
        Scalar::Integer(number) => Some(*number as f64),
        Scalar::Unsigned(number) => Some(*number as f64),
        Scalar::Float(number) => Some(*number),
        Scalar::Text(_) | Scalar::Bool(_) | Scalar::Null => None,
    }
}

/// The text of a scalar that is hashed as a category: `7`, `7.0` and `"7"` are the same.
fn category<'a>(scalar: &'a Scalar<'_>) -> Cow<'a, str> {
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
