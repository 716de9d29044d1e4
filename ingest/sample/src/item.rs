//! An item as the catalog knows it.

use serde::{Deserialize, Serialize};

use crate::{EventTime, Id};

/// Which field of the model a categorical value feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// The item's category; an item may have several.
    Category,
    /// Who made the item: author, brand, seller, publisher.
    Author,
    /// Any other categorical value of the item.
    Tag,
    /// A categorical value of the request.
    Context,
}

/// One categorical value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attribute {
    /// Where it feeds.
    pub slot: Slot,
    /// Hash of `name = value`.
    pub value: Id,
}

/// The newest version of an item that its topic has given.
///
/// The catalog is the only place that keeps an id's string, for replies, logs and exports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Hash of `name`.
    pub id: Id,
    /// The id as the producer wrote it.
    pub name: String,
    /// When this version was made; an older version never replaces a newer one.
    pub ts: EventTime,
    /// Its categorical values, sorted.
    pub attributes: Vec<Attribute>,
    /// Texts in order of importance, the title first.
    pub texts: Vec<String>,
    /// Path or URL of its picture.
    pub image: Option<String>,
    /// Content vectors computed by the producer, by modality name, sorted by name.
    pub vectors: Vec<(String, Vec<f32>)>,
}

impl Item {
    /// About what it takes in memory, its place in a map included.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        const PLACE: usize = 64;
        let text = |text: &String| size_of::<String>() + text.len();
        let vectors = self.vectors.iter();
        size_of::<Self>()
            + PLACE
            + self.name.len()
            + size_of_val(self.attributes.as_slice())
            + self.texts.iter().map(text).sum::<usize>()
            + self.image.as_ref().map_or(0, String::len)
            + vectors
                .map(|(name, values)| PLACE + name.len() + size_of_val(values.as_slice()))
                .sum::<usize>()
    }

    /// The item's values in `slot`.
    pub fn slot(&self, slot: Slot) -> impl Iterator<Item = Id> + '_ {
        self.attributes
            .iter()
            .filter(move |a| a.slot == slot)
            .map(|a| a.value)
    }
}
/// What an item is about in one id: the first of its category, author and tags; 0 for nothing.
#[must_use]
pub fn about(attributes: &[Attribute]) -> Id {
    let of = |slot| attributes.iter().find(|attribute| attribute.slot == slot);
    let first = [Slot::Category, Slot::Author, Slot::Tag].into_iter().find_map(of);
    first.map(|attribute| attribute.value).unwrap_or_default()
}
