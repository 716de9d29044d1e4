//! A standby: a daemon that follows the plan log of another one, serves, and takes over when that one falls silent.
//!
//! It restores the newest snapshot, reads the same topics, and joins and learns the entries of the plan log as the writer
//! appends them, so that it has the same state a moment later. It writes nothing. [`keeper`] watches the writer's lease and
//! takes it; then the join stage finishes the plan, begins a segment of its own and decides from there on. [`comparison`]
//! compares the weights with each snapshot of the writer, at the same entry: a difference makes the stages start again from
//! that snapshot. So does an action of the operator that the plan log does not contain ([`OperatorState`]).

pub(crate) mod comparison;
pub(crate) mod keeper;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, sync_channel};
use std::sync::{Arc, Mutex};

use ouzel_snapshot::{Alias, SnapshotId, Store};

use super::pause::Pause;
use super::quarantine::QuarantineFile;
use super::run::Restart;

/// What operators have done to a state directory that decides what is learned or served, besides its snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OperatorState {
    /// The last rollback: where to, and the newest snapshot then.
    rollback: Option<(SnapshotId, SnapshotId)>,
    pinned: Option<SnapshotId>,
    quarantine: Vec<String>,
    is_paused: bool,
}

impl OperatorState {
    /// Reads it.
    pub(crate) fn read(store: &Store) -> anyhow::Result<Self> {
        Ok(Self {
            rollback: store.last_rollback()?,
            pinned: store.alias(Alias::Pinned)?,
            quarantine: QuarantineFile::read(store.root())?.texts(),
            is_paused: Pause::read(store.root())?.is_some(),
        })
    }

    /// True if operators have done something since `before`.
    pub(crate) fn has_changed_since(&self, before: &Self) -> bool {
        // The record of a rollback goes when no snapshot is left that it concerns.
        let is_rolled_back = self.rollback.is_some() && self.rollback != before.rollback;
        is_rolled_back
            || (self.pinned, self.is_paused) != (before.pinned, before.is_paused)
            || self.quarantine != before.quarantine
    }
}

/// Makes the stages of one run start again from the newest snapshot, once.
#[derive(Clone, Debug)]
pub(crate) struct Resync {
    restarts: Sender<Restart>,
    is_requested: Arc<AtomicBool>,
}

impl Resync {
    /// A request that was not made yet.
    pub(crate) fn new(restarts: Sender<Restart>) -> Self {
        Self {
            restarts,
            is_requested: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Asks for the start, for this reason.
    pub(crate) fn request(&self, why: &str) {
        if self.is_requested.swap(true, Ordering::AcqRel) {
            return;
        }
        metrics::counter!(crate::telemetry::metrics::STANDBY_RESYNCS).increment(1);
        tracing::warn!(why, "starting again from the newest snapshot");
        let restart = Restart {
            change: Box::new(|_| Ok(Vec::new())),
            reply: sync_channel(1).0,
        };
        // A process that is stopping takes no more requests.
        let _is_received = self.restarts.send(restart).is_ok();
    }

    /// True once it was asked for: what this run does from then on is given up.
    pub(crate) fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::Acquire)
    }
}

/// How one run of the stages stands to the other daemons of its state directory.
#[derive(Clone, Debug)]
pub(crate) struct RunRole {
    /// True if it began by following the plan log of another daemon.
    pub(crate) is_standby: bool,
    /// The operators' state that it began with.
    pub(crate) operator: OperatorState,
    pub(crate) resync: Resync,
    may_lead: Arc<AtomicBool>,
    /// Why it cannot become the writer, though nobody else is.
    unwritable: Arc<Mutex<Option<String>>>,
}

impl RunRole {
    /// The role of stages that are about to start.
    pub(crate) fn new(is_standby: bool, operator: OperatorState, restarts: Sender<Restart>) -> Self {
        Self {
            is_standby,
            operator,
            resync: Resync::new(restarts),
            may_lead: Arc::new(AtomicBool::new(false)),
            unwritable: Arc::default(),
        }
    }

    /// Why nothing can be written, though no other process is the writer.
    pub(crate) fn unwritable(&self) -> Option<String> {
        super::lock(&self.unwritable).clone()
    }

    /// Says why nothing can be written, or that it can.
    pub(super) fn set_unwritable(&self, why: Option<String>) {
        *super::lock(&self.unwritable) = why;
    }

    /// Lets the join stage decide: this process is the writer, and nothing has made its state another one.
    pub(crate) fn let_lead(&self) {
        self.may_lead.store(true, Ordering::Release);
    }

    /// True once the join stage may decide.
    pub(crate) fn may_lead(&self) -> bool {
        self.may_lead.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_of_an_operator_is_noticed_and_a_forgotten_rollback_is_none() {
        let id = SnapshotId::new;
        let none = OperatorState::default();
        let rolled_back = OperatorState {
            rollback: Some((id(1), id(2))),
            ..none.clone()
        };
        assert!(!none.has_changed_since(&none));
        assert!(rolled_back.has_changed_since(&none));
        assert!(!none.has_changed_since(&rolled_back));
        for changed in [
            OperatorState {
                pinned: Some(id(1)),
                ..none.clone()
            },
            OperatorState {
                quarantine: vec!["user u".to_owned()],
                ..none.clone()
            },
            OperatorState {
                is_paused: true,
                ..none.clone()
            },
        ] {
            assert!(changed.has_changed_since(&none) && none.has_changed_since(&changed));
        }
    }
}
