//! The BERT network over packed texts: `X_{l+1} = LN(H + W_2 gelu(W_1 H))`, `H = LN(X_l + W_o A(X_l))`.
//!
//! `A` is softmax attention over heads; norms come after the sums (Devlin et al. 2018, Vaswani et al. 2017). Texts lie
//! one after the other in one matrix of tokens, without padding between them. Token-wise operations run over tiles of
//! [`TILE`] rows, so every matrix product has one shape however many texts there are; attention runs text by text at the
//! text's own length. A token's state therefore depends on its own text alone.

use tch::{Device, Kind, Tensor};

use super::config::{Activation, TextConfig};
use crate::EncodeError;
use crate::folder::{Tensors, size};

/// Rows of a tile on a CPU. Half as many make a batch a quarter slower; twice as many make a lone title half as slow again.
const TILE: i64 = 32;
/// Rows of a tile on a GPU, where a call costs more than its rows.
const TILE_CUDA: i64 = 512;

#[derive(Debug)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

#[derive(Debug)]
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

#[derive(Debug)]
struct Layer {
    /// Query, key and value in one product.
    qkv: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    feed_forward_in: Linear,
    feed_forward_out: Linear,
    output_norm: LayerNorm,
}

/// The network's weights on one device.
#[derive(Debug)]
pub(super) struct Bert {
    words: Tensor,
    /// The position table plus the first segment's embedding, which every token adds.
    positions: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    n_heads: i64,
    activation: Activation,
    device: Device,
    tile: i64,
}

impl Linear {
    fn load(tensors: &Tensors<'_>, name: &str, [n_out, n_in]: [usize; 2]) -> Result<Self, EncodeError> {
        Ok(Self {
            weight: tensors.load(&format!("{name}.weight"), &[n_out, n_in])?,
            bias: tensors.load(&format!("{name}.bias"), &[n_out])?,
        })
    }

    /// `[n, n_in]` to `[n, n_out]`
    fn forward(&self, x: &Tensor) -> Result<Tensor, tch::TchError> {
        x.f_linear(&self.weight, Some(&self.bias))
    }
}

impl LayerNorm {
    fn load(tensors: &Tensors<'_>, name: &str, config: &TextConfig) -> Result<Self, EncodeError> {
        // Checkpoints converted from TensorFlow call the two parameters gamma and beta.
        let load = |torch: &str, tensorflow: &str| {
            let (torch, tensorflow) = (format!("{name}.{torch}"), format!("{name}.{tensorflow}"));
            let is_tensorflow = !tensors.has(&torch) && tensors.has(&tensorflow);
            tensors.load(
                if is_tensorflow { &tensorflow } else { &torch },
                &[config.hidden_size],
            )
        };
        Ok(Self {
            weight: load("weight", "gamma")?,
            bias: load("bias", "beta")?,
            epsilon: config.layer_norm_eps,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, tch::TchError> {
        let width = self.weight.size();
        x.f_layer_norm(width, Some(&self.weight), Some(&self.bias), self.epsilon, false)
    }
}

impl Activation {
    fn forward(self, x: &Tensor) -> Result<Tensor, tch::TchError> {
        match self {
            Self::Gelu => x.f_gelu("none"),
            Self::GeluTanh => x.f_gelu("tanh"),
            Self::Relu => x.f_relu(),
        }
    }
}

impl Layer {
    fn load(tensors: &Tensors<'_>, prefix: &str, config: &TextConfig) -> Result<Self, EncodeError> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let linear = |name: &str, shape| Linear::load(tensors, &format!("{prefix}.{name}"), shape);
        let norm = |name: &str| LayerNorm::load(tensors, &format!("{prefix}.{name}"), config);
        let [query, key, value] =
            ["query", "key", "value"].map(|part| linear(&format!("attention.self.{part}"), [width, width]));
        let parts = [query?, key?, value?];
        Ok(Self {
            qkv: Linear {
                weight: Tensor::f_cat(&parts.each_ref().map(|part| &part.weight), 0)?,
                bias: Tensor::f_cat(&parts.each_ref().map(|part| &part.bias), 0)?,
            },
            attention_output: linear("attention.output.dense", [width, width])?,
            attention_norm: norm("attention.output.LayerNorm")?,
            feed_forward_in: linear("intermediate.dense", [inner, width])?,
            feed_forward_out: linear("output.dense", [width, inner])?,
            output_norm: norm("output.LayerNorm")?,
        })
    }
}

impl Bert {
    /// Reads the network. `n_positions` is the number of tokens read of a text.
    pub(super) fn load(
        tensors: &Tensors<'_>,
        config: &TextConfig,
        n_positions: usize,
    ) -> Result<Self, EncodeError> {
        let width = config.hidden_size;
        // A checkpoint with a task head stores the encoder under its model type.
        let prefixed = format!("{}.", config.model_type);
        let words = "embeddings.word_embeddings.weight";
        let is_prefixed = !tensors.has(words) && tensors.has(&format!("{prefixed}{words}"));
        let root = if is_prefixed { prefixed.as_str() } else { "" };
        let table = |name: &str, n_rows: usize| {
            tensors.load(&format!("{root}embeddings.{name}.weight"), &[n_rows, width])
        };
        let segments = table("token_type_embeddings", config.type_vocab_size)?;
        let positions = table("position_embeddings", config.max_position_embeddings)?
            .f_narrow(0, size(config.first_position()), size(n_positions))?
            .f_add(&segments.f_narrow(0, 0, 1)?)?;
        let layers = (0..config.num_hidden_layers)
            .map(|l| Layer::load(tensors, &format!("{root}encoder.layer.{l}"), config))
            .collect::<Result<_, _>>()?;
        let device = tensors.device();
        Ok(Self {
            words: table("word_embeddings", config.vocab_size)?,
            positions,
            norm: LayerNorm::load(tensors, &format!("{root}embeddings.LayerNorm"), config)?,
            layers,
            n_heads: size(config.num_attention_heads),
            activation: config.activation().expect("the configuration was checked"),
            device,
            tile: if device == Device::Cpu { TILE } else { TILE_CUDA },
        })
    }

    /// Returns the mean of the last layer over the tokens of each text.
    ///
    /// # Shapes
    /// `texts` have 1 to `n_positions` tokens each; returns `[texts.len(), width]` on the CPU.
    pub(super) fn forward(&self, texts: &[&[i64]]) -> Result<Tensor, tch::TchError> {
        let lengths: Vec<i64> = texts.iter().map(|text| size(text.len())).collect();
        let mut x = self.embed(texts, &lengths)?;
        for layer in &self.layers {
            x = self.layer(layer, &x, &lengths)?;
        }
        let means = spans(&lengths)
            .map(|(start, n)| x.f_narrow(0, start, n)?.f_mean_dim(0, false, Kind::Float))
            .collect::<Result<Vec<_>, _>>()?;
        Tensor::f_stack(&means, 0)?.f_to_device(Device::Cpu)
    }

    /// Embeds the tokens. Returns `[n_rows, width]`, where `n_rows` is the number of tokens rounded up to whole tiles;
    /// the rows beyond the tokens are finite and meaningless.
    fn embed(&self, texts: &[&[i64]], lengths: &[i64]) -> Result<Tensor, tch::TchError> {
        let n_tokens: i64 = lengths.iter().sum();
        let n_rows = (n_tokens + self.tile - 1) / self.tile * self.tile;
        let padding = usize::try_from(n_rows - n_tokens).unwrap_or(0);
        let mut ids = texts.concat();
        let mut positions: Vec<i64> = lengths.iter().flat_map(|n| 0..*n).collect();
        ids.resize(ids.len() + padding, 0);
        positions.resize(ids.len(), 0);
        let to_device = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(self.device);
        let words = self.words.f_index_select(0, &to_device(&ids)?)?;
        let positions = self.positions.f_index_select(0, &to_device(&positions)?)?;
        self.norm.forward(&words.f_add(&positions)?)
    }

    fn layer(&self, layer: &Layer, x: &Tensor, lengths: &[i64]) -> Result<Tensor, tch::TchError> {
        let qkv = self.by_tile(&[x], |rows| layer.qkv.forward(&rows[0]))?;
        let attended = self.attention(&qkv, lengths)?;
        self.by_tile(&[x, &attended], |rows| {
            let attended = layer.attention_output.forward(&rows[1])?;
            let x = layer.attention_norm.forward(&attended.f_add(&rows[0])?)?;
            let inner = self.activation.forward(&layer.feed_forward_in.forward(&x)?)?;
            layer
                .output_norm
                .forward(&layer.feed_forward_out.forward(&inner)?.f_add(&x)?)
        })
    }

    /// `qkv [n_rows, 3 * width]` to `[n_rows, width]`; each token attends to the tokens of its own text.
    fn attention(&self, qkv: &Tensor, lengths: &[i64]) -> Result<Tensor, tch::TchError> {
        let (n_rows, width) = (qkv.size()[0], qkv.size()[1] / 3);
        let mut attended = spans(lengths)
            .map(|(start, n)| {
                let heads = qkv
                    .f_narrow(0, start, n)?
                    .f_view([n, 3, self.n_heads, width / self.n_heads])?
                    .f_permute([1, 2, 0, 3])?
                    .f_contiguous()?;
                let [q, k, v] = [0, 1, 2].map(|part| heads.f_narrow(0, part, 1));
                let mask = None::<&Tensor>;
                let out =
                    Tensor::f_scaled_dot_product_attention(&q?, &k?, &v?, mask, 0.0, false, None, false)?;
                out.f_squeeze_dim(0)?.f_transpose(0, 1)?.f_reshape([n, width])
            })
            .collect::<Result<Vec<_>, _>>()?;
        let n_padding = n_rows - lengths.iter().sum::<i64>();
        attended.push(Tensor::f_zeros([n_padding, width], (Kind::Float, self.device))?);
        Tensor::f_cat(&attended, 0)
    }

    /// Applies a row-wise function tile by tile.
    fn by_tile(
        &self,
        inputs: &[&Tensor],
        function: impl Fn(&[Tensor]) -> Result<Tensor, tch::TchError>,
    ) -> Result<Tensor, tch::TchError> {
        let tiles = (0..inputs[0].size()[0] / self.tile)
            .map(|tile| {
                let rows = inputs
                    .iter()
                    .map(|input| input.f_narrow(0, tile * self.tile, self.tile))
                    .collect::<Result<Vec<_>, _>>()?;
                function(&rows)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Tensor::f_cat(&tiles, 0)
    }
}

/// Start and length of each text among the tokens.
fn spans(lengths: &[i64]) -> impl Iterator<Item = (i64, i64)> + '_ {
    lengths.iter().scan(0, |end, n| {
        *end += n;
        Some((*end - n, *n))
    })
}
