//! The snapshot id: an ever-growing number, written as 20 digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Digits of the largest `u64`; with leading zeros, names sort as numbers do.
const N_DIGITS: usize = 20;

/// Names one snapshot of one store. Paths are built from this type, never from text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(u64);

/// A text that is not a snapshot id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no snapshot id: an id is 20 digits, as `snapshot list` shows them")]
pub struct InvalidSnapshotId {
    /// The first characters of the text.
    pub text: String,
}

impl SnapshotId {
    /// The id with this number.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The id as a number.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}", self.0)
    }
}

impl FromStr for SnapshotId {
    type Err = InvalidSnapshotId;

    /// Accepts exactly 20 ASCII digits.
    fn from_str(text: &str) -> Result<Self, InvalidSnapshotId> {
        let is_digits = text.len() == N_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if is_digits => Ok(Self(number)),
            _ => Err(InvalidSnapshotId {
                text: text.chars().take(64).collect(),
            }),
        }
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = InvalidSnapshotId;

    fn try_from(text: String) -> Result<Self, InvalidSnapshotId> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_twenty_digits_are_an_id() {
        for number in [0, 7, u64::MAX] {
            let id = SnapshotId::new(number);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in [
            "",
            "7",
            "0000000000000000007",
            "000000000000000000007",
            "+0000000000000000007",
            "99999999999999999999",
            "../../../../../etc/x",
            "0000000000000000000a",
            "0000000000000000000\u{0661}",
        ] {
            assert!(text.parse::<SnapshotId>().is_err(), "{text}");
        }
    }

    #[test]
    fn ids_sort_by_name_as_they_do_by_number() {
        assert!(SnapshotId::new(9).to_string() < SnapshotId::new(10).to_string());
    }
}
