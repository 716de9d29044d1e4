//! Items of the catalog and their categorical attributes.

use serde::{Deserialize, Serialize};

use crate::{EventTime, Id, Number};

/// The model field that a categorical value belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttributeField {
    /// A category of the item; an item may have several.
    Category,
    /// The maker of the item: author, brand, seller, publisher.
    Author,
    /// Any other categorical value of the item.
    Tag,
    /// A categorical value of the request.
    Context,
    /// A categorical value of the item in one request.
    Shown,
    /// The bucket of a number.
    Number,
}

/// One categorical value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attribute {
    /// The field that the value belongs to.
    pub field: AttributeField,
    /// Hash of `name = value`.
    pub value: Id,
}

/// The newest known version of an item.
///
/// The catalog is the only place that keeps an id's string, for replies, logs and exports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Hash of `name`.
    pub id: Id,
    /// The id string as the producer wrote it.
    pub name: String,
    /// Event time of this version; an older version never replaces a newer one.
    pub ts: EventTime,
    /// Categorical values, sorted.
    pub attributes: Vec<Attribute>,
    /// Hashes of the names of the tags in `attributes`, in their order.
    pub tag_names: Vec<Id>,
    /// Numeric values, sorted by name.
    pub numbers: Vec<Number>,
    /// Texts in order of importance, the title first.
    pub texts: Vec<String>,
    /// Whether the first text is the title.
    pub has_title: bool,
    /// Path or URL of the picture.
    pub image: Option<String>,
    /// Content vectors provided by the producer, by modality name, sorted by name.
    pub vectors: Vec<(String, Vec<f32>)>,
}

impl Item {
    /// Estimated bytes in memory, map entry included.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        const ENTRY: usize = 64;
        // At most 16 words of the title, of 4 bytes and of as many entries of 16 bytes in the counts of words.
        const TITLE: usize = ENTRY + 16 * 20;
        let texts = self.texts.iter().map(|text| size_of::<String>() + text.len());
        let vectors = self.vectors.iter();
        let vectors = vectors.map(|(name, values)| ENTRY + name.len() + size_of_val(values.as_slice()));
        size_of::<Self>()
            + ENTRY
            + self.name.len()
            + size_of_val(self.attributes.as_slice())
            + size_of_val(self.tag_names.as_slice())
            + size_of_val(self.numbers.as_slice())
            + texts.sum::<usize>()
            + if self.texts.is_empty() { 0 } else { TITLE }
            + self.image.as_ref().map_or(0, String::len)
            + vectors.sum::<usize>()
    }

    /// The values of one field.
    pub fn values(&self, field: AttributeField) -> impl Iterator<Item = Id> + '_ {
        let attributes = self.attributes.iter();
        attributes.filter(move |a| a.field == field).map(|a| a.value)
    }
}

/// The first category of an item, else its author, else its first tag; `Id(0)` without any.
#[must_use]
pub fn primary_attribute(attributes: &[Attribute]) -> Id {
    let first_of = |field| attributes.iter().find(|attribute| attribute.field == field);
    let fields = [
        AttributeField::Category,
        AttributeField::Author,
        AttributeField::Tag,
    ];
    let primary = fields.into_iter().find_map(first_of);
    primary.map(|attribute| attribute.value).unwrap_or_default()
}
