//! The plan log on disk: reading back, and the effect of every kind of damage.

use ouzel_sample::{ContentHash, Id, PartitionId, Stream};
use tempfile::TempDir;

use super::*;
use crate::join::Mark;

fn partition(stream: Stream) -> PartitionId {
    PartitionId { stream, partition: 3 }
}

/// Entry number `n`. No two entries are equal.
fn entry(n: u64) -> PlanEntry {
    let at = i64::try_from(n).unwrap() * 10;
    let run = |stream, from, to| OffsetRun {
        partition: partition(stream),
        from,
        to,
    };
    PlanEntry {
        seq: n,
        runs: vec![
            run(Stream::Impressions, at, at + 3),
            run(Stream::Actions, at, at + 1),
            run(Stream::Impressions, at + 4, at + 9),
        ],
        marks: if n.is_multiple_of(3) {
            vec![(partition(Stream::Actions), Mark::Idle)]
        } else {
            Vec::new()
        },
        encoded: if n.is_multiple_of(5) {
            vec![(Id(n), [Some(ContentHash([7; 32])), None])]
        } else {
            Vec::new()
        },
        flush: n.is_multiple_of(2),
    }
}

fn append(log: &mut PlanLog, n: u64) {
    log.append(&entry(n)).unwrap();
}

/// A log of `n` entries, a new segment before every entry in `rolls`.
pub(super) fn log(n: u64, rolls: &[u64]) -> (TempDir, PlanLog) {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, recovery) = PlanLog::open(dir.path(), 0).unwrap();
    assert_eq!(
        recovery,
        PlanRecovery {
            first: 0,
            next: 0,
            dropped_bytes: 0
        }
    );
    for seq in 0..n {
        if rolls.contains(&seq) {
            log.roll().unwrap();
        }
        append(&mut log, seq);
    }
    log.sync().unwrap();
    (dir, log)
}

fn read(log: &PlanLog, from: u64) -> Vec<PlanEntry> {
    log.read_from(from).unwrap().into()
}

pub(super) fn entries(numbers: std::ops::Range<u64>) -> Vec<PlanEntry> {
    numbers.map(entry).collect()
}

fn last_segment(dir: &TempDir) -> PathBuf {
    segment::path(dir.path(), list(dir.path()).unwrap().pop().unwrap())
}

#[test]
fn appended_entries_are_read_from_any_position_across_segments() {
    let (dir, written) = log(10, &[4, 7]);
    assert_eq!(list(dir.path()).unwrap(), [0, 4, 7]);
    for from in 0..=10 {
        assert_eq!(read(&written, from), entries(from..10));
    }
    drop(written);
    let (mut log, recovery) = PlanLog::open(dir.path(), 10).unwrap();
    assert_eq!(
        recovery,
        PlanRecovery {
            first: 0,
            next: 10,
            dropped_bytes: 0
        }
    );
    append(&mut log, 10);
    assert_eq!(read(&log, 6), entries(6..11));
}

#[test]
fn rolling_twice_makes_one_segment() {
    let (dir, mut log) = log(2, &[]);
    log.roll().unwrap();
    log.roll().unwrap();
    assert_eq!(list(dir.path()).unwrap(), [0, 2]);
}

#[test]
fn pruning_keeps_what_a_snapshot_may_need() {
    let (dir, mut log) = log(10, &[4, 7]);
    log.prune(3).unwrap();
    assert_eq!(list(dir.path()).unwrap(), [0, 4, 7]);
    log.prune(6).unwrap();
    assert_eq!(list(dir.path()).unwrap(), [4, 7]);
    log.prune(100).unwrap();
    assert_eq!(list(dir.path()).unwrap(), [7], "the segment being written stays");
    assert!(matches!(
        log.read_from(6).err(),
        Some(PlanError::Gap {
            first: 7,
            next: 10,
            wanted: 6,
            ..
        })
    ));
    assert_eq!(read(&log, 7), entries(7..10));
    assert!(PlanLog::open(dir.path(), 6).is_err());
    assert!(PlanLog::open(dir.path(), 7).is_ok());
}

#[test]
fn a_log_without_files_starts_at_the_position_of_its_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, recovery) = PlanLog::open(dir.path(), 5).unwrap();
    assert_eq!(
        recovery,
        PlanRecovery {
            first: 5,
            next: 5,
            dropped_bytes: 0
        }
    );
    append(&mut log, 5);
    assert_eq!(read(&log, 5), entries(5..6));
}

#[test]
fn a_tail_torn_at_any_byte_is_dropped_and_earlier_entries_stay() {
    let (dir, log) = log(6, &[3]);
    drop(log);
    let path = last_segment(&dir);
    let whole = fs::read(&path).unwrap();
    let header = whole.len() - frames_bytes(3..6);
    let mut ends = vec![header];
    for n in 3..6 {
        ends.push(ends.last().unwrap() + frames_bytes(n..n + 1));
    }
    for cut in header..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let n_kept = ends.iter().filter(|end| **end <= cut).count() - 1;
        let next = 3 + n_kept as u64;
        let (mut log, recovery) = PlanLog::open(dir.path(), 3).unwrap();
        let dropped_bytes = (cut - ends[n_kept]) as u64;
        assert_eq!(
            recovery,
            PlanRecovery {
                first: 0,
                next,
                dropped_bytes
            },
            "cut at {cut}"
        );
        append(&mut log, next);
        assert_eq!(read(&log, 0), entries(0..next + 1), "cut at {cut}");
        drop(log);
        assert_eq!(
            PlanLog::open(dir.path(), next + 1).unwrap().1.dropped_bytes,
            0,
            "repaired for good"
        );
    }
    for cut in 0..header {
        fs::write(&path, &whole[..cut]).unwrap();
        assert!(
            matches!(
                PlanLog::open(dir.path(), 3),
                Err(PlanError::Corrupt { at: 0, .. })
            ),
            "cut at {cut}"
        );
    }
}

/// Bytes that these entries take.
fn frames_bytes(numbers: std::ops::Range<u64>) -> usize {
    numbers
        .map(|n| 12 + postcard::to_stdvec(&entry(n)).unwrap().len())
        .sum()
}

#[test]
fn a_flipped_bit_is_never_read_as_an_entry() {
    let (dir, log) = log(4, &[2]);
    drop(log);
    for (first, is_last) in [(0, false), (2, true)] {
        let path = segment::path(dir.path(), first);
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &damaged).unwrap();
            let opened = PlanLog::open(dir.path(), 2);
            if is_last && bit / 8 >= whole.len() - frames_bytes(2..4) {
                let (log, recovery) = opened.unwrap();
                assert!(recovery.next < 4 && recovery.dropped_bytes > 0, "bit {bit}");
                assert_eq!(read(&log, 0), entries(0..recovery.next), "bit {bit}");
                drop(log);
                fs::write(&path, &damaged).unwrap();
                let needed = PlanLog::open(dir.path(), 4);
                assert!(
                    matches!(needed, Err(PlanError::Corrupt { .. })),
                    "a snapshot vouches for it: bit {bit}"
                );
            } else if is_last {
                assert!(matches!(opened, Err(PlanError::Corrupt { .. })), "bit {bit}");
            } else {
                let (log, _) = opened.unwrap();
                assert_eq!(read(&log, 2), entries(2..4), "bit {bit}");
                let earlier = log.read_from(0);
                assert!(
                    matches!(earlier, Err(PlanError::Corrupt { .. })),
                    "only an older snapshot needs it: bit {bit}"
                );
            }
        }
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn an_entry_lost_repeated_or_moved_is_damage() {
    let (dir, log) = log(3, &[]);
    drop(log);
    let path = last_segment(&dir);
    let whole = fs::read(&path).unwrap();
    let start = whole.len() - frames_bytes(0..3);
    let frame = |n: u64| {
        let from = start + frames_bytes(0..n);
        &whole[from..from + frames_bytes(n..n + 1)]
    };
    for order in [[0, 2, 2], [0, 0, 1], [1, 0, 2]] {
        let bytes: Vec<u8> = order.into_iter().flat_map(frame).copied().collect();
        fs::write(&path, [&whole[..start], &bytes].concat()).unwrap();
        assert!(PlanLog::open(dir.path(), 3).is_err(), "{order:?}");
    }
}

#[test]
fn a_segment_missing_in_the_middle_is_an_error() {
    let (dir, log) = log(9, &[3, 6]);
    drop(log);
    fs::remove_file(segment::path(dir.path(), 3)).unwrap();
    assert!(matches!(
        PlanLog::open(dir.path(), 2),
        Err(PlanError::Corrupt { .. })
    ));
    // A snapshot behind the gap does not need what is missing.
    let (log, _) = PlanLog::open(dir.path(), 7).unwrap();
    assert_eq!(read(&log, 7), entries(7..9));
}

#[test]
fn a_log_that_ends_before_its_snapshot_is_refused() {
    let (dir, log) = log(3, &[]);
    drop(log);
    let error = PlanLog::open(dir.path(), 4).unwrap_err();
    assert!(
        matches!(
            error,
            PlanError::Gap {
                first: 0,
                next: 3,
                wanted: 4,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn an_entry_is_small() {
    // A batch of 128 samples from four partitions that alternate record by record.
    let runs = (0..128i64)
        .map(|n| OffsetRun {
            partition: PartitionId {
                stream: Stream::Actions,
                partition: i32::try_from(n % 4).unwrap(),
            },
            from: 1_000_000 + n / 4,
            to: 1_000_001 + n / 4,
        })
        .collect();
    let entry = PlanEntry {
        seq: 1,
        runs,
        marks: Vec::new(),
        encoded: Vec::new(),
        flush: false,
    };
    let bytes = postcard::to_stdvec(&entry).unwrap();
    assert!(bytes.len() < 430, "{} bytes", bytes.len());
    assert_eq!(postcard::from_bytes::<PlanEntry>(&bytes).unwrap(), entry);
}

#[test]
fn a_failed_write_is_repeated_when_the_disk_works_again() {
    let (dir, mut log) = log(3, &[2]);
    log.sync().unwrap();
    append(&mut log, 3);
    let path = log.active();
    let works = std::mem::replace(&mut log.file, File::open(&path).unwrap());
    for _ in 0..2 {
        let error = log.append(&entry(4)).unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(log.position(), 4, "the number is still free");
        assert!(log.sync().is_err());
        assert!(log.roll().is_err());
    }
    log.file = works;
    // As after a torn write, or pages that never reached the disk.
    log.file.write_all_at(&[9; 200], log.synced_bytes).unwrap();
    append(&mut log, 4);
    assert_eq!(
        log.unsynced.len() as u64,
        fs::metadata(&path).unwrap().len() - log.synced_bytes
    );
    drop(log);
    let (log, recovery) = PlanLog::open(dir.path(), 0).unwrap();
    assert_eq!((recovery.next, recovery.dropped_bytes), (5, 0));
    assert_eq!(read(&log, 0), (0..5).map(entry).collect::<Vec<_>>());
}
