//! Fault injection: every operation of a scenario fails once, in every way, and no snapshot is damaged.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::{ROOT, check_content, draft, id, open};
use crate::store::{TMP_PREFIX, WORK_NAME};
use crate::tests::sim_fs::{FaultKind, SimFs};
use crate::{Alias, Error, Fs, Retention, SnapshotId, Store};

/// The progress of a scenario.
#[derive(Default)]
struct Progress {
    /// The snapshot that `latest` was last moved to with success.
    latest: Option<SnapshotId>,
    /// The target of a move of `latest` that was not acknowledged.
    latest_next: Option<SnapshotId>,
    /// Ids that `write` returned, without collected ones.
    written: BTreeSet<SnapshotId>,
    /// Number of acknowledged lines of the audit log.
    n_recorded: usize,
    /// True once the collection began: every snapshot but the last may be gone.
    is_collecting: bool,
    /// True during operations that leave nothing behind when they fail.
    leaves_nothing: bool,
}

impl Progress {
    fn publish(&mut self, store: &Store, target: SnapshotId) -> Result<(), Error> {
        self.latest_next = Some(target);
        store.set_alias(Alias::Latest, target)?;
        self.latest = Some(target);
        Ok(())
    }

    fn write(&mut self, store: &Store, parent: Option<u64>, tag: u64) -> Result<SnapshotId, Error> {
        let id = store.write(&draft(parent, tag))?;
        assert!(self.written.last().is_none_or(|last| *last < id), "ids grow");
        self.written.insert(id);
        Ok(id)
    }

    /// Runs every operation of a store once.
    fn run(&mut self, fs: &SimFs) -> Result<(), Error> {
        self.leaves_nothing = false;
        let store = Store::open_on(Arc::new(fs.clone()), Path::new(ROOT))?;
        self.leaves_nothing = true;
        let third = self.write(&store, Some(1), 2)?;
        self.publish(&store, third)?;
        store.set_alias(Alias::Serving, third)?;
        self.latest_next = Some(id(1));
        store.rollback(id(1), "worse", 7)?;
        self.latest = Some(id(1));
        self.n_recorded += 1;
        let fourth = self.write(&store, Some(1), 3)?;
        self.publish(&store, fourth)?;
        store.unpin("", 8)?;
        self.n_recorded += 1;
        self.is_collecting = true;
        self.leaves_nothing = false;
        store.gc(Retention::newest(1), 9)?;
        Ok(())
    }
}

/// Makes two good snapshots, the second `latest`, `serving` and `candidate`, the first pinned, and leftovers of a crash.
fn base() -> (SimFs, Progress) {
    let fs = SimFs::new();
    let mut progress = Progress::default();
    let store = open(&fs);
    let first = progress.write(&store, None, 0).unwrap();
    progress.publish(&store, first).unwrap();
    store.pin(first, "good", 5).unwrap();
    progress.n_recorded += 1;
    let second = progress.write(&store, Some(0), 1).unwrap();
    progress.publish(&store, second).unwrap();
    store.set_alias(Alias::Serving, second).unwrap();
    store.set_candidate(second, "shadow", 6).unwrap();
    progress.n_recorded += 1;
    let leftover = Path::new(ROOT).join("snapshots/.tmp-00000000000000000009");
    fs.create_dir(&leftover).unwrap();
    fs.create_file(&leftover.join("rows.safetensors"))
        .unwrap()
        .write_all(b"partial")
        .unwrap();
    fs.sync_all();
    (fs, progress)
}

/// Checks that a failed write left nothing unfinished and no unacknowledged snapshot.
fn check_left_nothing(fs: &SimFs, progress: &Progress, context: &str) {
    assert_eq!(leftovers(fs), Vec::<String>::new(), "{context}");
    let ids: BTreeSet<_> = super::inspect(fs).ids().unwrap().into_iter().collect();
    assert_eq!(ids, progress.written, "{context}");
}

/// What a write has left: names of older versions, and files in the working directory of the present writer.
fn leftovers(fs: &SimFs) -> Vec<String> {
    let root = Path::new(ROOT);
    let names = |dir: &Path| fs.list(dir).unwrap().into_iter().map(|entry| entry.name);
    let old = [root.to_owned(), root.join("snapshots")];
    let old = old
        .iter()
        .flat_map(|dir| names(dir))
        .filter(|name| name.starts_with(TMP_PREFIX));
    let present = names(&root.join("lease")).max();
    let work = present.map(|claim| root.join("lease").join(claim).join(WORK_NAME));
    let work = work.filter(|work| fs.stat(work).is_ok());
    let new = work
        .iter()
        .flat_map(|work| names(work))
        .filter(|name| name != "heartbeat");
    old.chain(new).collect()
}

/// Checks what must hold on a disk after any fault.
fn check(fs: &SimFs, progress: &Progress, context: &str) {
    let store = super::inspect(fs);
    let recovery = store.newest_valid().unwrap();
    assert_eq!(recovery.skipped, [], "{context}");
    let newest = recovery.snapshot.unwrap();
    let expected = [progress.latest, progress.latest_next];
    assert!(
        expected.contains(&Some(newest.id())),
        "{context}: {} of {expected:?}",
        newest.id()
    );
    check_content(&newest);
    for alias in Alias::ALL {
        let snapshot = store.read_alias(alias).unwrap();
        assert!(snapshot.is_some() || alias == Alias::Pinned, "{context}: {alias}");
        snapshot.iter().for_each(check_content);
    }
    let listed = store.list().unwrap();
    for entry in &listed {
        assert!(store.verify(entry.id).unwrap().is_valid(), "{context}: {entry:?}");
    }
    if !progress.is_collecting {
        let ids: BTreeSet<_> = listed.iter().map(|entry| entry.id).collect();
        assert!(progress.written.is_subset(&ids), "{context}: {ids:?}");
    }
    let audit = store.audit().unwrap();
    assert_eq!(audit.broken_at, None, "{context}");
    assert!(audit.lines.len() >= progress.n_recorded, "{context}: {audit:?}");

    let store = open(fs);
    assert_eq!(leftovers(fs), Vec::<String>::new(), "{context}");
    let parent = newest.id().number();
    let next = store.write(&draft(Some(parent), 9)).unwrap();
    assert!(
        progress.written.iter().all(|written| *written < next),
        "{context}: {next} was used before"
    );
    store.set_alias(Alias::Latest, next).unwrap();
    let newest = store.newest_valid().unwrap().snapshot.unwrap();
    assert_eq!(newest.id(), next, "{context}");
    check_content(&newest);
}

/// Runs the scenario with the fault at operation 1, 2, 3, .. until it no longer occurs; returns their number.
fn fail_at_each(
    kind: FaultKind,
    mut check_after: impl FnMut(&SimFs, &Progress, &Result<(), Error>, &str),
) -> usize {
    for at in 1.. {
        let (base, mut progress) = base();
        let fs = base.fork(at, kind);
        let result = progress.run(&fs);
        if !fs.has_failed() {
            result.unwrap();
            return at - 1;
        }
        check_after(
            &fs,
            &progress,
            &result,
            &format!("{kind:?} at operation {at}: {result:?}"),
        );
    }
    unreachable!("the scenario ends")
}

#[test]
fn an_io_error_at_any_operation_leaves_every_snapshot_whole() {
    let n = fail_at_each(FaultKind::Eio, |fs, progress, result, context| {
        if progress.leaves_nothing && result.is_err() {
            check_left_nothing(&fs.restart(), progress, context);
        }
        check(&fs.restart(), progress, context);
    });
    assert!(n > 100, "only {n} operations");
}

#[test]
fn a_disk_full_at_any_operation_leaves_every_snapshot_whole_and_is_transient() {
    fail_at_each(FaultKind::Full, |fs, progress, result, context| {
        if let Err(error) = result {
            assert!(error.is_transient(), "{context}");
            if progress.leaves_nothing {
                check_left_nothing(&fs.restart(), progress, context);
            }
        }
        check(&fs.restart(), progress, context);
    });
}

#[test]
fn a_kill_at_any_operation_leaves_every_snapshot_whole() {
    fail_at_each(FaultKind::Kill, |fs, progress, result, context| {
        assert!(result.is_err(), "{context}");
        check(&fs.restart(), progress, context);
    });
}

#[test]
fn a_power_loss_at_any_operation_leaves_every_snapshot_whole() {
    let n = fail_at_each(FaultKind::Kill, |fs, progress, _, context| {
        for seed in 0..12 {
            check(
                &fs.power_loss(seed),
                progress,
                &format!("power loss {seed}, {context}"),
            );
        }
    });
    assert!(n > 100, "only {n} operations");
}

/// After an error the process continues, and everything it acknowledges later is durable.
#[test]
fn a_power_loss_after_an_io_error_keeps_acknowledged_snapshots() {
    fail_at_each(FaultKind::Eio, |fs, _, _, context| {
        let repaired = fs.restart();
        let store = open(&repaired);
        let parent = store.newest_valid().unwrap().snapshot.unwrap().id();
        let next = store.write(&draft(Some(parent.number()), 9)).unwrap();
        store.set_alias(Alias::Latest, next).unwrap();
        let progress = Progress {
            latest: Some(next),
            written: [next].into(),
            is_collecting: true,
            ..Progress::default()
        };
        for seed in 0..4 {
            check(
                &repaired.power_loss(seed),
                &progress,
                &format!("power loss {seed}, {context}"),
            );
        }
    });
}

/// A daemon continues with its next operation after an error of its store.
#[test]
fn a_power_loss_after_continuing_past_an_io_error_leaves_every_alias_whole() {
    for at in 1.. {
        let (base, _) = base();
        let fs = base.fork(at, FaultKind::Eio);
        let Ok(store) = Store::open_on(Arc::new(fs.clone()), Path::new(ROOT)) else {
            continue;
        };
        let mut parent = 1;
        for tag in 2..5 {
            if let Ok(id) = store.write(&draft(Some(parent), tag)) {
                parent = id.number();
                store.set_alias(Alias::Latest, id).ok();
                store.set_alias(Alias::Serving, id).ok();
            }
            store.gc(Retention::newest(1), 0).ok();
        }
        store.unpin("", 0).ok();
        store.gc(Retention::newest(1), 0).ok();
        for seed in 0..8 {
            let after = fs.power_loss(seed);
            let context = format!("power loss {seed} after EIO at operation {at}");
            let store = super::inspect(&after);
            assert_eq!(store.newest_valid().unwrap().skipped, [], "{context}");
            for alias in Alias::ALL {
                store.read_alias(alias).unwrap().iter().for_each(check_content);
            }
            for entry in store.list().unwrap() {
                assert!(store.verify(entry.id).unwrap().is_valid(), "{context}: {entry:?}");
            }
        }
        if !fs.has_failed() {
            assert!(at > 100, "only {at} operations");
            return;
        }
    }
}

#[test]
fn a_failed_id_is_not_used_again() {
    let (base, _) = base();
    let fs = base.fork(usize::MAX, FaultKind::Full);
    let store = open(&fs);
    let failed = id(2);
    let mut broken = draft(Some(1), 2);
    broken.note = Some("x".repeat(2 << 20));
    assert!(matches!(store.write(&broken), Err(Error::Invalid { .. })));
    assert_eq!(leftovers(&fs), Vec::<String>::new());
    assert!(store.write(&draft(Some(1), 2)).unwrap() > failed);
}
