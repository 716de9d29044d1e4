//! A change of encoders: every vector that the state names is made anew, in a snapshot that descends from the newest.
//!
//! Which vectors there are is told by the hashes of their contents, which stay; whose numbers they mean is told by the
//! encoders that the manifest names. So nothing of the state changes but that name, once the numbers are in the store.

use anyhow::{Context, anyhow, bail};

use ouzel_ingest::plan::PlanLog;
use ouzel_snapshot::{Alias, AuditVerb, Draft, FileKind, SnapshotId, Store};

use crate::cli::ErrorExt;
use crate::config::Config;
use crate::contents::Contents;
use crate::resume::{check_schema, encoders, fingerprint, in_memory, restore_vectors, words};

/// Encodes anew what the newest valid snapshot names, and makes the outcome the latest. Returns it, and how many sets
/// of vectors it holds.
pub(super) fn offline(
    store: &Store,
    config: &Config,
    why: &str,
    now_ms: i64,
) -> anyhow::Result<(SnapshotId, usize)> {
    let Some(snapshot) = store.newest_valid()?.snapshot else {
        return Err(anyhow!("no snapshot in {} can be used", store.root().display()))
            .hint("`ouzel snapshot list` shows what there is");
    };
    let (id, manifest) = (snapshot.id(), snapshot.manifest());
    check_schema(id, &manifest.cut, config)?;
    let contents = Contents::open(config)?;
    let now = encoders(contents.as_ref());
    let (was, is) = (words(&manifest.cut.encoders), words(&now));
    if manifest.cut.encoders == now {
        bail!("snapshot {id} was made with the encoders {is}: there is nothing to encode anew");
    }
    let dir = store.root().join("plan");
    let (plan, _) = PlanLog::open(&dir, manifest.cut.plan_position)?;
    if plan.position() > manifest.cut.plan_position {
        // They name vectors of the old encoders.
        return Err(anyhow!(
            "the plan log has {} entries after snapshot {id}",
            plan.position() - manifest.cut.plan_position
        ))
        .hint("start the daemon with the encoders it had, and stop it with SIGTERM: its last snapshot has them all");
    }
    let stage = in_memory(config, &snapshot)?;
    if let Some(contents) = &contents {
        restore_vectors(contents, stage.features())?;
    }
    store.record_action(AuditVerb::ReEncode, id, why, now_ms)?;
    let mut cut = manifest.cut.clone();
    cut.encoders = now;
    cut.config_hash = config.hash();
    let mut draft = Draft::new(Some(id), now_ms, fingerprint(config), cut);
    let colon = if why.is_empty() { "" } else { ": " };
    draft.note = Some(format!("encoded anew by {is} in place of {was}{colon}{why}"));
    for file in &manifest.files {
        let copied = match file.kind {
            FileKind::Blob => snapshot
                .blob(&file.name)
                .and_then(|bytes| draft.add_blob(&file.name, bytes)),
            FileKind::Arrays => snapshot
                .arrays(&file.name)
                .and_then(|arrays| draft.add_arrays(&file.name, arrays)),
        };
        copied.with_context(|| format!("cannot copy {} of snapshot {id}", file.name))?;
    }
    let new = store.write(&draft)?;
    store.set_alias(Alias::Latest, new)?;
    Ok((new, stage.features().vectors().len()))
}
