//! Event times as producers write them.

use ouzel_sample::{Reject, RejectReason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::format_description::well_known::Iso8601;
use time::{OffsetDateTime, PrimitiveDateTime};

/// The unit of an event time. In every unit a text may be an ISO 8601 time or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Milliseconds since 1970.
    #[default]
    Ms,
    /// Seconds since 1970, whole or fractions.
    S,
    /// Microseconds since 1970.
    Us,
    /// Nanoseconds since 1970.
    Ns,
    /// The unit by the size of the number: seconds below 1e11, then milliseconds below 1e14, microseconds below 1e17.
    Auto,
    /// The timestamp of the Kafka record, whatever the payload says.
    Record,
}

impl TimeUnit {
    /// `number` of this unit in ms, rounded down.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a float beyond i64 saturates, and is then refused as later than any date"
    )]
    fn in_ms(self, number: f64) -> i64 {
        let ms = match self {
            TimeUnit::Ms | TimeUnit::Record => number,
            TimeUnit::S => number * 1e3,
            TimeUnit::Us => number / 1e3,
            TimeUnit::Ns => number / 1e6,
            TimeUnit::Auto => return auto(number).in_ms(number),
        };
        // A fraction of seconds such as 1573257673.489 is a little less than that in binary.
        (ms + 1e-3).floor() as i64
    }

    fn whole_in_ms(self, number: i64) -> i64 {
        match self {
            TimeUnit::Ms | TimeUnit::Record => number,
            TimeUnit::S => number.saturating_mul(1000),
            TimeUnit::Us => number.div_euclid(1000),
            TimeUnit::Ns => number.div_euclid(1_000_000),
            #[allow(clippy::cast_precision_loss, reason = "only the size of the number counts")]
            TimeUnit::Auto => auto(number as f64).whole_in_ms(number),
        }
    }
}

fn auto(number: f64) -> TimeUnit {
    match number.abs() {
        n if n < 1e11 => TimeUnit::S,
        n if n < 1e14 => TimeUnit::Ms,
        n if n < 1e17 => TimeUnit::Us,
        _ => TimeUnit::Ns,
    }
}

/// The time that `value` states, in ms since 1970. `field` names it in a rejection.
pub(super) fn parse(value: &Value, unit: TimeUnit, field: &str) -> Result<i64, Reject> {
    let number = match value {
        Value::Number(number) => Some(number.clone()),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    if let Some(number) = number {
        return match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Ok(unit.whole_in_ms(whole)),
            (None, Some(float)) if number.is_f64() => Ok(unit.in_ms(float)),
            _ => Err(Reject::new(
                RejectReason::Future,
                format!("`{field}` is later than any date"),
            )),
        };
    }
    match value {
        Value::String(text) => iso8601(text.trim()).ok_or_else(|| {
            let detail =
                format!("`{field}` is neither a number nor an ISO 8601 time such as 2026-05-01T12:00:00.5Z");
            Reject::new(RejectReason::WrongType, detail)
        }),
        _ => {
            let detail = format!("`{field}`: expected a time, a number or an ISO 8601 text");
            Err(Reject::new(RejectReason::WrongType, detail))
        }
    }
}

/// An ISO 8601 time in ms since 1970; one without an offset is UTC, and a space may stand for the `T`.
fn iso8601(text: &str) -> Option<i64> {
    let text = match text.as_bytes().get(10)? {
        b' ' => text.replacen(' ', "T", 1),
        _ => text.to_owned(),
    };
    // BigQuery and Snowflake write the zone after a space.
    let text = text
        .strip_suffix(" UTC")
        .map_or(text.clone(), |utc| format!("{utc}Z"));
    let nanos = match OffsetDateTime::parse(&text, &Iso8601::DEFAULT) {
        Ok(time) => time.unix_timestamp_nanos(),
        Err(_) => PrimitiveDateTime::parse(&text, &Iso8601::DEFAULT)
            .ok()?
            .assume_utc()
            .unix_timestamp_nanos(),
    };
    i64::try_from(nanos.div_euclid(1_000_000)).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const T: i64 = 1_714_550_401_500;

    #[test]
    fn every_form_of_a_time_is_read() {
        for (value, unit) in [
            (json!(T), TimeUnit::Ms),
            (json!(1.714_550_401_5e12), TimeUnit::Ms),
            (json!("1714550401500"), TimeUnit::Ms),
            (json!("2024-05-01T08:00:01.500Z"), TimeUnit::Ms),
            (json!("2024-05-01T10:00:01.5+02:00"), TimeUnit::S),
            (json!("2024-05-01 08:00:01.5"), TimeUnit::Ms),
            (json!("2024-05-01 08:00:01.500 UTC"), TimeUnit::Ms),
            (json!(1_714_550_401.5), TimeUnit::S),
            (json!("1714550401.5"), TimeUnit::S),
            (json!(T * 1000 + 7), TimeUnit::Us),
            (json!(T * 1_000_000 + 7), TimeUnit::Ns),
            (json!(1_714_550_401.5), TimeUnit::Auto),
            (json!(T), TimeUnit::Auto),
            (json!(T * 1000), TimeUnit::Auto),
            (json!(T * 1_000_000), TimeUnit::Auto),
        ] {
            assert_eq!(parse(&value, unit, "ts_ms").unwrap(), T, "{value} {unit:?}");
        }
        assert_eq!(
            parse(&json!(1_573_257_673.489), TimeUnit::S, "t").unwrap(),
            1_573_257_673_489
        );
        assert!(parse(&json!("2024-05-01"), TimeUnit::Ms, "t").is_err());
    }

    #[test]
    fn what_is_no_time_is_refused_by_its_field() {
        for value in [json!("yesterday"), json!([1]), json!({}), json!(true), json!("")] {
            let reject = parse(&value, TimeUnit::Ms, "when").unwrap_err();
            assert_eq!(reject.reason, RejectReason::WrongType);
            assert!(reject.detail.contains("`when`"), "{}", reject.detail);
        }
        assert_eq!(
            parse(&json!(u64::MAX), TimeUnit::Ms, "when").unwrap_err().reason,
            RejectReason::Future
        );
    }
}
