//! Two writers of one log in turn, and a follower of both.

use std::path::Path;

use ouzel_sample::{PartitionId, Stream};

use super::*;
use crate::plan::{OffsetRun, PlanLease, PlanLog};

/// Entry number `n`; `by` tells the writers apart.
fn entry(n: u64, by: i64) -> PlanEntry {
    PlanEntry {
        seq: n,
        runs: vec![OffsetRun {
            partition: PartitionId::new(Stream::Actions, 0),
            from: by,
            to: by + 1,
        }],
        ..PlanEntry::default()
    }
}

fn open(dir: &Path, epoch: u64, needed: u64) -> PlanLog {
    let work_dir = dir.join(format!("work-{epoch}"));
    std::fs::create_dir_all(&work_dir).unwrap();
    let lease = PlanLease { epoch, work_dir };
    PlanLog::open_leased(lease, &dir.join("plan"), needed).unwrap().0
}

fn follower(dir: &Path, next: u64) -> PlanFollower {
    PlanFollower::new(dir.join("plan"), next)
}

/// Everything that a follower finds now.
fn drain(follower: &mut PlanFollower) -> Vec<Followed> {
    let mut all = Vec::new();
    loop {
        let found = follower.poll().unwrap();
        if found.is_empty() {
            return all;
        }
        all.extend(found);
    }
}

fn entries(range: std::ops::Range<u64>, by: i64) -> Vec<Followed> {
    range.map(|n| Followed::Entry(entry(n, by))).collect()
}

#[test]
fn a_follower_finds_each_entry_once_and_each_new_segment_before_its_entries() {
    let dir = tempfile::tempdir().unwrap();
    let mut following = follower(dir.path(), 0);
    assert_eq!(drain(&mut following), [], "the log need not exist");
    let mut log = open(dir.path(), 1, 0);
    for n in 0..3 {
        log.append(&entry(n, 1)).unwrap();
        assert_eq!(drain(&mut following), entries(n..n + 1, 1));
    }
    log.roll().unwrap();
    assert_eq!(drain(&mut following), [Followed::Segment(3)]);
    log.append(&entry(3, 1)).unwrap();
    log.roll().unwrap();
    log.append(&entry(4, 1)).unwrap();
    let expected = [entries(3..4, 1), vec![Followed::Segment(4)], entries(4..5, 1)];
    assert_eq!(drain(&mut following), expected.concat());
    assert_eq!(
        drain(&mut follower(dir.path(), 2)).len(),
        5,
        "from the middle of a segment"
    );
    log.prune(4).unwrap();
    assert!(matches!(
        follower(dir.path(), 2).poll(),
        Err(PlanError::Gap { .. })
    ));
    assert_eq!(following.position(), 5);
}

#[test]
fn a_frame_is_followed_once_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), 1, 0);
    log.append(&entry(0, 1)).unwrap();
    log.append(&entry(1, 1)).unwrap();
    let path = segment::path(&dir.path().join("plan"), 0);
    let bytes = std::fs::read(&path).unwrap();
    let mut following = follower(dir.path(), 0);
    let mut found = Vec::new();
    for n in 34..=bytes.len() {
        std::fs::write(&path, &bytes[..n]).unwrap();
        found.extend(drain(&mut following));
    }
    assert_eq!(found, entries(0..2, 1));
}

#[test]
fn what_a_former_writer_appends_to_its_open_file_is_never_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut former = open(dir.path(), 1, 0);
    for n in 0..4 {
        former.append(&entry(n, 1)).unwrap();
    }
    former.sync().unwrap();
    let mut following = follower(dir.path(), 0);
    assert_eq!(drain(&mut following), entries(0..4, 1));
    let mut ahead = follower(dir.path(), 0);

    // The former writer has checked its lease, and is suspended before it writes.
    let mut successor = open(dir.path(), 2, 4);
    former.append(&entry(4, 1)).unwrap();
    former.append(&entry(5, 1)).unwrap();
    former.sync().unwrap();
    successor.append(&entry(4, 2)).unwrap();
    successor.sync().unwrap();
    let expected = [entries(0..4, 1), vec![Followed::Segment(4)], entries(4..5, 2)].concat();
    assert_eq!(drain(&mut following), expected[4..]);
    assert_eq!(drain(&mut ahead), expected);
    let read: Vec<PlanEntry> = successor.read_from(0).unwrap().into();
    let written = (0..4).map(|n| entry(n, 1)).chain([entry(4, 2)]);
    assert_eq!(read, written.collect::<Vec<_>>());
    // A restart of either kind reads the same, and a former writer cannot open the log again.
    drop(successor);
    for epoch in [2, 3] {
        let again = open(dir.path(), epoch, 2);
        assert_eq!(Vec::from(again.read_from(0).unwrap()), read);
    }
    let work_dir = dir.path().join("work-2");
    std::fs::remove_dir(&work_dir).unwrap();
    let lease = PlanLease { epoch: 2, work_dir };
    let refused = PlanLog::open_leased(lease, &dir.path().join("plan"), 2).unwrap_err();
    assert!(
        matches!(refused, PlanError::TakenOver { epoch: 2, .. }),
        "{refused}"
    );

    std::fs::remove_dir(dir.path().join("work-1")).unwrap();
    let refused = [former.append(&entry(6, 1)), former.roll()];
    for error in refused.map(Result::unwrap_err) {
        assert!(matches!(error, PlanError::TakenOver { epoch: 1, .. }), "{error}");
        assert!(!error.is_transient());
    }
}

#[test]
fn a_log_whose_claims_were_lost_is_continued() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), 7, 0);
    log.append(&entry(0, 7)).unwrap();
    log.sync().unwrap();
    for n in 1..4 {
        // Claims begin with 1 again.
        let mut log = open(dir.path(), 1, 0);
        log.append(&entry(n, 1)).unwrap();
        log.sync().unwrap();
    }
    assert_eq!(drain(&mut follower(dir.path(), 0)).len(), 4 + 3);
    assert_eq!(open(dir.path(), 1, 0).read_from(0).unwrap().len(), 4);
}

#[test]
fn a_follower_that_has_read_what_a_later_writer_replaced_says_so() {
    for n_followed in [0, 2] {
        let dir = tempfile::tempdir().unwrap();
        let mut former = open(dir.path(), 1, 0);
        let mut following = follower(dir.path(), 0);
        assert_eq!(drain(&mut following), []);
        // The successor has read an empty segment before these entries came.
        let work_dir = dir.path().join("work-2");
        std::fs::create_dir(&work_dir).unwrap();
        for n in 0..n_followed {
            former.append(&entry(n, 1)).unwrap();
        }
        assert_eq!(drain(&mut following).len() as u64, n_followed);
        segment::create(&dir.path().join("plan"), &work_dir, 0, 2).unwrap();
        match n_followed {
            0 => {
                let mut successor = open(dir.path(), 2, 0);
                former.append(&entry(0, 1)).unwrap();
                successor.append(&entry(0, 2)).unwrap();
                assert_eq!(drain(&mut following), entries(0..1, 2));
            }
            _ => assert!(matches!(following.poll(), Err(PlanError::Superseded { .. }))),
        }
    }
}
