//! Changes of a state directory without a daemon: each makes a new snapshot that descends from the newest one.

use anyhow::{Context, anyhow, bail};

use ouzel_ingest::plan::PlanLog;
use ouzel_learner::{Trainer, weights_hash};
use ouzel_snapshot::{Alias, AuditVerb, CheckpointMeta, Draft, FileKind, Snapshot, SnapshotId, Store};

use crate::config::Config;
use crate::error::ErrorExt;
use crate::pipeline::contents::Contents;
use crate::pipeline::model_op::ModelOp;
use crate::pipeline::provenance::{encoders, fingerprint, list_encoders};
use crate::pipeline::resume::{check_schema, inspect_stage, restore_vectors};

/// Freezes or rebases the newest valid snapshot and makes the result the latest.
///
/// Everything but the weights is copied byte by byte, so a start from it continues at the same place of the log. Only
/// under the configuration that wrote the snapshot: another one may read its weights in another way.
pub(super) fn apply(
    store: &Store,
    config: &Config,
    op: ModelOp,
    reason: &str,
    now_ms: i64,
) -> anyhow::Result<SnapshotId> {
    let snapshot = newest(store)?;
    let (id, manifest) = (snapshot.id(), snapshot.manifest());
    if manifest.cut.config_hash != config.hash() {
        return Err(anyhow!(
            "snapshot {id} was written under another configuration than this one"
        ))
        .hint(
            "name the daemon's with --config FILE; if that has changed since, start the daemon and ask it",
        );
    }
    let mut trainer = Trainer::load(&snapshot, &config.model_config(), config.learner_config())?;
    op.check(&trainer)?;
    store.record_action(op.verb(), id, reason, now_ms)?;
    let note = op.apply(&mut trainer, reason)?;
    let cut = CheckpointMeta {
        frozen: trainer.base(),
        ..manifest.cut.clone()
    };
    let mut draft = Draft::new(Some(id), now_ms, fingerprint(config), cut);
    draft.note = Some(note);
    trainer.save(&mut draft)?;
    let is_foreign = |kind: FileKind, name: &str| kind == FileKind::Arrays && !draft.has(name);
    if let Some(file) = manifest
        .files
        .iter()
        .find(|file| is_foreign(file.kind, &file.name))
    {
        bail!("snapshot {id} has arrays that are not the model's, {}", file.name);
    }
    copy_files(&snapshot, &mut draft)?;
    draft.cut.weights_hash = weights_hash(&draft);
    write(store, &draft)
}

/// Encodes all contents of the newest valid snapshot again and makes the result the latest. Returns it with the number
/// of vector sets in it.
///
/// The state refers to vectors by the hashes of their contents, which do not change; the encoders named in the manifest
/// say what made the vectors. So nothing of the state changes but these names, once the vectors are stored.
pub(super) fn re_encode(
    store: &Store,
    config: &Config,
    reason: &str,
    now_ms: i64,
) -> anyhow::Result<(SnapshotId, usize)> {
    let snapshot = newest(store)?;
    let (id, manifest) = (snapshot.id(), snapshot.manifest());
    check_schema(id, &manifest.cut, config)?;
    let contents = Contents::open(config)?;
    let current = encoders(contents.as_ref());
    let (before, now) = (list_encoders(&manifest.cut.encoders), list_encoders(&current));
    if manifest.cut.encoders == current {
        bail!("snapshot {id} was made with the encoders {now}: there is nothing to encode anew");
    }
    let (plan, _) = PlanLog::open(&store.root().join("plan"), manifest.cut.plan_position)?;
    let n_later = plan.position().saturating_sub(manifest.cut.plan_position);
    if n_later > 0 {
        // They name vectors of the former encoders.
        return Err(anyhow!("the plan log has {n_later} entries after snapshot {id}"))
            .hint("start the daemon with the encoders it had, and stop it with SIGTERM: its last snapshot has them all");
    }
    let stage = inspect_stage(config, &snapshot)?;
    if let Some(contents) = &contents {
        restore_vectors(contents, stage.features())?;
    }
    store.record_action(AuditVerb::ReEncode, id, reason, now_ms)?;
    let cut = CheckpointMeta {
        encoders: current,
        config_hash: config.hash(),
        ..manifest.cut.clone()
    };
    let mut draft = Draft::new(Some(id), now_ms, fingerprint(config), cut);
    let colon = if reason.is_empty() { "" } else { ": " };
    draft.note = Some(format!(
        "encoded anew by {now} in place of {before}{colon}{reason}"
    ));
    copy_files(&snapshot, &mut draft)?;
    Ok((write(store, &draft)?, stage.features().vectors().len()))
}

fn newest(store: &Store) -> anyhow::Result<Snapshot> {
    let newest = store.newest_valid()?.snapshot;
    newest
        .ok_or_else(|| anyhow!("no snapshot in {} can be used", store.root().display()))
        .hint("`ouzel snapshot list` shows what there is")
}

/// Copies the files of a snapshot that the draft does not have yet.
fn copy_files(snapshot: &Snapshot, draft: &mut Draft) -> anyhow::Result<()> {
    for file in &snapshot.manifest().files {
        if draft.has(&file.name) {
            continue;
        }
        let copied = match file.kind {
            FileKind::Blob => snapshot
                .blob(&file.name)
                .and_then(|bytes| draft.add_blob(&file.name, bytes)),
            FileKind::Arrays => snapshot
                .arrays(&file.name)
                .and_then(|arrays| draft.add_arrays(&file.name, arrays)),
        };
        copied.with_context(|| format!("cannot copy {} of snapshot {}", file.name, snapshot.id()))?;
    }
    Ok(())
}

fn write(store: &Store, draft: &Draft) -> anyhow::Result<SnapshotId> {
    let id = store.write(draft)?;
    store.set_alias(Alias::Latest, id)?;
    Ok(id)
}
