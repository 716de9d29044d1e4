//! Values of binary formats as the JSON values that mappings read.
//!
//! Times become ISO 8601 texts, which mean the same whatever `time.unit` says. Bytes become base64. A 32-bit float is the
//! shortest decimal that stands for it, as a JSON producer would write it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ouzel_sample::{Reject, RejectReason};
use serde_json::{Number, Value};

/// Most bytes of the unscaled value of a decimal; 64 hold 154 digits.
const MAX_DECIMAL_BYTES: usize = 64;
/// Largest scale of a decimal, either way.
const MAX_SCALE: i32 = 1000;

/// What is wrong with a record of a binary format, and at which field.
#[derive(Debug)]
pub(crate) struct Fault {
    reason: RejectReason,
    /// The names of the fields around it, innermost first.
    path: Vec<String>,
    detail: String,
}

impl Fault {
    /// A record whose bytes do not fit its schema.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self {
            reason: RejectReason::MalformedPayload,
            path: Vec::new(),
            detail: detail.into(),
        }
    }

    /// The same fault, below the field `name`.
    pub(crate) fn within(mut self, name: &str) -> Self {
        self.path.push(name.to_owned());
        self
    }
}

impl From<Fault> for Reject {
    fn from(fault: Fault) -> Self {
        if fault.path.is_empty() {
            return Reject::new(fault.reason, fault.detail);
        }
        let path: Vec<&str> = fault.path.iter().rev().map(String::as_str).collect();
        Reject::new(fault.reason, format!("`{}`: {}", path.join("."), fault.detail))
    }
}

/// The number, unless it is not finite.
pub(crate) fn double(number: f64) -> Result<Value, Fault> {
    Number::from_f64(number).map(Value::Number).ok_or_else(|| Fault {
        reason: RejectReason::NonFinite,
        path: Vec::new(),
        detail: format!("{number} is not finite"),
    })
}

/// The number by its shortest decimal: 0.1, not 0.10000000149011612.
pub(crate) fn float(number: f32) -> Result<Value, Fault> {
    double(number.to_string().parse().unwrap_or_else(|_| f64::from(number)))
}

/// Bytes as base64.
pub(crate) fn bytes(bytes: &[u8]) -> Value {
    Value::String(STANDARD.encode(bytes))
}

/// 16 bytes as the text of a UUID; other lengths as base64.
pub(crate) fn uuid(id: &[u8]) -> Value {
    if id.len() != 16 {
        return bytes(id);
    }
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Value::String(parts.join("-"))
}

/// A decimal: big-endian two's complement digits, divided by 10 to the power of `scale`.
///
/// A whole number beyond 64 bits, such as an id of a database, becomes a text with all its digits.
///
/// # Errors
/// When it has more than [`MAX_DECIMAL_BYTES`] bytes or a scale beyond [`MAX_SCALE`].
pub(crate) fn decimal(unscaled: &[u8], scale: i32) -> Result<Value, Fault> {
    if unscaled.len() > MAX_DECIMAL_BYTES || scale.abs() > MAX_SCALE {
        let detail = format!(
            "a decimal of {} bytes and scale {scale} is too large",
            unscaled.len()
        );
        return Err(Fault::malformed(detail));
    }
    let (is_negative, digits) = digits(unscaled);
    let sign = if is_negative { "-" } else { "" };
    let places = usize::try_from(scale).unwrap_or(0);
    if places == 0 {
        let zeros = usize::try_from(-scale).unwrap_or(0);
        let text = format!("{sign}{digits}{}", "0".repeat(zeros));
        let whole = text.parse::<i64>().map(Value::from);
        return Ok(whole
            .or_else(|_| text.parse::<u64>().map(Value::from))
            .unwrap_or(Value::String(text)));
    }
    let padded = format!("{digits:0>width$}", width = places + 1);
    let (whole, fraction) = padded.split_at(padded.len() - places);
    let text = format!("{sign}{whole}.{fraction}");
    double(text.parse().map_err(|_| Fault::malformed("is no decimal"))?)
}

/// Sign and decimal digits of a big-endian two's complement number.
fn digits(bytes: &[u8]) -> (bool, String) {
    let is_negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut magnitude: Vec<u8> = bytes.to_vec();
    if is_negative {
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            let (sum, overflowed) = (!*byte).overflowing_add(u8::from(carry));
            (*byte, carry) = (sum, overflowed);
        }
    }
    let mut digits = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut remainder = 0u16;
        for byte in &mut magnitude {
            let value = (remainder << 8) | u16::from(*byte);
            // Below 256, since the remainder is below 10.
            *byte = u8::try_from(value / 10).unwrap_or(u8::MAX);
            remainder = value % 10;
        }
        digits.push(char::from(b'0' + u8::try_from(remainder).unwrap_or(0)));
    }
    match digits.is_empty() {
        true => (false, "0".to_owned()),
        false => (is_negative, digits.iter().rev().collect()),
    }
}

/// A time of `per_second` ticks since 1970 as an ISO 8601 text in UTC.
///
/// A time beyond the year 9999 becomes a number of ms, which the checks of an event then refuse.
pub(crate) fn time(ticks: i64, per_second: i64) -> Value {
    let (seconds, fraction) = (ticks.div_euclid(per_second), ticks.rem_euclid(per_second));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let Some((year, month, day)) = civil(days) else {
        let ms = i128::from(ticks) * 1000 / i128::from(per_second);
        return Value::from(i64::try_from(ms).unwrap_or(if ticks < 0 { i64::MIN } else { i64::MAX }));
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let width = usize::try_from(per_second.ilog10()).unwrap_or(0);
    let fraction = match width {
        0 => String::new(),
        width => format!(".{fraction:0width$}"),
    };
    Value::String(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"
    ))
}

/// A date of `days` since 1970 as the ISO 8601 text of its first moment in UTC.
pub(crate) fn date(days: i64) -> Value {
    time(days.saturating_mul(86_400), 1)
}

/// Year, month and day of a day since 1970; `None` outside of the years 0 to 9999.
///
/// The algorithm `civil_from_days` of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn civil(days: i64) -> Option<(i64, i64, i64)> {
    let days = days.checked_add(719_468)?;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (0..=9999).contains(&year).then_some((year, month, day))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_texts_of_every_precision() {
        assert_eq!(time(1_714_550_401_500, 1000), json!("2024-05-01T08:00:01.500Z"));
        assert_eq!(
            time(1_714_550_401_500_007, 1_000_000),
            json!("2024-05-01T08:00:01.500007Z")
        );
        assert_eq!(time(-1, 1_000_000_000), json!("1969-12-31T23:59:59.999999999Z"));
        assert_eq!(time(951_782_400, 1), json!("2000-02-29T00:00:00Z"));
        assert_eq!(date(19_844), json!("2024-05-01T00:00:00Z"));
        assert_eq!(time(i64::MAX, 1000), json!(i64::MAX));
        assert_eq!(time(i64::MIN, 1), json!(i64::MIN));
        assert!(time(i64::MAX, 1_000_000).is_number());
    }

    #[test]
    fn decimals_keep_their_digits() {
        let of = |bytes: &[u8], scale| decimal(bytes, scale).unwrap();
        assert_eq!(of(&[0x04, 0xd2], 2), json!(12.34));
        assert_eq!(of(&[0xfb, 0x2e], 2), json!(-12.34));
        assert_eq!(of(&[0x05], 3), json!(0.005));
        assert_eq!(of(&[0x80], 0), json!(-128));
        assert_eq!(of(&[], 0), json!(0));
        assert_eq!(of(&[0], 2), json!(0.0));
        assert_eq!(of(&[0x07], -2), json!(700));
        assert_eq!(
            of(&[0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 0),
            json!(u64::MAX)
        );
        assert_eq!(of(&[1, 0, 0, 0, 0, 0, 0, 0, 0], 0), json!("18446744073709551616"));
        assert!(decimal(&[1; 65], 0).is_err() && decimal(&[1], 1001).is_err());
    }

    #[test]
    fn a_short_float_and_the_text_of_an_id() {
        assert_eq!(float(0.1).unwrap(), json!(0.1));
        assert!(float(f32::NAN).is_err() && double(f64::INFINITY).is_err());
        let id: Vec<u8> = (0..16).collect();
        assert_eq!(uuid(&id), json!("00010203-0405-0607-0809-0a0b0c0d0e0f"));
        assert_eq!(bytes(b"ab"), json!("YWI="));
    }

    #[test]
    fn a_fault_names_its_field() {
        let reject = Reject::from(Fault::malformed("is cut").within("sku").within("items"));
        assert_eq!(reject.detail, "`items.sku`: is cut");
    }
}
