//! Time: windows close, and closed impressions are forgotten.

use ouzel_sample::{EventTime, TaskId};

use super::{SlotChange, next_due};
use crate::join::clock::passed;
use crate::join::effects::ClosedImpression;
use crate::join::planted_bug::PlantedBug;
use crate::join::policy::{self, CloseReason};
use crate::join::slot::{RequestSlot, append};

impl SlotChange<'_> {
    /// The watermark has reached the time that an open impression waits for: the one that is due first.
    pub(crate) fn close_due(&mut self, slot: &mut RequestSlot) {
        let Some(index) = first_open(slot) else { return };
        let open = &slot.open[index];
        let (at, shown) = (open.next, open.request.ts);
        let (mut waits, mut closes) = (0, 0);
        for (task, config) in self.config.tasks() {
            let bit = 1 << task;
            let wait = self.config.wait_ms(config);
            if (open.closed | open.sampled) & bit == 0 && wait.is_some_and(|wait| passed(shown, wait) <= at) {
                waits |= bit;
            }
            if open.closed & bit == 0 && passed(shown, config.window.ms()) <= at {
                closes |= bit;
            }
        }
        self.close(slot, index, waits, closes, CloseReason::Due);
    }

    /// Too much is pending: closes the open impression that is due first before its time.
    pub(crate) fn close_early(&mut self, slot: &mut RequestSlot) {
        let Some(index) = first_open(slot) else { return };
        let open = &slot.open[index];
        let closes = self.config.all_tasks() & !open.closed;
        let waits = match self.config.policy_wait_ms() {
            Some(_) => closes & !open.sampled,
            None => 0,
        };
        self.counters.closed_early += 1;
        self.close(slot, index, waits, closes, CloseReason::Overload);
    }

    /// Forgets the closed impressions that expire by `due`. Returns their number.
    pub(crate) fn forget(&mut self, slot: &mut RequestSlot, due: EventTime) -> u64 {
        let mut closed = std::mem::take(&mut slot.closed).into_vec();
        let before = closed.len();
        closed.retain(|closed| closed.expires > due);
        let n_forgotten = (before - closed.len()) as u64;
        slot.closed = closed.into_boxed_slice();
        self.counters.remembered = self.counters.remembered.wrapping_sub(n_forgotten);
        n_forgotten
    }

    /// Ends the waits `waits` and the windows `closes` of an open impression.
    fn close(&mut self, slot: &mut RequestSlot, index: usize, waits: u8, closes: u8, close: CloseReason) {
        let open = &mut slot.open[index];
        if waits != 0 {
            policy::waited(self.config.label_policy, open, waits, &mut self.group);
        }
        if closes != 0 {
            for item in &open.items {
                for task in bits(closes & !item.positive) {
                    self.counters.decide(task, false);
                }
            }
            policy::closed(self.config.label_policy, open, closes, close, &mut self.group);
            open.closed |= closes;
        }
        if open.closed != self.config.all_tasks() {
            open.next = next_due(self.config, open);
            return;
        }
        self.counters.pending_items -= open.items.len() as u64;
        self.effects.closed.push(ClosedImpression {
            shown_at: open.shown_at,
            user: open.request.user,
        });
        if !self.has(PlantedBug::ForgetClosed) {
            let expires = passed(open.request.ts, self.config.dedup_ms());
            append(&mut slot.closed, open.remember(expires));
            self.counters.remembered += 1;
        }
        if let Some(open_items) = &mut self.open_items {
            open_items.remove(open);
        }
        let mut open = std::mem::take(&mut slot.open).into_vec();
        open.remove(index);
        slot.open = open.into_boxed_slice();
    }
}

/// The open impression that is due first; of several the one that arrived first.
fn first_open(slot: &RequestSlot) -> Option<usize> {
    let open = slot.open.iter().enumerate();
    open.min_by_key(|(_, open)| open.next).map(|(index, _)| index)
}

/// The tasks of a set.
fn bits(mask: u8) -> impl Iterator<Item = TaskId> {
    (0..8).filter(move |task| mask & (1 << task) != 0)
}
