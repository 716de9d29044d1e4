//! The JSON contract of `POST /v1/rank` in both directions, and the checks of a request.
//!
//! It turns a [`RankRequest`] into a [`CheckedRequest`], and scores into a [`RankResponse`]; the
//! [`client`](crate::client) uses the same types. It knows neither sockets nor models.
//!
//! Unknown fields are refused by name, because a misspelt `context` would silently cost quality forever. A duplicate
//! item is refused too, as in the event log: dropping one copy would silently return fewer items than were sent.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ouzel_sample::{MAX_ID_BYTES, finite_f32, is_category_name};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};
use thiserror::Error;

use crate::retrieval::MAX_EXCLUDED;
use crate::{CheckedRequest, NamedValues, Ranked, Variant};

/// Most context values of one request, and most features of a candidate, as many as an impression may have.
pub const MAX_CONTEXT: usize = 512;

/// Body of `POST /v1/rank`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankRequest {
    /// The user.
    pub user_id: String,
    /// The candidates.
    pub items: Vec<RankItem>,
    /// Context values by name: a string, number or boolean, or a list of them, as in the impressions topic. `null` and
    /// the empty string count as absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Map<String, Value>>,
    /// Returned in the reply; the impression that follows should have the same id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Number of best items to return; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
}

/// A candidate: its id alone, or an object with the features that it has in this request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "each of `items` must be an id or an object of `item_id` and `features`"
)]
pub enum RankItem {
    /// The id.
    Id(String),
    /// The id with features.
    Described(DescribedItem),
}

/// A candidate with features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribedItem {
    /// The id.
    pub item_id: String,
    /// Values by name, as in `items[].features` of the impressions topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Map<String, Value>>,
}

impl From<String> for RankItem {
    fn from(item_id: String) -> Self {
        Self::Id(item_id)
    }
}

impl RankItem {
    fn into_parts(self) -> (String, Option<Map<String, Value>>) {
        match self {
            Self::Id(item_id) => (item_id, None),
            Self::Described(described) => (described.item_id, described.features),
        }
    }
}

/// What scored a reply or a candidate where the model did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoredBy {
    /// The popularity of the item by the live counters.
    Fallback,
}

/// Reply of `POST /v1/rank`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankResponse {
    /// Present if the fallback scored every candidate, because no version could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ScoredBy>,
    /// Present if a canary scored; snapshot and version are then those of the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// The snapshot of the version; absent if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub snapshot: String,
    /// Number of the version that computed all scores; 0 if there is none.
    pub version: u64,
    /// The request's id, when it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Best first; equal scores in the order of the request.
    pub items: Vec<ScoredItem>,
}

/// One candidate with its scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredItem {
    /// The item.
    pub item_id: String,
    /// Present if the fallback scored this candidate alone, because its scores by the version are not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ScoredBy>,
    /// The value that orders the items.
    pub score: f32,
    /// Probability of each task by name; the fallback knows the first task only.
    pub tasks: BTreeMap<Arc<str>, f32>,
}

/// Why a well-formed request is not scored.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages describe variants and fields")]
pub enum InvalidRequest {
    #[error("{field} is empty")]
    EmptyId { field: String },
    #[error("{field} has {n_bytes} bytes, at most {MAX_ID_BYTES} are allowed")]
    LongId { field: String, n_bytes: usize },
    #[error("items is empty, there is nothing to rank")]
    NoItems,
    #[error("items has {n_items} entries, the limit is serving.max_candidates = {max}")]
    TooManyItems { n_items: usize, max: usize },
    #[error("items[{index}] repeats {item:?}")]
    DuplicateItem { index: usize, item: String },
    #[error("top_k is 0, leave it out to get every item")]
    ZeroTopK,
    #[error("{field} has {n_values} values, at most {MAX_CONTEXT} are allowed")]
    TooManyValues { field: String, n_values: usize },
    #[error("{field}.{name} must be a string, a number, a boolean or a list of them")]
    NestedValue { field: String, name: String },
    #[error("{field}.{name} does not fit a 32-bit float")]
    LargeNumber { field: String, name: String },
    #[error("{field} is 0, ask for at least one item")]
    ZeroItems { field: &'static str },
    #[error("{field} is {n}, the limit is serving.max_candidates = {max}")]
    TooManyWanted {
        field: &'static str,
        n: usize,
        max: usize,
    },
    #[error("candidates needs rank = true and at least k = {k} items")]
    UselessCandidates { k: usize },
    #[error("exclude has {n} items, at most {MAX_EXCLUDED} are allowed")]
    TooManyExcluded { n: usize },
    #[error(
        "filter.{name} is a number: items are filtered by text values, send it as a string if items have it as one"
    )]
    NumberInFilter { name: String },
}

impl RankRequest {
    /// Checks the request against the contract, with at most `max_items` candidates.
    ///
    /// # Errors
    /// The first violation, with its field.
    pub fn check(self, max_items: usize) -> Result<CheckedRequest, InvalidRequest> {
        check_id(&self.user_id, || "user_id".to_owned())?;
        if let Some(request_id) = &self.request_id {
            check_id(request_id, || "request_id".to_owned())?;
        }
        if self.items.is_empty() {
            return Err(InvalidRequest::NoItems);
        }
        if self.items.len() > max_items {
            return Err(InvalidRequest::TooManyItems {
                n_items: self.items.len(),
                max: max_items,
            });
        }
        let (items, described): (Vec<String>, Vec<_>) =
            self.items.into_iter().map(RankItem::into_parts).unzip();
        let mut seen = HashSet::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            check_id(item, || format!("items[{index}]"))?;
            if !seen.insert(item.as_str()) {
                return Err(InvalidRequest::DuplicateItem {
                    index,
                    item: item.clone(),
                });
            }
        }
        if self.top_k == Some(0) {
            return Err(InvalidRequest::ZeroTopK);
        }
        let features = described
            .into_iter()
            .enumerate()
            .map(|(index, features)| match features {
                Some(features) => check_features(features, || format!("items[{index}].features")),
                None => Ok(NamedValues::default()),
            });
        let features = features.collect::<Result<_, _>>()?;
        let context = check_features(self.context.unwrap_or_default(), || "context".to_owned())?;
        Ok(CheckedRequest {
            user_id: self.user_id,
            items,
            features,
            context,
            top_k: self.top_k,
        })
    }
}

impl RankResponse {
    /// Makes the reply: the best `top_k` items first, ties in the order of the request.
    ///
    /// Candidates that the fallback scored beside the model's come last, the most popular first. `ranked` must have passed
    /// [`Ranked::checked`].
    pub fn new(request: &CheckedRequest, ranked: &Ranked, request_id: Option<String>) -> Self {
        let n_tasks = ranked.tasks.len();
        let is_fallback = ranked.is_fallback();
        // Present for the candidates that come last.
        let popularity = |index: &usize| {
            let is_alone = !is_fallback && ranked.fallback.contains(index);
            is_alone.then(|| ranked.probabilities.get(index * n_tasks).copied().unwrap_or(0.0))
        };
        let mut order: Vec<usize> = (0..request.items.len()).collect();
        order.sort_by(|a, b| match (popularity(a), popularity(b)) {
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => b.total_cmp(&a),
            (None, None) => ranked.scores[*b]
                .partial_cmp(&ranked.scores[*a])
                .expect("checked scores are finite"),
        });
        order.truncate(request.top_k.unwrap_or(usize::MAX));
        let scored = |index: usize| {
            let probabilities = ranked.probabilities.iter().skip(index * n_tasks);
            let tasks = ranked.tasks.iter().cloned().zip(probabilities.copied());
            ScoredItem {
                item_id: request.items[index].clone(),
                model: popularity(&index).map(|_| ScoredBy::Fallback),
                score: ranked.scores[index],
                tasks: tasks.filter(|(_, p)| p.is_finite()).collect(),
            }
        };
        Self {
            model: is_fallback.then_some(ScoredBy::Fallback),
            variant: ranked.variant,
            snapshot: ranked.snapshot.to_string(),
            version: ranked.version,
            request_id,
            items: order.into_iter().map(scored).collect(),
        }
    }
}

pub(crate) fn check_id(id: &str, field: impl Fn() -> String) -> Result<(), InvalidRequest> {
    match id.len() {
        0 => Err(InvalidRequest::EmptyId { field: field() }),
        n_bytes if n_bytes > MAX_ID_BYTES => Err(InvalidRequest::LongId {
            field: field(),
            n_bytes,
        }),
        _ => Ok(()),
    }
}

/// Sorts values into categories and numbers as the decoder of events does, so that a value means the same in serving and in
/// training.
pub(crate) fn check_features(
    values: Map<String, Value>,
    field: impl Fn() -> String,
) -> Result<NamedValues, InvalidRequest> {
    let mut checked = NamedValues::default();
    for (name, value) in values {
        let values_of_name = match value {
            Value::Number(number) if !is_category_name(&name) => {
                let Some(value) = number.as_f64().and_then(finite_f32) else {
                    return Err(InvalidRequest::LargeNumber { field: field(), name });
                };
                checked.numbers.push((name, value));
                continue;
            }
            Value::Array(several) => several,
            one => vec![one],
        };
        for value in values_of_name {
            let text = match value {
                Value::Null => continue,
                Value::Bool(flag) => flag.to_string(),
                Value::Number(number) => number_text(&number),
                Value::String(text) => text,
                Value::Array(_) | Value::Object(_) => {
                    return Err(InvalidRequest::NestedValue { field: field(), name });
                }
            };
            if !text.is_empty() {
                checked.categories.push((name.clone(), text));
            }
        }
    }
    checked.categories.sort_unstable();
    checked.categories.dedup();
    let n_values = checked.categories.len() + checked.numbers.len();
    if n_values > MAX_CONTEXT {
        let field = field();
        return Err(InvalidRequest::TooManyValues { field, n_values });
    }
    Ok(checked)
}

/// Whole numbers as digits, others as Rust prints an `f64`; `7.0` and `7` are one category.
fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => float.to_string(),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests;
