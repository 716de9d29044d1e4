//! Contents encoded per second on one thread, with the real weights of `make encoders`.

use std::path::Path;

use divan::Bencher;
use divan::counter::ItemsCount;
use ouzel_encoders::{Encoder, ImageEncoder, TextEncoder};
use ouzel_sample::Content;
use tch::Device;

/// Fifteen words of one piece each, 17 tokens with the two special ones: the length of a title.
const TITLE: &str = "the old man and the sea of stars in the house on the hill";
const TITLE_WORDS: usize = 15;
/// With the two special tokens 128 tokens.
const PAGE_WORDS: usize = 126;

fn main() {
    tch::set_num_threads(1);
    divan::main();
}

fn encoders() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.encoders")
}

fn text_encoder() -> TextEncoder {
    TextEncoder::load(&encoders().join("all-minilm-l6-v2"), Device::Cpu)
        .expect("`make encoders` has fetched the weights")
}

/// Texts of `n_words` words that differ in the last one.
fn texts(n: usize, n_words: usize) -> Vec<Content> {
    let ends = ["sea", "hill", "house", "man", "star", "night"];
    let words: Vec<&str> = TITLE.split(' ').cycle().take(n_words - 1).collect();
    (0..n)
        .map(|number| Content::text(&format!("{} {}", words.join(" "), ends[number % ends.len()])))
        .collect()
}

fn encode(bencher: Bencher<'_, '_>, encoder: &dyn Encoder, batch: &[Content]) {
    encoder.encode(batch).expect("a batch is encoded");
    bencher
        .counter(ItemsCount::new(batch.len()))
        .bench_local(|| encoder.encode(batch).expect("a batch is encoded"));
}

/// Texts of 17 tokens.
#[divan::bench(args = [1, 8, 32, 128], max_time = 4)]
fn titles(bencher: Bencher<'_, '_>, n: usize) {
    encode(bencher, &text_encoder(), &texts(n, TITLE_WORDS));
}

/// Texts of 128 tokens.
#[divan::bench(args = [1, 32], max_time = 4)]
fn pages(bencher: Bencher<'_, '_>, n: usize) {
    encode(bencher, &text_encoder(), &texts(n, PAGE_WORDS));
}

/// PNG files of 500 x 750 pixels, decoding and resampling included.
#[divan::bench(args = [1, 32], max_time = 4)]
fn pictures(bencher: Bencher<'_, '_>, n: usize) {
    let encoder = ImageEncoder::load(&encoders().join("efficientnet-lite0"), Device::Cpu);
    let encoder = encoder.expect("`make encoders` has fetched the weights");
    encode(bencher, &encoder, &vec![poster(); n]);
}

fn poster() -> Content {
    let (width, height) = (500u32, 750u32);
    let colours = (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .flat_map(|(x, y)| {
            let waves =
                |step: u32| u8::try_from((x / step * 7 + y * step / 5 + x * y / 400) % 256).unwrap_or(0);
            [waves(3), waves(5), waves(11)]
        });
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().expect("a header is written to memory");
    let colours: Vec<u8> = colours.collect();
    writer
        .write_image_data(&colours)
        .expect("a picture is written to memory");
    writer.finish().expect("a picture is written to memory");
    Content::Image(file)
}
