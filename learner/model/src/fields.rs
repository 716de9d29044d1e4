//! Which ids feed which field of the model.
//!
//! A field is one vector `[dim]`: the weighted sum of the rows of its ids. One id keeps one row per role, so
//! a user and an item never share one, while an item in a history and the same item as a candidate do.

use ouzel_sample::{AttributeField, Candidate, HistoryEntry, Id, Request, primary_attribute};

use crate::config::TOKEN_FIELDS;

/// Fields of the user side, once per request: user, context, history.
pub const USER_FIELDS: usize = 3;
/// Fields of the candidate side: item, category, author, tags.
pub const CANDIDATE_FIELDS: usize = 4;

/// What an id is of: each has its own width of rows, its own rate and its own rules of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// A user.
    User,
    /// An item, as a candidate or in a history.
    Item,
    /// A categorical value of an item or of the request.
    Attribute,
}

impl Feature {
    /// How many there are.
    pub const N: usize = 3;
    /// All of them, each at its place.
    pub const ALL: [Self; Self::N] = [Self::User, Self::Item, Self::Attribute];

    /// Its name in the configuration and in a snapshot.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Item => "item",
            Self::Attribute => "attribute",
        }
    }

    /// Its place in [`ALL`](Self::ALL).
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::User => 0,
            Self::Item => 1,
            Self::Attribute => 2,
        }
    }
}

/// What a row is found by: an id in its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What it is of.
    pub feature: Feature,
    /// The id mixed with its role, which alone is different from that of every other row.
    pub id: Id,
}

impl Key {
    /// The row of a user.
    #[must_use]
    pub fn user(id: Id) -> Self {
        Self {
            feature: Feature::User,
            id: role(Role::User, id),
        }
    }

    /// The row of an item.
    #[must_use]
    pub fn item(id: Id) -> Self {
        Self {
            feature: Feature::Item,
            id: role(Role::Item, id),
        }
    }

    /// The row of a categorical value.
    #[must_use]
    pub fn attribute(id: Id) -> Self {
        Self {
            feature: Feature::Attribute,
            id: role(Role::Attribute, id),
        }
    }
}

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

    /// Calls `add(field, key, coefficient)` for each id of the user side.
    pub fn user(&self, mut add: impl FnMut(usize, Key, f32)) {
        add(0, Key::user(self.request.user), 1.0);
        let scale = inverse_root(self.request.context.len());
        for value in &self.request.context {
            add(1, Key::attribute(*value), scale);
        }
        let history = &self.request.history;
        let history = &history[history.len().saturating_sub(self.history_len)..];
        let scale = inverse_root(history.len());
        for entry in history {
            add(2, Key::item(entry.item), scale);
        }
    }

    /// Calls `add(field, key, coefficient)` for each id of a candidate.
    pub fn candidate(candidate: &Candidate, mut add: impl FnMut(usize, Key, f32)) {
        add(0, Key::item(candidate.item), 1.0);
        for (field, kind) in [
            (1, AttributeField::Category),
            (2, AttributeField::Author),
            (3, AttributeField::Tag),
        ] {
            let n = candidate.attributes.iter().filter(|a| a.field == kind).count();
            let scale = inverse_root(n);
            for attribute in candidate.attributes.iter().filter(|a| a.field == kind) {
                add(field, Key::attribute(attribute.value), scale);
            }
        }
    }

    /// The ids of a history entry as a token; none where there is nothing to say.
    #[must_use]
    pub fn token(entry: &HistoryEntry) -> [Option<Key>; TOKEN_FIELDS] {
        token(entry.item, entry.attribute)
    }

    /// The ids of a candidate as a token like those of the history.
    #[must_use]
    pub fn target(candidate: &Candidate) -> [Option<Key>; TOKEN_FIELDS] {
        token(candidate.item, primary_attribute(&candidate.attributes))
    }

    /// Calls `add(id, key)` for each id of the wide part: single ids and their pairs with the user. `key` is the row
    /// that the weight comes with; of a pair, the user's.
    pub fn wide(&self, candidate: &Candidate, mut add: impl FnMut(Id, Key)) {
        let user = Key::user(self.request.user);
        let mut add_single = |key: Key| add(key.id, key);
        add_single(user);
        add_single(Key::item(candidate.item));
        for value in &self.request.context {
            add_single(Key::attribute(*value));
        }
        for attribute in &candidate.attributes {
            let key = Key::attribute(attribute.value);
            add(key.id, key);
            if attribute.field != AttributeField::Tag {
                let pair = self.request.user.pair(attribute.value);
                add(role(Role::UserAttribute, pair), user);
            }
        }
    }
}

fn token(item: Id, attribute: Id) -> [Option<Key>; TOKEN_FIELDS] {
    let attribute = (attribute != Id::default()).then(|| Key::attribute(attribute));
    [Some(Key::item(item)), attribute]
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
