//! What the stage writes to the feature state and reads from it: an impression, a batch, histories from before the log.

use std::sync::Arc;

use ouzel_sample::{Action, Batch, EventTime, FeatureQuery, FeatureState, Id, Impression, ShownSlate};

use crate::deleted::Deleted;
use crate::join::Captured;

/// A batch with the slates shown before it, the contents of both, and what it must know of deleted items.
pub(super) fn complete(
    mut batch: Batch,
    features: &FeatureState,
    shown: &mut Vec<ShownSlate>,
    deleted: &mut Deleted,
) -> Batch {
    if deleted.tell(&mut batch) {
        features.drop_unused_vectors();
    }
    batch.shown = std::mem::take(shown);
    let slates = batch.shown.iter();
    let requests = slates.clone().map(|slate| &*slate.request);
    let candidates = slates.flat_map(|slate| slate.candidates.iter().map(|candidate| &**candidate));
    batch.vectors = features.vectors_of(
        requests.chain(batch.samples.iter().map(|sample| &*sample.request)),
        candidates.chain(batch.samples.iter().map(|sample| &*sample.candidate)),
    );
    batch
}

/// The features of an impression, before it is counted.
pub(super) fn capture(
    features: &FeatureState,
    impression: &Impression,
    shown: &mut Vec<ShownSlate>,
) -> Captured {
    let captured = Captured::from(features.read(&FeatureQuery {
        request: impression.request,
        user: impression.user,
        ts: impression.ts,
        context: &impression.context,
        items: &impression.items,
        slate_size: None,
    }));
    // What is known_actions at once is predicted by the very step that learns it.
    if impression.known_actions.is_none() {
        let (request, candidates) = (Arc::clone(&captured.request), captured.candidates.clone());
        shown.push(ShownSlate { request, candidates });
    }
    captured
}

/// Counts an impression, and the actions known_actions with it.
pub(super) fn show(features: &FeatureState, impression: &Impression) {
    features.add_impression(impression);
    for (item, task) in impression.known_actions.iter().flatten() {
        let action = Action {
            request: impression.request,
            item: *item,
            user: impression.user,
            ts: impression.ts,
            task: *task,
            value: None,
        };
        features.add_action(&action, &impression.context);
    }
}

/// Ids of a folder's histories, hashed: seeds the feature state before the first record.
pub fn seed_histories(
    features: &FeatureState,
    histories: impl IntoIterator<Item = (Id, Vec<Id>)>,
    ts: EventTime,
) {
    for (user, items) in histories {
        features.seed_history(user, &items, ts);
    }
}
