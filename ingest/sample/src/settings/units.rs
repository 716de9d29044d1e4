//! Durations and sizes as people write them: `200ms`, `1h30m`, `256KiB`.
//!
//! A value prints as text that parses to the same value. A bare number is refused, because its unit is not visible.
//! Binary formats store the plain number of milliseconds or bytes.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

/// Units of time with their length in milliseconds, longest first.
const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Units of size with their length in bytes; the binary ones first, longest first, as printing tries them in
/// this order.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Why a text is not a duration or a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnitError {
    /// Not digits followed by a unit.
    #[error("{text:?} is not {expected}")]
    Malformed {
        /// What was written.
        text: String,
        /// What should have been.
        expected: &'static str,
    },
    /// Does not fit in 63 bits.
    #[error("{text:?} is too large")]
    TooLarge {
        /// What was written.
        text: String,
    },
}

/// A span of time in whole milliseconds.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    ms: i64,
}

impl Period {
    const EXPECTED: &'static str = "a duration with its unit, such as \"200ms\", \"10m\" or \"1h30m\"";

    /// Ten years, a bound for settings of event time: more is a mistake of unit, and sums of a few stay far from overflow.
    pub const TEN_YEARS: Self = Self::from_secs(10 * 366 * 86_400);

    /// A period of this many milliseconds; a negative number gives 0.
    #[must_use]
    pub const fn from_ms(ms: i64) -> Self {
        Self {
            ms: if ms < 0 { 0 } else { ms },
        }
    }

    /// A period of this many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u32) -> Self {
        Self {
            ms: seconds as i64 * 1_000,
        }
    }

    /// Its length in milliseconds; never negative.
    #[must_use]
    pub const fn ms(self) -> i64 {
        self.ms
    }

    /// Its length as a [`Duration`].
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.ms.unsigned_abs())
    }

    /// True for `0s`.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.ms == 0
    }
}

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let total = parse_sum(text, &TIME_UNITS, Self::EXPECTED)?;
        let ms = i64::try_from(total).map_err(|_| UnitError::TooLarge {
            text: text.to_owned(),
        })?;
        Ok(Self { ms })
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.ms.unsigned_abs();
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, length) in TIME_UNITS {
            if left >= length {
                write!(f, "{}{unit}", left / length)?;
                left %= length;
            }
        }
        Ok(())
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize {
    bytes: u64,
}

impl ByteSize {
    const EXPECTED: &'static str = "a size with its unit, such as \"512B\", \"256KiB\" or \"16MiB\"";

    /// A size of this many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self { bytes }
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// The number of bytes as a length in memory, saturating where that is narrower.
    #[must_use]
    pub fn len(self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    /// True for `0B`.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.bytes == 0
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bytes = parse_sum(text, &SIZE_UNITS, Self::EXPECTED)?;
        i64::try_from(bytes).map_err(|_| UnitError::TooLarge {
            text: text.to_owned(),
        })?;
        Ok(Self { bytes })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, length) = SIZE_UNITS
            .into_iter()
            .find(|(_, length)| self.bytes >= *length && self.bytes.is_multiple_of(*length))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.bytes / length)
    }
}

/// Sums `<digits><unit>` parts, each unit at most once and in the table's order.
fn parse_sum(text: &str, units: &[(&str, u64)], expected: &'static str) -> Result<u64, UnitError> {
    let malformed = || UnitError::Malformed {
        text: text.to_owned(),
        expected,
    };
    let too_large = || UnitError::TooLarge {
        text: text.to_owned(),
    };
    let mut rest = text.trim();
    let mut allowed = units;
    let mut total = 0_u64;
    if rest.is_empty() {
        return Err(malformed());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(malformed)?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let place = allowed
            .iter()
            .position(|(name, _)| *name == unit)
            .ok_or_else(malformed)?;
        if number.is_empty() {
            return Err(malformed());
        }
        let number: u64 = number.parse().map_err(|_| too_large())?;
        let part = number.checked_mul(allowed[place].1).ok_or_else(too_large)?;
        total = total.checked_add(part).ok_or_else(too_large)?;
        allowed = &allowed[place + 1..];
        rest = after;
    }
    Ok(total)
}

/// Serde and schema of a type that people write as text.
macro_rules! as_text {
    ($type:ident, $number:ident: $primitive:ty, $name:literal, $pattern:literal) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.$number.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if !deserializer.is_human_readable() {
                    let $number = <$primitive>::deserialize(deserializer)?;
                    return Ok(Self { $number });
                }
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($type::EXPECTED)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text).map_err(D::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($type))
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "x-type": $name, "pattern": $pattern })
            }
        }
    };
}

as_text!(Period, ms: i64, "duration", r"^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$");
as_text!(ByteSize, bytes: u64, "size", r"^[0-9]+(GiB|MiB|KiB|GB|MB|KB|B)$");

/// Serde of a duration that may be `auto`, stored as none.
pub mod auto_period {
    use super::{Deserialize, Deserializer, Period, Serialize, Serializer};
    use serde::de::Error as _;

    /// Writes `auto` or the duration.
    pub fn serialize<S: Serializer>(period: &Option<Period>, serializer: S) -> Result<S::Ok, S::Error> {
        match period {
            None => serializer.serialize_str("auto"),
            Some(period) => period.serialize(serializer),
        }
    }

    /// Reads `auto` or a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Period>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "auto" {
            return Ok(None);
        }
        let refuse = |_| D::Error::custom(format!("{text:?} is neither \"auto\" nor {}", Period::EXPECTED));
        text.parse().map(Some).map_err(refuse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_formats_store_the_number() {
        let period = Period::from_secs(600);
        assert_eq!(postcard::to_stdvec(&period), postcard::to_stdvec(&600_000_i64));
        let size = ByteSize::from_bytes(2 << 30);
        let bytes = postcard::to_stdvec(&(period, size)).unwrap();
        assert_eq!(bytes, postcard::to_stdvec(&(600_000_i64, 2_u64 << 30)).unwrap());
        assert_eq!(
            postcard::from_bytes::<(Period, ByteSize)>(&bytes),
            Ok((period, size))
        );
    }

    #[test]
    fn a_period_reads_its_units_and_prints_the_same_value() {
        for (text, ms, printed) in [
            ("0s", 0, "0s"),
            ("200ms", 200, "200ms"),
            ("10m", 600_000, "10m"),
            ("90s", 90_000, "1m30s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("2d", 172_800_000, "2d"),
            (" 1s500ms ", 1_500, "1s500ms"),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.ms(), ms, "{text}");
            assert_eq!(period.to_string(), printed);
            assert_eq!(printed.parse::<Period>().unwrap(), period);
        }
    }

    #[test]
    fn a_period_without_a_clear_unit_is_refused() {
        for text in [
            "",
            "10",
            "m",
            "10M",
            "10 m",
            "-5s",
            "1.5s",
            "5s10m",
            "5s5s",
            "99999999999999999999ms",
        ] {
            assert!(text.parse::<Period>().is_err(), "{text:?} was accepted");
        }
        assert_eq!(
            "9223372036854775807d".parse::<Period>(),
            Err(UnitError::TooLarge {
                text: "9223372036854775807d".to_owned()
            })
        );
    }

    #[test]
    fn a_size_reads_its_unit_and_prints_the_same_value() {
        for (text, bytes, printed) in [
            ("0B", 0, "0B"),
            ("262144B", 262_144, "256KiB"),
            ("16MiB", 16 << 20, "16MiB"),
            ("1GB", 1_000_000_000, "1GB"),
            ("1000000B", 1_000_000, "1MB"),
            ("1025B", 1_025, "1025B"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.bytes(), bytes, "{text}");
            assert_eq!(size.to_string(), printed);
            assert_eq!(printed.parse::<ByteSize>().unwrap(), size);
        }
        assert!("1024".parse::<ByteSize>().is_err());
        assert!("1kb".parse::<ByteSize>().is_err());
    }
}
