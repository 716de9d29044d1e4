//! Parts of a record of the samples topic, as JSON writes them.

use ouzel_sample::{Id, SampleKind};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
pub(super) struct LateLine {
    pub(super) n_items: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct OutcomeLine {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) acted: Vec<ActionLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) settled: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) samples: Vec<SampleLine>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) closed: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ActionLine {
    pub(super) item: Hex,
    pub(super) task: String,
    pub(super) ts_ms: i64,
    pub(super) offset: i64,
    #[serde(default, skip_serializing_if = "is_first_part")]
    pub(super) part: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<f32>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SampleLine {
    pub(super) item: Hex,
    pub(super) kind: SampleKind,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) positive: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) negative: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) values: Vec<(String, f32)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) action_record_ms: Option<i64>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct LateActionLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<Hex>,
    pub(super) item: Hex,
    pub(super) task: String,
    pub(super) ts_ms: i64,
    #[serde(default, skip_serializing_if = "is_first_part")]
    pub(super) part: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<f32>,
    pub(super) settled: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(super) fn is_first_part(part: &u16) -> bool {
    *part == 0
}

pub(super) fn is_false(flag: &bool) -> bool {
    !flag
}

/// An id as 16 hexadecimal digits: a JSON number keeps 53 bits in many readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hex(pub(super) Id);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // No digit needs an escape, so the text is part of the payload.
        let text = <&str>::deserialize(deserializer)?;
        match u64::from_str_radix(text, 16) {
            Ok(id) if text.len() == 16 => Ok(Hex(Id(id))),
            _ => Err(D::Error::custom("expected 16 hexadecimal digits")),
        }
    }
}
