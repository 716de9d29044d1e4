use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

use super::*;
use crate::{Fs, RealFs};

fn version(name: &str, dim: u32) -> EncoderVersion {
    EncoderVersion {
        name: name.to_owned(),
        digest: *blake3::hash(name.as_bytes()).as_bytes(),
        dim,
    }
}

fn content(n: u32) -> ContentHash {
    ContentHash(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn vector(n: u32, dim: u32) -> Vec<f32> {
    (0..dim)
        .map(|i| 1.0 / f32::from(u16::try_from(n * 7 + i + 1).unwrap()))
        .collect()
}

fn vectors(numbers: impl IntoIterator<Item = u32>, dim: u32) -> Vec<(ContentHash, Vec<f32>)> {
    numbers
        .into_iter()
        .map(|n| (content(n), vector(n, dim)))
        .collect()
}

fn open(dir: &TempDir) -> (VectorStore, VectorRecovery) {
    VectorStore::open(dir.path(), VectorLimits::default()).unwrap()
}

fn files(dir: &TempDir) -> Vec<PathBuf> {
    let entries = RealFs.list(dir.path()).unwrap();
    let names = entries.into_iter().map(|entry| entry.name);
    names
        .filter(|name| name.ends_with(".vec"))
        .map(|name| dir.path().join(name))
        .collect()
}

#[test]
fn vectors_are_read_back_bit_for_bit_also_after_reopening() {
    let dir = tempdir().unwrap();
    let (text, image) = (version("text", 3), version("image", 5));
    let (mut store, recovery) = open(&dir);
    assert_eq!(recovery, VectorRecovery::default());
    assert_eq!(store.put_batch(&text, &vectors(0..10, 3)).unwrap(), 10);
    assert_eq!(store.put_batch(&image, &vectors(5..8, 5)).unwrap(), 3);
    assert_eq!(store.put_batch(&text, &vectors(8..12, 3)).unwrap(), 2);
    store.sync().unwrap();
    let check = |store: &mut VectorStore| {
        for n in 0..12 {
            assert_eq!(store.get(&text, &content(n)).unwrap(), Some(vector(n, 3)));
            let expected = (5..8).contains(&n).then(|| vector(n, 5));
            assert_eq!(store.get(&image, &content(n)).unwrap(), expected);
        }
        assert_eq!(store.get(&text, &content(12)).unwrap(), None);
    };
    check(&mut store);
    drop(store);
    let (mut store, recovery) = open(&dir);
    assert_eq!(recovery.n_vectors, 15);
    check(&mut store);
    // New vectors go to the segments that are not full.
    assert_eq!(store.put_batch(&text, &vectors(12..13, 3)).unwrap(), 1);
    assert_eq!(files(&dir).len(), 2);
}

#[test]
fn a_contents_first_vector_stays() {
    let dir = tempdir().unwrap();
    let text = version("text", 2);
    let (mut store, _) = open(&dir);
    let twice = [(content(1), vec![0.5, 0.5]), (content(1), vec![0.25, 0.75])];
    assert_eq!(store.put_batch(&text, &twice).unwrap(), 1);
    assert_eq!(store.put_batch(&text, &twice[1..]).unwrap(), 0);
    assert_eq!(store.get(&text, &content(1)).unwrap(), Some(vec![0.5, 0.5]));
}

#[test]
fn a_vector_of_another_length_or_not_finite_leaves_the_store_unchanged() {
    let dir = tempdir().unwrap();
    let text = version("text", 2);
    let (mut store, _) = open(&dir);
    for (wrong, expected) in [
        (vec![1.0], "it has 1 floats"),
        (vec![1.0, f32::NAN], "not finite"),
    ] {
        let batch = [(content(1), vec![0.5, 0.5]), (content(2), wrong)];
        let error = store.put_batch(&text, &batch).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!store.contains(&text, &content(1)));
    }
    let nameless = version(&"x".repeat(256), 2);
    store.put_batch(&nameless, &vectors(0..1, 2)).unwrap_err();
    assert_eq!(files(&dir).len(), 0);
}

#[test]
fn another_version_is_counted_separately_until_it_is_collected() {
    let dir = tempdir().unwrap();
    let (old, new) = (version("old", 2), version("newer", 2));
    let (mut store, _) = open(&dir);
    store.put_batch(&old, &vectors(0..3, 2)).unwrap();
    store.put_batch(&new, &vectors(0..2, 2)).unwrap();
    let counts: Vec<(String, u64)> = store
        .versions()
        .into_iter()
        .map(|count| (count.version.name, count.n_vectors))
        .collect();
    assert_eq!(counts, [("newer".to_owned(), 2), ("old".to_owned(), 3)]);
    assert_eq!(store.get(&old, &content(2)).unwrap(), Some(vector(2, 2)));
    let removed = store.gc(std::slice::from_ref(&new)).unwrap();
    assert_eq!((removed.len(), removed[0].n_vectors), (1, 3));
    assert_eq!(store.get(&old, &content(2)).unwrap(), None);
    assert_eq!(store.get(&new, &content(1)).unwrap(), Some(vector(1, 2)));
    assert_eq!(files(&dir).len(), 1);
    // After a collection the encoder starts with no vectors.
    assert_eq!(store.put_batch(&old, &vectors(0..1, 2)).unwrap(), 1);
    drop(store);
    assert_eq!(open(&dir).1.n_vectors, 3);
}

#[test]
fn the_oldest_segments_are_evicted_beyond_the_size_limit() {
    let dir = tempdir().unwrap();
    let text = version("text", 4);
    let limits = VectorLimits {
        segment_bytes: 500,
        max_bytes: 2_000,
    };
    let (mut store, _) = VectorStore::open(dir.path(), limits).unwrap();
    for n in 0..200 {
        store.put_batch(&text, &vectors([n], 4)).unwrap();
        assert!(store.n_bytes() <= 2_000, "{} bytes", store.n_bytes());
        assert_eq!(store.get(&text, &content(n)).unwrap(), Some(vector(n, 4)));
    }
    assert_eq!(store.get(&text, &content(0)).unwrap(), None);
    let n_vectors: u64 = store.versions().iter().map(|count| count.n_vectors).sum();
    assert!((10..60).contains(&n_vectors), "{n_vectors}");
    assert_eq!(store.iter(&text).count() as u64, n_vectors);
    drop(store);
    let (_, recovery) = VectorStore::open(dir.path(), limits).unwrap();
    assert_eq!(recovery.n_vectors, n_vectors);
}

#[test]
fn a_store_that_is_open_elsewhere_is_refused() {
    let dir = tempdir().unwrap();
    let (store, _) = open(&dir);
    let again = VectorStore::open(dir.path(), VectorLimits::default());
    assert!(matches!(again, Err(Error::Locked { .. })));
    drop(store);
    open(&dir);
}

#[test]
fn iteration_follows_the_order_of_content_hashes() {
    let dir = tempdir().unwrap();
    let text = version("text", 2);
    let (mut store, _) = open(&dir);
    for n in (0..20).rev() {
        store.put_batch(&text, &vectors([n], 2)).unwrap();
    }
    let all: Vec<_> = store.iter(&text).collect::<Result<_, _>>().unwrap();
    let mut expected = vectors(0..20, 2);
    expected.sort_by_key(|(content, _)| *content);
    assert_eq!(all, expected);
}

#[test]
fn a_foreign_file_is_left_alone_and_its_number_is_not_used() {
    let dir = tempdir().unwrap();
    let text = version("text", 2);
    let foreign = dir.path().join("0000000000.vec");
    for bytes in [
        &b""[..],
        b"ouzelvec1\n",
        b"ouzelvec2\n and something newer that is long enough to be a header",
    ] {
        fs::write(&foreign, bytes).unwrap();
        let (mut store, recovery) = open(&dir);
        assert_eq!(recovery.n_foreign, 1);
        store.put_batch(&text, &vectors(0..2, 2)).unwrap();
        assert_eq!(fs::read(&foreign).unwrap(), bytes);
    }
    assert_eq!(files(&dir).len(), 2);
}

#[test]
fn a_torn_write_is_dropped_and_overwritten() {
    let dir = tempdir().unwrap();
    let text = version("text", 4);
    let (mut store, _) = open(&dir);
    store.put_batch(&text, &vectors(0..5, 4)).unwrap();
    drop(store);
    let [path] = &files(&dir)[..] else {
        panic!("one segment")
    };
    let full = fs::read(path).unwrap();
    let frame = 32 + 16 + 8;
    let header = full.len() - 5 * frame;
    for n_bytes in header..full.len() {
        fs::write(path, &full[..n_bytes]).unwrap();
        let (mut store, recovery) = open(&dir);
        let n_frames = (n_bytes - header) / frame;
        assert_eq!(recovery.n_vectors, n_frames as u64);
        assert_eq!(recovery.torn_bytes, ((n_bytes - header) % frame) as u64);
        assert_eq!(store.put_batch(&text, &vectors(0..5, 4)).unwrap(), 5 - n_frames);
        for n in 0..5 {
            assert_eq!(store.get(&text, &content(n)).unwrap(), Some(vector(n, 4)));
        }
        drop(store);
        assert_eq!(fs::read(path).unwrap().len(), full.len());
    }
}

#[test]
fn a_vector_damaged_while_the_store_is_open_is_dropped() {
    let dir = tempdir().unwrap();
    let text = version("text", 4);
    let (mut store, _) = open(&dir);
    store.put_batch(&text, &vectors(0..3, 4)).unwrap();
    let path = &files(&dir)[0];
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - 12;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
    let mut n_readable = 0;
    for n in 0..3 {
        n_readable += usize::from(store.get(&text, &content(n)).unwrap().is_some());
    }
    assert_eq!(n_readable, 2);
    assert_eq!(store.put_batch(&text, &vectors(0..3, 4)).unwrap(), 1);
    assert_eq!(store.iter(&text).count(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn damaged_bytes_are_never_returned_as_a_vector(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u32..8), 1..4),
        truncate_at in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let dir = tempdir().unwrap();
        let text = version("text", 3);
        let (mut store, _) = open(&dir);
        store.put_batch(&text, &vectors(0..8, 3)).unwrap();
        drop(store);
        let path = files(&dir).remove(0);
        let mut bytes = fs::read(&path).unwrap();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        bytes.truncate(truncate_at.map_or(usize::MAX, |at| at.index(bytes.len())));
        fs::write(&path, bytes).unwrap();
        let (mut store, recovery) = open(&dir);
        prop_assert!(recovery.n_vectors <= 8);
        for n in 0..8 {
            let found = store.get(&text, &content(n)).unwrap();
            prop_assert!(found.is_none() || found == Some(vector(n, 3)));
        }
        store.put_batch(&text, &vectors(0..8, 3)).unwrap();
        for n in 0..8 {
            prop_assert_eq!(store.get(&text, &content(n)).unwrap(), Some(vector(n, 3)));
        }
    }
}
