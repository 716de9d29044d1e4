//! Changes of a state directory without a daemon. Each writes a snapshot whose parent is the newest one.

use anyhow::{Context, anyhow, bail};

use ouzel_ingest::plan::PlanLog;
use ouzel_learner::{Trainer, weights_hash};
use ouzel_snapshot::{Alias, AuditVerb, CheckpointMeta, Draft, FileKind, Snapshot, SnapshotId, Store};

use crate::admin::AdminRequest;
use crate::config::Config;
use crate::error::ErrorExt;
use crate::pipeline::contents::Contents;
use crate::pipeline::model_op::ModelOp;
use crate::pipeline::provenance::{encoders, fingerprint, list_encoders};
use crate::pipeline::resume::{check_schema, inspect_stage, restore_vectors};

/// Carries out a request that a running daemon would get. Returns the snapshot that it created or named.
pub(super) fn carry_out(
    store: &Store,
    config: &Config,
    request: &AdminRequest,
    now_ms: i64,
) -> anyhow::Result<Option<SnapshotId>> {
    match request {
        AdminRequest::Pin { id, note } => {
            let id = id.parse()?;
            store.pin(id, note, now_ms)?;
            Ok(Some(id))
        }
        AdminRequest::Rollback { id, note } => {
            let id = id.parse()?;
            store.rollback(id, note, now_ms)?;
            // A start serves this snapshot, even if another was pinned.
            store.unpin(note, now_ms)?;
            Ok(Some(id))
        }
        AdminRequest::Unpin { note } => {
            store.unpin(note, now_ms)?;
            Ok(None)
        }
        AdminRequest::FreezeBase { note } => {
            apply(store, config, ModelOp::FreezeBase, note, now_ms).map(Some)
        }
        AdminRequest::Rebase { note } => apply(store, config, ModelOp::Rebase, note, now_ms).map(Some),
        AdminRequest::Status | AdminRequest::Snapshot => bail!("no daemon runs on this state directory"),
    }
}

/// Freezes or rebases the newest valid snapshot. The result becomes the latest snapshot.
///
/// Everything but the weights is copied byte by byte, so a start continues at the same position of the log. Refuses
/// another configuration than the snapshot's, which could give the weights another meaning.
fn apply(
    store: &Store,
    config: &Config,
    op: ModelOp,
    reason: &str,
    now_ms: i64,
) -> anyhow::Result<SnapshotId> {
    let snapshot = newest(store)?;
    let (id, manifest) = (snapshot.id(), snapshot.manifest());
    if manifest.checkpoint.config_hash != config.hash() {
        return Err(anyhow!(
            "snapshot {id} was written under another configuration"
        ))
        .hint(
            "name the configuration of the daemon with --config FILE; if that has changed since, start the daemon and repeat \
             this command",
        );
    }
    let mut trainer = Trainer::load(&snapshot, &config.model_config(), config.learner_config())?;
    op.check(&trainer)?;
    store.record_action(op.verb(), id, reason, now_ms)?;
    let note = op.apply(&mut trainer, reason)?;
    let checkpoint = CheckpointMeta {
        frozen: trainer.base(),
        ..manifest.checkpoint.clone()
    };
    let mut draft = Draft::new(Some(id), now_ms, fingerprint(config), checkpoint);
    draft.note = Some(note);
    trainer.save(&mut draft)?;
    let is_foreign = |kind: FileKind, name: &str| kind == FileKind::Arrays && !draft.has(name);
    if let Some(file) = manifest
        .files
        .iter()
        .find(|file| is_foreign(file.kind, &file.name))
    {
        bail!(
            "snapshot {id} has arrays that the model does not have: {}",
            file.name
        );
    }
    copy_files(&snapshot, &mut draft)?;
    draft.checkpoint.weights_hash = weights_hash(&draft);
    write(store, &draft)
}

/// Encodes all contents of the newest valid snapshot again. The result becomes the latest snapshot.
///
/// Returns its id and the number of its vector sets. The state refers to vectors by the hashes of their contents, which
/// do not change, so once the new vectors are stored only the names of the encoders in the manifest change.
pub(super) fn re_encode(
    store: &Store,
    config: &Config,
    reason: &str,
    now_ms: i64,
) -> anyhow::Result<(SnapshotId, usize)> {
    let snapshot = newest(store)?;
    let (id, manifest) = (snapshot.id(), snapshot.manifest());
    check_schema(id, &manifest.checkpoint, config)?;
    let contents = Contents::open(config)?;
    let current = encoders(contents.as_ref());
    let (before, now) = (
        list_encoders(&manifest.checkpoint.encoders),
        list_encoders(&current),
    );
    if manifest.checkpoint.encoders == current {
        bail!("snapshot {id} was made with the encoders {now}: there is nothing to encode again");
    }
    let (plan, _) = PlanLog::open(&store.root().join("plan"), manifest.checkpoint.plan_position)?;
    let n_later = plan.position().saturating_sub(manifest.checkpoint.plan_position);
    if n_later > 0 {
        // These entries name vectors of the former encoders.
        return Err(anyhow!("the plan log has {n_later} entries after snapshot {id}"))
            .hint("start the daemon with its former encoders and stop it with SIGTERM: its last snapshot contains the entries");
    }
    let stage = inspect_stage(config, &snapshot)?;
    if let Some(contents) = &contents {
        restore_vectors(contents, stage.features())?;
    }
    store.record_action(AuditVerb::ReEncode, id, reason, now_ms)?;
    let checkpoint = CheckpointMeta {
        encoders: current,
        config_hash: config.hash(),
        ..manifest.checkpoint.clone()
    };
    let mut draft = Draft::new(Some(id), now_ms, fingerprint(config), checkpoint);
    let colon = if reason.is_empty() { "" } else { ": " };
    draft.note = Some(format!(
        "encoded again by {now} in place of {before}{colon}{reason}"
    ));
    copy_files(&snapshot, &mut draft)?;
    Ok((write(store, &draft)?, stage.features().vectors().len()))
}

fn newest(store: &Store) -> anyhow::Result<Snapshot> {
    let newest = store.newest_valid()?.snapshot;
    newest
        .ok_or_else(|| anyhow!("no snapshot in {} can be used", store.root().display()))
        .hint("`ouzel snapshot list` shows the snapshots")
}

/// Copies the files of a snapshot that the draft does not have.
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
