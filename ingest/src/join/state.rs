//! The join state as bytes, and the audit that counts it again.
//!
//! Sorted by id, so equal states are equal bytes, whatever store they came from. Layout: magic, then in postcard a
//! header, the number of slots, and each id with its slot.

use std::fmt;

use ouzel_sample::settings::Period;
use ouzel_sample::{EventTime, Id};
use serde::{Deserialize, Serialize};

use crate::join::clock::EventClock;
use crate::join::config::{JoinConfig, LabelPolicy};
use crate::join::counters::{Counters, IdentityViolation};
use crate::join::error::JoinError;
use crate::join::joiner::Joiner;
use crate::join::slot::RequestSlot;
use crate::join::store::JoinStore;

/// First bytes of an exported state; the digit is the version of the layout.
pub(super) const MAGIC: &[u8; 10] = b"ouzeljoin5";

/// What precedes the slots.
#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    /// Name and window of each task.
    pub(super) tasks: Vec<(String, Period)>,
    pub(super) policy: StoredPolicy,
    pub(super) clock: EventClock,
    pub(super) counters: Counters,
    pub(super) floor: EventTime,
    pub(super) first_shown: Option<EventTime>,
    pub(super) n_slots: u64,
}

/// A label policy with its wait in ms, as the state stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum StoredPolicy {
    Eager,
    Wait,
    Fnw(i64),
    Fnc(i64),
    EsDfm(i64),
    Defer(i64),
}

impl From<&JoinConfig> for StoredPolicy {
    fn from(config: &JoinConfig) -> Self {
        let wait_ms = config.label_wait.ms();
        match config.label_policy {
            LabelPolicy::Eager => Self::Eager,
            LabelPolicy::Wait => Self::Wait,
            LabelPolicy::Fnw => Self::Fnw(wait_ms),
            LabelPolicy::Fnc => Self::Fnc(wait_ms),
            LabelPolicy::EsDfm => Self::EsDfm(wait_ms),
            LabelPolicy::Defer => Self::Defer(wait_ms),
        }
    }
}

impl fmt::Display for StoredPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, wait_ms) = match self {
            Self::Eager => return f.write_str("join.label_policy = \"eager\""),
            Self::Wait => return f.write_str("join.label_policy = \"wait\""),
            Self::Fnw(wait_ms) => ("fnw", *wait_ms),
            Self::Fnc(wait_ms) => ("fnc", *wait_ms),
            Self::EsDfm(wait_ms) => ("es_dfm", *wait_ms),
            Self::Defer(wait_ms) => ("defer", *wait_ms),
        };
        let wait = Period::from_ms(wait_ms);
        write!(
            f,
            "join.label_policy = \"{name}\" and join.label_wait = \"{wait}\""
        )
    }
}

impl<S: JoinStore> Joiner<S> {
    /// The whole state.
    pub fn export(&self) -> Result<Vec<u8>, JoinError> {
        let header = Header {
            tasks: windows(&self.config),
            policy: StoredPolicy::from(&self.config),
            clock: self.clock.clone(),
            counters: self.counters.clone(),
            floor: self.floor,
            first_shown: self.first_shown,
            n_slots: self.store.len() as u64,
        };
        let encodes = "the join state has no type that postcard refuses";
        let mut bytes = postcard::to_extend(&header, MAGIC.to_vec()).expect(encodes);
        self.store.for_each(&mut |id, slot| {
            let so_far = std::mem::take(&mut bytes);
            bytes = postcard::to_extend(&(id, slot), so_far).expect(encodes);
        })?;
        Ok(bytes)
    }

    /// A joiner with an exported state, over an empty `store`.
    ///
    /// The tasks and the policy must be those it was exported with: open windows cannot change their rules. Bounds
    /// and caps may differ and hold from here on.
    pub fn import(config: JoinConfig, store: S, bytes: &[u8]) -> Result<Self, JoinError> {
        let (header, mut remaining) = read_header(bytes)?;
        if let Some(changed) = changed(&header, &config) {
            return Err(changed);
        }
        let mut joiner = Self::new(config, [], store)?;
        joiner.clock = joiner.bounded(header.clock);
        joiner.counters = header.counters;
        joiner.floor = header.floor;
        joiner.first_shown = header.first_shown;
        for _ in 0..header.n_slots {
            let (entry, after): ((Id, RequestSlot), _) =
                postcard::take_from_bytes(remaining).map_err(decode)?;
            remaining = after;
            if let Some(open_items) = &mut joiner.open_items {
                entry.1.open.iter().for_each(|open| open_items.insert(open));
            }
            joiner.store.update(entry.0, |slot| *slot = entry.1)?;
        }
        if !remaining.is_empty() {
            return Err(JoinError::Decode(format!(
                "{} bytes follow the last slot",
                remaining.len()
            )));
        }
        joiner.audit()?;
        Ok(joiner)
    }

    /// Checks the counters against the slots, counting all of them; for snapshots and restores.
    pub fn audit(&self) -> Result<(), JoinError> {
        let n_tasks = self.config.n_tasks();
        if self.counters.tasks.len() != n_tasks {
            return Err(JoinError::Decode(format!(
                "counters of {} tasks, {n_tasks} are configured",
                self.counters.tasks.len()
            )));
        }
        self.counters.check()?;
        let mut pending = vec![0u64; n_tasks];
        let (mut items, mut waiting, mut remembered) = (0u64, 0u64, 0u64);
        self.store.for_each(&mut |_, slot| {
            for open in &slot.open {
                items += open.items.len() as u64;
                for (task, pending) in pending.iter_mut().enumerate() {
                    let decided = |positive: u8| (open.closed | positive) & (1 << task) != 0;
                    let undecided = open.items.iter().filter(|item| !decided(item.positive));
                    *pending += undecided.count() as u64;
                }
            }
            waiting += slot.early.as_ref().map_or(0, |early| early.actions.len() as u64);
            remembered += slot.closed.len() as u64;
        })?;
        let equal = IdentityViolation::expect_equal;
        for (task, pending) in (0..).zip(pending) {
            let counted = self.counters.tasks[usize::from(task)].pending;
            equal(
                Some(task),
                ("pending in the slots", pending),
                ("pending", counted),
            )?;
        }
        equal(
            None,
            ("items in open impressions", items),
            ("pending items", self.counters.pending_items),
        )?;
        equal(
            None,
            ("actions in the slots", waiting),
            ("waiting", self.counters.waiting),
        )?;
        equal(
            None,
            ("closed impressions in the slots", remembered),
            ("remembered", self.counters.remembered),
        )?;
        Ok(())
    }
}

/// Reads what precedes the slots of an exported state. Returns it with the bytes of the slots.
pub(super) fn read_header(bytes: &[u8]) -> Result<(Header, &[u8]), JoinError> {
    let body = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| JoinError::Decode("the first bytes are not those of a join state".to_owned()))?;
    postcard::take_from_bytes(body).map_err(decode)
}

/// The first setting that an exported state was made under and that the configuration has changed.
fn changed(header: &Header, config: &JoinConfig) -> Option<JoinError> {
    let window = |(name, window): &(String, Period)| format!("join.tasks[{name}].window = \"{window}\"");
    let listed = |tasks: &[(String, Period)]| tasks.iter().map(window).collect::<Vec<_>>().join(", ");
    let tasks = windows(config);
    let policy = StoredPolicy::from(config);
    let (found, expected) = if header.tasks != tasks {
        (listed(&header.tasks), listed(&tasks))
    } else if header.policy != policy {
        (header.policy.to_string(), policy.to_string())
    } else {
        return None;
    };
    Some(JoinError::Changed { found, expected })
}

pub(super) fn windows(config: &JoinConfig) -> Vec<(String, Period)> {
    let tasks = config.tasks.iter();
    tasks.map(|task| (task.name.clone(), task.window)).collect()
}

pub(super) fn decode(error: postcard::Error) -> JoinError {
    JoinError::Decode(error.to_string())
}
