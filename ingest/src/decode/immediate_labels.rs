//! Immediate labels: a replay that learns without delay, to be compared with references that do.

use std::collections::HashMap;

use ouzel_sample::{DecodedRecord, Event, Id, Record, TaskId};

use super::decoder::Decoder;

/// All actions of a finite log, by request.
///
/// Collected once before a replay with `labels = immediate`. The replay then attaches the actions to their
/// impressions and drops the action records.
#[derive(Debug, Default)]
pub struct ImmediateLabels {
    // Never iterated, so its order does not matter.
    actions: HashMap<Id, Vec<(Id, TaskId)>>,
}

impl ImmediateLabels {
    /// Collects the valid actions among `records`. Rejected records are counted when they are decoded again.
    pub fn collect(decoder: &Decoder, records: impl IntoIterator<Item = Record>) -> Self {
        let mut labels = Self::default();
        for record in records {
            let Ok((Event::Action(action), _)) = decoder.parse(&record) else {
                continue;
            };
            let known = labels.actions.entry(action.request).or_default();
            if !known.contains(&(action.item, action.task)) {
                known.push((action.item, action.task));
            }
        }
        labels
    }

    /// Attaches its actions to an impression; returns `None` for an action and other records unchanged.
    ///
    /// Only actions on shown items are attached, in the order of the log.
    #[must_use]
    pub fn apply(&self, mut record: DecodedRecord) -> Option<DecodedRecord> {
        match &mut record.event {
            Ok(Event::Action(_)) => return None,
            Ok(Event::Impression(impression)) => {
                let mut actions = self.actions.get(&impression.request).cloned().unwrap_or_default();
                actions.retain(|(item, _)| impression.items.iter().any(|shown| shown.item == *item));
                impression.known_actions = Some(actions);
            }
            Ok(Event::Item(_) | Event::Deletion(_) | Event::JoinRecord(_)) | Err(_) => {}
        }
        Some(record)
    }
}
