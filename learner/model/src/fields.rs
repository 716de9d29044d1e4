//! Which ids feed which field of the model.
//!
//! A field is one vector `[dim]`: the weighted sum of the rows of its ids. A row belongs to an id in a role: a user and an
//! item never share one, an item in a history and the same item as a candidate do.

use ouzel_sample::{AttributeField, Candidate, HistoryEntry, Id, Request, primary_attribute};

use crate::config::TOKEN_FIELDS;

/// Fields of the user side, once per request: user, context, history.
pub const USER_FIELDS: usize = 3;
/// Fields of the candidate side: item, and its categorical values.
pub const CANDIDATE_FIELDS: usize = 2;

/// Rows that the gates of hidden layers read: of the user, and the fields of a candidate.
pub(crate) const GATE_ROWS: usize = 1 + CANDIDATE_FIELDS;

/// The kind of thing an id names. Each has its own row width, learning rate and admission rules.
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
    /// Number of features.
    pub const N: usize = 3;
    /// All features, each at its [`index`](Self::index).
    pub const ALL: [Self; Self::N] = [Self::User, Self::Item, Self::Attribute];

    /// Name in the configuration and in a snapshot.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Item => "item",
            Self::Attribute => "attribute",
        }
    }

    /// Position in [`ALL`](Self::ALL).
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::User => 0,
            Self::Item => 1,
            Self::Attribute => 2,
        }
    }
}

/// The key of an embedding row: an id in a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What the id names.
    pub feature: Feature,
    /// The id mixed with its role; unique among all rows.
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

/// The ids of a request's and its candidates' fields.
#[derive(Debug)]
pub struct Fields<'a> {
    history_len: usize,
    request: &'a Request,
}

impl<'a> Fields<'a> {
    /// Fields of a request, with the newest `history_len` actions of its history.
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
        let scale = inverse_root(candidate.attributes.len());
        for attribute in &candidate.attributes {
            add(1, Key::attribute(attribute.value), scale);
        }
    }

    /// The ids of a history entry as a token: its item and what the item is about, if known.
    #[must_use]
    pub fn token(entry: &HistoryEntry) -> [Option<Key>; TOKEN_FIELDS] {
        token(entry.item, entry.attribute)
    }

    /// The ids of a candidate as a token.
    #[must_use]
    pub fn target(candidate: &Candidate) -> [Option<Key>; TOKEN_FIELDS] {
        token(candidate.item, primary_attribute(&candidate.attributes))
    }

    /// Calls `add(id, key)` for each id of the wide part: single ids, and pairs of the user with an attribute.
    ///
    /// A wide weight exists as long as the embedding row `key`; for a pair that is the user's row.
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
            if matches!(attribute.field, AttributeField::Category | AttributeField::Author) {
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

/// The role of an id, part of a row's key.
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

/// `1 / sqrt(n)`: a sum of `n` rows then has the variance of one.
pub(crate) fn inverse_root(n: usize) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a bounded count")]
    let n = n.max(1) as f32;
    n.sqrt().recip()
}
