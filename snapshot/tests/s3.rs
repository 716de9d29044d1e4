//! The remote copy in an S3-compatible server. `ops/setup/s3.py run -- cargo test ..` starts one; without it the test says
//! that it was skipped.
#![cfg(feature = "s3")]
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::sync::Arc;

use ouzel_snapshot::{
    Alias, CheckpointMeta, Draft, Error, Fingerprint, Remote, RemoteCopy, Replica, Retention, Store,
};

fn draft(tag: u8) -> Draft {
    let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    // More than one piece.
    draft.add_blob("join.bin", vec![tag; 9 << 20]).unwrap();
    draft
}

#[test]
fn a_state_directory_survives_in_an_s3_bucket_and_a_former_writer_is_fenced() {
    let Ok(url) = std::env::var("OUZEL_S3_URL") else {
        eprintln!(
            "SKIPPED: no S3 server; `python3 ops/setup/s3.py run -- cargo test -p ouzel-snapshot --features s3 --test s3` starts one"
        );
        return;
    };
    let rules = Retention::newest(1);
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let url = format!("{url}/test-{}", std::process::id());
    let remote = Remote::open(&url).unwrap();
    assert!(RemoteCopy::read(&remote).unwrap().is_none());
    let store = Arc::new(Store::open(dirs[0].path()).unwrap());
    let mut former = Replica::claim(Arc::clone(&store), &remote, rules, 0).unwrap();
    for tag in 0..3 {
        let id = store.write(&draft(tag)).unwrap();
        store.set_alias(Alias::Latest, id).unwrap();
        assert_eq!(former.sync(0).unwrap().sent, [id]);
        store.gc(rules, 0).unwrap();
    }
    former.sync(0).unwrap();

    let copy = RemoteCopy::read(&remote).unwrap().unwrap();
    assert_eq!(copy.list().len(), 1, "old snapshots are removed");
    copy.prepare(dirs[1].path()).unwrap();
    let successor = Arc::new(Store::open(dirs[1].path()).unwrap());
    let mut replica = Replica::claim(Arc::clone(&successor), &remote, rules, 0).unwrap();
    let restored = replica.restore().unwrap().unwrap();
    assert_eq!(restored.snapshot, store.alias(Alias::Latest).unwrap());
    let newest = successor.newest_valid().unwrap().snapshot.unwrap();
    assert_eq!(newest.blob("join.bin").unwrap(), vec![2; 9 << 20]);
    store.write(&draft(9)).unwrap();
    let error = former.sync(0).unwrap_err();
    assert!(matches!(error, Error::RemoteTakenOver { .. }), "{error}");
    replica.sync(0).unwrap();
    let elsewhere = Remote::open("s3://no-such-bucket/a").unwrap();
    let error = RemoteCopy::read(&elsewhere).unwrap_err().to_string();
    let secret = std::env::var("AWS_SECRET_ACCESS_KEY").unwrap();
    assert!(
        error.contains("no-such-bucket") && !error.contains(&secret),
        "{error}"
    );
}
