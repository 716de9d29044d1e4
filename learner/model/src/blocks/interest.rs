//! Content interest: what of the user's past is like the candidate, by content (EM3, section 3.3).
//!
//! The candidate's content vector asks, those of the history answer, and what is read are the history's content
//! vectors themselves. While the weights of queries and keys are frozen, a key is a constant of its item that
//! callers keep; only the adapters' part, of low rank, is computed anew.

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
    /// Which of them each entry of a history is, `[n_requests, len]`; any in padding.
    pub of_history: Tensor,
    /// 1 where there is an entry with content, else 0, `[n_requests, len]`.
    pub valid: Tensor,
}

/// What each candidate finds, `[n_candidates, out]`; 0 where the history has no content.
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
