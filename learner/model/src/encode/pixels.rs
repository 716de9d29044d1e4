//! From a picture's file to the square of pixels that a network looks at: decoded, its short side brought to a length by
//! a bicubic filter, the centre cut out.
//!
//! The resampling is that of Pillow, which the networks' authors used: a cubic kernel with `a = -1/2` (Keys 1981),
//! widened when shrinking, rows before columns, weights rounded to 22 bits, so its result is the same bytes everywhere.
//! Only the part that is looked at is computed, so a picture as thin as a thread costs no more than any other.

use std::io::Cursor;
use std::panic;

use image::error::LimitErrorKind;
use image::{ImageError, ImageReader, Limits, RgbImage};

use super::Unusable;

/// Largest file; a photograph in full size is a third of it.
const MAX_FILE_BYTES: usize = 32 << 20;
/// Longest side in pixels.
const MAX_SIDE: u32 = 16_384;
/// What decoding may allocate: 85 million pixels.
const MAX_DECODED_BYTES: u64 = 256 << 20;

/// Colours of a pixel.
pub(super) const COLOURS: usize = 3;

/// The file's centre square.
///
/// # Shapes
/// Returns `[side, side, COLOURS]`.
pub(super) fn centre_square(file: &[u8], short_side: u32, side: u32) -> Result<Vec<u8>, Unusable> {
    let picture = decode(file)?;
    let (width, height) = picture.dimensions();
    let shortest = u64::from(width.min(height));
    if shortest == 0 {
        return Err(Unusable::Undecodable);
    }
    // Below 2^32: a side of at most 2^14 pixels, grown by at most that.
    let scaled = |n: u32| u32::try_from(u64::from(n) * u64::from(short_side) / shortest).unwrap_or(u32::MAX);
    let columns = Taps::all(width, scaled(width), side);
    let rows = Taps::all(height, scaled(height), side);
    Ok(resample(&picture, &columns, &rows))
}

fn decode(file: &[u8]) -> Result<RgbImage, Unusable> {
    if file.len() > MAX_FILE_BYTES {
        return Err(Unusable::TooLarge);
    }
    // What strangers send can reach a decoder's bug; that is one broken picture, not the end of the process.
    panic::catch_unwind(|| {
        let mut reader = ImageReader::new(Cursor::new(file)).with_guessed_format()?;
        let mut limits = Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        limits.max_alloc = Some(MAX_DECODED_BYTES);
        reader.limits(limits);
        reader.decode().map(image::DynamicImage::into_rgb8)
    })
    .map_err(|_| Unusable::Undecodable)?
    .map_err(|error| match error {
        ImageError::Limits(error)
            if matches!(
                error.kind(),
                LimitErrorKind::DimensionError | LimitErrorKind::InsufficientMemory
            ) =>
        {
            Unusable::TooLarge
        }
        _ => Unusable::Undecodable,
    })
}

/// Fraction bits of a weight; a sum of eight-bit pixels by weights that add up to 1 fits into 32.
const FRACTION_BITS: u32 = 22;

/// What one pixel of the result is made of along one axis: a run of pixels with their weights.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

impl Taps {
    /// Those of the `n_wanted` pixels in the middle of a line that goes from `n_before` pixels to `n_after`.
    fn all(n_before: u32, n_after: u32, n_wanted: u32) -> Vec<Self> {
        let first = n_after.saturating_sub(n_wanted) / 2;
        let scale = f64::from(n_before) / f64::from(n_after);
        (first..first + n_wanted)
            .map(|pixel| Self::of((f64::from(pixel) + 0.5) * scale, scale.max(1.0), n_before))
            .collect()
    }

    fn of(centre: f64, widening: f64, n_before: u32) -> Self {
        let support = 2.0 * widening;
        let start = index(centre - support + 0.5, n_before);
        let end = index(centre + support + 0.5, n_before);
        let weights: Vec<f64> = (start..end)
            .map(|pixel| cubic((f64::from(pixel) - centre + 0.5) / widening))
            .collect();
        let sum: f64 = weights.iter().sum();
        Self {
            start: usize::try_from(start).expect("a pixel's index"),
            weights: weights.iter().map(|weight| fixed(weight / sum)).collect(),
        }
    }
}

/// A place on a line of `n` pixels as an index, or one past the last.
fn index(place: f64, n: u32) -> u32 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the indices of a line; rounded towards its start on purpose"
    )]
    let index = place.clamp(0.0, f64::from(n)) as u32;
    index
}

/// A weight with [`FRACTION_BITS`], rounded half away from zero.
fn fixed(weight: f64) -> i32 {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "weights of a normalised kernel are below 2"
    )]
    let fixed = (weight * f64::from(1 << FRACTION_BITS)).round() as i32;
    fixed
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

/// Along the rows, then along the columns, each rounded to eight bits.
fn resample(picture: &RgbImage, columns: &[Taps], rows: &[Taps]) -> Vec<u8> {
    let width = usize::try_from(picture.width()).expect("a picture in memory has indices");
    let first = rows.iter().map(|taps| taps.start).min().unwrap_or(0);
    let end = rows
        .iter()
        .map(|taps| taps.start + taps.weights.len())
        .max()
        .unwrap_or(0);
    let line_bytes = width * COLOURS;
    let lines = picture
        .as_raw()
        .chunks_exact(line_bytes)
        .skip(first)
        .take(end - first);
    let mut narrowed = Vec::with_capacity((end - first) * columns.len() * COLOURS);
    for line in lines {
        for taps in columns {
            let pixels = line[taps.start * COLOURS..].chunks_exact(COLOURS);
            narrowed.extend_from_slice(&weighed(taps, pixels));
        }
    }
    let line_bytes = columns.len() * COLOURS;
    let mut square = Vec::with_capacity(rows.len() * line_bytes);
    for taps in rows {
        let lines = &narrowed[(taps.start - first) * line_bytes..];
        for column in 0..columns.len() {
            let pixels = lines[column * COLOURS..].chunks(line_bytes);
            square.extend_from_slice(&weighed(taps, pixels));
        }
    }
    square
}

/// The weighed sum of pixels, which each chunk starts with.
fn weighed<'a>(taps: &Taps, pixels: impl Iterator<Item = &'a [u8]>) -> [u8; COLOURS] {
    let mut sums = [1 << (FRACTION_BITS - 1); COLOURS];
    for (weight, pixel) in taps.weights.iter().zip(pixels) {
        for (sum, colour) in sums.iter_mut().zip(pixel) {
            *sum += weight * i32::from(*colour);
        }
    }
    sums.map(|sum| u8::try_from((sum >> FRACTION_BITS).clamp(0, 255)).expect("clamped"))
}
