//! The BERT encoder network over packed texts: `X_{l+1} = LN(H + W_2 gelu(W_1 H))`, `H = LN(X_l + W_o A(X_l))`, with
//! `A` softmax attention over heads (Devlin et al. 2018, Vaswani et al. 2017), norms after the sums.
//!
//! Texts lie one after the other in one matrix of tokens, without padding between them. Everything that works token by
//! token runs over tiles of [`TILE`] rows, so that a matrix product always has the same shape, however many texts there
//! are; attention runs text by text at the text's own length. A token's numbers thus depend on its own text alone.

use tch::{Device, Kind, Tensor};

use super::EncodeError;
use super::source::{Folder, Tensors, size};
use super::text::TextConfig;

/// Rows of a tile. A lone title fills one; with half as many a batch is a quarter slower, with twice as many a lone title
/// takes half as long again. On a GPU a call costs more than its rows.
const TILE: i64 = 32;
const TILE_CUDA: i64 = 512;

#[derive(Debug)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

#[derive(Debug)]
struct Layer {
    /// Query, key and value in one product.
    qkv: Linear,
    attended: Linear,
    attended_norm: Norm,
    widened: Linear,
    narrowed: Linear,
    narrowed_norm: Norm,
}

/// The network's weights on one device.
#[derive(Debug)]
pub(super) struct Bert {
    words: Tensor,
    /// Of every position, with what all first segments add.
    positions: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    n_heads: i64,
    activation: Activation,
    device: Device,
    tile: i64,
}

#[derive(Clone, Copy, Debug)]
enum Activation {
    Gelu,
    GeluTanh,
    Relu,
}

impl Linear {
    fn load(
        tensors: &Tensors<'_>,
        name: &str,
        [n_out, n_in]: [usize; 2],
        device: Device,
    ) -> Result<Self, EncodeError> {
        Ok(Self {
            weight: tensors.load(&format!("{name}.weight"), &[n_out, n_in], device)?,
            bias: tensors.load(&format!("{name}.bias"), &[n_out], device)?,
        })
    }

    /// `[n, n_in]` to `[n, n_out]`
    fn forward(&self, x: &Tensor) -> Result<Tensor, tch::TchError> {
        x.f_linear(&self.weight, Some(&self.bias))
    }
}

impl Norm {
    fn load(
        tensors: &Tensors<'_>,
        name: &str,
        width: usize,
        epsilon: f64,
        device: Device,
    ) -> Result<Self, EncodeError> {
        // Checkpoints that began in TensorFlow still call them gamma and beta.
        let named = |ours: &str, theirs: &str| {
            let (ours, theirs) = (format!("{name}.{ours}"), format!("{name}.{theirs}"));
            let is_theirs = !tensors.has(&ours) && tensors.has(&theirs);
            tensors.load(if is_theirs { &theirs } else { &ours }, &[width], device)
        };
        Ok(Self {
            weight: named("weight", "gamma")?,
            bias: named("bias", "beta")?,
            epsilon,
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
    fn load(
        tensors: &Tensors<'_>,
        prefix: &str,
        config: &TextConfig,
        device: Device,
    ) -> Result<Self, EncodeError> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let linear = |name: &str, shape| Linear::load(tensors, &format!("{prefix}.{name}"), shape, device);
        let norm = |name: &str| {
            Norm::load(
                tensors,
                &format!("{prefix}.{name}"),
                width,
                config.layer_norm_eps,
                device,
            )
        };
        let parts =
            ["query", "key", "value"].map(|part| linear(&format!("attention.self.{part}"), [width, width]));
        let [query, key, value] = parts;
        let parts = [query?, key?, value?];
        Ok(Self {
            qkv: Linear {
                weight: Tensor::f_cat(&parts.each_ref().map(|part| &part.weight), 0)?,
                bias: Tensor::f_cat(&parts.each_ref().map(|part| &part.bias), 0)?,
            },
            attended: linear("attention.output.dense", [width, width])?,
            attended_norm: norm("attention.output.LayerNorm")?,
            widened: linear("intermediate.dense", [inner, width])?,
            narrowed: linear("output.dense", [width, inner])?,
            narrowed_norm: norm("output.LayerNorm")?,
        })
    }
}

impl Bert {
    /// Reads the network. `n_positions` is how many tokens of a text are looked at.
    pub(super) fn load(
        folder: &Folder,
        tensors: &Tensors<'_>,
        config: &TextConfig,
        n_positions: usize,
        device: Device,
    ) -> Result<Self, EncodeError> {
        let width = config.hidden_size;
        // A model with a head for a task keeps the encoder under its type's name.
        let prefixed = format!("{}.", config.model_type);
        let words = "embeddings.word_embeddings.weight";
        let is_prefixed = !tensors.has(words) && tensors.has(&format!("{prefixed}{words}"));
        let root = if is_prefixed { prefixed.as_str() } else { "" };
        let load = |name: &str, rows: usize| {
            tensors.load(&format!("{root}embeddings.{name}.weight"), &[rows, width], device)
        };
        let first = config.first_position();
        let segments = load("token_type_embeddings", config.type_vocab_size)?;
        let positions = load("position_embeddings", config.max_position_embeddings)?
            .f_narrow(0, size(first), size(n_positions))?
            .f_add(&segments.f_narrow(0, 0, 1)?)?;
        let layers = (0..config.num_hidden_layers)
            .map(|l| Layer::load(tensors, &format!("{root}encoder.layer.{l}"), config, device))
            .collect::<Result<_, _>>()?;
        let activation = match config.hidden_act.as_str() {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => {
                let why = format!("hidden_act {other:?} is not known, gelu, gelu_new and relu are");
                return Err(folder.malformed("config.json", why));
            }
        };
        let norm = format!("{root}embeddings.LayerNorm");
        Ok(Self {
            words: load("word_embeddings", config.vocab_size)?,
            positions,
            norm: Norm::load(tensors, &norm, width, config.layer_norm_eps, device)?,
            layers,
            n_heads: size(config.num_attention_heads),
            activation,
            device,
            tile: if device == Device::Cpu { TILE } else { TILE_CUDA },
        })
    }

    /// The mean of the last layer's tokens, for each text.
    ///
    /// # Shapes
    /// `texts` of 1 to `n_positions` tokens each; returns `[texts.len(), width]` on the CPU.
    pub(super) fn forward(&self, texts: &[&[i64]]) -> Result<Tensor, tch::TchError> {
        let lengths: Vec<i64> = texts.iter().map(|text| size(text.len())).collect();
        let mut x = self.embedded(texts, &lengths)?;
        for layer in &self.layers {
            x = self.layer(layer, &x, &lengths)?;
        }
        let means = spans(&lengths)
            .map(|(start, n)| x.f_narrow(0, start, n)?.f_mean_dim(0, false, Kind::Float))
            .collect::<Result<Vec<_>, _>>()?;
        Tensor::f_stack(&means, 0)?.f_to_device(Device::Cpu)
    }

    /// `[n_rows, width]`; `n_rows` is the number of tokens, rounded up to whole tiles. The rows beyond the tokens hold
    /// whatever keeps them finite.
    fn embedded(&self, texts: &[&[i64]], lengths: &[i64]) -> Result<Tensor, tch::TchError> {
        let n_tokens: i64 = lengths.iter().sum();
        let n_rows = (n_tokens + self.tile - 1) / self.tile * self.tile;
        let padding = usize::try_from(n_rows - n_tokens).unwrap_or(0);
        let mut ids = texts.concat();
        let mut positions: Vec<i64> = lengths.iter().flat_map(|n| 0..*n).collect();
        ids.resize(ids.len() + padding, 0);
        positions.resize(ids.len(), 0);
        let put = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(self.device);
        let words = self.words.f_index_select(0, &put(&ids)?)?;
        let positions = self.positions.f_index_select(0, &put(&positions)?)?;
        self.norm.forward(&words.f_add(&positions)?)
    }

    fn layer(&self, layer: &Layer, x: &Tensor, lengths: &[i64]) -> Result<Tensor, tch::TchError> {
        let attended = self.attention(&self.tiles(&[x], |rows| layer.qkv.forward(&rows[0]))?, lengths)?;
        self.tiles(&[x, &attended], |rows| {
            let attended = layer.attended.forward(&rows[1])?;
            let x = layer.attended_norm.forward(&attended.f_add(&rows[0])?)?;
            let widened = self.activation.forward(&layer.widened.forward(&x)?)?;
            layer
                .narrowed_norm
                .forward(&layer.narrowed.forward(&widened)?.f_add(&x)?)
        })
    }

    /// `qkv [n_rows, 3 * width]` to `[n_rows, width]`, each token over those of its own text.
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
                let out = Tensor::f_scaled_dot_product_attention(
                    &q?,
                    &k?,
                    &v?,
                    None::<&Tensor>,
                    0.0,
                    false,
                    None,
                    false,
                )?;
                out.f_squeeze_dim(0)?.f_transpose(0, 1)?.f_reshape([n, width])
            })
            .collect::<Result<Vec<_>, _>>()?;
        let n_tokens: i64 = lengths.iter().sum();
        attended.push(Tensor::f_zeros(
            [n_rows - n_tokens, width],
            (Kind::Float, self.device),
        )?);
        Tensor::f_cat(&attended, 0)
    }

    /// A function of single rows, applied tile by tile.
    fn tiles(
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
