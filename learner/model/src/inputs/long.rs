//! The lists of the users' long pasts that the candidates of a batch read: the inputs of SIM's exact search unit.

use std::collections::HashMap;

use ouzel_sample::{Candidate, HistoryEntry, Request};

use super::{HistoryInputs, Unique};
use crate::fields::Key;
use crate::groups::Groups;

/// Lists of past actions, each once, and the one that each candidate reads.
#[derive(Clone, Debug, Default)]
pub struct LongInputs {
    /// The lists as histories, `n_lists` in place of `n_requests`. The first one is empty; `target` is unused.
    pub lists: HistoryInputs,
    /// The list of each candidate, `[n_candidates]`; the first one where there are no such actions.
    pub list_of: Vec<i64>,
    /// Candidates grouped by list.
    pub groups: Groups,
}

/// Collects lists. Those that no candidate of the batch reads are left out.
pub(super) struct Collected {
    /// Entries of a list that the model reads, count.
    len: usize,
    /// By number of the request and place in its past.
    places: HashMap<(i64, u16), i64>,
    /// Time of the request and entries.
    lists: Vec<(i64, Vec<HistoryEntry>)>,
    list_of: Vec<i64>,
}

impl Collected {
    pub(super) fn new(len: usize) -> Self {
        Self {
            len,
            places: HashMap::new(),
            lists: vec![(0, Vec::new())],
            list_of: Vec::new(),
        }
    }

    /// Adds a candidate of the request with this number in the batch.
    pub(super) fn candidate(&mut self, number: i64, request: &Request, candidate: &Candidate) {
        let list = candidate.past.and_then(|place| {
            let entries = request.past.get(usize::from(place))?;
            Some((place, entries))
        });
        let place = list.map_or(0, |(place, entries)| {
            *self.places.entry((number, place)).or_insert_with(|| {
                let newest = entries.len().saturating_sub(self.len);
                self.lists.push((request.ts.0, entries[newest..].to_vec()));
                i64::try_from(self.lists.len() - 1).unwrap_or(0)
            })
        });
        self.list_of.push(place);
    }

    /// The inputs, whose rows are among `rows`.
    pub(super) fn done(self, rows: &mut Unique<Key>) -> LongInputs {
        let groups = Groups::new(&self.list_of, self.lists.len());
        LongInputs {
            lists: HistoryInputs::new(self.lists, rows),
            list_of: self.list_of,
            groups,
        }
    }
}
