//! A JSON object whose last field is the hash of everything before it.
//!
//! Files are hashed in the manifest, but nothing hashes the manifest of a snapshot that no alias names. The
//! seal is textual, so it does not depend on how a later version would write the same fields.

use crate::hashing::{N_HEX, hash_hex, is_hash};

/// How the last field is laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    open: &'static str,
    body_end: &'static str,
    before: &'static str,
    after: &'static str,
}

/// For an indented object, one field a line.
pub(crate) const PRETTY: Seal = Seal {
    open: "{",
    body_end: "\n}",
    before: ",\n  \"blake3\": \"",
    after: "\"\n}\n",
};

/// For an object on one line of a log. The caller adds the newline.
pub(crate) const LINE: Seal = Seal {
    open: "{",
    body_end: "}",
    before: ",\"blake3\":\"",
    after: "\"}",
};

impl Seal {
    /// Adds the field to a non-empty JSON object.
    pub(crate) fn close(self, json: &str) -> String {
        let body = json.strip_suffix(self.body_end).unwrap_or(json);
        format!("{body}{}{}{}", self.before, hash_hex(body.as_bytes()), self.after)
    }

    /// Checks and removes the field: the JSON object and its hash, or what is wrong.
    pub(crate) fn open(self, text: &[u8]) -> Result<(String, String), &'static str> {
        let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
        let rest = text.strip_suffix(self.after).ok_or("it ends without its seal")?;
        let split = rest.len().checked_sub(N_HEX).ok_or("it is too short")?;
        let (rest, hash) = rest.split_at_checked(split).ok_or("its seal is no hash")?;
        if !is_hash(hash) {
            return Err("its seal is no hash");
        }
        let body = rest.strip_suffix(self.before).ok_or("it ends without its seal")?;
        if !body.starts_with(self.open) || hash_hex(body.as_bytes()) != hash {
            return Err("its content differs from its seal");
        }
        Ok((format!("{body}{}", self.body_end), hash.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_gives_back_what_was_closed_and_no_flipped_bit_passes() {
        for (seal, json) in [(LINE, "{\"a\":1}"), (PRETTY, "{\n  \"a\": 1\n}")] {
            let closed = seal.close(json);
            assert!(
                serde_json::from_str::<serde_json::Value>(&closed).is_ok(),
                "{closed}"
            );
            assert_eq!(seal.open(closed.as_bytes()).unwrap().0, json);
            for bit in 0..closed.len() * 8 {
                let mut bytes = closed.clone().into_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(seal.open(&bytes).is_err(), "bit {bit} of {closed}");
            }
            for length in 0..closed.len() {
                assert!(seal.open(&closed.as_bytes()[..length]).is_err());
            }
        }
    }
}
