//! Tests of the whole store: its operations, faults at every operation, and tampered files.

mod chains;
mod export;
mod faults;
mod fuzz;
mod lease;
mod lineage_model;
mod parquet;
mod remote;
mod remote_bucket;
mod sim_fs;
mod tamper;
mod verbs;

use std::path::Path;
use std::sync::Arc;

use crate::tests::sim_fs::SimFs;
use crate::{Array, Arrays, CheckpointMeta, Draft, Fingerprint, SharedChunk, Snapshot, SnapshotId, Store};

const ROOT: &str = "/state";

fn id(number: u64) -> SnapshotId {
    SnapshotId::new(number)
}

/// Makes a draft with all content derived from `tag`, so that [`check_content`] detects a mix of two.
fn draft(parent: Option<u64>, tag: u64) -> Draft {
    let checkpoint = CheckpointMeta {
        batch_seq: tag,
        positions: [("impressions[0]".to_owned(), i64::try_from(tag).unwrap())].into(),
        metrics: [("auc".to_owned(), Some(0.75)), ("ne".to_owned(), Some(f64::NAN))].into(),
        ..CheckpointMeta::default()
    };
    let mut draft = Draft::new(
        parent.map(id),
        1_700_000_000_000,
        Fingerprint::default(),
        checkpoint,
    );
    let mut rows = Arrays::new();
    let page: SharedChunk<f32> = Arc::new(vec![tag as f32; 8]);
    rows.insert("rows", Array::shared(&[4, 4], vec![page.clone(), page]).unwrap())
        .unwrap();
    rows.insert("seq", Array::scalar(tag)).unwrap();
    draft.add_arrays("rows.safetensors", rows).unwrap();
    draft.add_blob("join.bin", tag.to_le_bytes().to_vec()).unwrap();
    draft
}

fn check_content(snapshot: &Snapshot) {
    let tag = snapshot.manifest().checkpoint.batch_seq;
    let mut rows = snapshot.arrays("rows.safetensors").unwrap();
    assert_eq!(rows.scalar::<u64>("seq").unwrap(), tag);
    assert_eq!(rows.take::<f32>("rows", &[4, 4]).unwrap(), vec![tag as f32; 16]);
    assert_eq!(snapshot.blob("join.bin").unwrap(), tag.to_le_bytes());
}

fn open(fs: &SimFs) -> Store {
    Store::open_on(Arc::new(fs.clone()), Path::new(ROOT)).unwrap()
}

fn inspect(fs: &SimFs) -> Store {
    Store::inspect_on(Arc::new(fs.clone()), Path::new(ROOT))
}
