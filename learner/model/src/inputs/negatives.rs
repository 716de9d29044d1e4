//! Items that did not come next: negatives of DIEN's auxiliary loss.
//!
//! A history holds only what was acted on, so a negative is drawn from the candidates of the batch, which were shown. A draw is a
//! pure function of seed, request and place in the history, and of the batch.

use ouzel_sample::Id;

use super::Inputs;
use crate::config::TOKEN_FIELDS;
use crate::random::uniform;

/// Separates these draws from those of initial values, which use the same seed.
const NEGATIVES: u64 = 0x4e45_5854;

impl Inputs {
    /// For each place of each history, `[n_requests * len]`, the candidate that stands against its entry; none in padding, for
    /// the first entry, which nothing predicts, and where all candidates are the entry's item.
    pub(crate) fn negatives(&self, seed: u64) -> Vec<Option<usize>> {
        let items = |tokens: &super::Pool| -> Vec<Option<usize>> {
            let items = tokens.segments().step_by(TOKEN_FIELDS);
            items
                .map(|members| members.first().map(|(row, _)| *row))
                .collect()
        };
        let (entries, candidates) = (items(&self.history.tokens), items(&self.history.target));
        let len = self.history.len.max(1);
        entries
            .iter()
            .enumerate()
            .map(|(place, entry)| {
                let at = place % len;
                let is_predicted = at > 0 && self.history.valid[place] > 0.0;
                is_predicted
                    .then(|| other_than(*entry, &candidates, draw(seed, self.requests[place / len], at)))?
            })
            .collect()
    }
}

/// A number in `[0, 1)`.
fn draw(seed: u64, request: Id, at: usize) -> f32 {
    uniform(seed ^ NEGATIVES, request.0, at as u64)
}

/// The first candidate from the drawn one on, in a circle, that is another item.
fn other_than(entry: Option<usize>, candidates: &[Option<usize>], draw: f32) -> Option<usize> {
    let n = candidates.len();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of the candidates of a batch"
    )]
    let start = (draw * n as f32) as usize;
    let mut places = (start..start + n).map(|at| at % n);
    places.find(|at| candidates[*at] != entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_is_another_item_if_there_is_one() {
        let candidates = [Some(3), Some(5), Some(3)];
        for (draw, entry, expected) in [
            (0.0, 5, Some(0)),
            (0.0, 3, Some(1)),
            (0.99, 5, Some(2)),
            (0.99, 3, Some(1)),
            (0.4, 5, Some(2)),
        ] {
            assert_eq!(
                other_than(Some(entry), &candidates, draw),
                expected,
                "{draw} {entry}"
            );
        }
        assert_eq!(other_than(Some(3), &[Some(3), Some(3)], 0.5), None);
        assert_eq!(other_than(Some(3), &[], 0.5), None);
    }
}
