//! Finds items for a user or an item in the index, and ranks them in the same call.

use std::collections::HashSet;
use std::sync::Arc;

use ouzel_sample::{FeatureQuery, Id, IdKind, Item, NumberScope};

use super::Scorer;
use crate::index::ItemIndex;
use crate::retrieval::{CheckedRetrieval, IndexName, RetrievalQuery, RetrieveError, Retrieved, SeenItems};
use crate::{CheckedRequest, NamedValues, Ranker};

impl Scorer {
    /// Answers a request of `/v1/recommend` or `/v1/similar`.
    pub(super) fn find(&mut self, request: &CheckedRetrieval) -> Result<Retrieved, RetrieveError> {
        let index = self.index()?;
        let mut left_out: HashSet<Id> = self.items(&request.exclude);
        let (vector, n_wanted) = match &request.query {
            RetrievalQuery::Item(name) => {
                let id = self.ids.id(IdKind::Item, name);
                left_out.insert(id);
                let vector = index.item(id).map(<[f32]>::to_vec);
                let vector = vector.ok_or_else(|| RetrieveError::UnknownItem(name.clone()))?;
                (vector, request.k)
            }
            RetrievalQuery::User {
                user_id,
                context,
                seen,
                rank,
            } => {
                let user = self.ids.id(IdKind::User, user_id);
                let vector = self.user_vector(&index, user, context, *seen, &mut left_out);
                (vector, rank.unwrap_or(request.k))
            }
        };
        let filter: Vec<HashSet<Id>> = request.filter.iter().map(|values| self.values(values)).collect();
        let is_wanted = |item: &Item| {
            let has = |wanted: &HashSet<Id>| item.attributes.iter().any(|a| wanted.contains(&a.value));
            !left_out.contains(&item.id) && filter.iter().all(has)
        };
        let found = index.nearest(&vector, n_wanted, is_wanted);
        let items: Vec<(String, f32)> = found
            .into_iter()
            .map(|(item, similarity)| (item.name.clone(), similarity))
            .collect();
        let loaded = index.version();
        let mut retrieved = Retrieved {
            index: IndexName {
                snapshot: loaded.value.snapshot().to_owned(),
                version: loaded.version,
                items: index.len(),
            },
            items,
            ranked: None,
        };
        if let RetrievalQuery::User {
            user_id,
            context,
            rank: Some(_),
            ..
        } = &request.query
            && !retrieved.items.is_empty()
        {
            let request = CheckedRequest {
                user_id: user_id.clone(),
                items: retrieved.items.iter().map(|(name, _)| name.clone()).collect(),
                features: vec![NamedValues::default(); retrieved.items.len()],
                context: context.clone(),
                top_k: Some(request.k),
            };
            let n_items = request.items.len();
            let ranked = self.rank(&request)?.checked(n_items)?;
            retrieved.ranked = Some((request, ranked));
        }
        Ok(retrieved)
    }

    /// The newest index.
    fn index(&self) -> Result<Arc<ItemIndex>, RetrieveError> {
        if let Some(index) = self.indexes.as_ref().and_then(|indexes| indexes.load()) {
            return Ok(index.value);
        }
        let served = self.published.load();
        let has_towers = served.is_none_or(|served| served.value.weights.config.retrieval.is_on());
        Err(match has_towers {
            true => RetrieveError::NotIndexed,
            false => RetrieveError::NoTowers,
        })
    }

    /// The vector of a user as of now. Adds the items that the user has seen to those left out.
    fn user_vector(
        &self,
        index: &ItemIndex,
        user: Id,
        context: &NamedValues,
        seen: SeenItems,
        left_out: &mut HashSet<Id>,
    ) -> Vec<f32> {
        let (state, now) = ((self.features)(), (self.now)());
        if seen != SeenItems::None {
            left_out.extend(state.acted_items(user, now));
        }
        if seen == SeenItems::Shown {
            left_out.extend(state.shown_items(user, now));
        }
        let context = self.named(NumberScope::Context, context);
        let (request, _) = state.read(&FeatureQuery {
            request: Id::default(),
            user,
            ts: now,
            context: &context.values,
            numbers: &context.numbers,
            items: &[],
            slate_size: None,
        });
        index.user(&request)
    }

    fn items(&self, names: &[String]) -> HashSet<Id> {
        names.iter().map(|name| self.ids.id(IdKind::Item, name)).collect()
    }

    /// The attribute values of one name, as the decoder of items hashes them.
    fn values(&self, (name, values): &(String, Vec<String>)) -> HashSet<Id> {
        values
            .iter()
            .map(|value| self.ids.attribute(name, value))
            .collect()
    }
}
