//! Exact ranking metrics.

/// Area under the ROC curve, ties counted half; `None` without both classes.
///
/// By rank sums (Mann and Whitney): `O(n log n)`.
#[must_use]
pub fn auc(scored: &mut [(f32, bool)]) -> Option<f64> {
    scored.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut wins, mut positives) = (0.0f64, 0.0f64, 0.0f64);
    let mut start = 0;
    while start < scored.len() {
        let score = scored[start].0;
        let tie = scored[start..]
            .iter()
            .take_while(|(z, _)| z.total_cmp(&score).is_eq())
            .count();
        let group = &scored[start..start + tie];
        let tie_positives = count(group.iter().filter(|(_, y)| *y).count());
        let tie_negatives = count(tie) - tie_positives;
        wins += tie_positives * (below + 0.5 * tie_negatives);
        below += tie_negatives;
        positives += tie_positives;
        start += tie;
    }
    let pairs = positives * below;
    (pairs > 0.0).then(|| wins / pairs)
}

/// Mean of the per-request AUC over requests with both classes, each request counting once; `None` without any.
///
/// `scored` is (request, logit, label), in any order.
#[must_use]
pub fn gauc(scored: &mut [(u64, f32, bool)]) -> Option<f64> {
    scored.sort_unstable_by_key(|(request, _, _)| *request);
    let (mut n, mut sum) = (0.0f64, 0.0f64);
    for slate in scored.chunk_by(|a, b| a.0 == b.0) {
        let mut pairs: Vec<_> = slate.iter().map(|(_, z, y)| (*z, *y)).collect();
        if let Some(auc) = auc(&mut pairs) {
            n += 1.0;
            sum += auc;
        }
    }
    (n > 0.0).then(|| sum / n)
}

fn count(n: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    let n = n as f64;
    n
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn brute(scored: &[(f32, bool)]) -> Option<f64> {
        let (mut wins, mut pairs) = (0.0, 0.0);
        for (a, _) in scored.iter().filter(|(_, y)| *y) {
            for (b, _) in scored.iter().filter(|(_, y)| !*y) {
                pairs += 1.0;
                wins += if a > b {
                    1.0
                } else if a < b {
                    0.0
                } else {
                    0.5
                };
            }
        }
        (pairs > 0.0).then(|| wins / pairs)
    }

    proptest! {
        #[test]
        fn auc_counts_all_pairs(scored in prop::collection::vec((0u8..6, any::<bool>()), 0..40)) {
            let mut scored: Vec<_> = scored.into_iter().map(|(z, y)| (f32::from(z) / 3.0, y)).collect();
            let expected = brute(&scored);
            let found = auc(&mut scored);
            prop_assert_eq!(found.is_some(), expected.is_some());
            if let (Some(found), Some(expected)) = (found, expected) {
                prop_assert!((found - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn gauc_leaves_out_requests_without_contrast() {
        let mut scored = [
            (1, 0.9, true),
            (2, 0.1, true),
            (1, 0.2, false),
            (3, 0.5, false),
            (2, 0.3, false),
        ];
        assert!((gauc(&mut scored).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(gauc(&mut [(1, 0.5, true)]), None);
    }
}
