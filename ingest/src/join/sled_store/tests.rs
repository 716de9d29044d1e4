//! Keys, the emptied directory, and damage.

use std::fs;

use super::disk::{generation, key};
use super::*;

#[test]
fn keys_sort_by_due_time_then_id() {
    let order = [
        (i64::MIN, 9),
        (-5, 1),
        (-1, 0),
        (0, 0),
        (0, 7),
        (1, u64::MAX),
        (i64::MAX, 0),
    ];
    let keys: Vec<_> = order
        .iter()
        .map(|(due, id)| key(EventTime(*due), Id(*id)))
        .collect();
    assert!(keys.is_sorted());
}

#[test]
fn a_directory_is_emptied_when_opened_whatever_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let inside = generation(dir.path(), 0);
    fs::create_dir_all(&inside).unwrap();
    for (name, content) in [
        ("conf", "not sled's"),
        ("db", "x"),
        ("snap.0000.generating", "half"),
    ] {
        fs::write(inside.join(name), content).unwrap();
    }
    fs::create_dir_all(generation(dir.path(), 7)).unwrap();
    let store = SledStore::open(dir.path(), SledLimits::default()).unwrap();
    assert!(store.is_empty());
    assert!(!generation(dir.path(), 7).exists());
}

/// The open impression of request `n`, due at 9.
fn open(n: u64, closed: u8) -> Box<[OpenImpression]> {
    Box::new([OpenImpression {
        request: std::sync::Arc::new(ouzel_sample::Request {
            past: Vec::new(),
            id: Id(n),
            user: Id(1),
            ts: EventTime(0),
            context: Vec::new(),
            history: Vec::new(),
            contents: Vec::new(),
            n_items: 0,
        }),
        shown_at: ouzel_sample::Position {
            partition: ouzel_sample::PartitionId {
                stream: ouzel_sample::Stream::Impressions,
                partition: 0,
            },
            offset: 0,
        },
        items: Box::new([]),
        values: Box::new([]),
        next: EventTime(9),
        closed,
        sampled: 0,
        held: 0,
    }])
}

fn slot(n: u64, closed: u8) -> RequestSlot {
    RequestSlot {
        open: open(n, closed),
        ..RequestSlot::default()
    }
}

fn db(store: &SledStore) -> &sled::Db {
    store.disk.db().unwrap()
}

#[test]
fn a_value_that_differs_from_the_one_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SledLimits {
        requests_in_memory: 0,
        ..SledLimits::default()
    };
    let mut store = SledStore::open(dir.path(), limits).unwrap();
    let read = |store: &mut SledStore| store.update(Id(1), |slot| slot.clone());
    for closed in [0, 1] {
        store.insert(Id(1), open(1, closed)).unwrap();
    }
    assert_eq!(store.n_cold(), 1);
    let sound = db(&store).get(key(EventTime(9), Id(1))).unwrap().unwrap();
    let older = postcard::to_stdvec(&open(1, 0)).unwrap();
    let another = postcard::to_stdvec(&open(2, 1)).unwrap();
    for wrong in [older, another, vec![0; sound.len()], Vec::new()] {
        db(&store).insert(key(EventTime(9), Id(1)), wrong).unwrap();
        let error = read(&mut store).unwrap_err().to_string();
        assert!(error.contains("are not those that were written"), "{error}");
    }
    db(&store).insert(key(EventTime(9), Id(1)), sound).unwrap();
    assert_eq!(read(&mut store).unwrap(), slot(1, 1));
    db(&store).clear().unwrap();
    let error = read(&mut store).unwrap_err().to_string();
    assert!(error.contains("is not on disk"), "{error}");
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _store = SledStore::open(dir.path(), SledLimits::default()).unwrap();
    let error = SledStore::open(dir.path(), SledLimits::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the join store cannot lock its directory: another process has it"
    );
}

#[test]
fn a_full_disk_leaves_everything_in_memory_until_it_has_room() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SledLimits {
        requests_in_memory: 10,
        ..SledLimits::default()
    };
    let mut store = SledStore::open(dir.path(), limits).unwrap();
    let insert = |store: &mut SledStore, ids: std::ops::Range<u64>| {
        for id in ids {
            store.insert(Id(id), open(id, 0)).unwrap();
        }
    };
    let all = |store: &SledStore| {
        let mut seen = Vec::new();
        store
            .for_each(&mut |id, slot| seen.push((id, slot.clone())))
            .unwrap();
        seen
    };
    insert(&mut store, 0..12);
    assert_eq!(store.n_cold(), 11);
    // As after a failed write: the files are abandoned, and new ones cannot be created.
    store.load_all().unwrap();
    assert_eq!((store.n_cold(), store.disk.db().is_none()), (0, true));
    fs::remove_dir_all(dir.path()).unwrap();
    fs::write(dir.path(), "no directory").unwrap();
    insert(&mut store, 12..40);
    assert_eq!((store.n_cold(), store.len()), (0, 40));
    assert_eq!(all(&store).len(), 40);
    fs::remove_file(dir.path()).unwrap();
    fs::create_dir(dir.path()).unwrap();
    insert(&mut store, 40..100);
    assert!(store.n_cold() > 40, "there is room again: {}", store.n_cold());
    let expected: Vec<_> = (0..100).map(|id| (Id(id), slot(id, 0))).collect();
    assert_eq!(all(&store), expected);
}
