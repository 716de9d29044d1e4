//! Changes of some fields of an item.

use crate::named_features::{FeatureChange, Features};
use crate::{Attribute, AttributeField, EventTime, Id, Item};

/// New values of some fields of an item; the others stay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemUpdate {
    /// Hash of `name`.
    pub id: Id,
    /// The id string as the producer wrote it.
    pub name: String,
    /// Event time of this version.
    pub ts: EventTime,
    /// The new categories; none keeps them.
    pub categories: Option<Vec<Id>>,
    /// The new authors; none keeps them.
    pub authors: Option<Vec<Id>>,
    /// Whether all features are removed before `features` are set.
    pub clears_features: bool,
    /// New values of features, by the hash of their names.
    pub features: Vec<(Id, FeatureChange)>,
    /// The new title; none keeps it, none inside removes it.
    pub title: Option<Option<String>>,
    /// The new texts besides the title; none keeps them.
    pub texts: Option<Vec<String>>,
    /// The new picture; none keeps it, none inside removes it.
    pub image: Option<Option<String>>,
    /// New content vectors by modality name, sorted by name; others stay.
    pub vectors: Vec<(String, Vec<f32>)>,
}

/// What became of an [`ItemUpdate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// Its fields were merged into the known item.
    Merged,
    /// The item was not known and consists of these fields.
    New,
    /// The known item is newer: nothing changed.
    Stale,
}

impl ItemUpdate {
    /// The item with the new values. Without a known item, it has these values alone.
    #[must_use]
    pub fn apply(self, known: Option<&Item>) -> Item {
        let old = |field| {
            let values = known.into_iter().flat_map(move |item| item.values(field));
            values.collect::<Vec<Id>>()
        };
        let categories = self.categories.unwrap_or_else(|| old(AttributeField::Category));
        let authors = self.authors.unwrap_or_else(|| old(AttributeField::Author));
        let of = |field, values: Vec<Id>| values.into_iter().map(move |value| Attribute { field, value });
        let mut attributes: Vec<Attribute> = of(AttributeField::Category, categories).collect();
        attributes.extend(of(AttributeField::Author, authors));
        let old_names = known.map_or(&[][..], |item| &item.tag_names);
        let old_features = Features {
            values: old_names.iter().copied().zip(old(AttributeField::Tag)).collect(),
            numbers: known.map_or_else(Vec::new, |item| item.numbers.clone()),
        };
        let Features {
            values: tags,
            numbers,
        } = old_features.change(self.clears_features, self.features);
        let (tag_names, tags): (Vec<Id>, Vec<Id>) = tags.into_iter().unzip();
        attributes.sort_unstable();
        attributes.dedup();
        attributes.extend(of(AttributeField::Tag, tags));
        let n_titles = known.map_or(0, |item| usize::from(item.has_title));
        let old_texts = known.map_or(&[][..], |item| &item.texts);
        let (old_title, old_texts) = old_texts.split_at(n_titles.min(old_texts.len()));
        let title = self.title.unwrap_or_else(|| old_title.first().cloned());
        let texts = self.texts.unwrap_or_else(|| old_texts.to_vec());
        Item {
            id: self.id,
            name: self.name,
            ts: self.ts,
            attributes,
            tag_names,
            numbers,
            has_title: title.is_some(),
            texts: title.into_iter().chain(texts).collect(),
            image: self.image.unwrap_or_else(|| known?.image.clone()),
            vectors: self.vectors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Number, sort_numbers};

    const NAMES: [Id; 3] = [Id(1), Id(2), Id(3)];

    fn full() -> ItemUpdate {
        ItemUpdate {
            id: Id(7),
            name: "seven".to_owned(),
            ts: EventTime(5),
            categories: Some(vec![Id(12), Id(11), Id(12)]),
            authors: Some(vec![Id(21)]),
            features: vec![
                (NAMES[0], FeatureChange::Values(vec![Id(32), Id(31)])),
                (NAMES[1], FeatureChange::Values(vec![Id(30)])),
                (NAMES[2], FeatureChange::Number(1.5)),
            ],
            title: Some(Some("title".to_owned())),
            texts: Some(vec!["text".to_owned()]),
            image: Some(Some("a.jpg".to_owned())),
            ..ItemUpdate::default()
        }
    }

    fn update() -> ItemUpdate {
        ItemUpdate {
            id: Id(7),
            name: "seven".to_owned(),
            ts: EventTime(6),
            ..ItemUpdate::default()
        }
    }

    #[test]
    fn an_update_without_fields_changes_the_time_alone() {
        let item = full().apply(None);
        assert!(item.attributes.is_sorted());
        let expected = Item {
            ts: EventTime(6),
            ..item.clone()
        };
        assert_eq!(update().apply(Some(&item)), expected);
    }

    #[test]
    fn fields_that_are_given_replace_their_values_alone() {
        let item = full().apply(None);
        let merged = ItemUpdate {
            categories: Some(vec![Id(13)]),
            authors: Some(vec![]),
            features: vec![
                (NAMES[0], FeatureChange::Number(2.0)),
                (NAMES[2], FeatureChange::Values(vec![])),
            ],
            title: Some(None),
            image: Some(None),
            ..update()
        }
        .apply(Some(&item));
        let values = |field| merged.values(field).collect::<Vec<Id>>();
        assert_eq!(values(AttributeField::Category), [Id(13)]);
        assert_eq!(values(AttributeField::Author), []);
        assert_eq!(values(AttributeField::Tag), [Id(30)]);
        assert_eq!(merged.tag_names, [NAMES[1]]);
        let mut numbers = vec![Number {
            name: NAMES[0],
            value: 2.0,
        }];
        sort_numbers(&mut numbers);
        assert_eq!(merged.numbers, numbers);
        assert_eq!((merged.texts, merged.has_title), (vec!["text".to_owned()], false));
        assert_eq!(merged.image, None);
    }

    #[test]
    fn updates_one_by_one_make_the_item_of_one_event() {
        let whole = full();
        let parts = [
            ItemUpdate {
                title: whole.title.clone(),
                features: whole.features[..1].to_vec(),
                ..update()
            },
            ItemUpdate {
                categories: whole.categories.clone(),
                authors: whole.authors.clone(),
                features: whole.features[1..].to_vec(),
                texts: whole.texts.clone(),
                image: whole.image.clone(),
                ts: whole.ts,
                ..update()
            },
        ];
        let merged = parts
            .into_iter()
            .fold(None, |known: Option<Item>, part| Some(part.apply(known.as_ref())));
        assert_eq!(merged, Some(whole.apply(None)));
        let cleared = ItemUpdate {
            clears_features: true,
            ..update()
        };
        let cleared = cleared.apply(merged.as_ref());
        assert!(cleared.numbers.is_empty() && cleared.tag_names.is_empty());
        assert_eq!(cleared.attributes.len(), 3);
    }
}
