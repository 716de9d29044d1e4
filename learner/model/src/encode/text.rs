//! Texts to vectors: a folder as Hugging Face keeps a BERT, `config.json`, `tokenizer.json` and `model.safetensors`,
//! whatever its width and depth. The vector is the mean over the text's tokens, special ones included, at length 1.

use std::path::Path;

use serde::Deserialize;
use tch::Device;
use tokenizers::{Tokenizer, TruncationParams};

use ouzel_sample::{Content, EncoderVersion};

use super::bert::Bert;
use super::source::Folder;
use super::{EncodeError, Encoded, Encoder, Unusable, tally, unit};

/// Tokens of a text that are looked at, two special ones included, where the network has so many positions.
pub const MAX_TOKENS: usize = 256;
/// What our code does to a text; the number changes whenever vectors would.
const RULES: &str = "text 1: 256 tokens, mean, unit length";
/// Tokens in the device's memory at a time; more texts are encoded in several passes.
const PASS_TOKENS: usize = 4096;

/// What is read of `config.json`, by the names that Hugging Face gave them.
#[derive(Clone, Debug, Deserialize)]
pub struct TextConfig {
    /// `bert`, `roberta` or `xlm-roberta`.
    pub model_type: String,
    /// Pieces that the tokenizer knows.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Depth.
    pub num_hidden_layers: usize,
    /// Attention heads; they divide the width.
    pub num_attention_heads: usize,
    /// Width within the feed-forward block.
    pub intermediate_size: usize,
    /// The activation within it.
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// Added to a variance.
    pub layer_norm_eps: f64,
    /// Rows of the table of positions.
    pub max_position_embeddings: usize,
    /// Rows of the table of segments.
    pub type_vocab_size: usize,
    /// The piece that stands for nothing; with it begin the positions of a RoBERTa.
    #[serde(default)]
    pub pad_token_id: usize,
    /// Only `absolute` is known.
    #[serde(default = "absolute")]
    pub position_embedding_type: String,
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn absolute() -> String {
    "absolute".to_owned()
}

impl TextConfig {
    /// The row of the first token's position.
    pub(super) fn first_position(&self) -> usize {
        if self.model_type == "bert" {
            0
        } else {
            self.pad_token_id.saturating_add(1)
        }
    }

    fn fault(&self) -> Option<String> {
        if !["bert", "roberta", "xlm-roberta"].contains(&self.model_type.as_str()) {
            let found = &self.model_type;
            return Some(format!(
                "model_type {found:?} is not known, bert, roberta and xlm-roberta are"
            ));
        }
        if self.position_embedding_type != "absolute" {
            let found = &self.position_embedding_type;
            return Some(format!(
                "position_embedding_type {found:?} is not known, absolute is"
            ));
        }
        let (width, n_heads) = (self.hidden_size, self.num_attention_heads);
        if n_heads == 0 || width == 0 || !width.is_multiple_of(n_heads) || u32::try_from(width).is_err() {
            return Some(format!("a width of {width} is not that of {n_heads} heads"));
        }
        // The start, the end and one between.
        if self.max_position_embeddings.saturating_sub(self.first_position()) < 3 {
            let n = self.max_position_embeddings;
            return Some(format!("{n} positions are too few"));
        }
        None
    }
}

/// A frozen text encoder.
///
/// Texts are neither padded nor sorted: each runs at its own length, see the invariants of this module, so titles of ten
/// tokens cost ten tokens each, whatever stands beside them.
#[derive(Debug)]
pub struct TextEncoder {
    version: EncoderVersion,
    tokenizer: Tokenizer,
    network: Bert,
}

impl TextEncoder {
    /// Reads the encoder in `folder`, whose name becomes the encoder's.
    ///
    /// # Errors
    /// [`EncodeError`] when a file is missing, is not what it should be, or disagrees with `config.json`.
    pub fn load(folder: &Path, device: Device) -> Result<Self, EncodeError> {
        let mut folder = Folder::new(folder, RULES);
        let config: TextConfig = folder.json("config.json")?;
        if let Some(why) = config.fault() {
            return Err(folder.malformed("config.json", why));
        }
        let n_positions = (config.max_position_embeddings - config.first_position()).min(MAX_TOKENS);
        let tokenizer = folder.read("tokenizer.json")?;
        let tokenizer = tokenizer_of(&tokenizer, &config, n_positions)
            .map_err(|why| folder.malformed("tokenizer.json", why))?;
        let weights = folder.weights()?;
        let tensors = folder.tensors(&weights)?;
        let network = tch::no_grad(|| Bert::load(&folder, &tensors, &config, n_positions, device))?;
        Ok(Self {
            version: folder.version(config.hidden_size),
            tokenizer,
            network,
        })
    }

    /// The text's tokens, or why there are none.
    fn tokens(&self, content: &Content) -> Result<Vec<i64>, Unusable> {
        let Content::Text(text) = content else {
            return Err(Unusable::WrongKind);
        };
        // One by one: the tokenizer would start threads of its own for a batch.
        let tokens = self
            .tokenizer
            .encode_fast(text.as_str(), true)
            .map_err(|_| Unusable::Empty)?;
        if tokens
            .get_special_tokens_mask()
            .iter()
            .all(|is_special| *is_special == 1)
        {
            return Err(Unusable::Empty);
        }
        Ok(tokens.get_ids().iter().map(|id| i64::from(*id)).collect())
    }
}

/// The tokenizer with our own truncation. What it says of padding and truncation itself is for batches of one length.
fn tokenizer_of(bytes: &[u8], config: &TextConfig, max_length: usize) -> Result<Tokenizer, String> {
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| error.to_string())?;
    let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
    if usize::try_from(largest).is_ok_and(|largest| largest >= config.vocab_size) {
        let n = config.vocab_size;
        return Err(format!(
            "it has the piece {largest}, the network knows {n} pieces"
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
        // The texts of the next pass, with their place in the batch.
        let mut pass: Vec<(usize, Vec<i64>)> = Vec::new();
        let mut n_tokens = 0;
        for (index, content) in batch.iter().enumerate() {
            match self.tokens(content) {
                Ok(tokens) => {
                    if n_tokens + tokens.len() > PASS_TOKENS {
                        self.run(&mut pass, &mut encoded)?;
                        n_tokens = 0;
                    }
                    n_tokens += tokens.len();
                    encoded.push(Ok(Vec::new()));
                    pass.push((index, tokens));
                }
                Err(unusable) => encoded.push(Err(unusable)),
            }
        }
        self.run(&mut pass, &mut encoded)?;
        tally(&self.version, &encoded);
        Ok(encoded)
    }
}

impl TextEncoder {
    /// Encodes the texts of a pass into their places.
    fn run(&self, pass: &mut Vec<(usize, Vec<i64>)>, encoded: &mut [Encoded]) -> Result<(), EncodeError> {
        if pass.is_empty() {
            return Ok(());
        }
        let texts: Vec<&[i64]> = pass.iter().map(|(_, tokens)| tokens.as_slice()).collect();
        let means = tch::no_grad(|| self.network.forward(&texts))?;
        for (row, (index, _)) in (0..).zip(pass.drain(..)) {
            let mean = means.f_get(row)?;
            encoded[index] = unit(Vec::<f32>::try_from(&mean)?);
        }
        Ok(())
    }
}
