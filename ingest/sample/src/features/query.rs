//! Reading features: the one definition of every feature, for training and serving.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::counter::CounterScope;
use super::dense::{Dense, Feature, N_DENSE};
use super::numbers::merged;
use super::request::RequestFeatures;
use super::similarity::{N_PAST, N_SIMILARITY, PastContent};
use super::smoothing::{FieldSums, f32_of, ln1p, mean, seconds};
use super::state::{FeatureState, read};
use super::titles::{N_TITLE, UserTitles};
use super::vector_map::VectorMap;
use super::vectors::{N_MODALITIES, VectorId};
use crate::{
    Attribute, AttributeField, Candidate, EventTime, HistoryEntry, Id, IdHasher, Impression, Item, Number,
    Request, ShownFeatures, ShownItem, ShownLogits, primary_attribute,
};

/// A request for the features of some items for one user, as of a time.
#[derive(Clone, Copy, Debug)]
pub struct FeatureQuery<'a> {
    /// Id of the slate.
    pub request: Id,
    /// The user.
    pub user: Id,
    /// Event time as of which histories and decays are read.
    pub ts: EventTime,
    /// Categorical values of the request.
    pub context: &'a [Id],
    /// Numeric values of the request, sorted by name.
    pub numbers: &'a [Number],
    /// The candidates.
    pub items: &'a [ShownItem],
    /// Number of items that will be shown; none: all of `items`.
    pub slate_size: Option<u16>,
}

impl<'a> FeatureQuery<'a> {
    /// The query for the features of an impression, of whose slate every item is shown.
    #[must_use]
    pub fn of(impression: &'a Impression) -> Self {
        Self {
            request: impression.request,
            user: impression.user,
            ts: impression.ts,
            context: &impression.context,
            numbers: &impression.numbers,
            items: &impression.items,
            slate_size: None,
        }
    }
}

/// `item_action_age` of an item without actions, `ln(1 + minutes)`: about two days.
const NEVER_ACTED_ON: f32 = 8.0;
/// Prior weights of the global share of a category, and of an author or tag: actions.
const PRIOR_VALUE_ACTIONS: [f32; 3] = [20.0, 200.0, 200.0];

impl FeatureState {
    /// The features of `query.items` as of `query.ts`; counters include every event written so far.
    #[must_use]
    pub fn read(&self, query: &FeatureQuery<'_>) -> (Request, Vec<Candidate>) {
        let shared = self.request_features(query);
        let candidate = |shown: &ShownItem| {
            let item = self.item(shown.item);
            Candidate {
                item: shown.item,
                position: shown.position,
                dense: Dense::new(self.item_features(query, &shared, shown.item, item.as_deref())),
                content: self.content(shown.item),
                attributes: self.attributes(item.as_deref(), &shown.features),
                past: None,
                predicted: ShownLogits::default(),
            }
        };
        let mut candidates: Vec<Candidate> = query.items.iter().map(candidate).collect();
        self.fill_similarities(&shared, &mut candidates);
        self.fill_titles(&shared, &mut candidates);
        centre(&mut candidates);
        let past = self.search_past(query, &mut candidates);
        let history = shared.history;
        let newest = history.len().saturating_sub(self.config.history_contents);
        let contents = history[newest..].iter().map(|entry| self.content(entry.item));
        let request = Request {
            contents: contents.collect(),
            id: query.request,
            user: query.user,
            ts: query.ts,
            context: shared.context,
            history,
            past,
            n_items: u16::try_from(query.items.len()).unwrap_or(u16::MAX),
        };
        (request, candidates)
    }

    /// Searches the user's long past for the primary attribute of each candidate, as of the query. Returns the lists,
    /// each once, and sets the candidates' places among them.
    fn search_past(&self, query: &FeatureQuery<'_>, candidates: &mut [Candidate]) -> Vec<Vec<HistoryEntry>> {
        let mut lists = Vec::new();
        let user = self.users.get(&query.user);
        let Some(long) = user.as_ref().and_then(|user| user.long()) else {
            return lists;
        };
        let mut places: HashMap<Id, Option<u16>, BuildHasherDefault<IdHasher>> = HashMap::default();
        for candidate in candidates {
            let key = primary_attribute(&candidate.attributes);
            candidate.past = *places.entry(key).or_insert_with(|| {
                let place = u16::try_from(lists.len()).ok()?;
                let list = long.search(key, query.ts, self.config.long_len);
                if list.is_empty() {
                    return None;
                }
                lists.push(list);
                Some(place)
            });
        }
        lists
    }

    /// The content vectors that these requests and candidates refer to.
    #[must_use]
    pub fn vectors_of<'a>(
        &self,
        requests: impl Iterator<Item = &'a Request>,
        candidates: impl Iterator<Item = &'a Candidate>,
    ) -> VectorMap {
        if self.config.history_contents == 0 || self.vectors.is_empty() {
            return VectorMap::default();
        }
        let past = requests.flat_map(|request| request.contents.iter().copied());
        let ids = past.chain(candidates.map(|candidate| candidate.content));
        VectorMap::new(&self.vectors.read(), ids)
    }

    /// The categorical values of an item in a request: those of the item, those of the request, and buckets of numbers.
    fn attributes(&self, item: Option<&Item>, shown: &ShownFeatures) -> Vec<Attribute> {
        let (mut attributes, of_item) = match item {
            Some(item) => (item.attributes.clone(), &item.numbers[..]),
            None => (Vec::new(), &[][..]),
        };
        let of_request = shown.values.iter().map(|value| Attribute {
            field: AttributeField::Shown,
            value: *value,
        });
        attributes.extend(of_request);
        read(&self.item_numbers).buckets(&merged(of_item, &shown.numbers), |value| {
            attributes.push(Attribute {
                field: AttributeField::Number,
                value,
            });
        });
        attributes
    }

    /// The current content of an item; `NONE` when the model reads no content.
    fn content(&self, item: Id) -> VectorId {
        if self.config.history_contents == 0 {
            VectorId::NONE
        } else {
            self.vectors.current(item)
        }
    }

    /// Features of one candidate, except similarities and those centred over the slate.
    fn item_features(
        &self,
        query: &FeatureQuery<'_>,
        shared: &RequestFeatures,
        id: Id,
        item: Option<&Item>,
    ) -> [f32; N_DENSE] {
        let smoothing = &shared.smoothing;
        let mut values = shared.values;
        if let Some(counter) = self.counter(CounterScope::Item, id) {
            let (impressions, actions) = counter.recent(query.ts, &self.config);
            values[Feature::item_ctr as usize] = smoothing.ctr(Some(&counter));
            values[Feature::item_impressions as usize] = ln1p(f32_of(counter.impressions));
            values[Feature::item_fast_ctr as usize] = smoothing.average(counter.fast);
            values[Feature::item_slow_ctr as usize] = smoothing.average(counter.slow);
            values[Feature::item_recent_impressions as usize] = ln1p(impressions);
            values[Feature::item_recent_actions as usize] = ln1p(actions);
            let age = seconds(query.ts.since_ms(counter.first));
            values[Feature::item_age as usize] = ln1p(age / 3600.0);
        }
        let acted = self.counter(CounterScope::ItemActions, id);
        values[Feature::item_action_age as usize] = acted.map_or(NEVER_ACTED_ON, |counter| {
            ln1p(seconds(query.ts.since_ms(counter.last)) / 60.0)
        });
        if let Some(item) = item {
            let [category, author, tag] = self.field_sums(shared, item, query.user);
            let mut fill = |at: Feature, means: &[f32]| {
                values[at as usize..at as usize + means.len()].copy_from_slice(means);
            };
            fill(Feature::category_ctr, &category.all_users.mean(category.n_values));
            fill(Feature::author_ctr, &author.all_users.mean(author.n_values));
            fill(Feature::tag_ctr, &tag.all_users.mean(tag.n_values)[..1]);
            fill(Feature::user_category_ctr, &category.user.mean(category.n_values));
            fill(Feature::user_author_ctr, &author.user.mean(author.n_values));
            fill(Feature::user_tag_ctr, &tag.user.mean(tag.n_values)[..1]);
            fill(
                Feature::category_share,
                &[category, author, tag].map(|field| field.mean_share()),
            );
        }
        if let Some(counter) = self.counter(CounterScope::UserItem, query.user.pair(id)) {
            values[Feature::user_item_ctr as usize] = smoothing.ctr(Some(&counter));
            values[Feature::user_item_impressions as usize] = ln1p(f32_of(counter.impressions));
            values[Feature::user_item_actions as usize] = ln1p(f32_of(counter.actions));
        }
        values
    }

    /// Sums over the counters of an item's values, by field: category, author, tag.
    fn field_sums(&self, shared: &RequestFeatures, item: &Item, user: Id) -> [FieldSums; 3] {
        let smoothing = &shared.smoothing;
        let mut fields = [FieldSums::default(); 3];
        for Attribute { field, value } in &item.attributes {
            let at = match field {
                AttributeField::Category => 0,
                AttributeField::Author => 1,
                AttributeField::Tag => 2,
                AttributeField::Context | AttributeField::Shown | AttributeField::Number => continue,
            };
            let sums = &mut fields[at];
            sums.n_values += 1.0;
            let all_users = self.counter(CounterScope::Attribute, *value);
            sums.all_users.add(smoothing, all_users.as_ref());
            let of_user = self.counter(CounterScope::UserAttribute, user.pair(*value));
            sums.user.add(smoothing, of_user.as_ref());
            if shared.clicks.n() > 0 {
                let all_users = self.counter(CounterScope::ValueActions, *value);
                let actions = f32_of(all_users.map_or(0, |counter| counter.actions));
                let expected = (actions + 1.0) / (shared.n_actions + PRIOR_VALUE_ACTIONS[at]);
                sums.share += shared.clicks.log_share(*value, expected);
            }
        }
        fields
    }

    /// Fills the features that compare a candidate's content with the content of the user's past items.
    fn fill_similarities(&self, shared: &RequestFeatures, candidates: &mut [Candidate]) {
        if self.vectors.is_empty() {
            return;
        }
        let acted = || {
            let primary = shared.history.iter().filter(|entry| entry.task == 0);
            primary.map(|entry| entry.item)
        };
        let rate = shared.smoothing.rate;
        let passed = shared
            .shown
            .iter()
            .filter(|item| !acted().any(|acted| acted == **item));
        let current = |item: Id| self.vectors.current(item);
        let n_acted = acted().count();
        let (vectors, means) = (self.vectors.read(), self.vectors.means());
        let past = PastContent::new(
            &vectors,
            &means,
            acted().skip(n_acted.saturating_sub(N_PAST)).map(current),
            passed.take(N_PAST).map(|item| current(*item)),
        );
        if past.is_empty() {
            return;
        }
        for candidate in candidates {
            let Some(content) = vectors.get(current(candidate.item)) else {
                continue;
            };
            for modality in 0..N_MODALITIES {
                let at = first_similarity(modality);
                let values = &mut candidate.dense.values_mut()[at..at + N_SIMILARITY];
                values.copy_from_slice(&past.compare(content, modality, rate));
            }
        }
    }

    /// Fills the features that compare a candidate's title with the titles that the user acted on.
    fn fill_titles(&self, shared: &RequestFeatures, candidates: &mut [Candidate]) {
        let titles = read(&self.titles);
        let Some(user) = UserTitles::new(&titles, shared.clicks.words()) else {
            return;
        };
        for candidate in candidates {
            let at = Feature::title_cosine as usize;
            let values = &mut candidate.dense.values_mut()[at..at + N_TITLE];
            values.copy_from_slice(&user.compare(candidate.item));
        }
    }
}

/// The index of the first similarity feature of a modality; its slate-centred features follow its plain ones.
fn first_similarity(modality: usize) -> usize {
    Feature::text_mean as usize + 2 * N_SIMILARITY * modality
}

/// Indices of each feature that is compared with its slate, and of the feature that holds its distance from the slate's mean.
pub fn centred_pairs() -> impl Iterator<Item = (usize, usize)> {
    let pairs = |from: Feature, to: Feature, n: usize| (from as usize..).zip(to as usize..).take(n);
    let shares = pairs(Feature::category_share, Feature::slate_category_share, 3);
    let titles = pairs(Feature::title_cosine, Feature::slate_title_cosine, N_TITLE);
    let counts = [
        (Feature::item_ctr, Feature::slate_item_ctr),
        (Feature::item_impressions, Feature::slate_item_impressions),
        (Feature::item_fast_ctr, Feature::slate_item_fast_ctr),
        (
            Feature::item_recent_impressions,
            Feature::slate_item_recent_impressions,
        ),
    ];
    let counts = counts.map(|(from, to)| (from as usize, to as usize));
    let similarities = (0..N_MODALITIES).flat_map(|modality| {
        let from = first_similarity(modality);
        (from..from + N_SIMILARITY).map(|from| (from, from + N_SIMILARITY))
    });
    counts.into_iter().chain(shares).chain(titles).chain(similarities)
}

/// Fills the slate-centred features of a slate: an item's value minus the mean over the slate.
fn centre(slate: &mut [Candidate]) {
    for (from, to) in centred_pairs() {
        let mean = mean(slate.iter().map(|candidate| candidate.dense[from]));
        for candidate in slate.iter_mut() {
            let values = candidate.dense.values_mut();
            values[to] = values[from] - mean;
        }
    }
}
