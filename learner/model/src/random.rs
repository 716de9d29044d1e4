//! Counter-based random numbers, a pure function of seed, id and lane.
//!
//! There is no state to save, and a row created today equals the same row created by a replay on another machine.

/// SplitMix64's finalizer over `(seed, id, lane)`.
fn bits(seed: u64, id: u64, lane: u64) -> u64 {
    let mut x = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(id)
        .wrapping_mul(0xd134_2543_de82_ef95)
        .wrapping_add(lane.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A uniform number in `(0, 1)`.
#[must_use]
pub fn uniform(seed: u64, id: u64, lane: u64) -> f32 {
    // An f32 holds 24 bits; adding one half keeps both ends open.
    let top = u32::try_from(bits(seed, id, lane) >> 40).unwrap_or(u32::MAX);
    #[expect(clippy::cast_precision_loss, reason = "24 bits fit an f32 exactly")]
    let x = (top as f32 + 0.5) / 16_777_216.0;
    x
}

/// A standard normal number (Box and Muller 1958).
#[must_use]
pub fn normal(seed: u64, id: u64, lane: u64) -> f32 {
    let radius = (-2.0 * uniform(seed, id, 2 * lane).ln()).sqrt();
    radius * (std::f32::consts::TAU * uniform(seed, id, 2 * lane + 1)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let n = 20_000u16;
        let draws: Vec<f32> = (0..n)
            .map(|i| normal(7, u64::from(i) / 8, u64::from(i) % 8))
            .collect();
        let mean = draws.iter().sum::<f32>() / f32::from(n);
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / f32::from(n);
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.03, "{variance}");
    }

    #[test]
    fn a_number_depends_on_seed_id_and_lane_only() {
        assert_eq!(normal(1, 2, 3).to_bits(), normal(1, 2, 3).to_bits());
        let others = [normal(2, 2, 3), normal(1, 3, 3), normal(1, 2, 4)];
        assert!(others.iter().all(|x| x.to_bits() != normal(1, 2, 3).to_bits()));
    }
}
