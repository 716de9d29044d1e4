//! Random damage to the files of a plan log.
//!
//! Nothing panics; an error names the file or the folder; and the entries that are read are the first of those that were
//! written. A hundredth of `OUZEL_FUZZ_CASES` says how many cases run, but at least 2,000; a failure names its case.

use std::fs;

use super::tests::{entries, log};
use super::*;

/// Cases in every run of the tests.
const CASES: u64 = 2_000;
const N_ENTRIES: u64 = 9;

fn cases() -> u64 {
    let wanted = std::env::var("OUZEL_FUZZ_CASES").map_or(0, |cases| {
        cases.parse::<u64>().expect("OUZEL_FUZZ_CASES is a number")
    });
    CASES.max(wanted / 100)
}

/// Numbers that depend on a seed alone (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % n as u64).unwrap()
    }
}

/// Flips a bit, cuts, removes, repeats or overwrites a part.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let len = bytes.len();
    if len == 0 {
        bytes.push(7);
        return;
    }
    let at = random.below(len);
    let end = (at + 1 + random.below(1 + len / 2)).min(len);
    match random.below(6) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let part = bytes[at..end].to_vec();
            let to = random.below(len + 1);
            bytes.splice(to..to, part);
        }
        _ => bytes[at..end].fill([0, 0xff][random.below(2)]),
    }
}

#[test]
fn damage_to_a_segment_loses_a_tail_or_is_an_error_that_names_it() {
    let (dir, written) = log(N_ENTRIES, &[3, 6]);
    drop(written);
    let segments: Vec<(PathBuf, Vec<u8>)> = list(dir.path())
        .unwrap()
        .into_iter()
        .map(|first| segment::path(dir.path(), first))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let mut n_errors = 0;
    for case in 0..cases() {
        let mut random = Random(case);
        for (path, bytes) in &segments {
            fs::write(path, bytes).unwrap();
        }
        let (path, bytes) = &segments[random.below(segments.len())];
        let mut changed = bytes.clone();
        mutate(&mut changed, &mut random);
        fs::write(path, &changed).unwrap();
        let needed = u64::try_from(random.below(10)).unwrap();
        let read =
            PlanLog::open(dir.path(), needed).and_then(|(log, _)| Ok(Vec::from(log.read_from(needed)?)));
        match read {
            Ok(read) => {
                let written = entries(needed..N_ENTRIES);
                assert!(written.starts_with(&read), "case {case}: {read:?}");
            }
            Err(error) => {
                n_errors += 1;
                let text = error.to_string();
                let name = path.file_name().unwrap().to_string_lossy();
                assert!(
                    text.contains(&*name) || text.contains(&*dir.path().to_string_lossy()),
                    "case {case}: {text}"
                );
            }
        }
    }
    assert!(n_errors > 0);
}
