//! The weights of an HSTU block as the loops read them, and the way back from their gradients to those of the weights.
//!
//! Weight and bias of the norm are folded into the linear layer behind it, as is the root that scores are divided by. The mean
//! that the norm subtracts from a row is subtracted from the tables whose rows are summed, and from the layer: all rows
//! then have mean 0 by themselves, forward and backward.

use crate::config::{ModelConfig, TOKEN_FIELDS};
use crate::cpu::kernel::{add, add_scaled, dot, transpose};
use crate::cpu::layer_norm::{LayerNorm, LayerNormGradients};
use crate::cpu::linear::{Linear, LinearGradients};
use crate::cpu::weights::{BlockWeights, Learning, NamedGradients};
use crate::error::Error;

/// Sizes of the block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Floats of an embedding row.
    pub(super) dim: usize,
    /// Floats of a row of the layer.
    pub(super) width: usize,
    pub(super) heads: usize,
    /// Floats of a query or key of a head.
    pub(super) key: usize,
    /// Floats of a value of a head.
    pub(super) value: usize,
    /// `1 / n`, the constant share of an entry.
    pub(super) share: f32,
}

impl Sizes {
    /// Floats of the values of all heads.
    pub(super) fn values(&self) -> usize {
        self.heads * self.value
    }

    /// Outputs of the projection: gates, values, queries and keys of all heads, in this order.
    pub(super) fn projected(&self) -> usize {
        2 * (self.values() + self.heads * self.key)
    }

    /// The first output of a head's value.
    pub(super) fn value_at(&self, head: usize) -> usize {
        self.values() + head * self.value
    }

    /// The first output of a head's query.
    pub(super) fn query_at(&self, head: usize) -> usize {
        2 * self.values() + head * self.key
    }

    /// The first output of a head's key.
    pub(super) fn key_at(&self, head: usize) -> usize {
        2 * self.values() + (self.heads + head) * self.key
    }

    /// Floats of a row of the layer for each head.
    pub(super) fn all_heads(&self) -> usize {
        self.heads * self.width
    }

    /// The factor that is folded into an output of the projection: that of the scores into queries.
    fn scale(&self, output: usize) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "a width")]
        let key = self.key as f32;
        if (self.query_at(0)..self.key_at(0)).contains(&output) {
            key.sqrt().recip()
        } else {
            1.0
        }
    }
}

/// A block of one layer with the weights of one moment, adapters merged.
#[derive(Debug)]
pub(crate) struct Hstu {
    pub(super) sizes: Sizes,
    /// From a token's rows to a row of the layer, `[width, TOKEN_FIELDS * dim]`.
    pub(super) token: Linear,
    /// Its transpose, with the mean of each row subtracted.
    pub(super) token_centred: Vec<f32>,
    /// Rows of actions with the token's bias, of positions and of times, with the mean of each row subtracted.
    pub(super) context: Vec<f32>,
    /// Rows of actions, positions and times, count.
    pub(super) counts: [usize; 3],
    /// What the rows of all candidates have in common, `[width]`.
    pub(super) candidate: Vec<f32>,
    norm: LayerNorm,
    /// The projection as the model has it.
    uvqk: Linear,
    /// The projection of rows of mean 0 and variance 1, `[projected, width]`, its transpose, and its bias.
    pub(super) project: Vec<f32>,
    pub(super) project_transposed: Vec<f32>,
    pub(super) project_bias: Vec<f32>,
    /// `[values]`
    pub(super) out_norm: LayerNorm,
    /// `[width, 3 values]`
    pub(super) out: Linear,
}

/// Gradients by the fields of [`Hstu`].
#[derive(Debug)]
pub(super) struct FoldedGradients {
    pub(super) token: Vec<f32>,
    pub(super) candidate: Vec<f32>,
    pub(super) project: Vec<f32>,
    pub(super) project_bias: Vec<f32>,
    pub(super) out_norm: LayerNormGradients,
    pub(super) out: Vec<f32>,
}

impl Hstu {
    /// The block with the weights of this moment.
    pub(crate) fn new(weights: BlockWeights<'_>, config: &ModelConfig) -> Result<Self, Error> {
        let (weights, sequence, dim) = (weights.in_f32(), &config.sequence, config.dim);
        let get = |name: &str| weights.get(&format!("sequence.{name}")).map(<[f32]>::to_vec);
        let linear = |name: &str, n_in: usize| -> Result<Linear, Error> {
            Ok(weights.linear(&format!("sequence.{name}"), n_in)?.merged())
        };
        let sizes = Sizes {
            dim,
            width: sequence.width,
            heads: sequence.heads,
            key: sequence.key_width,
            value: sequence.value_width,
            #[expect(clippy::cast_precision_loss, reason = "a length")]
            share: 1.0 / sequence.history_len.max(1) as f32,
        };
        let width = sizes.width;
        let token = linear("token", TOKEN_FIELDS * dim)?;
        let [mut actions, positions, times] = [get("action")?, get("position")?, get("time")?];
        for action in actions.chunks_exact_mut(width) {
            add(action, &token.bias);
        }
        let counts = [&actions, &positions, &times].map(|rows| rows.len() / width);
        // The placeholder of a candidate is the last action.
        let mut candidate = actions[actions.len() - width..].to_vec();
        add(&mut candidate, &positions[..width]);
        add(&mut candidate, &times[..width]);
        let mut context = [actions, positions, times].concat();
        subtract_means(&mut context, width);
        let mut token_centred = token.transposed.clone();
        subtract_means(&mut token_centred, width);

        let norm = weights.layer_norm("sequence.layer0.norm")?;
        let uvqk = linear("layer0.uvqk", width)?;
        let (mut project, mut project_bias) = (uvqk.weight.clone(), uvqk.bias.clone());
        let rows = project.chunks_exact_mut(width).zip(&mut project_bias);
        for (output, (row, bias)) in rows.enumerate() {
            let scale = sizes.scale(output);
            *bias = scale * (*bias + dot(row, &norm.bias));
            for (weight, by) in row.iter_mut().zip(&norm.weight) {
                *weight *= scale * by;
            }
        }
        subtract_means(&mut project, width);
        Ok(Self {
            token,
            token_centred,
            context,
            counts,
            candidate,
            norm,
            uvqk,
            project_transposed: transpose(&project, sizes.projected(), width),
            project,
            project_bias,
            out_norm: weights.layer_norm("sequence.layer0.out_norm")?,
            out: linear("layer0.out", 3 * sizes.values())?,
            sizes,
        })
    }

    /// Rows of actions, positions and times, count.
    pub(crate) fn counts(&self) -> [usize; 3] {
        self.counts
    }

    /// Whether an adapter learns through the block's weights.
    pub(crate) fn has_adapter(&self) -> bool {
        let layers = [&self.token, &self.uvqk, &self.out];
        layers.iter().any(|layer| layer.adapter.is_some())
    }

    /// Gradients of 0.
    pub(super) fn zeros(&self) -> FoldedGradients {
        let zeros = |weight: &[f32]| vec![0.0; weight.len()];
        FoldedGradients {
            token: zeros(&self.token.weight),
            candidate: zeros(&self.candidate),
            project: zeros(&self.project),
            project_bias: zeros(&self.project_bias),
            out_norm: self.out_norm.zeros(),
            out: zeros(&self.out.weight),
        }
    }

    /// Gradients of the weights that learn, from those of the folded weights and of `context`.
    pub(super) fn unfold(
        &self,
        folded: FoldedGradients,
        context: Vec<f32>,
        learning: Learning,
    ) -> NamedGradients {
        let width = self.sizes.width;
        let [n_actions, n_positions, _] = self.counts;
        let mut action = context;
        let mut position = action.split_off(n_actions * width);
        let mut time = position.split_off(n_positions * width);
        let mut bias = folded.candidate.clone();
        for row in action.chunks_exact(width) {
            add(&mut bias, row);
        }
        let placeholder = (n_actions - 1) * width;
        add(&mut action[placeholder..], &folded.candidate);
        add(&mut position[..width], &folded.candidate);
        add(&mut time[..width], &folded.candidate);
        let (norm, uvqk) = self.unfold_projection(folded.project, folded.project_bias);

        let mut named = NamedGradients::new();
        let layer = |weight, bias| LinearGradients {
            weight,
            bias,
            ..LinearGradients::default()
        };
        for (name, of, gradients) in [
            ("token", &self.token, layer(folded.token, bias)),
            ("layer0.uvqk", &self.uvqk, uvqk),
            ("layer0.out", &self.out, layer(folded.out, Vec::new())),
        ] {
            let gradients = gradients.split_merged(of, learning);
            gradients.add_named(&format!("sequence.{name}"), &mut named);
        }
        if learning.base {
            named.extend([
                ("sequence.action".to_owned(), action),
                ("sequence.position".to_owned(), position),
                ("sequence.time".to_owned(), time),
            ]);
            norm.add_named("sequence.layer0.norm", &mut named);
            folded.out_norm.add_named("sequence.layer0.out_norm", &mut named);
        }
        named
    }

    /// From the folded projection to the norm and the layer that it is made of.
    fn unfold_projection(
        &self,
        mut weight: Vec<f32>,
        mut bias: Vec<f32>,
    ) -> (LayerNormGradients, LinearGradients) {
        let width = self.sizes.width;
        let mut norm = self.norm.zeros();
        let rows = weight
            .chunks_exact_mut(width)
            .zip(self.uvqk.weight.chunks_exact(width));
        for (output, ((of_row, row), of_bias)) in rows.zip(&mut bias).enumerate() {
            let scale = self.sizes.scale(output);
            *of_bias *= scale;
            add_scaled(&mut norm.bias, *of_bias, row);
            let by = self.norm.weight.iter().zip(&self.norm.bias);
            let sides = of_row.iter_mut().zip(row).zip(&mut norm.weight).zip(by);
            for (((of, weight), of_norm), (by, bias)) in sides {
                let of_scaled = scale * *of;
                *of_norm += of_scaled * weight;
                *of = of_scaled * by + *of_bias * bias;
            }
        }
        let layer = LinearGradients {
            weight,
            bias,
            ..LinearGradients::default()
        };
        (norm, layer)
    }
}

/// Subtracts the mean of each row.
fn subtract_means(rows: &mut [f32], width: usize) {
    for row in rows.chunks_exact_mut(width) {
        #[expect(clippy::cast_precision_loss, reason = "a width")]
        let mean = row.iter().sum::<f32>() / width as f32;
        for value in row {
            *value -= mean;
        }
    }
}
