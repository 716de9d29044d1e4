//! Items, slates and queries for the tests of the feature state.

use super::dense::{Feature, N_DENSE};
use super::query::FeatureQuery;
use super::state::FeatureState;
use crate::{Candidate, EventTime, Id, Impression, Item, Request, ShownItem};

/// An item without attributes and content, at time 0.
pub(crate) fn item(id: u64) -> Item {
    Item {
        id: Id(id),
        name: format!("item {id}"),
        ts: EventTime(0),
        attributes: vec![],
        tag_names: vec![],
        numbers: vec![],
        texts: vec![],
        has_title: false,
        image: None,
        vectors: vec![],
    }
}

/// A slate shown at `ts` in context 77.
pub(crate) fn impression(user: u64, items: &[u64], ts: i64) -> Impression {
    Impression {
        request: Id(ts.unsigned_abs()),
        user: Id(user),
        ts: EventTime(ts),
        items: shown(items),
        context: vec![Id(77)],
        numbers: vec![],
        known_actions: None,
    }
}

/// What the state returns for `items` in context 77.
pub(crate) fn read(state: &FeatureState, user: u64, items: &[u64], ts: i64) -> (Request, Vec<Candidate>) {
    state.read(&FeatureQuery {
        request: Id(9),
        user: Id(user),
        ts: EventTime(ts),
        context: &[Id(77)],
        numbers: &[],
        items: &shown(items),
        slate_size: None,
    })
}

/// The dense features of one item.
pub(crate) fn dense(state: &FeatureState, user: u64, item: u64, ts: i64) -> [f32; N_DENSE] {
    *read(state, user, &[item], ts).1[0].dense
}

fn shown(items: &[u64]) -> Vec<ShownItem> {
    items.iter().map(|item| ShownItem::new(Id(*item), None)).collect()
}

/// The value of one feature.
pub(crate) fn value(values: &[f32; N_DENSE], feature: Feature) -> f32 {
    values[feature as usize]
}
