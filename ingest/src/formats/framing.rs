//! The framing of records whose schema is in a registry, as Confluent's serializers write it.
//!
//! A byte 0, the schema's id in 4 bytes, big-endian, and the encoded record. Protobuf has the path to its message between:
//! the number of indexes and the indexes, each zigzag and of variable length; a single 0 stands for the first message.

use super::values::Fault;

/// Most nested messages in the path to a Protobuf message.
const MAX_INDEXES: i64 = 64;

/// The schema's id and what follows it; `None` unless the bytes begin with the frame.
pub(crate) fn frame(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (0, rest) = bytes.split_first().map(|(first, rest)| (*first, rest))? else {
        return None;
    };
    let (id, rest) = rest.split_first_chunk()?;
    Some((u32::from_be_bytes(*id), rest))
}

/// The indexes of a Protobuf message in its file, outermost first, and the encoded message.
pub(crate) fn message_indexes(bytes: &[u8]) -> Result<(Vec<usize>, &[u8]), Fault> {
    let cut = || Fault::malformed("the payload ends within the path to its message");
    let (count, mut rest) = zigzag(bytes).ok_or_else(cut)?;
    if count == 0 {
        return Ok((vec![0], rest));
    }
    if !(1..=MAX_INDEXES).contains(&count) {
        return Err(Fault::malformed(format!(
            "the path to the message has {count} steps"
        )));
    }
    let mut indexes = Vec::new();
    for _ in 0..count {
        let (index, after) = zigzag(rest).ok_or_else(cut)?;
        let index = usize::try_from(index)
            .map_err(|_| Fault::malformed(format!("{index} is no index of a message")))?;
        indexes.push(index);
        rest = after;
    }
    Ok((indexes, rest))
}

/// A zigzag number of variable length, at most 64 bits, and what follows it.
pub(super) fn zigzag(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut number = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if i == 9 && bits > 1 {
            return None;
        }
        number |= bits << (7 * i);
        if byte & 0x80 == 0 {
            let half = i64::try_from(number >> 1).ok()?;
            let sign = if number & 1 == 1 { -1 } else { 0 };
            return Some((half ^ sign, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_an_id_and_a_path_to_its_message() {
        assert_eq!(frame(&[0, 0, 0, 1, 2, 9, 8]), Some((258, [9, 8].as_slice())));
        assert_eq!(frame(b"{\"a\""), None);
        assert_eq!(frame(&[0, 0, 0, 1]), None);
        assert_eq!(message_indexes(&[0, 7]).unwrap(), (vec![0], [7].as_slice()));
        assert_eq!(
            message_indexes(&[4, 2, 0, 7]).unwrap(),
            (vec![1, 0], [7].as_slice())
        );
        for wrong in [&[4, 2][..], &[], &[3], &[0xfe, 0xff, 0x03], &[2, 1]] {
            assert!(message_indexes(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn numbers_of_every_length_are_read() {
        assert_eq!(zigzag(&[3, 1]), Some((-2, [1].as_slice())));
        let longest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(zigzag(&longest), Some((i64::MIN, [].as_slice())));
        assert_eq!(zigzag(&[0xff; 11]), None);
        assert_eq!(zigzag(&[0x80]), None);
    }
}
