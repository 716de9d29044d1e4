//! Which ids feed which field of the model.
//!
//! A field is one vector `[dim]`: the weighted sum of the rows of its ids. One id keeps one row per role, so
//! a user and an item never share one, while an item in a history and the same item as a candidate do.

use ouzel_sample::{Candidate, HistoryEntry, Id, Request, Slot, about};

use crate::config::TOKEN_FIELDS;

/// Fields of the user side, once per request: user, context, history.
pub const USER_FIELDS: usize = 3;
/// Fields of the candidate side: item, category, author, tags.
pub const CANDIDATE_FIELDS: usize = 4;

/// Collects the ids of one request's or candidate's fields.
#[derive(Debug)]
pub struct Fields<'a> {
    history_len: usize,
    request: &'a Request,
}

impl<'a> Fields<'a> {
    /// Fields of a request, its history cut to the newest `history_len` actions.
    #[must_use]
    pub fn new(request: &'a Request, history_len: usize) -> Self {
        Self { history_len, request }
    }

    /// Calls `add(field, id, coefficient)` for each id of the user side.
    pub fn user(&self, mut add: impl FnMut(usize, Id, f32)) {
        add(0, role(Role::User, self.request.user), 1.0);
        let scale = inverse_root(self.request.context.len());
        for value in &self.request.context {
            add(1, role(Role::Attribute, *value), scale);
        }
        let history = &self.request.history;
        let history = &history[history.len().saturating_sub(self.history_len)..];
        let scale = inverse_root(history.len());
        for entry in history {
            add(2, role(Role::Item, entry.item), scale);
        }
    }

    /// Calls `add(field, id, coefficient)` for each id of a candidate.
    pub fn candidate(candidate: &Candidate, mut add: impl FnMut(usize, Id, f32)) {
        add(0, role(Role::Item, candidate.item), 1.0);
        for (field, slot) in [(1, Slot::Category), (2, Slot::Author), (3, Slot::Tag)] {
            let n = candidate.attributes.iter().filter(|a| a.slot == slot).count();
            let scale = inverse_root(n);
            for attribute in candidate.attributes.iter().filter(|a| a.slot == slot) {
                add(field, role(Role::Attribute, attribute.value), scale);
            }
        }
    }

    /// The ids of a history entry as a token; none where there is nothing to say.
    #[must_use]
    pub fn token(entry: &HistoryEntry) -> [Option<Id>; TOKEN_FIELDS] {
        token(entry.item, entry.about)
    }

    /// The ids of a candidate as a token like those of the history.
    #[must_use]
    pub fn target(candidate: &Candidate) -> [Option<Id>; TOKEN_FIELDS] {
        token(candidate.item, about(&candidate.attributes))
    }

    /// Calls `add(id)` for each id of the wide part: single ids and their pairs with the user.
    pub fn wide(&self, candidate: &Candidate, mut add: impl FnMut(Id)) {
        add(role(Role::User, self.request.user));
        add(role(Role::Item, candidate.item));
        for value in &self.request.context {
            add(role(Role::Attribute, *value));
        }
        for attribute in &candidate.attributes {
            add(role(Role::Attribute, attribute.value));
            if attribute.slot != Slot::Tag {
                add(role(Role::UserAttribute, self.request.user.pair(attribute.value)));
            }
        }
    }
}

fn token(item: Id, about: Id) -> [Option<Id>; TOKEN_FIELDS] {
    let about = (about != Id::default()).then(|| role(Role::Attribute, about));
    [Some(role(Role::Item, item)), about]
}

/// The role an id plays; part of the row's key.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Role {
    User = 0x5553_4552,
    Item = 0x4954_454d,
    Attribute = 0x4154_5452,
    UserAttribute = 0x5541_5452,
}

fn role(role: Role, id: Id) -> Id {
    Id(role as u64).pair(id)
}

/// `1 / sqrt(n)`: keeps the variance of a sum of `n` rows that of one.
fn inverse_root(n: usize) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a bounded count")]
    let n = n.max(1) as f32;
    n.sqrt().recip()
}
