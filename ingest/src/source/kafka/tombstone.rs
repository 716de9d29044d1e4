//! Tombstones: in a compacted topic, a null value under an item's key deletes the item.
//!
//! A tombstone is read as a deletion event, so that it is joined, counted and replayed like one.

use ouzel_sample::Stream;
use serde_json::json;

/// The payload of a message: its value, or a deletion event for the tombstone of an item.
///
/// `None` for other null values (no key in UTF-8, no timestamp, another stream); the decoder rejects them.
pub(super) fn payload(
    stream: Stream,
    value: Option<&[u8]>,
    key: Option<&[u8]>,
    timestamp_ms: Option<i64>,
) -> Option<Vec<u8>> {
    if value.is_some() || stream != Stream::Items {
        return value.map(<[u8]>::to_vec);
    }
    let item = std::str::from_utf8(key?).ok()?;
    let deletion = json!({ "item_id": item, "ts_ms": timestamp_ms?, "deleted": true });
    Some(deletion.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_value_under_an_items_key_deletes_it() {
        let read = payload(Stream::Items, None, Some(b"a \"film\""), Some(7)).unwrap();
        let event: serde_json::Value = serde_json::from_slice(&read).unwrap();
        assert_eq!(
            event,
            json!({ "item_id": "a \"film\"", "ts_ms": 7, "deleted": true })
        );
    }

    #[test]
    fn other_messages_keep_their_payload() {
        let now = Some(7);
        assert_eq!(
            payload(Stream::Items, Some(b"x"), Some(b"k"), now),
            Some(b"x".to_vec())
        );
        assert_eq!(payload(Stream::Items, None, None, now), None);
        assert_eq!(payload(Stream::Items, None, Some(b"\xff"), now), None);
        assert_eq!(payload(Stream::Items, None, Some(b"k"), None), None);
        assert_eq!(payload(Stream::Actions, None, Some(b"k"), now), None);
    }
}
