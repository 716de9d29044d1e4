//! The per-request AUC of two models on the same requests, and the interval of its difference.
//!
//! The items of the newest requests are kept, [`OPEN_ITEMS`] of a task. A request that leaves them counts for good, with the
//! outcomes known by then, in the sums of its user's group: so the figures are those since the start, in fixed memory.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use serde::{Deserialize, Serialize};

use ouzel_sample::{Id, IdHasher, Sample};

use super::groups::{Difference, group_of, ratio};
use crate::validation::auc::auc;
use crate::validation::figures::float;
use crate::validation::score_log::ScoreChange;

/// Groups of users.
const GROUPS: usize = 256;
/// Items whose outcomes may still change.
const OPEN_ITEMS: usize = 20_000;

/// The requests of one task.
#[derive(Clone, Debug)]
pub(super) struct PairedGauc {
    /// Of requests that count for good, by group.
    settled: Vec<Sums>,
    open: HashMap<Id, OpenRequest, BuildHasherDefault<IdHasher>>,
    /// The open requests, the oldest first.
    order: VecDeque<Id>,
    n_open_items: usize,
}

/// Requests with both classes, and the sums of the AUCs of both models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sums {
    n: u64,
    serving: f64,
    candidate: f64,
}

#[derive(Clone, Debug)]
struct OpenRequest {
    group: usize,
    items: Vec<OpenItem>,
}

#[derive(Clone, Debug)]
struct OpenItem {
    item: Id,
    serving: f32,
    candidate: f32,
    label: bool,
}

/// The mean per-request AUC of both models, and the difference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct GaucFigures {
    pub(super) serving: Option<f64>,
    pub(super) candidate: Option<f64>,
    pub(super) difference: Option<Difference>,
}

impl Default for PairedGauc {
    fn default() -> Self {
        Self {
            settled: vec![Sums::default(); GROUPS],
            open: HashMap::default(),
            order: VecDeque::new(),
            n_open_items: 0,
        }
    }
}

impl PairedGauc {
    /// Adds what one sample changes in the scores of each model.
    pub(super) fn add(&mut self, sample: &Sample, serving: &ScoreChange, candidate: &ScoreChange) {
        let (id, item) = (sample.request.id, sample.candidate.item);
        match (serving, candidate) {
            (
                ScoreChange::Certain(serving) | ScoreChange::Presumed(serving),
                ScoreChange::Certain(candidate) | ScoreChange::Presumed(candidate),
            ) => {
                let group = group_of(sample.request.user, GROUPS);
                let order = &mut self.order;
                let request = self.open.entry(id).or_insert_with(|| {
                    order.push_back(id);
                    OpenRequest {
                        group,
                        items: Vec::new(),
                    }
                });
                request.items.push(OpenItem {
                    item,
                    serving: serving.logit,
                    candidate: candidate.logit,
                    label: serving.label,
                });
                self.n_open_items += 1;
                self.settle_beyond(OPEN_ITEMS);
            }
            _ => {
                let items = self.open.get_mut(&id).map(|request| &mut request.items);
                let shown = items.and_then(|items| items.iter_mut().find(|shown| shown.item == item));
                if let Some(shown) = shown {
                    shown.label = true;
                }
            }
        }
    }

    /// The figures of all requests, the open ones with the outcomes known so far.
    pub(super) fn figures(&self) -> GaucFigures {
        let groups = self.all();
        let total = groups.iter().fold(Sums::default(), |all, one| Sums {
            n: all.n + one.n,
            serving: all.serving + one.serving,
            candidate: all.candidate + one.candidate,
        });
        let known = groups.iter().filter(|sums| sums.n > 0);
        let known: Vec<(f64, f64)> = known
            .map(|sums| (float(sums.n), sums.candidate - sums.serving))
            .collect();
        let mean = |sum: f64| (total.n > 0).then(|| sum / float(total.n));
        GaucFigures {
            serving: mean(total.serving),
            candidate: mean(total.candidate),
            difference: ratio(&known),
        }
    }

    /// The sums as they would be if every open request counted for good, for a snapshot.
    pub(super) fn dump(&self) -> PairedGaucState {
        PairedGaucState { groups: self.all() }
    }

    /// Restores what [`PairedGauc::dump`] returned. Items of requests that were open make requests of their own.
    pub(super) fn restore(state: PairedGaucState) -> Option<Self> {
        (state.groups.len() == GROUPS).then(|| Self {
            settled: state.groups,
            ..Self::default()
        })
    }

    fn all(&self) -> Vec<Sums> {
        let mut groups = self.settled.clone();
        let open = self.order.iter().filter_map(|id| self.open.get(id));
        open.for_each(|request| request.add_to(&mut groups));
        groups
    }

    fn settle_beyond(&mut self, most: usize) {
        while self.n_open_items > most
            && let Some(oldest) = self.order.pop_front()
        {
            if let Some(request) = self.open.remove(&oldest) {
                self.n_open_items -= request.items.len();
                request.add_to(&mut self.settled);
            }
        }
    }
}

impl OpenRequest {
    /// Adds the request to the sums of its group, if it has both classes.
    fn add_to(&self, groups: &mut [Sums]) {
        let of = |logit: fn(&OpenItem) -> f32| {
            let mut scored: Vec<(f32, bool)> =
                self.items.iter().map(|item| (logit(item), item.label)).collect();
            auc(&mut scored)
        };
        if let (Some(serving), Some(candidate)) = (of(|item| item.serving), of(|item| item.candidate)) {
            let sums = &mut groups[self.group];
            sums.n += 1;
            sums.serving += serving;
            sums.candidate += candidate;
        }
    }
}

/// The sums in a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PairedGaucState {
    groups: Vec<Sums>,
}

#[cfg(test)]
mod tests {
    use ouzel_sample::SampleKind;

    use super::*;
    use crate::testing::{again, sample};
    use crate::validation::score_log::score_change;

    fn add(paired: &mut PairedGauc, sample: &Sample, serving: f32, candidate: f32) {
        let change = |logit| score_change(sample, &[logit], 0).unwrap();
        paired.add(sample, &change(serving), &change(candidate));
    }

    #[test]
    fn requests_count_with_their_late_positives_and_stay_when_they_are_settled() {
        let mut paired = PairedGauc::default();
        let first = sample(1, 1, SampleKind::EarlyNegative, false);
        add(&mut paired, &first, 2.0, -1.0);
        add(&mut paired, &sample(1, 2, SampleKind::Final, false), 0.0, 0.0);
        assert_eq!(paired.figures().serving, None, "it has no positive");
        add(
            &mut paired,
            &again(&first, SampleKind::LatePositive, true, true),
            2.0,
            -1.0,
        );
        let known = paired.figures();
        assert_eq!((known.serving, known.candidate), (Some(1.0), Some(0.0)));
        assert_eq!(known.difference, None, "one user");
        paired.settle_beyond(0);
        assert_eq!((paired.open.len(), paired.n_open_items), (0, 0));
        assert_eq!(paired.figures(), known);
        let restored = PairedGauc::restore(paired.dump()).unwrap();
        assert_eq!(restored.figures(), known);
    }

    #[test]
    fn memory_is_bounded() {
        let mut paired = PairedGauc::default();
        for request in 0..30_000u64 {
            add(
                &mut paired,
                &sample(request, 1, SampleKind::Final, request % 2 == 0),
                0.5,
                0.5,
            );
        }
        assert_eq!(
            (paired.n_open_items, paired.open.len(), paired.order.len()),
            (OPEN_ITEMS, OPEN_ITEMS, OPEN_ITEMS)
        );
    }
}
