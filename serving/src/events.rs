//! The JSON contract of `POST /v1/events`, and the calls that the writer of events answers.
//!
//! The port decodes the shape of a call and puts it into a bounded channel. What is on the other side checks every event,
//! writes all of them or none, and answers. Neither brokers nor the fields of events are known here.

use std::time::Instant;

use ouzel_sample::Stream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::oneshot;

/// Most events of one call; bounds the reply that lists those refused.
pub const MAX_EVENTS: usize = 1000;

/// One event of a call.
#[derive(Debug)]
pub struct PostedEvent {
    /// The stream that it belongs to.
    pub stream: Stream,
    /// The event.
    pub event: Value,
}

/// A call that waits for the writer of events.
#[derive(Debug)]
pub struct EventsCall {
    /// 1 to [`MAX_EVENTS`] events.
    pub events: Vec<PostedEvent>,
    /// When the client gets an answer anyway.
    pub deadline: Instant,
    /// The channel of the answer.
    pub reply: oneshot::Sender<EventsOutcome>,
}

/// What became of the events of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventsOutcome {
    /// Every event is acknowledged.
    Written,
    /// These events cannot be used; none of the call was written. In order of the index, never empty.
    Refused(Vec<BadEvent>),
    /// Not every event was acknowledged, for this reason.
    Unacknowledged(String),
}

/// An event that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadEvent {
    /// Its place in the call, from 0.
    pub index: usize,
    /// Its stream.
    pub stream: String,
    /// The reason, as the dead letters name it.
    pub reason: String,
    /// The field and what is wrong with it.
    pub detail: String,
}

/// Why a body is not a call.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages describe variants and fields")]
pub enum InvalidEvents {
    #[error(
        "the body is neither an event, {{\"stream\": .., \"event\": {{..}}}}, nor a list of events, nor {{\"events\": [..]}}"
    )]
    Shape,
    #[error("there is no event in the body")]
    NoEvents,
    #[error("the body has {n_events} events, at most {MAX_EVENTS} are allowed in one call: send several")]
    TooMany { n_events: usize },
    #[error("events[{index}].stream is {stream:?}, and must be impressions, actions, items or users")]
    UnknownStream { index: usize, stream: String },
}

/// A body: one event, a list of events, or an object with that list.
#[derive(Debug)]
pub(crate) struct Body(Vec<Entry>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `stream` and `event`")]
struct Entry {
    stream: String,
    event: Value,
}

#[derive(Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an event, a list of events, or an object with `events`"
)]
pub(crate) struct ObjectBody {
    stream: Option<String>,
    event: Option<Value>,
    events: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct ListBody(Vec<Entry>);

impl From<ListBody> for Body {
    fn from(ListBody(entries): ListBody) -> Self {
        Self(entries)
    }
}

impl TryFrom<ObjectBody> for Body {
    type Error = InvalidEvents;

    fn try_from(body: ObjectBody) -> Result<Self, InvalidEvents> {
        match body {
            ObjectBody {
                events: Some(events),
                stream: None,
                event: None,
            } => Ok(Self(events)),
            ObjectBody {
                events: None,
                stream: Some(stream),
                event: Some(event),
            } => Ok(Self(vec![Entry { stream, event }])),
            _ => Err(InvalidEvents::Shape),
        }
    }
}

impl Body {
    /// The events, with their streams resolved.
    ///
    /// # Errors
    /// No event, too many, or an unknown stream.
    pub(crate) fn check(self) -> Result<Vec<PostedEvent>, InvalidEvents> {
        let Body(entries) = self;
        if entries.is_empty() {
            return Err(InvalidEvents::NoEvents);
        }
        if entries.len() > MAX_EVENTS {
            return Err(InvalidEvents::TooMany {
                n_events: entries.len(),
            });
        }
        let resolved = entries
            .into_iter()
            .enumerate()
            .map(|(index, Entry { stream, event })| {
                let known = Stream::EVENTS.into_iter().find(|known| known.name() == stream);
                match known {
                    Some(stream) => Ok(PostedEvent { stream, event }),
                    None => Err(InvalidEvents::UnknownStream { index, stream }),
                }
            });
        resolved.collect()
    }
}
