//! Quarantine: events that an operator has excluded from learning, as those of a bot or of a broken client.
//!
//! A rule names a user, an item, a range of event time or the value of a field of the record; an event that fits every
//! condition of a rule is not learned. Its record keeps its place in the order, so every other event is joined as if the
//! excluded ones had never been written. Catalog records are never excluded.
//!
//! Behind a join tier the rules apply to its results. An impression that is excluded takes its outcomes with it, since the
//! receiver knows no impression that they could belong to; an action on an impression before the range of event time is
//! part of that impression's outcome, and stays.

use std::fmt;

use metrics::counter;
use ouzel_sample::{
    Action, Event, EventTime, Id, IdKind, IdSpace, Impression, JoinEvent, Record, Reject, RejectReason,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::formats::RecordFormats;
use crate::mapping::{Metadata, RecordPath};
use crate::metrics::QUARANTINED_ITEMS;

/// One rule: every condition that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuarantineRule {
    /// Events of this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Actions on this item, and this item of a slate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// Events from this event time on, ms since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<i64>,
    /// Events before this event time, ms since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_ms: Option<i64>,
    /// Records whose value at this path is `value`; a path as in `[events.<stream>]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The text, number or boolean of `field`, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl QuarantineRule {
    /// Checks that the rule has a condition and that its field can be read.
    ///
    /// # Errors
    /// A sentence that says what is missing or wrong.
    pub fn check(&self) -> Result<(), String> {
        if *self == Self::default() {
            return Err("a quarantine needs a user, an item, a time or a field".to_owned());
        }
        if self.field.is_some() != self.value.is_some() {
            return Err("a quarantined field needs a value: write 'FIELD = VALUE'".to_owned());
        }
        if let (Some(from), Some(to)) = (self.from_ms, self.to_ms)
            && from >= to
        {
            return Err("the quarantine ends before it begins".to_owned());
        }
        self.field
            .as_deref()
            .map_or(Ok(()), |field| RecordPath::parse(field).map(|_| ()))
    }

    /// Checks that the rule can be applied to the results of a join tier.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub fn check_behind_tier(&self) -> Result<(), String> {
        match &self.field {
            None => Ok(()),
            Some(field) => Err(format!(
                "behind a join tier no event is excluded by a field, here {field}: the results of the tier have no fields \
                 of records"
            )),
        }
    }
}

impl fmt::Display for QuarantineRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.user.as_ref().map(|user| format!("user {user}")),
            self.item.as_ref().map(|item| format!("item {item}")),
            self.from_ms.map(|ms| format!("from {ms} ms")),
            self.to_ms.map(|ms| format!("to {ms} ms")),
            self.field.as_ref().map(|field| {
                let value = self.value.as_deref().unwrap_or_default();
                format!("{field} = {value}")
            }),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// A rule with hashed ids and a parsed path.
#[derive(Debug)]
struct CompiledRule {
    user: Option<Id>,
    item: Option<Id>,
    from: EventTime,
    to: EventTime,
    field: Option<(RecordPath, String)>,
    /// For messages.
    text: String,
}

/// The rules of a decoder.
#[derive(Debug, Default)]
pub struct Quarantine {
    rules: Vec<CompiledRule>,
}

impl Quarantine {
    /// Compiles rules; ids are hashed as those of events.
    ///
    /// # Errors
    /// The sentence of [`QuarantineRule::check`].
    pub fn new(rules: &[QuarantineRule], ids: IdSpace) -> Result<Self, String> {
        let compile = |rule: &QuarantineRule| {
            rule.check()?;
            let path = rule.field.as_deref().map(RecordPath::parse).transpose()?;
            Ok(CompiledRule {
                user: rule.user.as_deref().map(|user| ids.id(IdKind::User, user)),
                item: rule.item.as_deref().map(|item| ids.id(IdKind::Item, item)),
                from: rule.from_ms.map_or(EventTime::MIN, EventTime),
                to: EventTime(rule.to_ms.unwrap_or(i64::MAX)),
                field: path.zip(rule.value.clone()),
                text: rule.to_string(),
            })
        };
        let rules = rules.iter().map(compile).collect::<Result<_, String>>()?;
        Ok(Self { rules })
    }

    /// The event without what is quarantined.
    ///
    /// # Errors
    /// [`RejectReason::Quarantined`] when nothing is left.
    pub(crate) fn apply(
        &self,
        record: &Record,
        topic: &str,
        event: Event,
        formats: &RecordFormats,
    ) -> Result<Event, Reject> {
        if self.rules.is_empty() || record.position.partition.stream.is_catalog() {
            return Ok(event);
        }
        let mut value = ParsedOnce { formats, value: None };
        let mut event = event;
        for rule in &self.rules {
            event = rule.apply(record, topic, event, &mut value)?;
        }
        Ok(event)
    }
}

/// The payload as JSON, parsed when a rule first needs it. It has been decoded to an event before, so it can be parsed.
struct ParsedOnce<'a> {
    formats: &'a RecordFormats,
    value: Option<Value>,
}

impl ParsedOnce<'_> {
    fn of(&mut self, record: &Record) -> &Value {
        self.value.get_or_insert_with(|| {
            let stream = record.position.partition.stream;
            let payload = record.payload.as_deref().unwrap_or_default();
            match self.formats.is_json(stream) {
                true => serde_json::from_slice(payload).unwrap_or(Value::Null),
                false => self.formats.value(stream, payload).unwrap_or(Value::Null),
            }
        })
    }
}

impl CompiledRule {
    fn apply(
        &self,
        record: &Record,
        topic: &str,
        event: Event,
        value: &mut ParsedOnce<'_>,
    ) -> Result<Event, Reject> {
        let mut fits_field = || {
            self.field.as_ref().is_none_or(|(path, expected)| {
                let found = path.text(value.of(record), Metadata::of(record, topic));
                found.is_some_and(|found| found == *expected)
            })
        };
        match event {
            Event::Impression(mut impression) => {
                self.exclude_items(&mut impression, fits_field)?;
                Ok(Event::Impression(impression))
            }
            Event::Action(action) => {
                if self.fits_action(&action) && fits_field() {
                    return Err(self.reject());
                }
                Ok(Event::Action(action))
            }
            Event::JoinRecord(mut record) => {
                match &mut record.event {
                    JoinEvent::Shown { impression, .. } => self.exclude_items(impression, || true)?,
                    JoinEvent::LateAction { action, .. } if self.fits_action(action) => {
                        return Err(self.reject());
                    }
                    _ => {}
                }
                Ok(Event::JoinRecord(record))
            }
            Event::Actions(mut actions) => {
                if fits_field() {
                    actions.retain(|action| !self.fits_action(action));
                }
                match actions.is_empty() {
                    true => Err(self.reject()),
                    false => Ok(Event::Actions(actions)),
                }
            }
            other => Ok(other),
        }
    }

    fn fits(&self, ts: EventTime, user: Id) -> bool {
        (self.from..self.to).contains(&ts) && self.user.is_none_or(|known| known == user)
    }

    fn fits_item(&self, item: Id) -> bool {
        self.item.is_none_or(|known| known == item)
    }

    /// Whether an action is excluded, its record's field apart.
    fn fits_action(&self, action: &Action) -> bool {
        self.fits(action.ts, action.user) && self.fits_item(action.item)
    }

    /// Removes the excluded items of an impression.
    ///
    /// # Errors
    /// When none is left.
    fn exclude_items(
        &self,
        impression: &mut Impression,
        fits_field: impl FnOnce() -> bool,
    ) -> Result<(), Reject> {
        let shows = || impression.items.iter().any(|shown| self.fits_item(shown.item));
        if !self.fits(impression.ts, impression.user) || !shows() || !fits_field() {
            return Ok(());
        }
        let n_shown = impression.items.len();
        impression.items.retain(|shown| !self.fits_item(shown.item));
        if impression.items.is_empty() {
            return Err(self.reject());
        }
        counter!(QUARANTINED_ITEMS).increment((n_shown - impression.items.len()) as u64);
        Ok(())
    }

    fn reject(&self) -> Reject {
        Reject::new(
            RejectReason::Quarantined,
            format!("excluded by the quarantine of {}", self.text),
        )
    }
}

#[cfg(test)]
mod tests {
    use ouzel_sample::{PartitionId, Stream};
    use serde_json::json;

    use super::*;
    use crate::{Decoder, EventConfig};

    fn decode(rule: &QuarantineRule, stream: Stream, event: &Value) -> Result<Event, Reject> {
        let ids = IdSpace::new(3);
        let decoder = Decoder::new(ids, vec!["click".to_owned()], EventConfig::default()).unwrap();
        let decoder = decoder.with_quarantine(Quarantine::new(std::slice::from_ref(rule), ids).unwrap());
        let record = Record {
            position: PartitionId::new(stream, 0).at(0),
            timestamp_ms: None,
            payload: Some(event.to_string().into_bytes()),
            metadata: None,
        };
        let decoded = decoder.decode(&record).event;
        let account = decoder.accounts().of(stream);
        assert_eq!(account.check(stream), Ok(()));
        assert_eq!(account.n_unneeded(), u64::from(decoded.is_err()));
        decoded
    }

    const T: i64 = 1_700_000_000_000;

    fn impression() -> Value {
        json!({
            "request_id": "r", "user_id": "u", "ts_ms": T, "context": { "source": "app" },
            "items": [{ "item_id": "a" }, { "item_id": "b" }],
        })
    }

    fn action() -> Value {
        json!({ "request_id": "r", "item_id": "a", "user_id": "u", "ts_ms": T, "action": "click", "source": "app" })
    }

    fn n_left(rule: &QuarantineRule) -> (usize, usize) {
        let n_items = match decode(rule, Stream::Impressions, &impression()) {
            Ok(Event::Impression(impression)) => impression.items.len(),
            Ok(other) => panic!("{other:?}"),
            Err(reject) => {
                assert_eq!(reject.reason, RejectReason::Quarantined);
                0
            }
        };
        (
            n_items,
            usize::from(decode(rule, Stream::Actions, &action()).is_ok()),
        )
    }

    fn rule(set: impl FnOnce(&mut QuarantineRule)) -> QuarantineRule {
        let mut rule = QuarantineRule::default();
        set(&mut rule);
        rule
    }

    #[test]
    fn every_condition_of_a_rule_must_hold() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(n_left(&rule(|rule| rule.user = text("u"))), (0, 0));
        assert_eq!(n_left(&rule(|rule| rule.user = text("v"))), (2, 1));
        assert_eq!(n_left(&rule(|rule| rule.item = text("a"))), (1, 0));
        assert_eq!(n_left(&rule(|rule| rule.item = text("b"))), (1, 1));
        assert_eq!(n_left(&rule(|rule| rule.from_ms = Some(T))), (0, 0));
        assert_eq!(n_left(&rule(|rule| rule.from_ms = Some(T + 1))), (2, 1));
        assert_eq!(n_left(&rule(|rule| rule.to_ms = Some(T))), (2, 1));
        let source =
            |path: &str, value: &str| rule(|rule| (rule.field, rule.value) = (text(path), text(value)));
        assert_eq!(n_left(&source("context.source", "app")), (0, 1));
        assert_eq!(n_left(&source("source", "app")), (2, 0));
        assert_eq!(n_left(&source("source", "web")), (2, 1));
        let both = rule(|rule| (rule.user, rule.from_ms) = (text("u"), Some(T + 1)));
        assert_eq!(n_left(&both), (2, 1));
    }

    #[test]
    fn a_rule_without_a_condition_or_with_a_broken_one_is_refused() {
        for (broken, expected) in [
            (QuarantineRule::default(), "needs a user"),
            (rule(|rule| rule.field = Some("a".to_owned())), "needs a value"),
            (
                rule(|rule| (rule.from_ms, rule.to_ms) = (Some(2), Some(2))),
                "before it begins",
            ),
            (
                rule(|rule| {
                    (rule.field, rule.value) = (Some("a[".to_owned()), Some("x".to_owned()));
                }),
                "character",
            ),
        ] {
            let error = broken.check().unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
