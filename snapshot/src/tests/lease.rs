//! The lease: one writer at a time, whatever a former one still does.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::draft;
use crate::{Alias, Error, LeaseState, RealFs, Retention, SnapshotId, Store};

const LEASE: Duration = Duration::from_millis(250);

fn publish(store: &Store, parent: Option<SnapshotId>, tag: u64) -> SnapshotId {
    let id = store.write(&draft(parent.map(SnapshotId::number), tag)).unwrap();
    store.set_alias(Alias::Latest, id).unwrap();
    id
}

/// Every name and its bytes below `dir`, without the claims of writers.
fn content(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.extend((!path.ends_with("lease")).then_some(path));
            } else {
                found.push((path.display().to_string(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_former_writer_changes_nothing_whatever_it_still_calls() {
    let dir = tempfile::tempdir().unwrap();
    let former = Store::open(dir.path()).unwrap();
    let first = publish(&former, None, 0);
    let second = publish(&former, Some(first), 1);
    former.pin(first, "", 0).unwrap();
    former.tag(first, "good", "", 0).unwrap();
    let successor = Store::inspect(dir.path());
    let epoch = successor.take_over(LEASE).unwrap();
    assert_eq!(former.epoch().map(|former| former < epoch), Some(true));

    let before = content(dir.path());
    let note = "of a former writer";
    let refused = [
        former.write(&draft(None, 2)).map(drop),
        former.set_alias(Alias::Latest, first),
        former.rollback(first, note, 0),
        former.adopt(second, note, 0),
        former.pin(second, note, 0),
        former.unpin(note, 0),
        former.tag(second, "bad", note, 0),
        former.untag("good", note, 0).map(drop),
        former.gc(Retention::newest(1), 0).map(drop),
        former.beat(),
        former.check_writer(),
    ];
    for (number, result) in refused.into_iter().enumerate() {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::TakenOver { .. }), "{number}: {error}");
    }
    assert_eq!(content(dir.path()), before);
    successor.beat().unwrap();
    assert!(publish(&successor, Some(second), 2) > second);
}

/// Suspended between its check and a rename, a writer goes on with the rename.
#[test]
fn a_rename_that_a_former_writer_was_about_to_make_fails() {
    let dir = tempfile::tempdir().unwrap();
    let former = Store::open(dir.path()).unwrap();
    let id = publish(&former, None, 0);
    let work = former.work_dir().unwrap();
    fs::create_dir(work.join("7")).unwrap();
    fs::write(work.join("latest"), "old").unwrap();
    let held_open = fs::File::open(&work).unwrap();
    let successor = Store::inspect(dir.path());
    successor.take_over(LEASE).unwrap();
    let (snapshot, latest) = (
        dir.path().join("snapshots").join(id.to_string()),
        dir.path().join("latest"),
    );
    assert!(fs::rename(work.join("7"), dir.path().join("snapshots/7")).is_err());
    assert!(fs::rename(work.join("latest"), &latest).is_err());
    assert!(
        fs::rename(&snapshot, work.join("removed")).is_err(),
        "nor a removal"
    );
    // Not even by a directory that is still open, as a client of a file server keeps it.
    let open = Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&held_open).to_string());
    assert!(fs::write(open.join("latest"), "old").is_err());
    assert_eq!(
        successor.read_alias(Alias::Latest).unwrap().map(|read| read.id()),
        Some(id)
    );
}

#[test]
fn a_writer_that_lives_is_not_replaced_by_an_open_and_one_that_has_ended_is_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut epochs = Vec::new();
    for _ in 0..20 {
        let store = Store::open(dir.path()).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(Error::Locked { .. })));
        epochs.push(store.epoch().unwrap());
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    let claims = fs::read_dir(dir.path().join("lease")).unwrap().count();
    assert!(claims <= 18, "{claims} claims are kept");
}

#[test]
fn a_watch_tells_a_silent_writer_from_one_that_beats() {
    let dir = tempfile::tempdir().unwrap();
    let reader = Store::inspect(dir.path());
    let mut watch = reader.watch();
    let start = Instant::now();
    assert_eq!(watch.look(start).unwrap(), LeaseState::Free);
    let store = Store::open_leased(std::sync::Arc::new(RealFs), dir.path(), LEASE).unwrap();
    let epoch = store.epoch().unwrap();
    let held = LeaseState::Held { epoch };
    assert_eq!(watch.look(start).unwrap(), held);
    assert_eq!(watch.look(start + LEASE / 2).unwrap(), held);
    store.beat().unwrap();
    assert_eq!(watch.look(start + LEASE * 2).unwrap(), held);
    assert_eq!(
        watch.look(start + LEASE * 3).unwrap(),
        LeaseState::Expired { epoch }
    );
    store.beat().unwrap();
    assert_eq!(watch.look(start + LEASE * 4).unwrap(), held, "it was only slow");
    store.release().unwrap();
    assert_eq!(watch.look(start + LEASE * 4).unwrap(), LeaseState::Free);
    assert!(store.write(&draft(None, 0)).is_err());
    assert!(Store::open(dir.path()).is_ok(), "a released lease is free");
}

/// A writer on another machine holds no lock that this one sees.
#[test]
fn a_writer_on_another_machine_is_known_by_its_heartbeat_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_leased(std::sync::Arc::new(RealFs), dir.path(), LEASE).unwrap();
    let claim = store.work_dir().unwrap().parent().unwrap().to_owned();
    let owner = fs::read_to_string(claim.join("owner.json")).unwrap();
    let mut owner: serde_json::Value = serde_json::from_str(&owner).unwrap();
    owner["boot"] = "another".into();
    fs::write(claim.join("owner.json"), owner.to_string()).unwrap();
    fs::remove_file(claim.join("lock")).unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Acquire) {
                store.beat().unwrap();
            }
        });
        let refused = Store::open(dir.path());
        is_over.store(true, std::sync::atomic::Ordering::Release);
        assert!(matches!(refused.err().unwrap(), Error::HeldElsewhere { .. }));
    });
    assert!(Store::open(dir.path()).is_ok(), "it is silent now");
    assert!(matches!(store.beat(), Err(Error::TakenOver { .. })));
}

#[test]
fn of_many_that_take_over_at_once_the_last_one_writes_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    let stores: Vec<Store> = (0..8).map(|_| Store::inspect(dir.path())).collect();
    let epochs: Vec<Option<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = stores
            .iter()
            .map(|store| scope.spawn(|| store.take_over(LEASE).ok()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut taken: Vec<u64> = epochs.iter().copied().flatten().collect();
    let n = taken.len();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), n, "an epoch belongs to one writer: {epochs:?}");
    let writers = stores.iter().filter(|store| store.check_writer().is_ok());
    let writers: Vec<Option<u64>> = writers.map(Store::epoch).collect();
    assert!(writers.len() <= 1, "{writers:?}");
    assert!(
        writers.iter().all(|writer| *writer == taken.last().copied()),
        "{writers:?} of {taken:?}"
    );
}
