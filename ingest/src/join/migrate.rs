//! An exported join state under other tasks, windows or another label policy.
//!
//! Nothing is read again. A task of the same name goes on where it is: each shown item still gets exactly one outcome for
//! it. With another window, open impressions close by the new one, and closed ones stay closed. A new task takes the
//! impressions that are shown from now on: for the earlier ones its window counts as over. A task that was removed takes
//! its open windows and waiting actions with it. Under another policy the samples of an open impression would be made
//! twice or not at all, so it closes without further samples, as if too much had been pending.

use ouzel_sample::settings::Period;
use ouzel_sample::{Id, TaskMap};

use crate::join::clock::passed;
use crate::join::config::{JoinConfig, LabelPolicy};
use crate::join::counters::TaskCounters;
use crate::join::error::JoinError;
use crate::join::joiner::Joiner;
use crate::join::slot::{OpenImpression, RequestSlot, append};
use crate::join::state::{Header, MAGIC, StoredPolicy, decode, read_header, windows};
use crate::join::step::next_due;
use crate::join::store::MemStore;

/// What became of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskOutcome {
    /// It goes on with the same window.
    Kept,
    /// It goes on; its window was this.
    Window(Period),
    /// It is new.
    Added,
    /// It is no longer configured.
    Removed,
}

/// What a migration of the join state has kept and lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinMigration {
    /// Every former or present task that differs, by name.
    pub tasks: Vec<(String, TaskOutcome)>,
    /// The former label policy, if it is another one.
    pub former_policy: Option<String>,
    /// True when the present policy cannot continue the samples that the former one has made of open impressions.
    pub closes_open: bool,
    /// Shown items whose windows stay open.
    pub open_items: u64,
    /// Shown items whose windows were closed, because no task or no policy waits for them any more.
    pub closed_items: u64,
    /// Actions that go on waiting for their impressions.
    pub waiting: u64,
    /// Waiting actions of tasks that were removed.
    pub lost_waiting: u64,
}

impl JoinMigration {
    /// True when every byte stays as it is.
    pub fn is_identity(&self) -> bool {
        self.tasks.is_empty() && self.former_policy.is_none()
    }
}

/// An exported join state under `config`: the bytes that [`Joiner::import`] reads under it, the match of the tasks, and what
/// was kept and lost.
///
/// # Errors
/// [`JoinError::Decode`] for bytes that are no join state of this version, [`JoinError::Identity`] when it has lost count.
pub fn migrate_join(
    bytes: &[u8],
    config: &JoinConfig,
) -> Result<(Vec<u8>, TaskMap, JoinMigration), JoinError> {
    let (mut header, mut remaining) = read_header(bytes)?;
    let former: Vec<String> = header.tasks.iter().map(|(name, _)| name.clone()).collect();
    let tasks = TaskMap::new(&former, &config.task_names());
    let mut change = Change::new(&header, config, tasks);
    let mut slots: Vec<(Id, RequestSlot)> = Vec::new();
    let n_slots = header.n_slots;
    change.counters(&mut header);
    for _ in 0..n_slots {
        let ((id, mut slot), after): ((Id, RequestSlot), _) =
            postcard::take_from_bytes(remaining).map_err(decode)?;
        remaining = after;
        change.slot(&mut slot, &mut header);
        if !slot.is_empty() {
            slots.push((id, slot));
        }
    }
    if !remaining.is_empty() {
        let why = format!("{} bytes follow the last slot", remaining.len());
        return Err(JoinError::Decode(why));
    }
    header.tasks = windows(config);
    header.policy = StoredPolicy::from(config);
    header.n_slots = slots.len() as u64;
    change.done.open_items = header.counters.pending_items;
    change.done.waiting = header.counters.waiting;
    let encodes = "the join state has no type that postcard refuses";
    let mut migrated = postcard::to_extend(&header, MAGIC.to_vec()).expect(encodes);
    for slot in &slots {
        migrated = postcard::to_extend(slot, migrated).expect(encodes);
    }
    // Counts every slot again, so a mistake here is an error now and not at the next start.
    Joiner::import(config.clone(), MemStore::default(), &migrated)?;
    Ok((migrated, change.tasks, change.done))
}

/// The change of each slot and of the counters.
struct Change<'a> {
    config: &'a JoinConfig,
    tasks: TaskMap,
    done: JoinMigration,
}

impl<'a> Change<'a> {
    fn new(header: &Header, config: &'a JoinConfig, tasks: TaskMap) -> Self {
        let mut changed = Vec::new();
        for (name, window) in &header.tasks {
            match config.tasks.iter().find(|task| task.name == *name) {
                None => changed.push((name.clone(), TaskOutcome::Removed)),
                Some(task) if task.window != *window => {
                    changed.push((name.clone(), TaskOutcome::Window(*window)));
                }
                Some(_) => {}
            }
        }
        for (task, former) in config.tasks.iter().zip(tasks.former()) {
            if former.is_none() {
                changed.push((task.name.clone(), TaskOutcome::Added));
            }
        }
        if changed.is_empty() && !tasks.is_identity() {
            let order = config
                .tasks
                .iter()
                .map(|task| (task.name.clone(), TaskOutcome::Kept));
            changed.extend(order);
        }
        let is_same_policy = header.policy == StoredPolicy::from(config);
        Self {
            config,
            tasks,
            done: JoinMigration {
                closes_open: !continues(header.policy, config.label_policy),
                tasks: changed,
                former_policy: (!is_same_policy).then(|| header.policy.to_string()),
                ..JoinMigration::default()
            },
        }
    }

    /// Gives each task the counters of its name. A new task has had every item shown so far after its window.
    fn counters(&self, header: &mut Header) {
        let counters = &mut header.counters;
        let decided = counters
            .items
            .saturating_sub(counters.duplicate_items)
            .saturating_sub(counters.excess_items);
        let of_task = |former: Option<u8>| match former {
            Some(former) => counters
                .tasks
                .get(usize::from(former))
                .copied()
                .unwrap_or_default(),
            None => TaskCounters {
                late: decided,
                ..TaskCounters::default()
            },
        };
        counters.tasks = self.tasks.former().map(of_task).collect();
    }

    fn slot(&mut self, slot: &mut RequestSlot, header: &mut Header) {
        if !self.tasks.is_identity() {
            self.early(slot, header);
            for closed in &mut slot.closed {
                *closed = closed.migrate(|set| self.tasks.set(set));
            }
        }
        let open = std::mem::take(&mut slot.open).into_vec();
        let mut kept = Vec::with_capacity(open.len());
        for mut open in open {
            self.open(&mut open, header);
            if open.closed != self.config.all_tasks() {
                open.next = next_due(self.config, &open);
                kept.push(open);
                continue;
            }
            let n_items = open.items.len() as u64;
            header.counters.pending_items = header.counters.pending_items.saturating_sub(n_items);
            header.counters.closed_early += u64::from(self.done.closes_open);
            header.counters.remembered += 1;
            self.done.closed_items += n_items;
            let expires = passed(open.request.ts, self.config.dedup_ms());
            append(&mut slot.closed, open.remember(expires));
        }
        slot.open = kept.into_boxed_slice();
    }

    /// Gives an open impression the present tasks, and closes it where no sample can follow.
    fn open(&self, open: &mut OpenImpression, header: &mut Header) {
        let tasks = &self.tasks;
        if !tasks.is_identity() {
            open.closed = tasks.set(open.closed) | tasks.added();
            open.sampled = tasks.set(open.sampled);
            open.held = tasks.set(open.held);
            for item in &mut open.items {
                item.positive = tasks.set(item.positive);
                item.copied = tasks.set(item.copied);
            }
            let values = open.values.iter().copied();
            let values = values.filter_map(|mut value| {
                value.task = tasks.present(value.task)?;
                Some(value)
            });
            open.values = values.collect();
        }
        if self.done.closes_open {
            let closes = self.config.all_tasks() & !open.closed;
            for item in &open.items {
                for (task, counters) in header.counters.tasks.iter_mut().enumerate() {
                    if closes & !item.positive & (1u8 << task) != 0 {
                        counters.pending = counters.pending.saturating_sub(1);
                        counters.negative += 1;
                    }
                }
            }
            open.closed |= closes;
        }
    }

    /// Gives waiting actions the present tasks. Those of removed tasks are given up as orphans, or as unattributed.
    fn early(&mut self, slot: &mut RequestSlot, header: &mut Header) {
        let Some(early) = &mut slot.early else { return };
        let (counters, done) = (&mut header.counters, &mut self.done);
        early.actions.retain_mut(|action| {
            let Some(task) = self.tasks.present(action.task) else {
                counters.waiting = counters.waiting.saturating_sub(1);
                match action.user {
                    Some(_) => counters.unattributed += 1,
                    None => counters.orphans += 1,
                }
                done.lost_waiting += 1;
                return false;
            };
            action.task = task;
            true
        });
        if !early.update_next() {
            slot.early = None;
        }
    }
}

/// True for a join state that another version of this crate has exported.
pub(crate) fn is_of_another_version(bytes: &[u8]) -> bool {
    let name = MAGIC.len() - 1;
    bytes.len() > name && bytes[..name] == MAGIC[..name] && !bytes.starts_with(MAGIC)
}

/// True when the samples that the former policy has made of an open impression are those that the present one continues.
fn continues(former: StoredPolicy, present: LabelPolicy) -> bool {
    match former {
        StoredPolicy::Eager => present == LabelPolicy::Eager,
        StoredPolicy::Wait => present == LabelPolicy::Wait,
        StoredPolicy::Fnw(_) | StoredPolicy::Fnc(_) => present.is_at_once(),
        StoredPolicy::EsDfm(_) => present == LabelPolicy::EsDfm,
        StoredPolicy::Defer(_) => present == LabelPolicy::Defer,
    }
}

#[cfg(test)]
mod tests;
