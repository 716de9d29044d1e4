//! Ids: strings on the wire, salted 64-bit hashes inside the program.

use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::NumberScope;

/// Longest id accepted on the wire, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 512;

/// A salted 64-bit hash of an id string.
///
/// The hash seed includes the [`IdKind`], so a user and an item with the same name have unrelated hashes.
/// Among 10 million ids the probability of any collision is about 3e-6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Id(pub u64);

impl Id {
    /// Combines two ids into the id of their ordered pair, such as user x category.
    #[must_use]
    pub fn pair(self, other: Id) -> Id {
        Id(mix(self.0.rotate_left(32) ^ mix(other.0)))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A concurrent map keyed by ids. Results must not depend on its iteration order.
pub type IdMap<K, V> = DashMap<K, V, BuildHasherDefault<IdHasher>>;

/// A hasher that returns the id itself: ids are already uniform hashes.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u32(&mut self, value: u32) {
        // Maps read the high bits too.
        self.0 = u64::from(value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u64(&mut self, value: u64) {
        // dashmap takes the shard from the high bits and the bucket from the low bits; both are random here.
        self.0 = value;
    }
}

/// The kind of thing an id identifies. Part of the hash seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum IdKind {
    /// A request: one slate shown to one user.
    Request = 1,
    /// A user.
    User = 2,
    /// An item.
    Item = 3,
    /// A categorical value of an item or of the request context.
    Attribute = 4,
    /// The name of a categorical value of a user's profile.
    ProfileName = 5,
}

/// Hashes id strings with the salt of one deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdSpace {
    salt: u64,
}

impl IdSpace {
    /// An id space with this salt. Snapshots record the salt, because another salt means other embedding rows.
    #[must_use]
    pub fn new(salt: u64) -> Self {
        Self { salt }
    }

    /// The hash of `text` as an id of `kind`.
    #[must_use]
    pub fn id(&self, kind: IdKind, text: &str) -> Id {
        let seed = mix(self.salt ^ mix(kind as u64));
        Id(xxh3_64_with_seed(text.as_bytes(), seed))
    }

    /// The hash of the categorical value `name = value`.
    #[must_use]
    pub fn attribute(&self, name: &str, value: &str) -> Id {
        self.id(IdKind::Attribute, name)
            .pair(self.id(IdKind::Attribute, value))
    }

    /// The hash of the categorical value `name = value` of a user's profile.
    ///
    /// No value of a request has it.
    #[must_use]
    pub fn profile_attribute(&self, name: &str, value: &str) -> Id {
        self.id(IdKind::ProfileName, name)
            .pair(self.id(IdKind::Attribute, value))
    }

    /// The hash of the name of a number.
    #[must_use]
    pub fn number(&self, scope: NumberScope, name: &str) -> Id {
        self.id(IdKind::Attribute, name).pair(Id(scope as u64))
    }
}

/// The finaliser of SplitMix64: every input bit affects every output bit.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_and_salt_change_the_hash() {
        let (a, b) = (IdSpace::new(1), IdSpace::new(2));
        assert_ne!(a.id(IdKind::User, "7"), a.id(IdKind::Item, "7"));
        assert_ne!(a.id(IdKind::User, "7"), b.id(IdKind::User, "7"));
        assert_eq!(a.id(IdKind::User, "7"), IdSpace::new(1).id(IdKind::User, "7"));
    }

    #[test]
    fn the_order_of_a_pair_changes_its_id() {
        assert_ne!(Id(1).pair(Id(2)), Id(2).pair(Id(1)));
        assert_ne!(Id(1).pair(Id(1)), Id(2).pair(Id(2)));
    }
}
