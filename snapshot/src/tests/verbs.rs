//! Aliases, rollback, pins, collection and diff, compared with a simple model of the aliases.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{check_content, draft, id, inspect, open};
use crate::tests::sim_fs::SimFs;
use crate::{Alias, AuditVerb, Error, GateResult, Retention};

#[test]
fn an_empty_store_lists_nothing() {
    let sim = SimFs::new();
    let store = open(&sim);
    let recovery = store.newest_valid().unwrap();
    assert!(recovery.snapshot.is_none() && recovery.skipped.is_empty());
    assert_eq!(store.list().unwrap(), []);
    assert_eq!(store.gc(Retention::newest(3), 0).unwrap(), []);
    assert_eq!(store.alias(Alias::Latest).unwrap(), None);
    assert!(matches!(
        store.set_alias(Alias::Latest, id(3)),
        Err(Error::NoSnapshot { .. })
    ));
    assert!(matches!(
        store.rollback(id(3), "", 0),
        Err(Error::NoSnapshot { .. })
    ));
    store.unpin("", 0).unwrap();
    assert!(store.audit().unwrap().lines.is_empty());
}

#[test]
fn a_snapshot_that_was_not_published_is_not_resumed_from() {
    let sim = SimFs::new();
    let store = open(&sim);
    store.write(&draft(None, 0)).unwrap();
    assert_eq!(
        store.newest_valid().unwrap().snapshot.unwrap().id(),
        id(0),
        "before any alias"
    );
    store.set_alias(Alias::Latest, id(0)).unwrap();
    store.write(&draft(Some(0), 1)).unwrap();
    assert_eq!(store.newest_valid().unwrap().snapshot.unwrap().id(), id(0));
}

#[test]
fn a_rollback_holds_against_an_unaware_writer_and_against_damage() {
    let sim = SimFs::new();
    let store = open(&sim);
    for tag in 0..4u64 {
        store.write(&draft(tag.checked_sub(1), tag)).unwrap();
        store.set_alias(Alias::Latest, id(tag)).unwrap();
    }
    store.rollback(id(1), "calibration", 77).unwrap();
    assert_eq!(store.newest_valid().unwrap().snapshot.unwrap().id(), id(1));
    // The daemon continued from 3.
    assert_eq!(store.write(&draft(Some(3), 4)).unwrap(), id(4));
    assert!(matches!(
        store.set_alias(Alias::Latest, id(4)),
        Err(Error::RolledBack { .. })
    ));
    // It restarted, resumed from 1 and published 5. 5 is damaged, and 2 to 4 stay abandoned.
    assert_eq!(store.write(&draft(Some(1), 5)).unwrap(), id(5));
    store.set_alias(Alias::Latest, id(5)).unwrap();
    let rolled_back: Vec<_> = store
        .list()
        .unwrap()
        .iter()
        .map(|entry| entry.is_rolled_back)
        .collect();
    assert_eq!(rolled_back, [false, false, true, true, true, false]);
    let path = store.read(id(5)).unwrap().dir().join("join.bin");
    sim.overwrite(&path, b"damaged!");
    let recovery = store.newest_valid().unwrap();
    assert_eq!(recovery.snapshot.unwrap().id(), id(1));
    assert_eq!(
        recovery.skipped.iter().map(|s| s.id).collect::<Vec<_>>(),
        [5, 4, 3, 2].map(|n| Some(id(n)))
    );
    let line = &store.audit().unwrap().lines[0];
    assert_eq!(
        (line.verb, line.id, line.note.as_str(), line.at_ms),
        (AuditVerb::Rollback, Some(id(1)), "calibration", 77)
    );
}

#[test]
fn a_snapshot_that_failed_a_check_is_never_latest_and_never_resumed_from() {
    let sim = SimFs::new();
    let store = open(&sim);
    store.write(&draft(None, 0)).unwrap();
    store.set_alias(Alias::Latest, id(0)).unwrap();
    let mut failed = draft(Some(0), 1);
    let gate = |passed| GateResult {
        passed,
        figure: Some(3.0),
        limit: Some(1.5),
    };
    failed.gates = [("auc".to_owned(), gate(true)), ("norms".to_owned(), gate(false))].into();
    store.write(&failed).unwrap();
    let error = store.set_alias(Alias::Latest, id(1)).unwrap_err();
    assert!(
        error.to_string().contains("it failed the check `norms`"),
        "{error}"
    );
    // Not even without `latest`, when every snapshot counts.
    crate::Fs::remove_file(&sim, &store.root().join("latest")).unwrap();
    let recovery = store.newest_valid().unwrap();
    assert_eq!(recovery.snapshot.unwrap().id(), id(0));
    assert_eq!(recovery.skipped[0].why, "it failed the check `norms`");
}

#[test]
fn a_snapshot_that_cannot_be_loaded_is_passed_over_for_an_older_one() {
    let sim = SimFs::new();
    let store = open(&sim);
    for tag in 0..4u64 {
        store.write(&draft(tag.checked_sub(1), tag)).unwrap();
        store.set_alias(Alias::Latest, id(tag)).unwrap();
    }
    let recovery = store.newest_loaded(|snapshot| {
        let tag = snapshot.manifest().checkpoint.batch_seq;
        Ok::<_, Error>(
            (tag < 2)
                .then_some(tag)
                .ok_or_else(|| format!("{tag} is not finite")),
        )
    });
    let recovery = recovery.unwrap();
    assert_eq!(recovery.snapshot, Some(1));
    let skipped: Vec<_> = recovery
        .skipped
        .iter()
        .map(|skipped| skipped.why.as_str())
        .collect();
    assert_eq!(skipped, ["3 is not finite", "2 is not finite"]);
    let refused: Result<_, Error> = store
        .newest_loaded(|_| Err::<Result<(), String>, _>(Error::invalid("x", "of another configuration")));
    assert!(
        matches!(refused, Err(Error::Invalid { .. })),
        "an error of `load` ends the search"
    );
}

#[test]
fn a_snapshot_beside_another_child_of_its_parent_starts_a_branch() {
    let store = open(&SimFs::new());
    for (tag, parent) in [
        (0, None),
        (1, Some(0)),
        (2, Some(1)),
        (3, Some(0)),
        (4, Some(3)),
        (5, Some(2)),
        (6, Some(0)),
    ] {
        store.write(&draft(parent, tag)).unwrap();
    }
    let listed = store.list().unwrap();
    let branches: Vec<_> = listed
        .iter()
        .map(|entry| entry.manifest.as_ref().unwrap().branch)
        .collect();
    assert_eq!(branches, [0, 0, 0, 1, 1, 0, 2]);
}

#[test]
fn a_damaged_snapshot_cannot_be_rolled_back_to_or_pinned() {
    let sim = SimFs::new();
    let store = open(&sim);
    for tag in 0..2u64 {
        store.write(&draft(tag.checked_sub(1), tag)).unwrap();
    }
    store.set_alias(Alias::Latest, id(1)).unwrap();
    sim.overwrite(&store.read(id(0)).unwrap().dir().join("join.bin"), b"damaged!");
    assert!(store.rollback(id(0), "", 0).is_err());
    assert!(store.pin(id(0), "", 0).is_err());
    assert_eq!(store.alias(Alias::Latest).unwrap(), Some(id(1)));
    assert_eq!(store.alias(Alias::Pinned).unwrap(), None);
    assert!(
        store.audit().unwrap().lines.is_empty(),
        "an action that fails is not recorded"
    );
}

#[test]
fn collection_counts_only_what_could_be_resumed_from() {
    let sim = SimFs::new();
    let store = open(&sim);
    for tag in 0..8u64 {
        store.write(&draft(tag.checked_sub(1), tag)).unwrap();
        store.set_alias(Alias::Latest, id(tag)).unwrap();
    }
    store.pin(id(1), "", 0).unwrap();
    sim.overwrite(
        &store.read(id(6)).unwrap().dir().join("manifest.json"),
        b"damaged!",
    );
    // 7, 5 and 4 are the newest three that look sound; 6 is above the oldest of them.
    assert_eq!(store.gc(Retention::newest(3), 5).unwrap(), [0, 2, 3].map(id));
    let ids: Vec<_> = store
        .list()
        .unwrap()
        .iter()
        .map(|entry| entry.id.number())
        .collect();
    assert_eq!(ids, [1, 4, 5, 6, 7]);
    assert_eq!(
        store.audit().unwrap().lines.last().unwrap().removed,
        [0, 2, 3].map(id)
    );
    assert_eq!(store.gc(Retention::newest(3), 6).unwrap(), []);
}

#[test]
fn a_tagged_snapshot_is_never_removed_until_it_is_untagged() {
    let sim = SimFs::new();
    let store = open(&sim);
    for tag in 0..6u64 {
        store.write(&draft(tag.checked_sub(1), tag)).unwrap();
        store.set_alias(Alias::Latest, id(tag)).unwrap();
    }
    for (number, name) in [(1, "before-launch"), (1, "v1"), (3, "v2")] {
        store.tag(id(number), name, "why", 7).unwrap();
    }
    store.tag(id(3), "v2", "again", 7).unwrap();
    let error = store.tag(id(4), "v2", "", 7).unwrap_err();
    assert!(
        error.to_string().contains("has it; remove it there first"),
        "{error}"
    );
    assert!(matches!(store.untag("v3", "", 7), Err(Error::Tag { .. })));
    assert_eq!(store.list().unwrap()[1].tags, ["before-launch", "v1"]);
    let planned = store.retention(Retention::newest(1)).unwrap();
    assert_eq!(planned[1].reason, "tag v1");
    assert_eq!(store.gc(Retention::newest(1), 8).unwrap(), [0, 2, 4].map(id));
    assert_eq!(store.untag("v2", "", 9).unwrap(), Some(id(3)));
    assert_eq!(store.gc(Retention::newest(1), 9).unwrap(), [id(3)]);
    let verbs: Vec<_> = store
        .audit()
        .unwrap()
        .lines
        .iter()
        .map(|line| line.verb)
        .collect();
    use AuditVerb::{Gc, Tag, Untag};
    assert_eq!(verbs, [Tag, Tag, Tag, Gc, Untag, Gc]);
    drop(store);
    // A damaged tag protects it knows not what, so nothing is removed.
    sim.overwrite(&std::path::Path::new(super::ROOT).join("tags/v1"), b"damaged!");
    let store = open(&sim);
    store.write(&draft(Some(5), 6)).unwrap();
    store.set_alias(Alias::Latest, id(6)).unwrap();
    assert!(matches!(
        store.gc(Retention::newest(1), 9),
        Err(Error::Damaged { .. })
    ));
    assert_eq!(store.list().unwrap().len(), 3);
    store.untag("v1", "", 10).unwrap();
    assert_eq!(store.gc(Retention::newest(1), 9).unwrap(), [id(5)]);
}

#[test]
fn ids_grow_even_when_the_highest_was_rolled_back_and_collected() {
    let sim = SimFs::new();
    let store = open(&sim);
    for tag in 0..3u64 {
        store.write(&draft(tag.checked_sub(1), tag)).unwrap();
        store.set_alias(Alias::Latest, id(tag)).unwrap();
    }
    store.rollback(id(0), "", 0).unwrap();
    drop(store);
    // The directories are removed by hand.
    for number in [1, 2] {
        let dir = inspect(&sim).read(id(number)).unwrap().dir().to_owned();
        crate::Fs::remove_dir_all(&sim, &dir).unwrap();
    }
    assert_eq!(open(&sim).write(&draft(Some(0), 3)).unwrap(), id(3));
}

#[test]
fn a_diff_names_fields_and_arrays_that_differ() {
    let sim = SimFs::new();
    let store = open(&sim);
    store.write(&draft(None, 1)).unwrap();
    store.write(&draft(Some(0), 4)).unwrap();
    let diff = store.diff(id(0), id(1), |_| 0).unwrap();
    let fields: Vec<_> = diff.fields.iter().map(|field| field.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "/cut/batch_seq",
            "/cut/positions/impressions[0]",
            "/id",
            "/parent"
        ]
    );
    let rows = &diff.files[1];
    assert!(!rows.is_equal);
    assert_eq!(rows.arrays[0].name, "rows");
    assert_eq!(
        (rows.arrays[0].n_differing, rows.arrays[0].max_abs_diff),
        (16, Some(3.0))
    );
    assert_eq!(
        (rows.arrays[0].a_norm, rows.arrays[0].b_norm),
        (Some(4.0), Some(16.0))
    );
    assert_eq!(rows.arrays[1].max_abs_diff, Some(3.0), "integers too");
    let same = store.diff(id(1), id(1), |_| 0).unwrap();
    assert!(
        same.fields.is_empty()
            && same
                .files
                .iter()
                .all(|file| file.is_equal && file.arrays.is_empty())
    );
}

#[derive(Clone, Debug)]
enum Step {
    Write { publish: bool },
    Rollback(prop::sample::Index),
    Pin(prop::sample::Index),
    Unpin,
    Collect(usize),
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(|publish| Step::Write { publish }),
        2 => any::<prop::sample::Index>().prop_map(Step::Rollback),
        1 => any::<prop::sample::Index>().prop_map(Step::Pin),
        1 => Just(Step::Unpin),
        1 => (0usize..4).prop_map(Step::Collect),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    /// The learner here restarts after each rollback, so its state always grew from `latest`.
    #[test]
    fn any_sequence_of_verbs_keeps_the_aliases_whole(steps in prop::collection::vec(any_step(), 1..25)) {
        let sim = SimFs::new();
        let mut store = open(&sim);
        let (mut latest, mut pinned, mut state, mut highest) = (None, None, None, None);
        let mut n_recorded = 0;
        for (tag, step) in (0u64..).zip(steps) {
            let ids: Vec<_> = store.list().unwrap().iter().map(|entry| entry.id).collect();
            match step {
                Step::Write { publish } => {
                    let written = store.write(&draft(state, tag)).unwrap();
                    prop_assert!(highest.is_none_or(|highest| highest < written));
                    highest = Some(written);
                    state = Some(written.number());
                    if publish {
                        store.set_alias(Alias::Latest, written).unwrap();
                        latest = Some(written);
                    }
                }
                Step::Rollback(index) if !ids.is_empty() => {
                    let target = ids[index.index(ids.len())];
                    store.rollback(target, "", 0).unwrap();
                    latest = Some(target);
                    state = Some(target.number());
                    n_recorded += 1;
                }
                Step::Pin(index) if !ids.is_empty() => {
                    let target = ids[index.index(ids.len())];
                    store.pin(target, "", 0).unwrap();
                    pinned = Some(target);
                    n_recorded += 1;
                }
                Step::Unpin => {
                    store.unpin("", 0).unwrap();
                    n_recorded += usize::from(pinned.take().is_some());
                }
                Step::Collect(keep) => {
                    let removed = store.gc(Retention::newest(keep), 0).unwrap();
                    n_recorded += usize::from(!removed.is_empty());
                    let left: BTreeSet<_> = store.list().unwrap().iter().map(|entry| entry.id).collect();
                    prop_assert!(latest.iter().chain(&pinned).all(|id| left.contains(id)));
                    let expected: BTreeSet<_> = ids.iter().filter(|id| !removed.contains(id)).copied().collect();
                    prop_assert_eq!(left, expected);
                }
                Step::Reopen => {
                    drop(store);
                    store = open(&sim);
                    // A restart resumes from `latest`, or from the newest when nothing was ever published.
                    state = store.newest_valid().unwrap().snapshot.map(|snapshot| snapshot.id().number());
                }
                Step::Rollback(_) | Step::Pin(_) => {}
            }
            prop_assert_eq!(store.alias(Alias::Latest).unwrap(), latest);
            prop_assert_eq!(store.alias(Alias::Pinned).unwrap(), pinned);
            let recovery = store.newest_valid().unwrap();
            prop_assert!(recovery.skipped.is_empty());
            if let Some(latest) = latest {
                prop_assert_eq!(recovery.snapshot.as_ref().unwrap().id(), latest);
            }
            recovery.snapshot.iter().for_each(check_content);
            let audit = store.audit().unwrap();
            prop_assert_eq!((audit.broken_at, audit.n_torn, audit.lines.len()), (None, 0, n_recorded));
        }
    }
}
