//! The `config.json` of a text encoder and its checks.

use serde::Deserialize;

/// The fields that are read of `config.json`, under Hugging Face's names.
#[derive(Clone, Debug, Deserialize)]
pub struct TextConfig {
    /// `bert`, `roberta` or `xlm-roberta`.
    pub model_type: String,
    /// Number of pieces the network has embeddings for.
    pub vocab_size: usize,
    /// Width of a token's state.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads, a divisor of the width.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Activation of the feed-forward block.
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// The epsilon of LayerNorm, added to a variance.
    pub layer_norm_eps: f64,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Rows of the segment table.
    pub type_vocab_size: usize,
    /// Id of the padding piece; a RoBERTa numbers positions from the one after it.
    #[serde(default)]
    pub pad_token_id: usize,
    /// Only `absolute` is supported.
    #[serde(default = "absolute")]
    pub position_embedding_type: String,
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn absolute() -> String {
    "absolute".to_owned()
}

/// The activation function of the feed-forward block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Activation {
    Gelu,
    GeluTanh,
    Relu,
}

impl TextConfig {
    /// The row of the first token in the position table.
    pub(super) fn first_position(&self) -> usize {
        if self.model_type == "bert" {
            0
        } else {
            self.pad_token_id.saturating_add(1)
        }
    }

    pub(super) fn activation(&self) -> Result<Activation, String> {
        match self.hidden_act.as_str() {
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            other => Err(format!(
                "hidden_act {other:?} is not supported; gelu, gelu_new and relu are"
            )),
        }
    }

    /// Checks what deserialization does not; returns what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self {
            model_type,
            position_embedding_type: positions,
            ..
        } = self;
        if !["bert", "roberta", "xlm-roberta"].contains(&model_type.as_str()) {
            return Err(format!(
                "model_type {model_type:?} is not supported; bert, roberta and xlm-roberta are"
            ));
        }
        if positions != "absolute" {
            return Err(format!(
                "position_embedding_type {positions:?} is not supported; absolute is"
            ));
        }
        let (width, n_heads) = (self.hidden_size, self.num_attention_heads);
        if n_heads == 0 || width == 0 || !width.is_multiple_of(n_heads) || u32::try_from(width).is_err() {
            return Err(format!(
                "hidden_size {width} cannot be split over {n_heads} attention heads"
            ));
        }
        // A text needs its start token, its end token and one between.
        if self.max_position_embeddings.saturating_sub(self.first_position()) < 3 {
            return Err(format!(
                "max_position_embeddings {} is too small for a single token",
                self.max_position_embeddings
            ));
        }
        self.activation().map(drop)
    }
}
