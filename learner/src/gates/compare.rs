//! How far two sets of scores of the same candidates are apart.

/// Rank correlation (Spearman's rho, ties by their mean rank); `None` for fewer than two values or without any spread.
pub(super) fn rank_correlation(a: &[f32], b: &[f32]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 2 {
        return None;
    }
    let (a, b) = (ranks(a), ranks(b));
    let mean = (float(a.len()) - 1.0) / 2.0;
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        ab += (a - mean) * (b - mean);
        aa += (a - mean).powi(2);
        bb += (b - mean).powi(2);
    }
    (aa > 0.0 && bb > 0.0).then(|| ab / (aa * bb).sqrt())
}

/// Ranks from 0, those of equal values averaged.
fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for tie in order.chunk_by(|a, b| values[*a].total_cmp(&values[*b]).is_eq()) {
        let rank = float(start) + (float(tie.len()) - 1.0) / 2.0;
        for at in tie {
            ranks[*at] = rank;
        }
        start += tie.len();
    }
    ranks
}

/// Mean of the probabilities of log-odds.
pub(super) fn mean_probability(logits: impl Iterator<Item = f32>) -> f64 {
    let (mut n, mut sum) = (0.0, 0.0);
    for logit in logits {
        n += 1.0;
        sum += 1.0 / (1.0 + (-f64::from(logit)).exp());
    }
    if n > 0.0 { sum / n } else { 0.0 }
}

/// Standard deviation of log-odds.
pub(super) fn spread(logits: &[f32]) -> f64 {
    let n = float(logits.len()).max(1.0);
    let mean = logits.iter().map(|z| f64::from(*z)).sum::<f64>() / n;
    let squares = logits.iter().map(|z| (f64::from(*z) - mean).powi(2));
    (squares.sum::<f64>() / n).sqrt()
}

pub(super) fn float(n: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let n = n as f64;
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_correlation_takes_ties_by_their_mean_rank() {
        // Ranks 0, 1.5, 1.5, 3, 4 and 1, 0, 2.5, 2.5, 4 by hand.
        let found = rank_correlation(&[1.0, 2.0, 2.0, 4.0, 5.0], &[3.0, 1.0, 4.0, 4.0, 9.0]).unwrap();
        let expected = 7.25 / 9.5;
        assert!((found - expected).abs() < 1e-12, "{found}");
        let reversed = rank_correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]).unwrap();
        assert!((reversed + 1.0).abs() < 1e-12);
        assert_eq!(rank_correlation(&[1.0, 1.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn spread_and_level_are_those_of_the_values() {
        assert!((spread(&[1.0, 3.0]) - 1.0).abs() < 1e-12);
        assert!((mean_probability([0.0, 0.0].into_iter()) - 0.5).abs() < 1e-12);
        assert!(spread(&[2.0; 9]) < 1e-12);
    }
}
