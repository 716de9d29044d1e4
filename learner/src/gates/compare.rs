//! How far two sets of scores of the same candidates are apart.

/// Bins of the stability index.
const BINS: usize = 10;
/// First items of a slate whose overlap counts.
const TOP: usize = 5;
/// Long slates from which their overlap says something.
const MIN_SLATES: usize = 4;

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

/// Population stability index of scores over the tenths of those before: 0 for the same distribution, .25 for a marked shift.
pub(super) fn stability_index(before: &[f32], after: &[f32]) -> f64 {
    let mut sorted = before.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let edges: Vec<f32> = (1..BINS).map(|bin| sorted[bin * sorted.len() / BINS]).collect();
    let shares = |values: &[f32]| {
        // Half a score in every bin, so that an empty one has a logarithm.
        let mut counts = [0.5; BINS];
        for value in values {
            counts[edges.partition_point(|edge| edge <= value)] += 1.0;
        }
        let n = counts.iter().sum::<f64>();
        counts.map(|count| count / n)
    };
    let pairs = shares(before).into_iter().zip(shares(after));
    pairs
        .map(|(before, after)| (after - before) * (after / before).ln())
        .sum()
}

/// Share of the first [`TOP`] items of each slate that are among the first of its other scores, over slates of twice as
/// many; `None` for fewer than [`MIN_SLATES`] of those.
pub(super) fn top_overlap(slates: &[(Vec<f32>, Vec<f32>)]) -> Option<f64> {
    let overlap = |(before, after): &(Vec<f32>, Vec<f32>)| {
        let (before, after) = (top(before), top(after));
        float(before.iter().filter(|at| after.contains(at)).count()) / float(TOP)
    };
    mean(slates.iter().filter(|slate| is_long(slate)).map(overlap))
}

/// Mean of the rank correlations of slates of as many items; `None` for fewer than [`MIN_SLATES`] of those with any spread.
pub(super) fn rank_within_slates(slates: &[(Vec<f32>, Vec<f32>)]) -> Option<f64> {
    let long = slates.iter().filter(|slate| is_long(slate));
    mean(long.filter_map(|(before, after)| rank_correlation(before, after)))
}

fn is_long((before, after): &(Vec<f32>, Vec<f32>)) -> bool {
    before.len() == after.len() && before.len() >= 2 * TOP
}

/// The mean; `None` for fewer than [`MIN_SLATES`] values.
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (values.len() >= MIN_SLATES).then(|| values.iter().sum::<f64>() / float(values.len()))
}

/// Positions of the largest values, ties by position.
fn top(values: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(TOP);
    order
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
    fn slates_that_change_places_keep_the_ranks_within_them() {
        let slate = |shift: f32| -> Vec<f32> { (0..12u8).map(|item| f32::from(item) + shift).collect() };
        let slates: Vec<_> = (0..4u8)
            .map(|at| (slate(f32::from(at) * 20.0), slate(-f32::from(at) * 20.0)))
            .collect();
        assert!((rank_within_slates(&slates).unwrap() - 1.0).abs() < 1e-12);
        assert!((top_overlap(&slates).unwrap() - 1.0).abs() < 1e-12);
        let [before, after] = [0, 1].map(|side| -> Vec<f32> {
            let all = slates
                .iter()
                .map(|(before, after)| if side == 0 { before } else { after });
            all.flatten().copied().collect()
        });
        assert!(rank_correlation(&before, &after).unwrap() < 0.0);
        assert_eq!(rank_within_slates(&slates[..3]), None);
        assert_eq!(top_overlap(&[(vec![1.0; 9], vec![1.0; 9])]), None);
    }

    #[test]
    fn the_stability_index_is_0_for_the_same_scores_and_grows_with_a_shift() {
        let scores: Vec<f32> = (0..200u8).map(f32::from).collect();
        let shifted = |by: f32| scores.iter().map(|score| score + by).collect::<Vec<f32>>();
        assert!(stability_index(&scores, &scores).abs() < 1e-12);
        let found = [10.0, 40.0, 100.0].map(|by| stability_index(&scores, &shifted(by)));
        assert!(
            0.0 < found[0] && found[0] < found[1] && found[1] < found[2],
            "{found:?}"
        );
    }

    #[test]
    fn spread_and_level_are_those_of_the_values() {
        assert!((spread(&[1.0, 3.0]) - 1.0).abs() < 1e-12);
        assert!((mean_probability([0.0, 0.0].into_iter()) - 0.5).abs() < 1e-12);
        assert!(spread(&[2.0; 9]) < 1e-12);
    }
}
