//! Content: texts and pictures that frozen encoders turn into vectors.
//!
//! Content is identified by its hash, not by its item: two items with the same title share one [`ContentHash`]
//! and are encoded once. Encoders with different weights have different [`EncoderVersion`]s.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest text kept, bytes of UTF-8. The few hundred tokens that an encoder reads are a tenth of it.
pub const MAX_TEXT_BYTES: usize = 16 << 10;

/// One text or picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A text normalised by [`Content::text`].
    Text(String),
    /// The bytes of a picture file in any format.
    Image(Vec<u8>),
}

impl Content {
    /// A text, trimmed, with each run of white space as one space, cut to [`MAX_TEXT_BYTES`].
    #[must_use]
    pub fn text(raw: &str) -> Self {
        let mut text = String::with_capacity(raw.len().min(MAX_TEXT_BYTES));
        for word in raw.split_whitespace() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
            if text.len() >= MAX_TEXT_BYTES {
                break;
            }
        }
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        Self::Text(text)
    }

    /// The hash that identifies this content.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        let (kind, bytes) = match self {
            Self::Text(text) => ("text", text.as_bytes()),
            Self::Image(bytes) => ("image", bytes.as_slice()),
        };
        let mut hasher = blake3::Hasher::new_derive_key("ouzel content 1");
        hasher.update(kind.as_bytes()).update(&[0]).update(bytes);
        ContentHash(*hasher.finalize().as_bytes())
    }
}

/// The blake3 hash of a content and its kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The identity of a frozen encoder. Vectors of two versions are never compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EncoderVersion {
    /// The name of the encoder's folder.
    pub name: String,
    /// The blake3 hash of the weights and of everything else that determines its vectors.
    pub digest: [u8; 32],
    /// Numbers in a vector.
    pub dim: u32,
}

impl fmt::Display for EncoderVersion {
    /// The name and the first 16 hexadecimal digits of the digest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = blake3::Hash::from(self.digest).to_hex();
        write!(f, "{}-{}", self.name, &digest[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_only_in_white_space_are_one_content() {
        let title = Content::text("A  fish\tcalled\n Wanda ");
        assert_eq!(title, Content::Text("A fish called Wanda".to_owned()));
        assert_eq!(title.hash(), Content::text("A fish called Wanda").hash());
        assert_ne!(title.hash(), Content::text("A fish called wanda").hash());
    }

    #[test]
    fn a_text_and_a_picture_of_the_same_bytes_are_two_contents() {
        let bytes = b"fish".to_vec();
        assert_ne!(Content::text("fish").hash(), Content::Image(bytes).hash());
    }

    #[test]
    fn a_long_text_is_cut_at_a_character_boundary() {
        for word in ["é", "é ", "魚"] {
            let Content::Text(text) = Content::text(&word.repeat(MAX_TEXT_BYTES)) else {
                panic!("Content::text returns a text");
            };
            assert!(text.len() <= MAX_TEXT_BYTES && text.len() + 4 > MAX_TEXT_BYTES);
        }
    }
}
