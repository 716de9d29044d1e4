//! Makes the second learner of a state directory the serving model.
//!
//! It happens between two runs of the stages, whose last snapshot and the second learner's last state are at one point. The
//! new snapshot has the weights of the one and everything else of the other. Moving `latest` to it is the one step that
//! counts: before it the second learner is a candidate, after it the serving model.

use anyhow::{Context, anyhow, bail};
use ouzel_learner::gates::check_restored;
use ouzel_learner::validation::Comparison;
use ouzel_learner::{Trainer, check_draft, weights_hash};
use ouzel_snapshot::{Alias, AuditVerb, CheckpointMeta, Draft, GateResult, SnapshotId, Store};
use ouzel_verify::failpoint::{self, FailPoint};

use super::states::{comparison_of, find_state, remove_states};
use crate::config::Config;
use crate::error::ErrorExt;
use crate::pipeline::candidate::choice::CandidateChoice;
use crate::pipeline::candidate::{no_candidate, summary};
use crate::pipeline::checkpoint::CONFIG_FILE;
use crate::pipeline::go_back::unpin;
use crate::pipeline::promoted::{UsedConfig, list};
use crate::pipeline::provenance::fingerprint;
use crate::pipeline::stages::save::FINITE_GATE;

/// What the promoted snapshot has of the serving learner's: join state, features, open batch, figures, and what the gates
/// know of the data.
const KEPT: [&str; 5] = [
    "join.bin",
    "features.bin",
    "batcher.bin",
    "validation.json",
    "gates.json",
];

/// Promotes the second learner. `config` is the configuration of the file. Returns the new snapshot, and what else there is
/// to say.
pub(crate) fn promote_second(
    store: &Store,
    config: &Config,
    note: &str,
    now_ms: i64,
) -> anyhow::Result<(SnapshotId, Vec<String>)> {
    let Some(choice) = CandidateChoice::read(store)? else {
        return no_candidate();
    };
    let changes = choice
        .learns
        .as_deref()
        .context("the candidate is a snapshot and does not learn")?;
    let newest = store
        .newest_valid()?
        .snapshot
        .ok_or_else(|| anyhow!("no snapshot in {} can be used", store.root().display()))?;
    let over = newest.id();
    let state = find_state(config.local_dir(), &(&newest.manifest().checkpoint).into())?;
    let state = state
        .map_err(|why| anyhow!("the second learner cannot be promoted over snapshot {over}: {why}"))
        .hint("it must have learned as much as the serving learner: wait until `ouzel candidate show` says that it is not behind")?;
    let serving = UsedConfig::of(config, &newest)?;
    let used = serving.config.with_changes(changes)?;
    let used = UsedConfig {
        promoted: config.changes_to(&used),
        config: used,
    };
    let (model, learner) = (used.config.model_config(), used.config.learner_config());
    let mut trainer = Trainer::load(&state, &model, learner.clone())?;
    let probe = match check_restored(&state, &mut trainer)? {
        Ok(probe) => probe,
        Err(breach) => bail!("the weights of the second learner do not pass the gates: {breach}"),
    };
    let comparison = Comparison::restore(&comparison_of(&state)?, model.n_tasks())?;
    let first = comparison.tasks().first().copied().unwrap_or_default();
    let colon = if note.is_empty() { "" } else { ": " };
    let reason = format!(
        "promoted the second learner over {over}, {}{colon}{note}",
        summary(&first, comparison.n_requests())
    );
    let checkpoint = CheckpointMeta {
        config_hash: used.config.hash(),
        schema_fingerprint: used.config.schema_fingerprint(),
        frozen: trainer.base(),
        promoted_over: Some(over),
        ..newest.manifest().checkpoint.clone()
    };
    let mut draft = Draft::new(Some(over), now_ms, fingerprint(&used.config), checkpoint);
    draft.note = Some(format!("{reason}; its settings: {}", list(changes)));
    trainer.save(&mut draft)?;
    probe.save(&mut trainer, &mut draft)?;
    draft.add_blob(CONFIG_FILE, used.config.recorded())?;
    used.save(&mut draft)?;
    for name in KEPT {
        if newest.manifest().file(name).is_some() {
            draft.add_blob(name, newest.blob(name)?)?;
        }
    }
    draft.checkpoint.weights_hash = weights_hash(&draft);
    check_draft(&draft)?;
    let passed = GateResult {
        passed: true,
        figure: None,
        limit: None,
    };
    draft.gates.insert(FINITE_GATE.to_owned(), passed);
    let pinned = store.alias(Alias::Pinned)?;
    store.record_action(AuditVerb::Promote, over, &reason, now_ms)?;
    let written = store.write(&draft)?;
    // A snapshot that no start can restore never becomes the latest one.
    Trainer::load(&store.read(written)?, &model, learner).with_context(|| {
        format!("the promoted snapshot {written} cannot be restored, and nothing was changed")
    })?;
    failpoint::reach(FailPoint::SnapshotWritten);
    store.set_alias(Alias::Latest, written)?;
    failpoint::reach(FailPoint::LatestMoved);
    CandidateChoice::end(store, "promoted", now_ms)?;
    remove_states(config.local_dir())?;
    let mut also = unpin(store, pinned, note, now_ms)?;
    also.extend(used.notice());
    Ok((written, also))
}
