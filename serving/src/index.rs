//! The vectors of all items of the catalog under one version, searched exactly.
//!
//! An index belongs to one version: the vector of a user comes from the same towers as those of the items. [`run_indexer`]
//! makes a new one when a version was published or the catalog changed, off the path of requests. Until it is done,
//! requests use the one before, which the reply names.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{gauge, histogram};
use ouzel_model::{TowerInputs, Towers, catalog, similarities};
use ouzel_sample::{FeatureState, Id, IdHasher, Item, Request};

use crate::metrics::{INDEX_ITEMS, INDEX_LEFT_OUT, INDEX_SECONDS};
use crate::scorer::Features;
use crate::{LoadedVersion, Published, Version};

/// Most items of an index: an exact search beyond would take longer than a request may. Items with older events are left
/// out, counted and logged.
pub const MAX_INDEX_ITEMS: usize = 1_000_000;
/// Items whose vectors are computed in one call, as a bound on memory.
const CHUNK: usize = 4096;
/// How often the indexer looks for a new version.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Shortest time between the starts of two indexes.
const BUILD_EVERY: Duration = Duration::from_secs(1);
/// An index that took a time is followed by this many times as long without one: indexing takes a fifth of a core at most.
const PAUSE: u32 = 4;

/// The items of the catalog with their vectors under one version.
pub struct ItemIndex {
    loaded: LoadedVersion<Version>,
    towers: Towers,
    items: Vec<Arc<Item>>,
    /// `[n_items, width]`, each of length 1.
    vectors: Vec<f32>,
    places: HashMap<Id, usize, BuildHasherDefault<IdHasher>>,
    /// Items of the catalog that are not in it.
    n_left_out: usize,
}

impl ItemIndex {
    /// The index of a version with towers; none for one without.
    ///
    /// # Errors
    /// When a weight of the towers is missing.
    pub fn build(
        loaded: LoadedVersion<Version>,
        features: &FeatureState,
    ) -> Result<Option<Self>, ouzel_model::Error> {
        let weights = loaded.value.weights();
        if !weights.config.retrieval.is_on() {
            return Ok(None);
        }
        let towers = Towers::of_version(weights)?;
        let n_items = features.n_items();
        let (items, read): (Vec<_>, Vec<_>) = catalog(features, MAX_INDEX_ITEMS).into_iter().unzip();
        let mut vectors = Vec::with_capacity(items.len() * towers.width());
        for chunk in read.chunks(CHUNK) {
            let mut inputs = TowerInputs::default();
            chunk.iter().for_each(|item| inputs.add_item(item));
            vectors.extend(towers.items(&inputs, &weights.read_tower_rows(inputs.keys())));
        }
        let places = items.iter().map(|item| item.id).zip(0..).collect();
        Ok(Some(Self {
            n_left_out: n_items.saturating_sub(items.len()),
            loaded,
            towers,
            items,
            vectors,
            places,
        }))
    }

    /// The version that it belongs to.
    pub fn version(&self) -> &LoadedVersion<Version> {
        &self.loaded
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it has no item.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The vector of a user, `[width]`.
    pub(crate) fn user(&self, request: &Request) -> Vec<f32> {
        let weights = self.loaded.value.weights();
        let mut inputs = TowerInputs::default();
        inputs.add_user(&weights.config, request);
        self.towers
            .users(&inputs, &weights.read_tower_rows(inputs.keys()))
    }

    /// The vector of an item, `[width]`, if the index has it.
    pub(crate) fn item(&self, id: Id) -> Option<&[f32]> {
        let width = self.towers.width();
        let place = self.places.get(&id)?;
        self.vectors.get(place * width..(place + 1) * width)
    }

    /// The `k` items closest to a vector among those that `is_wanted`, the closest first, with their cosines.
    pub(crate) fn nearest(
        &self,
        vector: &[f32],
        k: usize,
        is_wanted: impl Fn(&Item) -> bool,
    ) -> Vec<(Arc<Item>, f32)> {
        let mut best: BinaryHeap<Found> = BinaryHeap::with_capacity(k.saturating_add(1).min(self.len() + 1));
        for (place, similarity) in similarities(vector, &self.vectors).into_iter().enumerate() {
            let found = Found { similarity, place };
            let is_better = best.len() < k || best.peek().is_some_and(|worst| found < *worst);
            if !is_better || !similarity.is_finite() || !is_wanted(&self.items[place]) {
                continue;
            }
            best.push(found);
            if best.len() > k {
                best.pop();
            }
        }
        let best = best.into_sorted_vec().into_iter();
        best.map(|found| (Arc::clone(&self.items[found.place]), found.similarity))
            .collect()
    }
}

/// An item with its similarity; the smallest is the best, of equal ones the first of the index.
#[derive(Clone, Copy, Debug)]
struct Found {
    similarity: f32,
    place: usize,
}

impl Ord for Found {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_similarity = other.similarity.total_cmp(&self.similarity);
        by_similarity.then(self.place.cmp(&other.place))
    }
}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Found {}

/// Keeps `indexes` up to date with `published` and the catalog until `is_done`.
pub fn run_indexer(
    published: &Published<Version>,
    features: &Features,
    indexes: &Published<ItemIndex>,
    is_done: impl Fn() -> bool,
) {
    let mut indexed = (0, 0);
    let mut next = Instant::now();
    while !is_done() {
        std::thread::sleep(LOOK_EVERY);
        indexes.sweep();
        let state = features();
        let Some(loaded) = published.load() else { continue };
        let present = (loaded.version, state.n_items());
        if present == indexed || Instant::now() < next {
            continue;
        }
        let started = Instant::now();
        match ItemIndex::build(loaded, &state) {
            Ok(Some(index)) => {
                gauge!(INDEX_ITEMS).set(index.len() as f64);
                gauge!(INDEX_LEFT_OUT).set(index.n_left_out as f64);
                if index.n_left_out > 0 {
                    let n = index.n_left_out;
                    tracing::warn!(
                        n,
                        "the catalog has more items than an index holds: those with the oldest events are left out"
                    );
                }
                indexes.publish(Arc::new(index));
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "no index of the catalog: its requests use the one before"),
        }
        indexed = present;
        let took = started.elapsed();
        histogram!(INDEX_SECONDS).record(took);
        next = Instant::now() + (took * PAUSE).max(BUILD_EVERY.saturating_sub(took));
    }
}
