//! An impression of which the tier still has to report outcomes.

use std::sync::Arc;

use ouzel_sample::{
    Action, AttributedAction, Candidate, EventTime, Id, LabeledItem, Labels, Position, Request, Sample,
    SampleKind, TaskId,
};
use serde::{Deserialize, Serialize};

use crate::join::{Captured, Counters};
use crate::tier::ledger::{ReportedLabels, SourceLedger};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PendingImpression {
    pub(super) request: Arc<Request>,
    items: Vec<PendingItem>,
    /// The watermark by which every outcome must have been reported.
    pub(super) deadline: EventTime,
    /// The partition of the samples topic that reports it.
    pub(super) topic_partition: i32,
    /// Tasks whose window was over on arrival, one bit each.
    late: u8,
    /// Its certain positives wait until it closes: it was shown before the first window closed, and a model of
    /// positives alone would predict nothing else.
    pub(super) holds_positives: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PendingItem {
    candidate: Arc<Candidate>,
    labels: ReportedLabels,
    /// Tasks whose action came in time, one bit each.
    positive: u8,
    /// Tasks whose positive is held back, one bit each.
    held: u8,
    /// The values of those.
    held_values: Vec<(TaskId, f32)>,
}

/// What becomes of a reported sample.
pub(super) enum Reported {
    /// It is new.
    New(Sample),
    /// It is held back until its impression closes.
    Held,
    /// It was reported before.
    Before,
}

impl PendingImpression {
    pub(super) fn new(
        captured: Captured,
        topic_partition: i32,
        late: u8,
        deadline: EventTime,
        holds_positives: bool,
    ) -> Self {
        let items = captured.candidates.into_iter().map(|candidate| PendingItem {
            candidate,
            labels: ReportedLabels::default(),
            positive: 0,
            held: 0,
            held_values: Vec::new(),
        });
        Self {
            request: captured.request,
            items: items.collect(),
            deadline,
            topic_partition,
            late,
            holds_positives,
        }
    }

    pub(super) fn n_items(&self) -> usize {
        self.items.len()
    }

    /// For each item the tasks without an outcome, one bit each.
    pub(super) fn undecided(&self) -> impl Iterator<Item = u8> + '_ {
        self.items.iter().map(|item| !(item.positive | self.late))
    }

    pub(super) fn enter_sample(&mut self, shown_at: Position, labeled: &LabeledItem) -> Reported {
        let Some(item) = find(&mut self.items, labeled.item) else {
            return Reported::Before;
        };
        let labels = item.labels.enter(labeled.kind, labeled.labels);
        if labels.is_unknown() {
            return Reported::Before;
        }
        let is_new = |(task, _): &&(TaskId, f32)| labels.get(*task) == Some(true);
        let values = labeled.values.iter().filter(is_new).copied();
        let is_positive = labels == Labels::from_masks(labels.known(), u8::MAX);
        if self.holds_positives && labeled.kind == SampleKind::Final && is_positive {
            item.held |= labels.known();
            item.held_values.extend(values);
            return Reported::Held;
        }
        let candidate = Arc::clone(&item.candidate);
        Reported::New(Sample {
            values: values.collect(),
            kind: labeled.kind,
            action_record_ms: labeled.action_record_ms,
            ..self.sample(shown_at, candidate, labels)
        })
    }

    /// The last group with the positives that were held back, in slate order, as if all had waited.
    pub(super) fn add_held(&self, shown_at: Position, mut group: Vec<Sample>) -> Vec<Sample> {
        for item in self.items.iter().filter(|item| item.held != 0) {
            let of_item = |sample: &&Sample| {
                sample.kind == SampleKind::Final && Arc::ptr_eq(&sample.candidate, &item.candidate)
            };
            let held = Labels::from_masks(item.held, item.held);
            let sample = match group.iter().position(|sample| of_item(&sample)) {
                Some(index) => &mut group[index],
                None => {
                    group.push(self.sample(shown_at, Arc::clone(&item.candidate), Labels::UNKNOWN));
                    group.last_mut().expect("a sample was just added")
                }
            };
            sample.labels = sample.labels.updated_with(held);
            sample.values.extend_from_slice(&item.held_values);
            sample.values.sort_by_key(|(task, _)| *task);
        }
        let index = |sample: &Sample| {
            let same = |item: &PendingItem| Arc::ptr_eq(&item.candidate, &sample.candidate);
            self.items.iter().position(same)
        };
        group.sort_by_key(index);
        group
    }

    fn sample(&self, shown_at: Position, candidate: Arc<Candidate>, labels: Labels) -> Sample {
        Sample {
            seq: 0,
            request: Arc::clone(&self.request),
            candidate,
            labels,
            values: Vec::new(),
            kind: SampleKind::Final,
            weight: 1.0,
            shown_at,
            action_record_ms: None,
        }
    }

    /// Enters an action in time. Returns it if it is new.
    pub(super) fn enter_action(
        &mut self,
        attributed: &AttributedAction,
        ledger: &mut SourceLedger,
        counters: &mut Counters,
    ) -> Option<Action> {
        let bit = 1u8 << attributed.task;
        let item = find(&mut self.items, attributed.item)?;
        let is_new = ledger.enter_action(attributed.offset, attributed.part);
        if item.positive & bit != 0 {
            return None;
        }
        // Its sample comes with it, whatever was reported of the action before.
        item.positive |= bit;
        if self.late & bit == 0 {
            counters.decide(attributed.task, true);
        }
        if !is_new {
            return None;
        }
        counters.actions += 1;
        counters.matched += 1;
        Some(Action {
            request: Some(self.request.id),
            item: attributed.item,
            user: self.request.user,
            ts: attributed.ts,
            task: attributed.task,
            value: attributed.value,
        })
    }
}

fn find(items: &mut [PendingItem], id: Id) -> Option<&mut PendingItem> {
    items.iter_mut().find(|item| item.candidate.item == id)
}
