//! The slates of a batch for the pooled head: which candidates are members of the slate of their request.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use ouzel_sample::{Id, IdHasher};

/// Collects the members of slates.
#[derive(Default)]
pub(super) struct Collected {
    members: Vec<bool>,
    /// Items by the number of their request.
    seen: HashSet<Id, BuildHasherDefault<IdHasher>>,
}

impl Collected {
    /// Adds a candidate; the first one of each item of a request is a member.
    pub(super) fn candidate(&mut self, request: i64, item: Id) {
        let request = u64::try_from(request).unwrap_or(0);
        self.members.push(self.seen.insert(Id(request).pair(item)));
    }

    /// Whether a candidate counts in its slate, `[n_candidates]`.
    pub(super) fn members(self) -> Vec<bool> {
        self.members
    }
}
