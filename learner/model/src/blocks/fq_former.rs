//! Fusion-Q-Former: an item's content vector from tokens of its frozen vectors (EM3, Deng et al. 2024, section 3.2).
//!
//! Learned queries and one token a modality attend to each other; the queries' outputs, laid end to end, are the
//! content vector. Its length does not depend on how many modalities there are, and one that an item lacks is a
//! token that nothing attends to. Norms come after, and there is no feed-forward layer, as in the authors' code.

use tch::{Kind, Tensor};

use ouzel_sample::{MODALITIES, N_MODALITIES};

use super::norm;
use crate::config::ContentConfig;
use crate::error::Error;
use crate::params::Params;

/// Frozen vectors of a list of items.
#[derive(Debug)]
pub struct Frozen {
    /// `[n, width]` by modality, as far as the model reads it; 0 where an item has none.
    pub vectors: [Option<Tensor>; N_MODALITIES],
    /// 1 where an item has the modality, else 0, `[n, N_MODALITIES]`.
    pub present: Tensor,
}

impl Frozen {
    /// Those of `n` items from `start`.
    pub fn narrow(&self, start: i64, n: i64) -> Result<Self, Error> {
        let mut vectors = [const { None }; N_MODALITIES];
        for (out, all) in vectors.iter_mut().zip(&self.vectors) {
            if let Some(all) = all {
                *out = Some(all.f_narrow(0, start, n)?);
            }
        }
        Ok(Self {
            vectors,
            present: self.present.f_narrow(0, start, n)?,
        })
    }
}

/// The content vectors of items, `[n, queries * width]`.
pub fn forward(params: &Params, config: &ContentConfig, frozen: &Frozen) -> Result<Tensor, Error> {
    let n = frozen.present.size()[0];
    let queries = params.get("content.queries")?;
    let n_queries = queries.size()[0];
    let mut tokens = vec![queries.f_unsqueeze(0)?.f_expand([n, -1, -1], false)?];
    let mut present = vec![
        frozen
            .present
            .f_new_ones([n, n_queries], (Kind::Float, frozen.present.device()))?,
    ];
    // Pictures stand before texts, as in the paper's equation.
    for modality in (0..N_MODALITIES).rev() {
        if let (Some(vectors), Some(name)) = (&frozen.vectors[modality], MODALITIES.get(modality)) {
            tokens.push(
                params
                    .linear(&format!("content.{name}"), vectors)?
                    .f_unsqueeze(1)?,
            );
            let column = i64::try_from(modality).unwrap_or(0);
            present.push(frozen.present.f_narrow(1, column, 1)?);
        }
    }
    let mut x = Tensor::f_cat(&tokens, 1)?;
    let mask = ((Tensor::f_cat(&present, 1)? - 1.0) * 1e9).f_reshape([n, 1, 1, -1])?;
    for layer in 0..config.layers {
        x = self_attention(params, &format!("content.layer{layer}"), &x, &mask, config.heads)?;
    }
    Ok(x.f_narrow(1, 0, n_queries)?.f_flatten(1, 2)?)
}

/// One layer on `x [n, tokens, width]`, `mask` being added to the scores.
fn self_attention(
    params: &Params,
    name: &str,
    x: &Tensor,
    mask: &Tensor,
    heads: usize,
) -> Result<Tensor, Error> {
    let (n, n_tokens, width) = x.size3()?;
    let heads = i64::try_from(heads).unwrap_or(1);
    let head = width / heads;
    let part = |part: &str| -> Result<Tensor, Error> {
        let x = params.linear(&format!("{name}.{part}"), x)?;
        Ok(x.f_reshape([n, n_tokens, heads, head])?.f_transpose(1, 2)?)
    };
    #[expect(clippy::cast_precision_loss, reason = "a head's width")]
    let scale = (head as f64).sqrt();
    let scores = part("query")?.f_matmul(&part("key")?.f_transpose(2, 3)?)? / scale + mask;
    let read = scores.f_softmax(-1, Kind::Float)?.f_matmul(&part("value")?)?;
    let read = read.f_transpose(1, 2)?.f_reshape([n, n_tokens, width])?;
    let y = params.linear(&format!("{name}.out"), &read)? + x;
    norm(
        &y,
        params.find(&format!("{name}.norm.weight")),
        params.find(&format!("{name}.norm.bias")),
        1e-5,
    )
}
