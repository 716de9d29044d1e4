//! Immediate labels: a replay that learns without delay, to be compared with references that do.

use std::collections::HashMap;

use ouzel_sample::{Action, DecodedRecord, Event, Id, KnownAction, Record};
use serde::Serialize;

use super::decoder::Decoder;

/// All actions of a finite log that name their request, by request.
///
/// Collected once before a replay with `labels = immediate`. The replay then attaches the actions to their
/// impressions and drops the action records.
#[derive(Debug, Default)]
pub struct ImmediateLabels {
    /// Each action, and whether an impression has shown its item.
    actions: HashMap<Id, Vec<(KnownAction, bool)>>,
    counts: ActionCounts,
}

/// The actions of a log by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ActionCounts {
    /// Actions of a task that name their request.
    pub actions: u64,
    /// Repeats of an action on the same item of the same request.
    pub duplicates: u64,
    /// Actions attached to an impression that showed their item.
    pub matched: u64,
}

impl ActionCounts {
    /// Actions whose item no impression of their request has shown so far.
    #[must_use]
    pub fn orphans(&self) -> u64 {
        self.actions - self.duplicates - self.matched
    }
}

impl ImmediateLabels {
    /// Collects the valid actions among `records`. Rejected records are counted when they are decoded again.
    pub fn collect(decoder: &Decoder, records: impl IntoIterator<Item = Record>) -> Self {
        let mut labels = Self::default();
        for record in records {
            match decoder.parse(&record) {
                Ok((Event::Action(action), _)) => labels.add(&action),
                Ok((Event::Actions(actions), _)) => actions.iter().for_each(|action| labels.add(action)),
                _ => {}
            }
        }
        labels
    }

    fn add(&mut self, action: &Action) {
        let Some(request) = action.request else { return };
        self.counts.actions += 1;
        let known = self.actions.entry(request).or_default();
        let same = |(known, _): &(KnownAction, bool)| (known.item, known.task) == (action.item, action.task);
        if known.iter().any(same) {
            self.counts.duplicates += 1;
            return;
        }
        let action = KnownAction {
            item: action.item,
            task: action.task,
            value: action.value,
        };
        known.push((action, false));
    }

    /// Attaches its actions to an impression; returns `None` for actions of a request and other records unchanged.
    ///
    /// Only actions on shown items are attached, in the order of the log; of one item and task the first.
    #[must_use]
    pub fn apply(&mut self, mut record: DecodedRecord) -> Option<DecodedRecord> {
        match &mut record.event {
            Ok(Event::Action(action)) if action.request.is_some() => return None,
            Ok(Event::Actions(actions)) => {
                actions.retain(|action| action.request.is_none());
                if actions.is_empty() {
                    return None;
                }
            }
            Ok(Event::Impression(impression)) => {
                let mut attached = Vec::new();
                for (action, is_shown) in self.actions.get_mut(&impression.request).into_iter().flatten() {
                    if impression.items.iter().any(|shown| shown.item == action.item) {
                        attached.push(*action);
                        self.counts.matched += u64::from(!std::mem::replace(is_shown, true));
                    }
                }
                impression.known_actions = Some(attached);
            }
            Ok(
                Event::Action(_)
                | Event::Item(_)
                | Event::ItemUpdate(_)
                | Event::Deletion(_)
                | Event::Profile(_)
                | Event::JoinRecord(_),
            )
            | Err(_) => {}
        }
        Some(record)
    }

    /// What became of the actions so far.
    #[must_use]
    pub fn counts(&self) -> ActionCounts {
        self.counts
    }
}
