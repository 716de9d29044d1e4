//! The block's weights as the loops want them, and gradients of those as gradients of the weights themselves.
//!
//! A norm's weight and bias go into the linear layer behind it, as does the root that scores are divided by. What is
//! subtracted as a row's mean goes into the tables whose rows are added up, and into the layer: all rows then have
//! mean 0 by themselves, forward and backward.

use super::super::kernel::{add, add_scaled, dot, transpose};
use crate::config::{SequenceConfig, TOKEN_FIELDS};
use crate::error::Error;
use crate::host_slice::to_vec;
use crate::params::Params;

/// Sizes of the block.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sizes {
    /// Of an embedding row.
    pub(super) dim: usize,
    /// Of a token.
    pub(super) width: usize,
    pub(super) heads: usize,
    /// Of a head's query and key.
    pub(super) key: usize,
    /// Of a head's value.
    pub(super) value: usize,
    /// One over what scores are divided by.
    pub(super) share: f32,
}

impl Sizes {
    /// Values of all heads, count.
    pub(super) fn values(&self) -> usize {
        self.heads * self.value
    }

    /// Outputs of the projection: gates, values, queries and keys of all heads, in this order.
    pub(super) fn projected(&self) -> usize {
        2 * (self.values() + self.heads * self.key)
    }

    /// The first output that is this head's value.
    pub(super) fn value_at(&self, head: usize) -> usize {
        self.values() + head * self.value
    }

    /// The first output that is this head's query.
    pub(super) fn query_at(&self, head: usize) -> usize {
        2 * self.values() + head * self.key
    }

    /// The first output that is this head's key.
    pub(super) fn key_at(&self, head: usize) -> usize {
        2 * self.values() + (self.heads + head) * self.key
    }

    /// Floats of a row of a token each head.
    pub(super) fn spread(&self) -> usize {
        self.heads * self.width
    }
}

/// The weights of a block of one layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hstu {
    pub(super) sizes: Sizes,
    /// `[width, TOKEN_FIELDS * dim]`
    pub(super) token: Vec<f32>,
    /// `[TOKEN_FIELDS * dim, width]`
    pub(super) token_turned: Vec<f32>,
    /// The same, each row's mean taken off.
    pub(super) token_centred: Vec<f32>,
    /// Rows of actions with the token's bias, of positions and of times, each row's mean taken off.
    pub(super) context: Vec<f32>,
    /// How many of each.
    pub(super) counts: [usize; 3],
    /// What all candidates' rows have in common, `[width]`.
    pub(super) candidate: Vec<f32>,
    norm: [Vec<f32>; 2],
    uvqk: Vec<f32>,
    /// The projection of rows of mean 0 and deviation 1, `[projected, width]`.
    pub(super) project: Vec<f32>,
    /// `[width, projected]`
    pub(super) project_turned: Vec<f32>,
    /// `[projected]`
    pub(super) project_bias: Vec<f32>,
    /// Weight and bias, `[values]`.
    pub(super) out_norm: [Vec<f32>; 2],
    /// `[width, 3 values]`
    pub(super) out: Vec<f32>,
    /// `[3 values, width]`
    pub(super) out_turned: Vec<f32>,
}

/// Gradients of [`Hstu`], by what has its name.
#[derive(Clone, Debug, Default)]
pub(super) struct Folded {
    pub(super) token: Vec<f32>,
    pub(super) context: Vec<f32>,
    pub(super) candidate: Vec<f32>,
    pub(super) project: Vec<f32>,
    pub(super) project_bias: Vec<f32>,
    pub(super) out_norm: [Vec<f32>; 2],
    pub(super) out: Vec<f32>,
}

impl Hstu {
    /// From the weights of a model whose rows have `dim` floats.
    pub(crate) fn new(params: &Params, config: &SequenceConfig, dim: usize) -> Result<Self, Error> {
        let get = |name: &str| -> Result<Vec<f32>, Error> { Ok(to_vec(params.get(name)?)?) };
        let sizes = Sizes {
            dim,
            width: config.width,
            heads: config.heads,
            key: config.key_width,
            value: config.value_width,
            #[expect(clippy::cast_precision_loss, reason = "a length")]
            share: 1.0 / config.history_len.max(1) as f32,
        };
        let width = sizes.width;
        let [token, bias] = [get("sequence.token.weight")?, get("sequence.token.bias")?];
        let [mut actions, positions, times] = [
            get("sequence.action")?,
            get("sequence.position")?,
            get("sequence.time")?,
        ];
        for action in actions.chunks_exact_mut(width) {
            add(action, &bias);
        }
        let counts = [&actions, &positions, &times].map(|rows| rows.len() / width);
        // The placeholder of a candidate is the last action.
        let mut candidate = actions[actions.len() - width..].to_vec();
        add(&mut candidate, &positions[..width]);
        add(&mut candidate, &times[..width]);
        let mut context = [actions, positions, times].concat();
        centre(&mut context, width);
        let token_turned = transpose(&token, width, TOKEN_FIELDS * dim);
        let mut token_centred = token_turned.clone();
        centre(&mut token_centred, width);

        let norm = ["sequence.layer0.norm.weight", "sequence.layer0.norm.bias"];
        let norm = [get(norm[0])?, get(norm[1])?];
        let uvqk = get("sequence.layer0.uvqk.weight")?;
        let mut project = uvqk.clone();
        let mut project_bias = get("sequence.layer0.uvqk.bias")?;
        for (out, (row, bias)) in project.chunks_exact_mut(width).zip(&mut project_bias).enumerate() {
            let scale = sizes.scale(out);
            *bias = scale * (*bias + dot(row, &norm[1]));
            for (weight, by) in row.iter_mut().zip(&norm[0]) {
                *weight *= scale * by;
            }
        }
        centre(&mut project, width);
        let out = get("sequence.layer0.out.weight")?;
        let out_norm = ["sequence.layer0.out_norm.weight", "sequence.layer0.out_norm.bias"];
        Ok(Self {
            token_turned,
            token_centred,
            token,
            context,
            counts,
            candidate,
            norm,
            project_turned: transpose(&project, sizes.projected(), width),
            uvqk,
            project,
            project_bias,
            out_norm: [get(out_norm[0])?, get(out_norm[1])?],
            out_turned: transpose(&out, width, 3 * sizes.values()),
            out,
            sizes,
        })
    }

    /// Zeros for the gradients of all.
    pub(super) fn zeros(&self) -> Folded {
        let zeros = |of: &[f32]| vec![0.0; of.len()];
        Folded {
            token: zeros(&self.token),
            context: Vec::new(),
            candidate: zeros(&self.candidate),
            project: zeros(&self.project),
            project_bias: zeros(&self.project_bias),
            out_norm: [zeros(&self.out_norm[0]), zeros(&self.out_norm[1])],
            out: zeros(&self.out),
        }
    }

    /// The gradients of the weights by their names.
    pub(super) fn unfold(&self, of: Folded) -> Vec<(&'static str, Vec<f32>)> {
        let width = self.sizes.width;
        let [n_actions, n_positions, _] = self.counts;
        let mut action = of.context;
        let mut position = action.split_off(n_actions * width);
        let mut time = position.split_off(n_positions * width);
        let mut bias = of.candidate.clone();
        for row in action.chunks_exact(width) {
            add(&mut bias, row);
        }
        let placeholder = (n_actions - 1) * width;
        add(&mut action[placeholder..], &of.candidate);
        add(&mut position[..width], &of.candidate);
        add(&mut time[..width], &of.candidate);

        let (mut uvqk, mut uvqk_bias) = (of.project, of.project_bias);
        let mut norm = [vec![0.0; width], vec![0.0; width]];
        let rows = uvqk.chunks_exact_mut(width).zip(self.uvqk.chunks_exact(width));
        for (out, ((of_row, row), of_bias)) in rows.zip(&mut uvqk_bias).enumerate() {
            let scale = self.sizes.scale(out);
            *of_bias *= scale;
            add_scaled(&mut norm[1], *of_bias, row);
            let by = self.norm[0].iter().zip(&self.norm[1]);
            for (((of, weight), by_norm), (by, bias)) in of_row.iter_mut().zip(row).zip(&mut norm[0]).zip(by)
            {
                let of_scaled = scale * *of;
                *by_norm += of_scaled * weight;
                *of = of_scaled * by + *of_bias * bias;
            }
        }
        let ([norm_weight, norm_bias], [out_weight, out_bias]) = (norm, of.out_norm);
        vec![
            ("sequence.token.weight", of.token),
            ("sequence.token.bias", bias),
            ("sequence.action", action),
            ("sequence.position", position),
            ("sequence.time", time),
            ("sequence.layer0.norm.weight", norm_weight),
            ("sequence.layer0.norm.bias", norm_bias),
            ("sequence.layer0.out_norm.weight", out_weight),
            ("sequence.layer0.out_norm.bias", out_bias),
            ("sequence.layer0.uvqk.weight", uvqk),
            ("sequence.layer0.uvqk.bias", uvqk_bias),
            ("sequence.layer0.out.weight", of.out),
        ]
    }
}

impl Sizes {
    /// What an output of the projection is multiplied by: queries by that of the scores.
    fn scale(&self, out: usize) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "a width")]
        let key = self.key as f32;
        if (self.query_at(0)..self.key_at(0)).contains(&out) {
            key.sqrt().recip()
        } else {
            1.0
        }
    }
}

/// Takes each row's mean off.
fn centre(rows: &mut [f32], width: usize) {
    for row in rows.chunks_exact_mut(width) {
        #[expect(clippy::cast_precision_loss, reason = "a width")]
        let mean = row.iter().sum::<f32>() / width as f32;
        for value in row {
            *value -= mean;
        }
    }
}
