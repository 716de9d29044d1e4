//! The join records of one input: the effects of the join in the order in which they are written.

use std::collections::BTreeMap;

use ouzel_sample::{AttributedAction, Id, JoinEvent, LabeledItem, PartitionId, Position, Sample};

use crate::join::{CountedAction, JoinEffects, Outcome};
use crate::tier::ledger::offset_and_part;

/// A join record without its time: the record that it is about, the user, and the event.
pub(super) type EventDraft = (Position, Id, JoinEvent);

/// The records of `effects`, after `first`. Every action before offset `resolved_before` of the partition `actions` has
/// its outcome with them. Actions are joined under their [`action_key`](crate::tier::ledger::action_key) as offset.
pub(super) fn of_effects(
    first: Option<EventDraft>,
    effects: &JoinEffects,
    actions: PartitionId,
    resolved_before: i64,
) -> impl Iterator<Item = EventDraft> + use<> {
    let mut outcomes: Vec<EventDraft> = effects
        .groups
        .iter()
        .filter_map(|group| of_group(group))
        .collect();
    let mut late = Vec::new();
    for counted in &effects.actions {
        if counted.impression.is_some() {
            add_action(&mut outcomes, counted, resolved_before);
        } else if counted.is_late {
            let action = counted.action;
            let (offset, part) = offset_and_part(counted.offset);
            let at = Position {
                partition: actions,
                offset,
            };
            let event = JoinEvent::LateAction {
                action,
                part,
                resolved_before,
            };
            late.push((at, action.user, event));
        }
    }
    close(&mut outcomes, effects);
    // A late action precedes the windows that its own time closes; those that had waited follow.
    let (before, after) = match effects.outcome {
        Outcome::LateAction | Outcome::Unattributed => (late, Vec::new()),
        _ => (Vec::new(), late),
    };
    first.into_iter().chain(before).chain(outcomes).chain(after)
}

fn of_group(group: &[Sample]) -> Option<EventDraft> {
    let sample = group.first()?;
    let samples = group
        .iter()
        .map(|sample| LabeledItem {
            item: sample.candidate.item,
            labels: sample.labels,
            values: sample.values.clone(),
            kind: sample.kind,
            action_record_ms: sample.action_record_ms,
        })
        .collect();
    Some((sample.shown_at, sample.request.user, outcome(samples, false)))
}

/// Adds an action in time to the first record about its impression.
fn add_action(outcomes: &mut Vec<EventDraft>, counted: &CountedAction, resolved: i64) {
    let Some((shown_at, request)) = &counted.impression else {
        return;
    };
    if !outcomes.iter().any(|(at, _, _)| at == shown_at) {
        outcomes.insert(0, (*shown_at, request.user, outcome(Vec::new(), false)));
    }
    let same = outcomes.iter_mut().find(|(at, _, _)| at == shown_at);
    if let Some((
        _,
        _,
        JoinEvent::Outcome {
            actions,
            resolved_before,
            ..
        },
    )) = same
    {
        *resolved_before = resolved;
        let (offset, part) = offset_and_part(counted.offset);
        actions.push(AttributedAction {
            item: counted.action.item,
            task: counted.action.task,
            ts: counted.action.ts,
            offset,
            part,
            value: counted.action.value,
        });
    }
}

/// Marks the last record about each impression whose last window closed.
fn close(outcomes: &mut Vec<EventDraft>, effects: &JoinEffects) {
    if effects.closed.is_empty() {
        return;
    }
    let positions = outcomes.iter().enumerate();
    let last: BTreeMap<Position, usize> = positions.map(|(index, (at, _, _))| (*at, index)).collect();
    for closed in &effects.closed {
        match last.get(&closed.shown_at).map(|index| &mut outcomes[*index].2) {
            Some(JoinEvent::Outcome { is_closed, .. }) => *is_closed = true,
            _ => outcomes.push((closed.shown_at, closed.user, outcome(Vec::new(), true))),
        }
    }
}

/// An outcome without an action.
fn outcome(samples: Vec<LabeledItem>, is_closed: bool) -> JoinEvent {
    JoinEvent::Outcome {
        actions: Vec::new(),
        samples,
        is_closed,
        resolved_before: i64::MIN,
    }
}
