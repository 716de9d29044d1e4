//! The seal: a hash over a JSON object's text, stored as its last field.
//!
//! The manifest hashes every other file, but nothing hashes the manifest of a snapshot without an alias. The seal covers
//! text, not fields, so it holds however a later version would serialize the same fields.

use super::hashing::{N_HEX, hash_hex, is_hash};

/// The layout of the sealing field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    open: &'static str,
    body_end: &'static str,
    before: &'static str,
    after: &'static str,
}

/// The seal of an indented object, one field a line.
pub(crate) const PRETTY: Seal = Seal {
    open: "{",
    body_end: "\n}",
    before: ",\n  \"blake3\": \"",
    after: "\"\n}\n",
};

/// The seal of an object on one line of a log. The caller adds the newline.
pub(crate) const LINE: Seal = Seal {
    open: "{",
    body_end: "}",
    before: ",\"blake3\":\"",
    after: "\"}",
};

impl Seal {
    /// Adds the seal to a non-empty JSON object.
    pub(crate) fn close(self, json: &str) -> String {
        let body = json.strip_suffix(self.body_end).unwrap_or(json);
        format!("{body}{}{}{}", self.before, hash_hex(body.as_bytes()), self.after)
    }

    /// Checks and removes the seal; returns the JSON object and the hash, or what is wrong.
    pub(crate) fn open(self, text: &[u8]) -> Result<(String, String), &'static str> {
        let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8")?;
        let sealed = text.strip_suffix(self.after).ok_or("it ends without its seal")?;
        let split = sealed.len().checked_sub(N_HEX).ok_or("it is too short")?;
        let (body, hash) = sealed.split_at_checked(split).ok_or("its seal is no hash")?;
        if !is_hash(hash) {
            return Err("its seal is no hash");
        }
        let body = body.strip_suffix(self.before).ok_or("it ends without its seal")?;
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
    fn a_seal_opens_unchanged_and_not_after_any_flipped_bit() {
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
