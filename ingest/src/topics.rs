//! The topic of each stream, and creating topics on a broker.

mod create;

use ouzel_sample::Stream;

pub use create::create;

/// The topic of each stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// Topic of impressions.
    pub impressions: String,
    /// Topic of actions.
    pub actions: String,
    /// Topic of the item catalog.
    pub items: String,
    /// Topic of the join tier's results.
    pub samples: String,
}

impl Default for Topics {
    fn default() -> Self {
        Self::named(|stream| stream.name().to_owned())
    }
}

impl Topics {
    /// Topics with the name that `name` gives to each stream.
    #[must_use]
    pub fn named(name: impl Fn(Stream) -> String) -> Self {
        Self {
            impressions: name(Stream::Impressions),
            actions: name(Stream::Actions),
            items: name(Stream::Items),
            samples: name(Stream::Samples),
        }
    }

    /// The topic of `stream`.
    #[must_use]
    pub fn name(&self, stream: Stream) -> &str {
        match stream {
            Stream::Impressions => &self.impressions,
            Stream::Actions => &self.actions,
            Stream::Items => &self.items,
            Stream::Samples => &self.samples,
        }
    }

    /// The dead-letter topic of `stream`.
    #[must_use]
    pub fn dead_letters(&self, stream: Stream) -> String {
        format!("{}.dlq", self.name(stream))
    }

    /// The topics of a deployment without a join tier: three streams and their dead letters.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        let streams = Stream::EVENTS.iter().map(|stream| self.name(*stream).to_owned());
        let dead_letters = Stream::EVENTS.iter().map(|stream| self.dead_letters(*stream));
        streams.chain(dead_letters).collect()
    }

    /// The additional topics of a join tier.
    #[must_use]
    pub fn tier(&self) -> [String; 2] {
        [self.samples.clone(), self.dead_letters(Stream::Samples)]
    }
}
