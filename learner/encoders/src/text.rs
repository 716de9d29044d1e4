//! The text encoder: a BERT in Hugging Face's folder layout, of any width and depth.
//!
//! The vector is the mean over the text's tokens, special tokens included, scaled to length 1.

mod bert;
mod config;

use std::path::Path;

use tch::Device;
use tokenizers::{Tokenizer, TruncationParams};

use ouzel_sample::{Content, EncoderVersion};

use crate::folder::Folder;
use crate::{EncodeError, Encoded, Encoder, UnusableContent, count_batch, normalized};
use bert::Bert;

pub use config::TextConfig;

/// Tokens read of a text, two special tokens included; fewer where the network has fewer positions.
pub const MAX_TOKENS: usize = 256;
/// Our preprocessing of texts; the number changes whenever vectors would.
const RULES: &str = "text 1: 256 tokens, mean, unit length";
/// Most tokens of one forward pass, which bounds device memory; a larger batch takes several passes.
const PASS_TOKENS: usize = 4096;

/// A frozen text encoder.
///
/// Texts are neither padded nor sorted; each runs at its own length, so a title of ten tokens costs ten tokens.
#[derive(Debug)]
pub struct TextEncoder {
    version: EncoderVersion,
    tokenizer: Tokenizer,
    network: Bert,
}

impl TextEncoder {
    /// Reads the encoder in `folder` and names it after the folder.
    ///
    /// # Errors
    /// [`EncodeError`] when a file is missing, malformed, or disagrees with `config.json`.
    pub fn load(folder: &Path, device: Device) -> Result<Self, EncodeError> {
        let mut folder = Folder::new(folder, RULES);
        let config = folder.config(TextConfig::check)?;
        let n_positions = (config.max_position_embeddings - config.first_position()).min(MAX_TOKENS);
        let tokenizer = folder.read("tokenizer.json")?;
        let tokenizer = load_tokenizer(&tokenizer, &config, n_positions)
            .map_err(|why| folder.malformed("tokenizer.json", why))?;
        let weights = folder.weights()?;
        let tensors = folder.tensors(&weights, device)?;
        let network = tch::no_grad(|| Bert::load(&tensors, &config, n_positions))?;
        Ok(Self {
            version: folder.version(config.hidden_size),
            tokenizer,
            network,
        })
    }

    fn tokens(&self, content: &Content) -> Result<Vec<i64>, UnusableContent> {
        let Content::Text(text) = content else {
            return Err(UnusableContent::WrongKind);
        };
        // One text at a time: for a batch the tokenizer would start threads of its own.
        let tokens = self
            .tokenizer
            .encode_fast(text.as_str(), true)
            .map_err(|_| UnusableContent::Empty)?;
        let mut special = tokens.get_special_tokens_mask().iter();
        if special.all(|is_special| *is_special == 1) {
            return Err(UnusableContent::Empty);
        }
        Ok(tokens.get_ids().iter().map(|id| i64::from(*id)).collect())
    }

    /// Encodes `pass`, pairs of batch index and tokens, into `encoded` and empties it.
    fn run_pass(
        &self,
        pass: &mut Vec<(usize, Vec<i64>)>,
        encoded: &mut [Encoded],
    ) -> Result<(), EncodeError> {
        if pass.is_empty() {
            return Ok(());
        }
        let texts: Vec<&[i64]> = pass.iter().map(|(_, tokens)| tokens.as_slice()).collect();
        let means = tch::no_grad(|| self.network.forward(&texts))?;
        for (row, (index, _)) in (0..).zip(pass.drain(..)) {
            encoded[index] = normalized(Vec::<f32>::try_from(&means.f_get(row)?)?);
        }
        Ok(())
    }
}

/// Loads the tokenizer with our own truncation; its settings for padding and truncation serve padded batches.
fn load_tokenizer(bytes: &[u8], config: &TextConfig, max_length: usize) -> Result<Tokenizer, String> {
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| error.to_string())?;
    let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
    if usize::try_from(largest).is_ok_and(|largest| largest >= config.vocab_size) {
        return Err(format!(
            "it has the piece {largest}, the network knows {} pieces",
            config.vocab_size
        ));
    }
    tokenizer.with_padding(None);
    let truncation = TruncationParams {
        max_length,
        ..TruncationParams::default()
    };
    tokenizer
        .with_truncation(Some(truncation))
        .map_err(|error| error.to_string())?;
    Ok(tokenizer)
}

impl Encoder for TextEncoder {
    fn version(&self) -> &EncoderVersion {
        &self.version
    }

    fn encode(&self, batch: &[Content]) -> Result<Vec<Encoded>, EncodeError> {
        let mut encoded: Vec<Encoded> = Vec::with_capacity(batch.len());
        let mut pass: Vec<(usize, Vec<i64>)> = Vec::new();
        let mut n_tokens = 0;
        for (index, content) in batch.iter().enumerate() {
            match self.tokens(content) {
                Ok(tokens) => {
                    if n_tokens + tokens.len() > PASS_TOKENS {
                        self.run_pass(&mut pass, &mut encoded)?;
                        n_tokens = 0;
                    }
                    n_tokens += tokens.len();
                    encoded.push(Ok(Vec::new()));
                    pass.push((index, tokens));
                }
                Err(unusable) => encoded.push(Err(unusable)),
            }
        }
        self.run_pass(&mut pass, &mut encoded)?;
        count_batch(&self.version, &encoded);
        Ok(encoded)
    }
}
