//! The JSON contract of `POST /v1/recommend` and `/v1/similar`, and the checks of a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::request::{check_features, check_id};
use crate::{
    CheckedRequest, InvalidRequest, NamedValues, RankError, RankResponse, Ranked, ScoredBy, ScoredItem,
    Variant,
};

/// Most items of `exclude`, and most values of `filter`.
pub const MAX_EXCLUDED: usize = 10_000;
/// Candidates that are ranked for each item of the reply, where the request does not say.
const CANDIDATES_PER_ITEM: usize = 10;

/// Which items that the user has seen are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeenItems {
    /// Those that the user acted on.
    #[default]
    Acted,
    /// These, and those that were shown to the user.
    Shown,
    /// None.
    None,
}

/// Body of `POST /v1/recommend`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecommendRequest {
    /// The user.
    pub user_id: String,
    /// Number of items to return.
    pub k: usize,
    /// Context values by name, as in a rank request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Map<String, Value>>,
    /// Which seen items are left out.
    #[serde(default)]
    pub leave_out_seen: SeenItems,
    /// Items that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Values that an item must have, by attribute: `category`, `author`, or the name of a feature. Of several values of an
    /// attribute, one suffices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Map<String, Value>>,
    /// Whether the ranker orders what was found.
    #[serde(default)]
    pub rank: bool,
    /// With `rank`, number of items found and ranked, of which the best `k` are returned; `10 * k` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates: Option<usize>,
    /// Returned in the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Body of `POST /v1/similar`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimilarRequest {
    /// The item that others are similar to.
    pub item_id: String,
    /// Number of items to return.
    pub k: usize,
    /// Items that are left out, beside the item itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Values that an item must have, as in a recommend request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Map<String, Value>>,
    /// Returned in the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// What items are close to.
#[derive(Clone, Debug, PartialEq)]
pub enum RetrievalQuery {
    /// A user.
    User {
        /// The user, 1 to 512 bytes.
        user_id: String,
        /// Context values.
        context: NamedValues,
        /// Which seen items are left out.
        seen: SeenItems,
        /// Number of items to be ranked, if any is.
        rank: Option<usize>,
    },
    /// An item, 1 to 512 bytes.
    Item(String),
}

/// A request of either route that passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckedRetrieval {
    /// What items are close to.
    pub query: RetrievalQuery,
    /// Number of items to return, 1 to `serving.max_candidates`.
    pub k: usize,
    /// Items that are left out.
    pub exclude: Vec<String>,
    /// Values that an item must have, by attribute.
    pub filter: Vec<(String, Vec<String>)>,
}

/// Why a well-formed request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages describe variants and fields")]
pub enum RetrieveError {
    #[error(
        "the model has no towers: set model.retrieval.width, and `ouzel snapshot migrate` keeps the rest"
    )]
    NoTowers,
    #[error("no version is indexed yet")]
    NotIndexed,
    #[error("item_id {0:?} is not in the catalog: send it to the items topic first")]
    UnknownItem(String),
    #[error(transparent)]
    Rank(#[from] RankError),
}

/// The items that were found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retrieved {
    /// The index that they were found in.
    pub index: IndexName,
    /// Their ids with their similarities, the most similar first.
    pub items: Vec<(String, f32)>,
    /// The same items in the same order as a rank request, with its scores, if they were ranked.
    pub ranked: Option<(CheckedRequest, Ranked)>,
}

/// Names the index that items were found in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexName {
    /// The snapshot of its version.
    pub snapshot: String,
    /// Number of its version.
    pub version: u64,
    /// Number of items in it.
    pub items: usize,
}

/// Reply of both routes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievalResponse {
    /// Present if the fallback ranked, because no version could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ScoredBy>,
    /// Present if a canary ranked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// The snapshot of the version that ranked; absent without `rank`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub snapshot: String,
    /// Number of the version that ranked; absent without `rank`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The index that the items were found in.
    pub index: IndexName,
    /// The request's id, when it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Best first.
    pub items: Vec<RetrievedItem>,
}

/// One item that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievedItem {
    /// The item.
    pub item_id: String,
    /// Cosine of its vector and that of the user or item, in `[-1, 1]`.
    pub similarity: f32,
    /// The ranker's score, with `rank`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// Probability of each task, with `rank`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<Arc<str>, f32>,
}

impl RecommendRequest {
    /// Checks the request, which may ask for at most `max_items` items.
    ///
    /// # Errors
    /// The first violation, with its field.
    pub fn check(self, max_items: usize) -> Result<CheckedRetrieval, InvalidRequest> {
        check_id(&self.user_id, || "user_id".to_owned())?;
        check_request_id(self.request_id.as_deref())?;
        check_count("k", self.k, max_items)?;
        if let Some(candidates) = self.candidates {
            check_count("candidates", candidates, max_items)?;
            if candidates < self.k || !self.rank {
                return Err(InvalidRequest::UselessCandidates { k: self.k });
            }
        }
        let usual = self.k.saturating_mul(CANDIDATES_PER_ITEM).min(max_items);
        let rank = self.rank.then(|| self.candidates.unwrap_or(usual));
        Ok(CheckedRetrieval {
            query: RetrievalQuery::User {
                user_id: self.user_id,
                context: check_features(self.context.unwrap_or_default(), || "context".to_owned())?,
                seen: self.leave_out_seen,
                rank,
            },
            k: self.k,
            exclude: check_excluded(self.exclude)?,
            filter: check_filter(self.filter)?,
        })
    }
}

impl SimilarRequest {
    /// Checks the request, which may ask for at most `max_items` items.
    ///
    /// # Errors
    /// The first violation, with its field.
    pub fn check(self, max_items: usize) -> Result<CheckedRetrieval, InvalidRequest> {
        check_id(&self.item_id, || "item_id".to_owned())?;
        check_request_id(self.request_id.as_deref())?;
        check_count("k", self.k, max_items)?;
        Ok(CheckedRetrieval {
            query: RetrievalQuery::Item(self.item_id),
            k: self.k,
            exclude: check_excluded(self.exclude)?,
            filter: check_filter(self.filter)?,
        })
    }
}

fn check_request_id(request_id: Option<&str>) -> Result<(), InvalidRequest> {
    request_id.map_or(Ok(()), |id| check_id(id, || "request_id".to_owned()))
}

fn check_count(field: &'static str, n: usize, max: usize) -> Result<(), InvalidRequest> {
    match n {
        0 => Err(InvalidRequest::ZeroItems { field }),
        n if n > max => Err(InvalidRequest::TooManyWanted { field, n, max }),
        _ => Ok(()),
    }
}

fn check_excluded(exclude: Vec<String>) -> Result<Vec<String>, InvalidRequest> {
    if exclude.len() > MAX_EXCLUDED {
        return Err(InvalidRequest::TooManyExcluded { n: exclude.len() });
    }
    for (index, item) in exclude.iter().enumerate() {
        check_id(item, || format!("exclude[{index}]"))?;
    }
    Ok(exclude)
}

/// Reads the wanted values by attribute. A number is refused: an item has it in a bucket, which no equality finds.
fn check_filter(filter: Option<Map<String, Value>>) -> Result<Vec<(String, Vec<String>)>, InvalidRequest> {
    let mut checked = BTreeMap::<String, Vec<String>>::new();
    let values = check_features(filter.unwrap_or_default(), || "filter".to_owned())?;
    if let Some((name, _)) = values.numbers.into_iter().next() {
        return Err(InvalidRequest::NumberInFilter { name });
    }
    for (name, value) in values.categories {
        checked.entry(name).or_default().push(value);
    }
    Ok(checked.into_iter().collect())
}

impl RetrievalResponse {
    /// Makes the reply of at most `k` items; those of a ranker by its scores.
    pub fn new(retrieved: Retrieved, k: usize, request_id: Option<String>) -> Self {
        let Retrieved { index, items, ranked } = retrieved;
        let Some((request, ranked)) = ranked else {
            let found = |(item_id, similarity)| RetrievedItem {
                item_id,
                similarity,
                score: None,
                tasks: BTreeMap::new(),
            };
            return Self {
                model: None,
                variant: None,
                snapshot: String::new(),
                version: None,
                index,
                request_id,
                items: items.into_iter().take(k).map(found).collect(),
            };
        };
        let similarity: BTreeMap<String, f32> = items.into_iter().collect();
        let response = RankResponse::new(&request, &ranked, request_id);
        let found = |item: ScoredItem| RetrievedItem {
            similarity: similarity.get(&item.item_id).copied().unwrap_or(0.0),
            item_id: item.item_id,
            score: Some(item.score),
            tasks: item.tasks,
        };
        Self {
            model: response.model,
            variant: response.variant,
            snapshot: response.snapshot,
            version: Some(response.version),
            index,
            request_id: response.request_id,
            items: response.items.into_iter().take(k).map(found).collect(),
        }
    }
}
