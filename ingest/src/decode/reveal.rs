//! Labels known at once: a replay's way to be compared with references that learn without delay.

use std::collections::HashMap;

use ouzel_sample::{DecodedRecord, Event, Id, Record, TaskId};

use super::Decoder;

/// Every action of a finite log, by the request it answers.
///
/// Filled once before a replay with `labels = immediate`; then each impression is given its actions and the
/// action records themselves are dropped, since all they say has been said.
#[derive(Debug, Default)]
pub struct Reveal {
    // Looked up by key only, so its order never shows.
    actions: HashMap<Id, Vec<(Id, TaskId)>>,
}

impl Reveal {
    /// Collects the usable actions among `records`; the others are counted when they are decoded in turn.
    #[must_use]
    pub fn collect(decoder: &Decoder, records: impl IntoIterator<Item = Record>) -> Self {
        let mut reveal = Self::default();
        for record in records {
            let Ok(Event::Action(action)) = decoder.peek(&record) else {
                continue;
            };
            let known = reveal.actions.entry(action.request).or_default();
            if !known.contains(&(action.item, action.task)) {
                known.push((action.item, action.task));
            }
        }
        reveal
    }

    /// Gives an impression its actions; `None` for an action. Anything else passes as it is.
    ///
    /// Only actions on shown items are revealed, in the order they were collected.
    #[must_use]
    pub fn apply(&self, mut recorded: DecodedRecord) -> Option<DecodedRecord> {
        match &mut recorded.event {
            Ok(Event::Action(_)) => return None,
            Ok(Event::Impression(impression)) => {
                let mut revealed = self.actions.get(&impression.request).cloned().unwrap_or_default();
                revealed.retain(|(item, _)| impression.items.iter().any(|shown| shown.item == *item));
                impression.known_actions = Some(revealed);
            }
            Ok(Event::Item(_) | Event::Deletion(_) | Event::JoinRecord(_)) | Err(_) => {}
        }
        Some(recorded)
    }
}
