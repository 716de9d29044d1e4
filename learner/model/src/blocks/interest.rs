//! Content interest: attention of the candidate's content vector over those of the history (EM3, Deng et al. 2024, section 3.3).
//!
//! Queries are projected from the candidate's content vector and keys from those of the history; the values are the
//! history's content vectors themselves. While the base is frozen, the key of an item without its adapter is constant, and
//! callers cache it; only the adapter's part, of low rank, is computed anew.

use tch::Tensor;

use super::masked_softmax;
use crate::error::Error;
use crate::groups::Layout;
use crate::params::Params;

/// Contents of a batch, each once.
#[derive(Debug)]
pub struct Contents {
    /// Content vectors, `[n, out]`.
    pub vectors: Tensor,
    /// Their keys by the layer `interest.key` without its adapter, `[n, width]`.
    pub keys: Tensor,
    /// The content of each history entry, `[n_requests, len]`; any in padding.
    pub of_history: Tensor,
    /// 1 for an entry with content, else 0, `[n_requests, len]`.
    pub valid: Tensor,
}

/// The output of each candidate, `[n_candidates, out]`; 0 where its history has no content.
///
/// # Shapes
/// `target [n_candidates, out]`: the candidates' content vectors
pub fn forward(params: &Params, target: &Tensor, past: &Contents, layout: &Layout) -> Result<Tensor, Error> {
    let query = layout.group(&params.linear("interest.query", target)?)?;
    let keys = match params.adapted("interest.key", &past.vectors)? {
        Some(adapted) => &past.keys + adapted,
        None => past.keys.shallow_clone(),
    };
    let of_history = layout.of_request(&past.of_history)?;
    let (n_groups, len) = of_history.size2()?;
    let entries = of_history.f_view(-1)?;
    let read = |x: &Tensor| -> Result<Tensor, Error> {
        Ok(x.f_index_select(0, &entries)?.f_view([n_groups, len, -1])?)
    };
    let keys = read(&keys)?;
    #[expect(clippy::cast_precision_loss, reason = "a layer's width")]
    let scale = (keys.size()[2] as f64).sqrt();
    let scores = query.f_matmul(&keys.f_transpose(1, 2)?)? / scale;
    let valid = layout.of_request(&past.valid)?.f_unsqueeze(1)?;
    let weights = masked_softmax(&scores, &valid)?;
    layout.ungroup(&weights.f_matmul(&read(&past.vectors)?)?)
}
