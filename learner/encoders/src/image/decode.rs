//! Decodes JPEG and PNG files to 8-bit RGB.
//!
//! Grey is repeated for each colour, alpha is dropped, palettes are looked up, and of 16-bit colours the high byte is read.

use std::io::Cursor;
use std::panic;

use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::UnusableContent;

/// Largest file, three times the size of a full-resolution photograph.
const MAX_FILE_BYTES: usize = 32 << 20;
/// Longest side of a picture, pixels.
const MAX_SIDE: u32 = 16_384;
/// Most memory that decoding may allocate: 85 million pixels.
const MAX_DECODED_BYTES: usize = 256 << 20;

/// Bytes of a pixel.
pub(super) const COLOURS: usize = 3;

/// A decoded picture.
pub(super) struct Picture {
    pub(super) width: u32,
    pub(super) height: u32,
    /// `[height, width, COLOURS]`
    pub(super) rgb: Vec<u8>,
}

impl Picture {
    /// Decodes a file, which is recognized by its first bytes.
    pub(super) fn decode(file: &[u8]) -> Result<Self, UnusableContent> {
        if file.len() > MAX_FILE_BYTES {
            return Err(UnusableContent::TooLarge);
        }
        // Untrusted bytes can reach a decoder's bug; a panic there costs this picture, not the process.
        let decoded = panic::catch_unwind(|| match file {
            [0xff, 0xd8, 0xff, ..] => jpeg(file),
            [0x89, b'P', b'N', b'G', ..] => png(file),
            _ => Err(UnusableContent::Undecodable),
        });
        decoded.unwrap_or(Err(UnusableContent::Undecodable))
    }
}

fn jpeg(file: &[u8]) -> Result<Picture, UnusableContent> {
    let undecodable = |_| UnusableContent::Undecodable;
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(undecodable)?;
    let (width, height) = decoder.dimensions().ok_or(UnusableContent::Undecodable)?;
    let (width, height) = checked_size(width, height, COLOURS)?;
    let rgb = decoder.decode().map_err(undecodable)?;
    Picture { width, height, rgb }.checked()
}

fn png(file: &[u8]) -> Result<Picture, UnusableContent> {
    let failed = |error| match error {
        png::DecodingError::LimitsExceeded => UnusableContent::TooLarge,
        _ => UnusableContent::Undecodable,
    };
    let limits = png::Limits {
        bytes: MAX_DECODED_BYTES,
    };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(file), limits);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(failed)?;
    let channels = reader.output_color_type().0.samples();
    let side = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let info = reader.info();
    let (width, height) = checked_size(side(info.width), side(info.height), channels)?;
    let mut pixels = vec![0; side(width) * side(height) * channels];
    reader.next_frame(&mut pixels).map_err(failed)?;
    let rgb = match channels {
        COLOURS => pixels,
        // Grey, or grey with alpha.
        1 | 2 => pixels
            .chunks_exact(channels)
            .flat_map(|pixel| [pixel[0]; COLOURS])
            .collect(),
        _ => pixels
            .chunks_exact(channels)
            .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]])
            .collect(),
    };
    Picture { width, height, rgb }.checked()
}

/// Width and height, unless they exceed the limits.
fn checked_size(width: usize, height: usize, channels: usize) -> Result<(u32, u32), UnusableContent> {
    let side = |n: usize| u32::try_from(n).ok().filter(|n| *n <= MAX_SIDE);
    match (side(width), side(height)) {
        (Some(w), Some(h)) if width * height * channels <= MAX_DECODED_BYTES => Ok((w, h)),
        _ => Err(UnusableContent::TooLarge),
    }
}

impl Picture {
    /// Refuses a picture without pixels, or with another number of bytes than its size has.
    fn checked(self) -> Result<Self, UnusableContent> {
        let n_bytes = u64::from(self.width) * u64::from(self.height) * COLOURS as u64;
        if n_bytes == 0 || self.rgb.len() as u64 != n_bytes {
            return Err(UnusableContent::Undecodable);
        }
        Ok(self)
    }
}
