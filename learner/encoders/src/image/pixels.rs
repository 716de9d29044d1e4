//! Turns a picture file into the network's square input: resizes with a bicubic filter, cuts out the centre.
//!
//! Resampling follows Pillow, which the networks' authors used: a cubic kernel with `a = -1/2` (Keys 1981), widened when
//! shrinking, horizontal before vertical, weights rounded to 22 bits, so the result has the same bytes everywhere. Only
//! pixels inside the square are computed, so an extremely thin picture costs no more than any other.

use crate::UnusableContent;
use crate::image::decode::{COLOURS, Picture};

/// Decodes `file`, resizes its short side to `short_side` and cuts out the centre square.
///
/// # Shapes
/// Returns `[side, side, COLOURS]`.
pub(super) fn centre_square(file: &[u8], short_side: u32, side: u32) -> Result<Vec<u8>, UnusableContent> {
    let picture = Picture::decode(file)?;
    let (width, height) = (picture.width, picture.height);
    let shortest = u64::from(width.min(height));
    // Below 2^32: a side of at most 2^14 pixels, grown by at most that.
    let scaled = |n: u32| u32::try_from(u64::from(n) * u64::from(short_side) / shortest).unwrap_or(u32::MAX);
    let columns = Taps::for_line(width, scaled(width), side);
    let rows = Taps::for_line(height, scaled(height), side);
    Ok(resample(&picture, &columns, &rows))
}

/// Fraction bits of a weight: 8-bit pixels times weights that sum to 1 fit into 32 bits.
const FRACTION_BITS: u32 = 22;

/// The input pixels of one output pixel along one axis, a run with its weights.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

impl Taps {
    /// The taps of the middle `n_wanted` pixels when a line of `n_before` pixels is resized to `n_after`.
    fn for_line(n_before: u32, n_after: u32, n_wanted: u32) -> Vec<Self> {
        let first = n_after.saturating_sub(n_wanted) / 2;
        let scale = f64::from(n_before) / f64::from(n_after);
        (first..first + n_wanted)
            .map(|pixel| Self::for_pixel((f64::from(pixel) + 0.5) * scale, scale.max(1.0), n_before))
            .collect()
    }

    fn for_pixel(centre: f64, widening: f64, n_before: u32) -> Self {
        let support = 2.0 * widening;
        let start = index(centre - support + 0.5, n_before);
        let end = index(centre + support + 0.5, n_before);
        let weights: Vec<f64> = (start..end)
            .map(|pixel| cubic((f64::from(pixel) - centre + 0.5) / widening))
            .collect();
        let sum: f64 = weights.iter().sum();
        Self {
            start: usize::try_from(start).expect("an index fits usize"),
            weights: weights.iter().map(|weight| fixed_point(weight / sum)).collect(),
        }
    }
}

/// Rounds a position on a line of `n` pixels down to an index, at most one past the last.
fn index(position: f64, n: u32) -> u32 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to a line's indices; rounding down is intended"
    )]
    let index = position.clamp(0.0, f64::from(n)) as u32;
    index
}

/// Converts a weight to fixed point with [`FRACTION_BITS`], rounding half away from zero.
fn fixed_point(weight: f64) -> i32 {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "weights of a normalised kernel are below 2"
    )]
    let fixed_point = (weight * f64::from(1 << FRACTION_BITS)).round() as i32;
    fixed_point
}

/// The cubic convolution kernel with `a = -1/2`.
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

/// Resamples horizontally, then vertically; each step rounds to 8 bits.
fn resample(picture: &Picture, columns: &[Taps], rows: &[Taps]) -> Vec<u8> {
    let width = usize::try_from(picture.width).expect("a decoded width fits usize");
    let first = rows.iter().map(|taps| taps.start).min().unwrap_or(0);
    let end = rows
        .iter()
        .map(|taps| taps.start + taps.weights.len())
        .max()
        .unwrap_or(0);
    let line_bytes = width * COLOURS;
    let lines = picture.rgb.chunks_exact(line_bytes).skip(first).take(end - first);
    let mut narrowed = Vec::with_capacity((end - first) * columns.len() * COLOURS);
    for line in lines {
        for taps in columns {
            let pixels = line[taps.start * COLOURS..].chunks_exact(COLOURS);
            narrowed.extend_from_slice(&weighted_sum(taps, pixels));
        }
    }
    let line_bytes = columns.len() * COLOURS;
    let mut square = Vec::with_capacity(rows.len() * line_bytes);
    for taps in rows {
        let lines = &narrowed[(taps.start - first) * line_bytes..];
        for column in 0..columns.len() {
            let pixels = lines[column * COLOURS..].chunks(line_bytes);
            square.extend_from_slice(&weighted_sum(taps, pixels));
        }
    }
    square
}

/// The weighted sum of the pixels that the chunks start with.
fn weighted_sum<'a>(taps: &Taps, pixels: impl Iterator<Item = &'a [u8]>) -> [u8; COLOURS] {
    let mut sums = [1 << (FRACTION_BITS - 1); COLOURS];
    for (weight, pixel) in taps.weights.iter().zip(pixels) {
        for (sum, colour) in sums.iter_mut().zip(pixel) {
            *sum += weight * i32::from(*colour);
        }
    }
    sums.map(|sum| {
        u8::try_from((sum >> FRACTION_BITS).clamp(0, 255)).expect("the sum was clamped to 0..=255")
    })
}
