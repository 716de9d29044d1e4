//! Freezing and re-basing without a daemon: a new snapshot that descends from the newest one.

use anyhow::{Context, anyhow, bail};

use ouzel_learner::{Trainer, weights_hash};
use ouzel_snapshot::{Alias, CheckpointMeta, Draft, FileKind, SnapshotId, Store};

use crate::cli::ErrorExt;
use crate::config::Config;
use crate::resume::fingerprint;
use crate::turn::ModelOp;

/// Does `turn` to the newest valid snapshot and makes the outcome the latest. Everything but the weights is taken over
/// byte by byte, so a start from it goes on at the same place of the log.
///
/// Only under the configuration that the snapshot was written by: another one may read its weights in another way.
pub(super) fn offline(
    store: &Store,
    config: &Config,
    turn: ModelOp,
    why: &str,
    now_ms: i64,
) -> anyhow::Result<SnapshotId> {
    let Some(snapshot) = store.newest_valid()?.snapshot else {
        return Err(anyhow!("no snapshot in {} can be used", store.root().display()))
            .hint("`ouzel snapshot list` shows what there is");
    };
    let (id, manifest) = (snapshot.id(), snapshot.manifest());
    if manifest.cut.config_hash != config.hash() {
        return Err(anyhow!(
            "snapshot {id} was written under another configuration than this one"
        ))
        .hint("name the daemon's with --config FILE; after a change of it, start the daemon and ask that");
    }
    let mut trainer = Trainer::load(&snapshot, &config.model_config(), config.learner_config())?;
    turn.check(&trainer)?;
    store.record_action(turn.verb(), id, why, now_ms)?;
    let note = turn.take(&mut trainer, why)?;
    let cut = CheckpointMeta {
        frozen: trainer.base(),
        ..manifest.cut.clone()
    };
    let mut draft = Draft::new(Some(id), now_ms, fingerprint(config), cut);
    draft.note = Some(note);
    trainer.save(&mut draft)?;
    for file in &manifest.files {
        if draft.has(&file.name) {
            continue;
        }
        if file.kind != FileKind::Blob {
            bail!("snapshot {id} has arrays that are not the model's, {}", file.name);
        }
        let bytes = snapshot.blob(&file.name);
        draft.add_blob(
            &file.name,
            bytes.with_context(|| format!("cannot copy {} of snapshot {id}", file.name))?,
        )?;
    }
    draft.cut.weights_hash = weights_hash(&draft);
    let new = store.write(&draft)?;
    store.set_alias(Alias::Latest, new)?;
    Ok(new)
}
