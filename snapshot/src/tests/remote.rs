//! The remote copy: what a reader sees at any moment, requests that fail, former writers, damage.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{check_content, draft, id};
use crate::tests::remote_bucket::{Fault, TestBucket};
use crate::{Alias, Error, Remote, RemoteCopy, Replica, Retention, SnapshotId, Store};

const URL: &str = "s3://bucket/a";
const RULES: Retention = Retention {
    last: 3,
    hourly: 0,
    daily: 0,
};

fn remote(bucket: &TestBucket) -> Remote {
    Remote::on(Arc::new(bucket.clone()), URL)
}

fn open(dir: &Path) -> Arc<Store> {
    Arc::new(Store::open(dir).unwrap())
}

/// Opens an empty directory in place of a lost one.
fn open_after(dir: &Path, bucket: &TestBucket) -> Arc<Store> {
    RemoteCopy::read(&remote(bucket))
        .unwrap()
        .unwrap()
        .prepare(dir)
        .unwrap();
    open(dir)
}

fn claim(store: &Arc<Store>, bucket: &TestBucket) -> Result<Replica, Error> {
    Replica::claim(Arc::clone(store), &remote(bucket), RULES, 0)
}

/// Writes a snapshot that needs the one before, and makes it the latest.
fn write(store: &Store, parent: Option<SnapshotId>, tag: u64) -> SnapshotId {
    let draft = draft(parent.map(SnapshotId::number), tag);
    let written = store.write_chained(&draft, 2).unwrap();
    store.set_alias(Alias::Latest, written).unwrap();
    written
}

fn write_many(store: &Store, tags: std::ops::Range<u64>) -> Vec<SnapshotId> {
    let mut parent = store.alias(Alias::Latest).unwrap();
    let mut ids = Vec::new();
    for tag in tags {
        parent = Some(write(store, parent, tag));
        ids.extend(parent);
    }
    ids
}

/// Every file of a state directory below `snapshots`, `tags` and `plan`, and `latest` and the audit log.
fn content(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn visit(dir: &Path, root: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            match path.is_dir() {
                true if name == "lease" => {}
                true => visit(&path, root, found),
                false if name == "remote.json" || name == ".lock" => {}
                false => drop(found.insert(name, fs::read(&path).unwrap())),
            }
        }
    }
    let mut found = BTreeMap::new();
    visit(root, root, &mut found);
    found
}

/// Checks that every snapshot that a reader sees can be fetched, with its own content. Returns their ids.
fn check_readable(bucket: &TestBucket) -> Vec<SnapshotId> {
    let Some(copy) = RemoteCopy::read(&remote(&bucket.without_faults())).unwrap() else {
        return Vec::new();
    };
    assert_eq!(copy.damaged, []);
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for id in copy.snapshots.keys() {
        copy.fetch(&store, *id).unwrap();
        check_content(&store.read(*id).unwrap());
    }
    let latest = copy.target("latest");
    assert!(latest.is_none_or(|latest| copy.snapshots.contains_key(&latest)));
    copy.snapshots.into_keys().collect()
}

/// Checks that the pieces of every snapshot that a reader sees are there. Returns their ids.
fn check_whole(bucket: &TestBucket) -> Vec<SnapshotId> {
    let copy = RemoteCopy::read(&remote(&bucket.without_faults()))
        .unwrap()
        .unwrap();
    assert_eq!(copy.damaged, []);
    let keys = bucket.keys();
    for key in copy.index.keys(&copy.snapshots) {
        assert!(keys.contains(&key), "{key} is missing");
    }
    copy.snapshots.into_keys().collect()
}

fn plan_segment(root: &Path, first: u64, bytes: &[u8]) {
    fs::create_dir_all(root.join("plan")).unwrap();
    fs::write(root.join(format!("plan/plan-{first:020}.log")), bytes).unwrap();
}

#[test]
fn an_empty_directory_becomes_the_lost_one() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::default());
    let store = open(dir.path());
    plan_segment(dir.path(), 0, b"segment");
    fs::write(dir.path().join("paused.json"), b"{}").unwrap();
    let mut replica = claim(&store, &bucket).unwrap();
    assert_eq!(replica.restore().unwrap(), None, "there was nothing");
    let ids = write_many(&store, 0..3);
    store.tag(ids[1], "good", "", 0).unwrap();
    store.tag(ids[0], "first", "", 0).unwrap();
    store.set_alias(Alias::Serving, ids[2]).unwrap();
    let sent = replica.sync(0).unwrap();
    assert_eq!(sent.sent, [ids[2], ids[1], ids[0]], "the newest first");
    assert_eq!(check_readable(&bucket), ids);
    let n_puts = bucket.n_puts();
    assert_eq!(replica.sync(0).unwrap().sent, []);
    assert_eq!(bucket.n_puts(), n_puts, "nothing is sent twice");

    let before = content(dir.path());
    let epoch = store.epoch().unwrap();
    drop((store, replica, dir));
    let other = tempfile::tempdir().unwrap();
    let store = open_after(other.path(), &bucket);
    assert!(store.epoch().unwrap() > epoch);
    let mut replica = claim(&store, &bucket).unwrap();
    let restored = replica.restore().unwrap().unwrap();
    assert_eq!((restored.snapshot, restored.has_plan), (Some(ids[2]), true));
    assert!(content(other.path()) == before, "the same bytes");
    assert_eq!(store.newest_valid().unwrap().snapshot.unwrap().id(), ids[2]);
    assert_eq!(store.next_id().unwrap(), 3);
    // It goes on with the copy, and so does its next start.
    write_many(&store, 3..4);
    assert_eq!(replica.sync(0).unwrap().sent, [id(3)]);
    drop((store, replica));
    let store = open(other.path());
    let mut replica = claim(&store, &bucket).unwrap();
    assert_eq!(replica.restore().unwrap(), None);
    replica.sync(0).unwrap();
    assert_eq!(store.audit().unwrap().broken_at, None);
}

#[test]
fn the_plan_log_goes_along_as_it_grows_and_only_as_far_as_it_is_needed() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::default());
    let store = open(dir.path());
    let mut replica = claim(&store, &bucket).unwrap();
    let mut parent = None;
    for n in 0..14_u64 {
        plan_segment(dir.path(), n * 10, format!("segment {n}").as_bytes());
        let mut draft = draft(parent, n);
        draft.checkpoint.plan_position = n * 10;
        let written = store.write(&draft).unwrap();
        store.set_alias(Alias::Latest, written).unwrap();
        parent = Some(written.number());
    }
    replica.sync(0).unwrap();
    plan_segment(dir.path(), 130, b"segment 13 has grown");
    replica.sync(1).unwrap();
    replica.sync(10_000).unwrap();
    let other = tempfile::tempdir().unwrap();
    let mut successor = claim(&open_after(other.path(), &bucket), &bucket).unwrap();
    assert!(successor.restore().unwrap().unwrap().has_plan);
    let found = content(other.path());
    let plan: Vec<&str> = found
        .keys()
        .filter_map(|name| name.strip_prefix("plan/plan-"))
        .collect();
    assert_eq!(plan, ["00000000000000000130.log"]);
    assert_eq!(
        found["plan/plan-00000000000000000130.log"],
        b"segment 13 has grown"
    );
}

/// Whichever request fails, before or after it took effect, a reader sees whole snapshots only, and in the end all.
#[test]
fn no_failing_request_shows_half_a_snapshot_or_removes_a_good_one() {
    for fault in [Fault::Before, Fault::After] {
        for every in 2..9 {
            let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::default());
            let store = open(dir.path());
            let mut replica = claim(&store, &bucket).unwrap();
            let mut seen = None;
            bucket.fail_every(every, fault);
            for round in 0..4 {
                write_many(&store, round * 2..round * 2 + 2);
                store.gc(RULES, 0).unwrap();
                let newest = store.alias(Alias::Latest).unwrap();
                for attempt in 0.. {
                    assert!(attempt < 400, "{fault:?} {every}");
                    let done = replica.sync(0);
                    let readable = check_whole(&bucket);
                    assert!(seen <= readable.last().copied(), "the newest snapshot stays");
                    seen = readable.last().copied();
                    match done {
                        Ok(_) => break,
                        Err(error) => assert!(matches!(error, Error::Remote { .. }), "{error}"),
                    }
                }
                assert_eq!(seen, newest, "{fault:?} {every}");
            }
            let here: Vec<SnapshotId> = store.list().unwrap().into_iter().map(|entry| entry.id).collect();
            assert_eq!(check_readable(&bucket), here);
            // A restart removes what no index names.
            bucket.fail_every(0, fault);
            drop(replica);
            claim(&store, &bucket).unwrap().sync(0).unwrap();
            let copy = RemoteCopy::read(&remote(&bucket)).unwrap().unwrap();
            let named = copy.index.keys(&copy.snapshots);
            let there: Vec<String> = bucket
                .keys()
                .into_iter()
                .filter(|key| key != "index.json")
                .collect();
            assert_eq!(there, named.into_iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_restore_that_is_cut_off_begins_again() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::default());
    let store = open(dir.path());
    let ids = write_many(&store, 0..3);
    store.tag(ids[0], "good", "", 0).unwrap();
    claim(&store, &bucket).unwrap().sync(0).unwrap();
    let other = tempfile::tempdir().unwrap();
    let mut n_cut = 0;
    for n in 1.. {
        bucket.fail_after(n);
        let result = RemoteCopy::read(&remote(&bucket)).and_then(|copy| {
            copy.unwrap().prepare(other.path())?;
            claim(&open(other.path()), &bucket)?.restore()
        });
        bucket.fail_after(0);
        match result {
            Ok(restored) => {
                assert_eq!(restored.unwrap().snapshot, Some(ids[2]));
                break;
            }
            Err(Error::Remote { .. }) => n_cut += 1,
            Err(error) => panic!("{n}: {error}"),
        }
    }
    assert!(n_cut > 10, "{n_cut}");
    let store = Store::inspect(other.path());
    assert_eq!(store.newest_valid().unwrap().snapshot.unwrap().id(), ids[2]);
    assert_eq!(store.tags().unwrap()["good"], ids[0]);
}

#[test]
fn a_former_writer_changes_nothing_and_learns_that_it_is_one() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::default());
    let former = open(dir.path());
    let mut old = claim(&former, &bucket).unwrap();
    let ids = write_many(&former, 0..6);
    old.sync(0).unwrap();
    // It is suspended between the index that drops a snapshot and the removal of its pieces.
    former.gc(RULES, 0).unwrap();
    bucket.fail_deletes(true);
    assert!(old.sync(0).is_err());
    bucket.fail_deletes(false);

    let other = tempfile::tempdir().unwrap();
    let successor = open_after(other.path(), &bucket);
    let mut new = claim(&successor, &bucket).unwrap();
    new.restore().unwrap().unwrap();
    // The content of what the former writer is about to remove, and of its own next snapshot, is sent again.
    for tag in [0, 1, 6] {
        write(&successor, successor.alias(Alias::Latest).unwrap(), tag);
    }
    new.sync(0).unwrap();
    let before = check_readable(&bucket);

    assert_eq!(write(&former, ids.last().copied(), 6), id(6));
    for _ in 0..3 {
        let error = old.sync(0).unwrap_err();
        assert!(matches!(error, Error::RemoteTakenOver { .. }), "{error}");
    }
    drop(old);
    // Nor does it after a restart.
    drop(former);
    let error = claim(&open(dir.path()), &bucket).err().unwrap();
    assert!(matches!(error, Error::RemoteTakenOver { .. }), "{error}");
    assert_eq!(check_readable(&bucket), before);
    write_many(&successor, 9..10);
    new.sync(0).unwrap();
    check_readable(&bucket);

    let stranger = tempfile::tempdir().unwrap();
    let store = open(stranger.path());
    write_many(&store, 0..1);
    let error = claim(&store, &bucket).err().unwrap();
    assert!(matches!(error, Error::RemoteForeign { .. }), "{error}");
}

#[test]
fn two_starts_at_once_leave_one_writer() {
    let bucket = TestBucket::default();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let stores = dirs.each_ref().map(|dir| open(dir.path()));
    let claims = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for store in &stores {
            scope.spawn(|| claims.lock().unwrap().push(claim(store, &bucket)));
        }
    });
    for store in &stores {
        write_many(store, 0..2);
    }
    let claims = claims.into_inner().unwrap().into_iter().flatten();
    let synced: Vec<_> = claims.map(|mut replica| replica.sync(0).is_ok()).collect();
    assert_eq!(synced.iter().filter(|is_ok| **is_ok).count(), 1, "{synced:?}");
    assert_eq!(check_readable(&bucket).len(), 2);
}

#[test]
fn the_rules_of_retention_hold_in_the_copy_and_names_keep_their_snapshots() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::default());
    let store = open(dir.path());
    let mut replica = claim(&store, &bucket).unwrap();
    for tag in 0..12 {
        let parent = store.alias(Alias::Latest).unwrap();
        let written = store.write(&draft(parent.map(SnapshotId::number), tag)).unwrap();
        store.set_alias(Alias::Latest, written).unwrap();
        if tag == 1 {
            store.tag(written, "good", "", 0).unwrap();
        }
        replica.sync(0).unwrap();
        store.gc(RULES, 0).unwrap();
    }
    replica.sync(0).unwrap();
    assert_eq!(check_readable(&bucket), [1, 9, 10, 11].map(id));
    store.untag("good", "", 0).unwrap();
    store.gc(RULES, 0).unwrap();
    replica.sync(0).unwrap();
    assert_eq!(check_readable(&bucket), [9, 10, 11].map(id));
    // Removed before they could be sent.
    for tag in 12..20 {
        let parent = store.alias(Alias::Latest).unwrap();
        let written = store.write(&draft(parent.map(SnapshotId::number), tag)).unwrap();
        store.set_alias(Alias::Latest, written).unwrap();
        bucket.fail_puts(true);
        assert!(replica.sync(0).is_err());
        bucket.fail_puts(false);
        store.gc(RULES, 0).unwrap();
    }
    assert_eq!(replica.sync(0).unwrap().n_skipped, 1);
    assert_eq!(check_readable(&bucket), [17, 18, 19].map(id));
}

#[test]
fn damage_costs_one_snapshot_on_either_side() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::default());
    let store = open(dir.path());
    let mut replica = claim(&store, &bucket).unwrap();
    let whole = |tag| store.write(&draft(None, tag)).unwrap();
    let ids = [whole(0), whole(1), whole(2)];
    store.set_alias(Alias::Latest, ids[1]).unwrap();
    let path = dir
        .path()
        .join("snapshots")
        .join(ids[2].to_string())
        .join("join.bin");
    fs::write(&path, 99_u64.to_le_bytes()).unwrap();
    let report = replica.sync(0).unwrap();
    assert_eq!(
        report.damaged.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        [ids[2]]
    );
    assert_eq!(check_readable(&bucket), [ids[0], ids[1]]);
    // A piece of the newest is damaged in the copy.
    let copy = RemoteCopy::read(&remote(&bucket)).unwrap().unwrap();
    let piece = copy.snapshots[&ids[1]].recipe.files["join.bin"].pieces[0].clone();
    bucket.damage(&piece);
    let other = tempfile::tempdir().unwrap();
    let successor = open_after(other.path(), &bucket);
    let restored = claim(&successor, &bucket).unwrap().restore().unwrap().unwrap();
    assert_eq!(restored.snapshot, Some(ids[0]));
    assert_eq!(restored.skipped.len(), 1);
    assert_eq!(successor.newest_valid().unwrap().snapshot.unwrap().id(), ids[0]);
    assert!(successor.next_id().unwrap() >= 3, "no number is used again");
    // Nothing usable at all is an error, not a start from nothing.
    for key in bucket.keys().into_iter().filter(|key| key.starts_with("data/")) {
        bucket.damage(&key);
    }
    let last = tempfile::tempdir().unwrap();
    let store = open(last.path());
    assert!(matches!(
        claim(&store, &bucket).unwrap().restore(),
        Err(Error::Damaged { .. })
    ));
}

#[test]
fn a_directory_is_a_bucket_and_one_that_is_not_there_is_no_empty_one() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = format!("file://{}", copy.path().display());
    let store = open(dir.path());
    let ids = write_many(&store, 0..3);
    let remote = Remote::open(&url).unwrap();
    Replica::claim(Arc::clone(&store), &remote, RULES, 0)
        .unwrap()
        .sync(0)
        .unwrap();
    let other = tempfile::tempdir().unwrap();
    RemoteCopy::read(&remote)
        .unwrap()
        .unwrap()
        .prepare(other.path())
        .unwrap();
    let successor = open(other.path());
    let mut replica = Replica::claim(Arc::clone(&successor), &remote, RULES, 0).unwrap();
    assert_eq!(replica.restore().unwrap().unwrap().snapshot, Some(ids[2]));
    let missing = Remote::open(&format!("{url}/not/mounted")).unwrap();
    let error = RemoteCopy::read(&missing).unwrap_err();
    assert!(matches!(&error, Error::Remote { error, .. } if error.kind() == io::ErrorKind::NotFound));
}
