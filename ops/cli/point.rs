//! The start and the end of a range of the log.

use std::str::FromStr;
use std::time::UNIX_EPOCH;

use anyhow::anyhow;

/// A point in every partition of the topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangePoint {
    Start,
    /// The present end.
    End,
    Offset(i64),
    /// The first record at or after this time, ms since 1970.
    TimeMs(i64),
}

impl FromStr for RangePoint {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let wrong = || {
            anyhow!(
                "expected an offset, a time such as 2026-05-01T12:00:00Z or @1777636800000, `start` or `end`"
            )
        };
        let number = |digits: &str| digits.parse::<i64>().ok().filter(|n| *n >= 0);
        match text {
            "start" => Ok(Self::Start),
            "end" => Ok(Self::End),
            _ => {
                if let Some(ms) = text.strip_prefix('@') {
                    return number(ms).map(Self::TimeMs).ok_or_else(wrong);
                }
                if let Some(offset) = number(text) {
                    return Ok(Self::Offset(offset));
                }
                let time = humantime::parse_rfc3339(text).map_err(|_| wrong())?;
                let ms = time.duration_since(UNIX_EPOCH).map_err(|_| wrong())?.as_millis();
                i64::try_from(ms).map(Self::TimeMs).map_err(|_| wrong())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_point_is_an_offset_a_time_or_an_end() {
        for (text, expected) in [
            ("0", Some(RangePoint::Offset(0))),
            ("12345", Some(RangePoint::Offset(12_345))),
            ("start", Some(RangePoint::Start)),
            ("end", Some(RangePoint::End)),
            ("@1777636800000", Some(RangePoint::TimeMs(1_777_636_800_000))),
            (
                "2026-05-01T12:00:00Z",
                Some(RangePoint::TimeMs(1_777_636_800_000)),
            ),
            (
                "2026-05-01T12:00:00.250Z",
                Some(RangePoint::TimeMs(1_777_636_800_250)),
            ),
            ("-1", None),
            ("@", None),
            ("2026-05-01", None),
            ("tomorrow", None),
        ] {
            assert_eq!(text.parse::<RangePoint>().ok(), expected, "{text}");
        }
    }
}
