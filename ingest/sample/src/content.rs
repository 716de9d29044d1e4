//! Content: the texts and pictures that frozen encoders turn into vectors, by what they are and not by whose they are.
//!
//! Two items with the same title share one [`ContentHash`], so it is encoded once; an encoder with other weights has
//! another [`EncoderVersion`], so a change of encoder can be seen. Nothing here encodes, fetches or stores.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest text that is read. An encoder's few hundred tokens are a tenth of it; what follows could not be seen.
pub const MAX_TEXT_BYTES: usize = 16 << 10;

/// One text or picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A text as [`Content::text`] makes it.
    Text(String),
    /// A picture's file, whatever its format.
    Image(Vec<u8>),
}

impl Content {
    /// A text: without white space at its ends, each run within as one space, at most [`MAX_TEXT_BYTES`].
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

    /// What it is known by.
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

/// The blake3 of a content and its kind.
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

/// Which frozen encoder made a vector. Vectors of two versions are never compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EncoderVersion {
    /// What people call it; the name of its folder.
    pub name: String,
    /// The blake3 of its weights and of all else that its vectors depend on.
    pub digest: [u8; 32],
    /// Numbers in a vector.
    pub dim: u32,
}

impl fmt::Display for EncoderVersion {
    /// The name with as much of the digest as tells versions apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = blake3::Hash::from(self.digest).to_hex();
        write!(f, "{}-{}", self.name, &digest[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_white_space_alone_are_one_content() {
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
    fn a_long_text_is_cut_between_characters() {
        for word in ["é", "é ", "魚"] {
            let Content::Text(text) = Content::text(&word.repeat(MAX_TEXT_BYTES)) else {
                panic!("a text is a text");
            };
            assert!(text.len() <= MAX_TEXT_BYTES && text.len() + 4 > MAX_TEXT_BYTES);
        }
    }
}
