//! The snapshot id: a number that only grows, written as 20 digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Digits of the largest `u64`, so that names sort as numbers do.
const N_DIGITS: usize = 20;

/// Names one snapshot of one store. Paths are built from this type and never from text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(u64);

impl SnapshotId {
    /// The id with this number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
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
    type Err = Error;

    /// Accepts exactly 20 ASCII digits.
    fn from_str(text: &str) -> Result<Self, Error> {
        let is_digits = text.len() == N_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if is_digits => Ok(Self(number)),
            _ => Err(Error::BadId {
                text: text.chars().take(64).collect(),
            }),
        }
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
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
            assert_eq!(
                SnapshotId::new(number)
                    .to_string()
                    .parse::<SnapshotId>()
                    .unwrap()
                    .number(),
                number
            );
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
    fn names_sort_as_numbers() {
        assert!(SnapshotId::new(9).to_string() < SnapshotId::new(10).to_string());
    }
}
