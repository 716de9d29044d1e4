//! The place of a candidate: a second version that scores the requests of a share of the users.
//!
//! As a shadow it scores copies of requests that were answered already, on a thread of its own ([`run_shadow`]): no reply
//! waits for it or fails by it. As a canary it answers the users of the share; where it cannot, the served version does.

mod shadow;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use metrics::counter;
use ouzel_sample::{Id, UserShare};
use serde::{Deserialize, Serialize};

use crate::metrics::CANDIDATE_REQUESTS_TOTAL;
use crate::{Published, Version};

pub use shadow::{MAX_SHADOW_JOBS, ShadowJob, run_shadow};

/// What replies name in place of a snapshot when a second learner answered, which is none.
pub const CANDIDATE_NAME: &str = "candidate";

/// How a candidate takes part in serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Scores requests that the served version answers.
    Shadow,
    /// Answers requests.
    Canary,
}

impl Variant {
    /// Its name in reports and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Variant::Shadow => "shadow",
            Variant::Canary => "canary",
        }
    }
}

/// Which requests a candidate scores, and to what end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandidateRole {
    /// To what end.
    pub variant: Variant,
    /// The users whose requests it scores.
    pub share: UserShare,
}

/// What became of the requests of the share since the candidate started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CandidateCounts {
    /// Requests that it scored.
    pub scored: u64,
    /// Requests that a shadow did not score, because its queue was full.
    pub dropped: u64,
    /// Requests that it could not score; those of a canary were answered by the served version.
    pub failed: u64,
    /// Requests among `scored` where both models agree on the first item; known of a shadow only.
    pub same_first: u64,
}

/// The candidate of a process, or the place for one. Shared by the scorers and whoever starts and stops it.
#[derive(Debug)]
pub struct CandidateSlot {
    active: RwLock<Option<Arc<ActiveCandidate>>>,
    versions: Published<Version>,
}

/// Publishes further versions of a candidate that learns, as long as it is the candidate.
#[derive(Clone, Debug)]
pub struct CandidateVersions {
    slot: Arc<CandidateSlot>,
    of: Weak<ActiveCandidate>,
}

/// A candidate that takes part.
#[derive(Debug)]
pub(crate) struct ActiveCandidate {
    pub(crate) role: CandidateRole,
    scored: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    same_first: AtomicU64,
    is_suspended: AtomicBool,
}

impl Default for CandidateSlot {
    fn default() -> Self {
        Self::new()
    }
}

impl CandidateSlot {
    /// An empty place.
    #[must_use]
    pub fn new() -> Self {
        Self {
            active: RwLock::new(None),
            versions: Published::without_metrics(),
        }
    }

    /// Makes `version` the candidate, in place of the one before. Its counts start from 0. Returns what publishes further
    /// versions of it.
    pub fn start(self: &Arc<Self>, role: CandidateRole, version: Arc<Version>) -> CandidateVersions {
        let candidate = Arc::new(ActiveCandidate {
            role,
            scored: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            same_first: AtomicU64::new(0),
            is_suspended: AtomicBool::new(false),
        });
        let of = Arc::downgrade(&candidate);
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        self.versions.publish(version);
        *active = Some(candidate);
        drop(active);
        CandidateVersions {
            slot: Arc::clone(self),
            of,
        }
    }

    /// Ends the candidate, if there is one. A request that it scores finishes with it.
    pub fn stop(&self) {
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        *active = None;
        self.versions.clear();
    }

    /// The counts of the candidate, if there is one.
    #[must_use]
    pub fn counts(&self) -> Option<CandidateCounts> {
        self.get().map(|active| active.counts())
    }

    /// True if a score of a canary was not finite: it answers no more, until whoever started it stops it.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.get().is_some_and(|active| active.is_suspended())
    }

    /// Frees versions that no scorer uses any more. Returns how many are in memory.
    pub fn sweep(&self) -> usize {
        self.versions.sweep()
    }

    /// The candidate, if `user` is of its share and it takes part.
    pub(crate) fn of_user(&self, user: impl FnOnce() -> Id) -> Option<Arc<ActiveCandidate>> {
        let active = self.get()?;
        (!active.is_suspended() && active.role.share.contains(user())).then_some(active)
    }

    pub(crate) fn versions(&self) -> &Published<Version> {
        &self.versions
    }

    fn get(&self) -> Option<Arc<ActiveCandidate>> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl CandidateVersions {
    /// Publishes a version. Returns false if another candidate has taken the place, or none is left.
    pub fn publish(&self, version: Arc<Version>) -> bool {
        // Held meanwhile, so that no version of this candidate follows one of the next.
        let active = self.slot.active.read().unwrap_or_else(PoisonError::into_inner);
        let is_active = active
            .as_ref()
            .is_some_and(|active| Weak::ptr_eq(&Arc::downgrade(active), &self.of));
        if is_active {
            self.slot.versions.publish(version);
        }
        is_active
    }
}

impl ActiveCandidate {
    /// Counts a request that it scored.
    pub(crate) fn count_scored(&self, is_same_first: bool) {
        self.scored.fetch_add(1, Ordering::Relaxed);
        self.same_first
            .fetch_add(u64::from(is_same_first), Ordering::Relaxed);
        self.count("scored");
    }

    /// Counts a request that found the queue of the shadow full.
    pub(crate) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.count("dropped");
    }

    /// Counts a request that it could not score. Returns true for the first one.
    pub(crate) fn count_failed(&self) -> bool {
        self.count("failed");
        self.failed.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// Ends its part in serving.
    pub(crate) fn suspend(&self) {
        self.is_suspended.store(true, Ordering::Release);
    }

    fn is_suspended(&self) -> bool {
        self.is_suspended.load(Ordering::Acquire)
    }

    fn count(&self, outcome: &'static str) {
        counter!(CANDIDATE_REQUESTS_TOTAL, "variant" => self.role.variant.name(), "outcome" => outcome)
            .increment(1);
    }

    fn counts(&self) -> CandidateCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CandidateCounts {
            scored: read(&self.scored),
            dropped: read(&self.dropped),
            failed: read(&self.failed),
            same_first: read(&self.same_first),
        }
    }
}
