//! Tombstones: a null value under an item's key is how a compacted topic says that the item is gone.
//!
//! It is read as the event that it stands for, so that it is joined, counted and replayed like one.

use ouzel_sample::Stream;
use serde_json::json;

/// The payload of a message: its value, or what its tombstone says. A null value without a key that is text, or of
/// another topic than that of items, stays one, and is rejected as such.
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
    fn what_is_no_tombstone_stays_as_it_is() {
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
