//! Chains of snapshots that store changed rows only.

use std::collections::BTreeSet;
use std::io::Read;

use proptest::prelude::*;

use super::{ROOT, id, inspect, open};
use crate::tests::sim_fs::SimFs;
use crate::{Alias, Array, Arrays, CheckpointMeta, Draft, Fingerprint, Retention, SnapshotId, Store};

const N_ROWS: u64 = 2000;

/// The rows of a table, each a number.
fn draft(parent: Option<SnapshotId>, rows: &[u64]) -> Draft {
    let mut draft = Draft::new(parent, 0, Fingerprint::default(), CheckpointMeta::default());
    let mut arrays = Arrays::new();
    arrays
        .insert("ids", Array::new(&[rows.len()], rows.to_vec()).unwrap())
        .unwrap();
    let values: Vec<f32> = rows.iter().flat_map(|row| [*row as f32; 8]).collect();
    arrays
        .insert("values", Array::new(&[rows.len(), 8], values).unwrap())
        .unwrap();
    draft.add_arrays("rows.safetensors", arrays).unwrap();
    draft.add_blob("join.bin", vec![1, 2, 3]).unwrap();
    draft
}

fn rows(store: &Store, id: SnapshotId) -> Vec<u64> {
    let snapshot = store.read(id).unwrap();
    let mut arrays = snapshot.arrays("rows.safetensors").unwrap();
    let ids = arrays.take::<u64>("ids", &[crate::ANY]).unwrap();
    let values = arrays.take::<f32>("values", &[ids.len(), 8]).unwrap();
    assert!(
        ids.iter()
            .zip(values.chunks_exact(8))
            .all(|(id, row)| row == [*id as f32; 8])
    );
    let (whole, parent) = (draft(None, &ids), snapshot.manifest().parent);
    assert_eq!(
        snapshot.hash_files(&["rows.safetensors"]).unwrap(),
        whole.hash_files(&["rows.safetensors"])
    );
    assert_eq!(parent.is_some(), id.number() > 0);
    ids
}

/// Writes versions of a table that grows by a row and changes one, each the parent of the next.
fn write_line(store: &Store, n: u64, max_deltas: usize) -> Vec<Vec<u64>> {
    let mut table: Vec<u64> = (0..N_ROWS).collect();
    let mut versions = Vec::new();
    let mut parent = None;
    for version in 0..n {
        table[7] = 100_000 + version;
        table.push(version);
        let written = store.write_chained(&draft(parent, &table), max_deltas).unwrap();
        store.set_alias(Alias::Latest, written).unwrap();
        parent = Some(written);
        versions.push(table.clone());
    }
    versions
}

fn bases(store: &Store) -> Vec<Option<u64>> {
    let listed = store.list().unwrap();
    let base = |id| {
        store
            .read(id)
            .unwrap()
            .manifest()
            .bases()
            .first()
            .map(|base| base.number())
    };
    listed.iter().map(|entry| base(entry.id)).collect()
}

#[test]
fn every_version_of_a_chain_is_read_back_and_the_chain_is_bounded() {
    let sim = SimFs::new();
    let store = open(&sim);
    let versions = write_line(&store, 9, 3);
    assert_eq!(
        bases(&store),
        [
            None,
            Some(0),
            Some(1),
            Some(2),
            None,
            Some(4),
            Some(5),
            Some(6),
            None
        ]
    );
    for (number, version) in (0..).zip(&versions) {
        assert_eq!(rows(&store, id(number)), *version);
        assert!(store.verify(id(number)).unwrap().is_valid());
    }
    let listed = store.list().unwrap();
    assert!(
        listed[1].bytes * 10 < listed[0].bytes,
        "{} and {}",
        listed[1].bytes,
        listed[0].bytes
    );
    let diff = store.diff(id(1), id(2), |_| 0).unwrap();
    // Row 7 got another id; the row that was added repeats an id.
    let table = &diff.files[1].tables[0];
    assert_eq!((table.added, table.removed, table.changed), (1, 1, 0));
    // A new process knows nothing of the chain.
    drop(store);
    let store = open(&sim);
    store.write_chained(&draft(Some(id(8)), &versions[8]), 3).unwrap();
    assert_eq!(bases(&store)[9], None);
}

#[test]
fn a_whole_snapshot_follows_when_deltas_are_large_or_the_lineage_turns() {
    let store = open(&SimFs::new());
    let versions = write_line(&store, 2, 10);
    // 40 % of the rows change twice: more than half of the whole in sum.
    let mut table = versions[1].clone();
    for (number, offset) in [(2, 200_000), (3, 300_000)] {
        for row in table.iter_mut().take(800) {
            *row += offset;
        }
        store
            .write_chained(&draft(Some(id(number - 1)), &table), 10)
            .unwrap();
    }
    assert_eq!(bases(&store), [None, Some(0), Some(1), None]);
    table[0] += 1;
    store.write_chained(&draft(Some(id(1)), &table), 10).unwrap();
    assert_eq!(
        bases(&store)[4],
        None,
        "its parent is not the snapshot written last"
    );
    assert_eq!(rows(&store, id(4)), table);
    store.write_chained(&draft(Some(id(4)), &table), 0).unwrap();
    store.write_chained(&draft(Some(id(5)), &table), 10).unwrap();
    assert_eq!(bases(&store)[5..], [None, None]);
}

#[test]
fn a_damaged_base_costs_its_chain_and_never_gives_other_rows() {
    let sim = SimFs::new();
    let store = open(&sim);
    write_line(&store, 6, 2);
    assert_eq!(bases(&store), [None, Some(0), Some(1), None, Some(3), Some(4)]);
    let path = std::path::Path::new(ROOT).join(format!("snapshots/{}/rows.safetensors", id(3)));
    let mut bytes = Vec::new();
    crate::Fs::open_file(&sim, &path)
        .unwrap()
        .0
        .read_to_end(&mut bytes)
        .unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    sim.overwrite(&path, &bytes);
    for number in 3..6 {
        assert!(!store.verify(id(number)).unwrap().is_valid());
        assert!(store.read(id(number)).is_err());
    }
    assert_eq!(
        inspect(&sim).newest_valid().unwrap().snapshot.unwrap().id(),
        id(2)
    );
}

#[test]
fn a_collection_keeps_the_bases_and_a_snapshot_that_does_not_need_them() {
    let store = open(&SimFs::new());
    let versions = write_line(&store, 9, 3);
    // 8 is whole; 7 needs 6, 5 and 4.
    let removed = store.gc(Retention::newest(2), 0).unwrap();
    assert_eq!(removed, [0, 1, 2, 3].map(id));
    let reasons: Vec<String> = store
        .retention(Retention::newest(2))
        .unwrap()
        .into_iter()
        .map(|kept| kept.reason)
        .collect();
    assert_eq!(reasons[..3], ["base of 5", "base of 6", "base of 7"]);
    for (number, version) in (4..9).zip(&versions[4..]) {
        assert_eq!(rows(&store, id(number)), *version);
    }
    let store = open(&SimFs::new());
    write_line(&store, 10, 3);
    store.gc(Retention::newest(1), 0).unwrap();
    let left: Vec<u64> = store
        .list()
        .unwrap()
        .iter()
        .map(|entry| entry.id.number())
        .collect();
    assert_eq!(left, [4, 5, 6, 7, 8, 9], "9 needs 8; 7 needs neither");
}

proptest! {
    #[test]
    fn any_lineage_with_collections_and_restarts_is_read_back(
        steps in prop::collection::vec((0u8..10, any::<prop::sample::Index>(), 0u64..1000), 1..25),
        max_deltas in 1usize..5,
    ) {
        let sim = SimFs::new();
        let mut store = open(&sim);
        let mut written: Vec<(SnapshotId, Vec<u64>)> = Vec::new();
        let mut table: Vec<u64> = (0..N_ROWS).collect();
        let mut parent = None;
        for (kind, at, n) in steps {
            match kind {
                0 => {
                    drop(store);
                    store = open(&sim);
                }
                1 => {
                    let removed: BTreeSet<_> = store.gc(Retention::newest(2), 0).unwrap().into_iter().collect();
                    written.retain(|(id, _)| !removed.contains(id));
                }
                2 if !written.is_empty() => {
                    let (to, version) = &written[at.index(written.len())];
                    store.rollback(*to, "", 0).unwrap();
                    (parent, table) = (Some(*to), version.clone());
                }
                _ => {
                    for row in table.iter_mut().take(usize::try_from(n).unwrap()) {
                        *row += 1;
                    }
                    table.push(n);
                    let id = store.write_chained(&draft(parent, &table), max_deltas).unwrap();
                    store.set_alias(Alias::Latest, id).unwrap();
                    written.push((id, table.clone()));
                    parent = Some(id);
                }
            }
            if let Some((id, version)) = written.last() {
                prop_assert_eq!(&rows(&store, *id), version);
            }
        }
        for (id, version) in &written {
            prop_assert_eq!(&rows(&store, *id), version);
        }
    }
}
