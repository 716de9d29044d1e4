//! The topic of each stream, and creating topics on a broker.

mod create;
mod inspect;

use std::collections::BTreeMap;

use ouzel_sample::Stream;
use ouzel_sample::settings::KeyError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use create::create;
pub use inspect::{FoundTopic, Retention, TopicState, inspect};

/// The topic of each stream: the section `[kafka.topics]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Topics {
    /// Topic of the impressions: slates shown to users, keyed by `request_id`.
    ///
    /// Set it to the name on your cluster.
    pub impressions: String,
    /// Topic of the actions: what users did with the shown items, keyed by `request_id`.
    ///
    /// Set it to the name on your cluster.
    pub actions: String,
    /// Topic of the item catalog, read from its start.
    ///
    /// Set it to the name on your cluster.
    pub items: String,
    /// Topic of the users' profiles, read from its start. Empty where users have none.
    ///
    /// Set it to learn from age, country, plan and other values of the user that requests do not carry.
    pub users: String,
    /// Topic that `ouzel join` writes and the daemon reads with `join.source = "tier"`, keyed by user. Its number of
    /// partitions must not change.
    ///
    /// Set it to the name on your cluster.
    pub samples: String,
}

impl Default for Topics {
    fn default() -> Self {
        Self::named(|stream| match stream {
            Stream::Users => String::new(),
            stream => stream.name().to_owned(),
        })
    }
}

impl Topics {
    /// Every value that cannot be used, by its key below `kafka.topics`. Streams that `selects` names read a part of
    /// their topic, which may be the topic of others of them.
    #[must_use]
    pub fn validate(&self, selects: impl Fn(Stream) -> bool) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let mut seen: BTreeMap<&str, Stream> = BTreeMap::new();
        for stream in self.all_streams() {
            let topic = self.name(stream);
            if topic.is_empty() {
                errors.push(KeyError::new(stream.name(), "must name a topic, not be empty"));
            } else if let Some(other) = seen.insert(topic, stream)
                && !(selects(stream) && selects(other))
            {
                let message = format!(
                    "must differ from the other topics: {topic} is that of {other} too. One topic may carry several streams if \
                     each has a `where` in its section below [events]"
                );
                errors.push(KeyError::new(stream.name(), message));
            }
        }
        let pairs = self
            .all_streams()
            .flat_map(|stream| self.all_streams().map(move |other| (stream, other)));
        for (stream, other) in pairs {
            let of_ours = [
                (self.dead_letters(other), "dead letters"),
                (self.late(other), "late records"),
            ];
            for (_, what) in of_ours.iter().filter(|(name, _)| self.name(stream) == name) {
                let message = format!(
                    "must differ from {}, the topic of the {what} of {}",
                    self.name(stream),
                    other.name()
                );
                errors.push(KeyError::new(stream.name(), message));
            }
        }
        errors
    }

    /// Topics with the name that `name` gives to each stream.
    pub fn named(name: impl Fn(Stream) -> String) -> Self {
        Self {
            impressions: name(Stream::Impressions),
            actions: name(Stream::Actions),
            items: name(Stream::Items),
            samples: name(Stream::Samples),
            users: name(Stream::Users),
        }
    }

    /// The topic of `stream`; empty where it has none.
    pub fn name(&self, stream: Stream) -> &str {
        match stream {
            Stream::Impressions => &self.impressions,
            Stream::Actions => &self.actions,
            Stream::Items => &self.items,
            Stream::Samples => &self.samples,
            Stream::Users => &self.users,
        }
    }

    /// Whether `stream` is read and written: users are only where they have a topic.
    pub fn has(&self, stream: Stream) -> bool {
        stream != Stream::Users || !self.users.is_empty()
    }

    /// The streams that producers write here, in merge order.
    pub fn events(&self) -> Vec<Stream> {
        Stream::EVENTS
            .into_iter()
            .filter(|stream| self.has(*stream))
            .collect()
    }

    /// The streams that a learner behind the join tier reads here, in merge order.
    pub fn behind_tier(&self) -> Vec<Stream> {
        let streams = Stream::BEHIND_TIER.into_iter();
        streams.filter(|stream| self.has(*stream)).collect()
    }

    /// All streams with a topic here, in merge order.
    pub fn all_streams(&self) -> impl Iterator<Item = Stream> + Clone + '_ {
        Stream::WITH_SAMPLES
            .into_iter()
            .filter(|stream| self.has(*stream))
    }

    /// The dead-letter topic of `stream`.
    pub fn dead_letters(&self, stream: Stream) -> String {
        format!("{}.dlq", self.name(stream))
    }

    /// The topic of the late records of `stream`.
    pub fn late(&self, stream: Stream) -> String {
        format!("{}.late", self.name(stream))
    }

    /// The topics of a deployment without a join tier: events and their dead letters.
    pub fn all(&self) -> Vec<String> {
        let events = self.events();
        let streams = events.iter().map(|stream| self.name(*stream).to_owned());
        let dead_letters = events.iter().map(|stream| self.dead_letters(*stream));
        let mut all: Vec<String> = streams.chain(dead_letters).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The additional topics of a join tier.
    pub fn tier(&self) -> [String; 2] {
        [self.samples.clone(), self.dead_letters(Stream::Samples)]
    }
}
