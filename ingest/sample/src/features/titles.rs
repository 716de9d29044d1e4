//! Words of item titles, and how a candidate's title compares with the titles that a user acted on.
//!
//! The titles of the catalog are counted as of now, so a word weighs what it weighs among the items known so far. All
//! numbers here derive from the items; dumps leave them out.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::bounded_counts::BoundedCounts;
use super::smoothing::f32_of;
use crate::{Id, IdHasher, Item};

/// Distinct words read of a title, the first ones.
const MAX_WORDS: usize = 16;
/// Shortest word that is read, characters.
const MIN_CHARS: usize = 3;
/// Title features of a candidate, without the slate-centred ones.
pub(crate) const N_TITLE: usize = 3;

/// Hashes of the distinct words of a title, in order.
pub(crate) type Words = SmallVec<[u32; MAX_WORDS]>;

/// The words of an item's first text: runs of letters and digits in lower case.
pub(crate) fn title_words(item: &Item) -> Words {
    let mut words = Words::new();
    let Some(title) = item.texts.first() else {
        return words;
    };
    let title = title.to_lowercase();
    let all = title.split(|c: char| !c.is_alphanumeric());
    for word in all.filter(|word| word.chars().count() >= MIN_CHARS) {
        let hash = (xxh3_64(word.as_bytes()) >> 32) as u32;
        if !words.contains(&hash) {
            words.push(hash);
        }
        if words.len() == MAX_WORDS {
            break;
        }
    }
    words
}

type WordMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// The title words of all items of the catalog.
#[derive(Debug, Default)]
pub(crate) struct Titles {
    words: WordMap<Id, Box<[u32]>>,
    /// Number of items by word.
    item_counts: WordMap<u32, u32>,
    /// Number of all items, those without a title included.
    n_items: u32,
}

impl Titles {
    /// Adds an item.
    pub(crate) fn add(&mut self, item: &Item) {
        self.n_items += 1;
        let words = title_words(item);
        if words.is_empty() {
            return;
        }
        for word in &words {
            *self.item_counts.entry(*word).or_default() += 1;
        }
        self.words.insert(item.id, words.into_boxed_slice());
    }

    /// Removes an item that was added before.
    pub(crate) fn remove(&mut self, item: Id) {
        self.n_items -= 1;
        for word in self.words.remove(&item).unwrap_or_default() {
            if let Some(count) = self.item_counts.get_mut(&word) {
                *count -= 1;
                if *count == 0 {
                    self.item_counts.remove(&word);
                }
            }
        }
    }

    /// Inverse document frequency of a word, `ln(items / (items with the word + 1))`, at least 0.
    fn idf(&self, word: u32) -> f32 {
        let with_word = self.item_counts.get(&word).copied().unwrap_or_default();
        (f32_of(self.n_items) / (f32_of(with_word) + 1.0)).ln().max(0.0)
    }
}

/// The words of the titles that a user acted on.
pub(crate) struct UserTitles<'a> {
    titles: &'a Titles,
    /// `ln(1 + actions) * idf` by word, sorted by word.
    weights: Vec<(u32, f32)>,
    norm: f32,
}

impl<'a> UserTitles<'a> {
    /// Weighs a user's counts of words; `None` without any.
    pub(crate) fn new(titles: &'a Titles, counts: &BoundedCounts) -> Option<Self> {
        let weight = |(word, count): (u32, u16)| (word, f32::from(count).ln_1p() * titles.idf(word));
        let weights: Vec<(u32, f32)> = counts.iter().map(weight).collect();
        let norm = weights
            .iter()
            .map(|(_, weight)| weight * weight)
            .sum::<f32>()
            .sqrt();
        (!weights.is_empty()).then_some(Self {
            titles,
            weights,
            norm,
        })
    }

    /// `[cosine, max, share]` of a candidate's title; 0 without a title.
    ///
    /// - `cosine`: cosine of the user's weights with the idf of the title's words.
    /// - `max`: largest weight of a word of the title.
    /// - `share`: share of the title's idf that is of words the user acted on.
    pub(crate) fn compare(&self, item: Id) -> [f32; N_TITLE] {
        let Some(words) = self.titles.words.get(&item) else {
            return [0.0; N_TITLE];
        };
        let (mut product, mut max, mut known) = (0.0, 0.0f32, 0.0);
        let (mut total, mut squares) = (0.0, 0.0);
        for word in words {
            let idf = self.titles.idf(*word);
            total += idf;
            squares += idf * idf;
            if let Ok(at) = self.weights.binary_search_by_key(word, |(word, _)| *word) {
                let weight = self.weights[at].1;
                product += weight * idf;
                max = max.max(weight);
                known += idf;
            }
        }
        if total <= 0.0 {
            return [0.0; N_TITLE];
        }
        let cosine = product / (squares.sqrt() * self.norm).max(f32::MIN_POSITIVE);
        [cosine, max, known / total]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::testing::item;

    fn titled(id: u64, title: &str) -> Item {
        Item {
            texts: vec![title.to_owned()],
            ..item(id)
        }
    }

    #[test]
    fn words_are_distinct_runs_of_letters_and_digits_in_lower_case() {
        let words = title_words(&titled(1, "The ÉTÉ, été -- the_ 007 of 42!"));
        let expected = ["the", "été", "007"].map(|word| (xxh3_64(word.as_bytes()) >> 32) as u32);
        assert_eq!(words.to_vec(), expected);
        let long: Vec<String> = (0..99).map(|n| format!("word{n}")).collect();
        assert_eq!(title_words(&titled(1, &long.join(" "))).len(), MAX_WORDS);
        assert!(title_words(&item(1)).is_empty());
    }

    #[test]
    fn removing_an_item_leaves_nothing_of_it() {
        let mut titles = Titles::default();
        titles.add(&titled(1, "brown fox"));
        let idf = titles.idf(title_words(&titled(1, "fox"))[0]);
        titles.add(&titled(2, "fox"));
        titles.add(&item(3));
        titles.remove(Id(2));
        titles.remove(Id(3));
        assert_eq!(
            titles.idf(title_words(&titled(1, "fox"))[0]).to_bits(),
            idf.to_bits()
        );
        titles.remove(Id(1));
        assert!(titles.words.is_empty() && titles.item_counts.is_empty() && titles.n_items == 0);
    }
}
