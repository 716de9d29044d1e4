//! Where the effects of the join go: the feature state and the open batch.

use std::sync::Arc;

use metrics::gauge;
use ouzel_sample::{Action, Batch, EventTime, FeatureQuery, FeatureState, Id, Impression, ShownSlate};

use super::checkpoint::StageState;
use crate::deleted::DeletedItems;
use crate::join::{Captured, FeatureSource, JoinEffects, Outcome};
use crate::metrics::{EVICTED_PROFILES, UNLEARNED_NUMBERS, UNLISTED_ACTIONS};

/// The feature state and the batcher.
#[derive(Debug)]
pub(super) struct StageOutput {
    pub(super) features: Arc<FeatureState>,
    pub(super) state: StageState,
    pub(super) deleted: DeletedItems,
    /// Slates accepted since the last batch. They serve validation alone and are in no checkpoint.
    pub(super) shown: Vec<ShownSlate>,
}

impl FeatureSource for StageOutput {
    fn capture(&mut self, impression: &Impression) -> Captured {
        let captured = Captured::from(self.features.read(&FeatureQuery::of(impression)));
        // A slate with known actions is predicted by the step that learns it.
        if impression.known_actions.is_none() {
            let (request, candidates) = (Arc::clone(&captured.request), captured.candidates.clone());
            self.shown.push(ShownSlate { request, candidates });
        }
        captured
    }
}

impl StageOutput {
    /// Updates the features, then batches the new samples; full batches are appended to `out`. `impression` is that of
    /// the record, of which only the new items count.
    pub(super) fn apply(
        &mut self,
        effects: &mut JoinEffects,
        impression: Option<&Impression>,
        out: &mut Vec<Batch>,
    ) {
        if effects.outcome == Outcome::Accepted
            && let Some(impression) = effects.new_part.as_ref().or(impression)
        {
            self.count_impression(impression);
        }
        for counted in &effects.actions {
            self.features
                .add_action(&counted.action, counted.context(), counted.slate_size());
        }
        for group in effects.groups.drain(..) {
            let full = self.state.batcher.push(group);
            out.extend(full.map(|batch| self.complete(batch)));
        }
    }

    pub(super) fn flush(&mut self) -> Option<Batch> {
        let batch = self.state.batcher.flush()?;
        Some(self.complete(batch))
    }

    /// Adds to a batch the slates shown before it, the contents of both, and the items deleted.
    fn complete(&mut self, mut batch: Batch) -> Batch {
        if self.deleted.add_to(&mut batch) {
            self.features.drop_unused_vectors();
        }
        #[expect(clippy::cast_precision_loss, reason = "a count for people")]
        gauge!(UNLEARNED_NUMBERS).set(self.features.n_unlearned_numbers() as f64);
        #[expect(clippy::cast_precision_loss, reason = "a count for people")]
        gauge!(EVICTED_PROFILES).set(self.features.n_evicted_profiles() as f64);
        #[expect(clippy::cast_precision_loss, reason = "a count for people")]
        gauge!(UNLISTED_ACTIONS).set(self.features.n_unlisted_actions() as f64);
        batch.shown = std::mem::take(&mut self.shown);
        let slates = batch.shown.iter();
        let requests = slates.clone().map(|slate| &*slate.request);
        let candidates = slates.flat_map(|slate| slate.candidates.iter().map(|candidate| &**candidate));
        batch.vectors = self.features.vectors_of(
            requests.chain(batch.samples.iter().map(|sample| &*sample.request)),
            candidates.chain(batch.samples.iter().map(|sample| &*sample.candidate)),
        );
        batch
    }

    /// Counts an impression and its known actions.
    fn count_impression(&self, impression: &Impression) {
        let context = self
            .features
            .context(impression.user, &impression.context, &impression.numbers);
        self.features.add_impression(impression);
        let slate_size = u16::try_from(impression.items.len()).unwrap_or(u16::MAX);
        for known in impression.known_actions.iter().flatten() {
            let action = Action {
                request: Some(impression.request),
                item: known.item,
                user: impression.user,
                ts: impression.ts,
                task: known.task,
                value: known.value,
            };
            self.features.add_action(&action, &context, Some(slate_size));
        }
    }
}

/// Seeds histories from before the first record. Ids are hashed.
pub fn seed_histories(
    features: &FeatureState,
    histories: impl IntoIterator<Item = (Id, Vec<Id>)>,
    ts: EventTime,
) {
    for (user, items) in histories {
        features.seed_history(user, &items, ts);
    }
}
