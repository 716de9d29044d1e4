//! Changes of a state directory without a daemon. Each writes a snapshot whose parent is the newest one.

use anyhow::{Context, anyhow, bail};

use ouzel_ingest::KafkaConfig;
use ouzel_ingest::join::JoinSource;
use ouzel_ingest::plan::PlanLog;
use ouzel_learner::gates::check_restored;
use ouzel_learner::{Trainer, weights_hash};
use ouzel_snapshot::{Alias, AuditVerb, CheckpointMeta, Draft, FileKind, Snapshot, SnapshotId, Store};

use super::StateDir;
use crate::admin::{AdminRequest, LearnFrom};
use crate::commands::candidate;
use crate::config::Config;
use crate::error::ErrorExt;
use crate::pipeline::candidate::choice::CandidateChoice;
use crate::pipeline::contents::Contents;
use crate::pipeline::go_back::{check_can_quarantine, check_log, quarantine, rewind, snapshot_before, unpin};
use crate::pipeline::model_op::ModelOp;
use crate::pipeline::pause::Pause;
use crate::pipeline::promoted::UsedConfig;
use crate::pipeline::provenance::{encoders, fingerprint, list_encoders};
use crate::pipeline::resume::{inspect_stage, restore_vectors};
use crate::pipeline::schema::check_schema;
use crate::pipeline::second::promotion::promote_second;
use crate::pipeline::skip::{copy, gap, skip_to_time};
use crate::pipeline::stages::join::plan_lease;

/// Carries out a request that a running daemon would get. Returns the snapshot that it created or named, and what else
/// has changed.
pub(super) fn carry_out(
    store: &Store,
    state: &StateDir,
    request: &AdminRequest,
    now_ms: i64,
) -> anyhow::Result<(Option<SnapshotId>, Vec<String>)> {
    let named = |id: SnapshotId| (Some(id), Vec::new());
    let StateDir { config, kafka, .. } = state;
    match request {
        AdminRequest::Pin { id, note } => {
            let id = id.parse()?;
            store.pin(id, note, now_ms)?;
            Ok(named(id))
        }
        AdminRequest::Rollback { id, from, note } => {
            let id = id.parse()?;
            Ok((Some(id), roll_back(store, state, (id, *from), note, now_ms)?))
        }
        AdminRequest::Quarantine { rule, again, note } => {
            check_can_quarantine(rule, config.join.source == JoinSource::Tier)?;
            let again = snapshot_before(store, rule, again)?;
            let mut also = match again {
                Some(id) => note_unchecked_log(store, kafka.as_ref(), id)?,
                None => Vec::new(),
            };
            also.extend(quarantine(store, rule, again, note, now_ms)?);
            Ok((again, also))
        }
        AdminRequest::Tag { id, name, note } => {
            let id = id.parse()?;
            store.tag(id, name, note, now_ms)?;
            Ok(named(id))
        }
        AdminRequest::Untag { name, note } => Ok((store.untag(name, note, now_ms)?, Vec::new())),
        AdminRequest::Unpin { note } => {
            store.unpin(note, now_ms)?;
            Ok((None, Vec::new()))
        }
        AdminRequest::CandidateStart {
            id,
            variant,
            share,
            note,
        } => {
            let choice = candidate::choice(id, *variant, *share, note, now_ms)?;
            let also = candidate::start_offline(store, config, &choice)?;
            Ok((choice.snapshot, also))
        }
        AdminRequest::CandidateLearn { .. } => candidate::refuse_learner(),
        AdminRequest::CandidateStop { note } => {
            candidate::stop_offline(store, config, note, now_ms)?;
            Ok((None, Vec::new()))
        }
        AdminRequest::Promote { note }
            if CandidateChoice::read(store)?.is_some_and(|choice| choice.learns.is_some()) =>
        {
            let (id, also) = promote_second(store, config, note, now_ms)?;
            Ok((Some(id), also))
        }
        AdminRequest::Promote { note } => {
            let pinned = store.alias(Alias::Pinned)?;
            let (id, reason) = candidate::begin_promotion(store, note, now_ms)?;
            skip_to_now(store, config, id, (&reason, true), now_ms)?;
            CandidateChoice::end(store, "promoted", now_ms)?;
            Ok((store.alias(Alias::Latest)?, unpin(store, pinned, note, now_ms)?))
        }
        AdminRequest::FreezeBase { note } => {
            apply(store, config, ModelOp::FreezeBase, note, now_ms).map(named)
        }
        AdminRequest::Rebase { note } => apply(store, config, ModelOp::Rebase, note, now_ms).map(named),
        AdminRequest::Pause { note } => {
            record(store, AuditVerb::Pause, note, now_ms)?;
            let pause = Pause {
                note: note.clone(),
                at_ms: now_ms,
            };
            pause.begin(store)?;
            Ok((None, vec!["the next start serves and does not learn".to_owned()]))
        }
        AdminRequest::Resume { note } => {
            if Pause::read(store.root())?.is_none() {
                return Err(anyhow!("learning is not paused, and no daemon runs"))
                    .hint("if a gate stopped learning, start the daemon and repeat this command");
            }
            record(store, AuditVerb::Resume, note, now_ms)?;
            Pause::end(store)?;
            Ok((None, Vec::new()))
        }
        AdminRequest::Status | AdminRequest::Snapshot => {
            Err(anyhow!("no daemon runs on this state directory"))
                .hint("a daemon that is stopped writes its last snapshot itself: `ouzel snapshot list`")
        }
    }
}

/// Goes back to `id` and continues where `from` says. Returns what else has changed.
fn roll_back(
    store: &Store,
    StateDir { config, kafka, .. }: &StateDir,
    (id, from): (SnapshotId, LearnFrom),
    note: &str,
    now_ms: i64,
) -> anyhow::Result<Vec<String>> {
    match from {
        LearnFrom::Rewind => {
            let mut also = note_unchecked_log(store, kafka.as_ref(), id)?;
            also.extend(rewind(store, id, note, now_ms)?);
            Ok(also)
        }
        LearnFrom::Time(ms) => {
            let kafka = known_log(kafka.as_ref())?;
            let gap = gap(&store.read(id)?, kafka, ms, now_ms)?;
            skip_to_time(store, config, (id, &gap), ms, note, now_ms)
        }
        LearnFrom::Now => {
            let pinned = store.alias(Alias::Pinned)?;
            skip_to_now(store, config, id, (note, false), now_ms)?;
            unpin(store, pinned, note, now_ms)
        }
    }
}

/// Records an action on the newest snapshot in the audit log, if there is one.
fn record(store: &Store, verb: AuditVerb, note: &str, now_ms: i64) -> anyhow::Result<()> {
    match store.alias(Alias::Latest)? {
        Some(latest) => Ok(store.record_action(verb, latest, note, now_ms)?),
        None => Ok(()),
    }
}

/// The log, for a command that has to ask it.
pub(super) fn known_log(kafka: Option<&KafkaConfig>) -> anyhow::Result<&KafkaConfig> {
    kafka
        .ok_or_else(|| {
            anyhow!("`--skip-to TIME` asks Kafka for the records of that time, and Kafka is not known")
        })
        .hint("name the configuration with --config FILE, where its secrets are")
}

/// Refuses to go back to `id` if Kafka no longer holds the log from there on. Returns a sentence if no broker answers.
pub(super) fn note_unchecked_log(
    store: &Store,
    kafka: Option<&KafkaConfig>,
    id: SnapshotId,
) -> anyhow::Result<Vec<String>> {
    let unchecked = |why: &str| {
        vec![format!(
            "whether Kafka still holds the log was not checked, and the next start will: {why}"
        )]
    };
    let Some(kafka) = kafka else {
        return Ok(unchecked("no --config names it, or a secret in it is not here"));
    };
    match check_log(store, id, kafka) {
        Ok(()) => Ok(Vec::new()),
        Err(error) if error.is::<ouzel_ingest::Error>() => Ok(unchecked(&format!("{error:#}"))),
        Err(error) => Err(error),
    }
}

/// Writes a snapshot with the weights of `id` and everything else of the newest one, whose position of the log it has. The
/// reason comes with whether this promotes a candidate.
fn skip_to_now(
    store: &Store,
    config: &Config,
    id: SnapshotId,
    (reason, is_promotion): (&str, bool),
    now_ms: i64,
) -> anyhow::Result<()> {
    let newest = newest(store)?;
    let rolled_back = store.read(id)?;
    let config = &UsedConfig::of(config, &newest)?.config;
    check_config(&newest, config)?;
    check_schema(&rolled_back, config)?;
    if id == newest.id() {
        bail!("snapshot {id} is the newest one: there is nothing to skip");
    }
    let mut trainer = Trainer::load(&rolled_back, &config.model_config(), config.learner_config())?;
    let checkpoint = &newest.manifest().checkpoint;
    trainer.resume_at(checkpoint.batch_seq);
    let checkpoint = CheckpointMeta {
        frozen: trainer.base(),
        promoted_over: is_promotion.then(|| newest.id()),
        ..checkpoint.clone()
    };
    let mut draft = Draft::new(Some(id), now_ms, fingerprint(config), checkpoint);
    let colon = if reason.is_empty() { "" } else { ": " };
    draft.note = Some(format!(
        "rolled back to {id} at the position of {}{colon}{reason}",
        newest.id()
    ));
    trainer.save(&mut draft)?;
    // The recorded scores of the newest snapshot are those of other weights.
    match check_restored(&rolled_back, &mut trainer)? {
        Ok(probe) => probe.save(&mut trainer, &mut draft)?,
        Err(breach) => bail!("the weights of snapshot {id} do not pass the gates: {breach}"),
    }
    copy(&newest, &mut draft, |kind| kind == FileKind::Blob)?;
    draft.checkpoint.weights_hash = weights_hash(&draft);
    let written = store.write(&draft)?;
    Ok(store.adopt(written, reason, now_ms)?)
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
    let config = &UsedConfig::of(config, &snapshot)?.config;
    check_config(&snapshot, config)?;
    let mut trainer = Trainer::load(&snapshot, &config.model_config(), config.learner_config())?;
    op.check(&trainer)?;
    store.record_action(op.verb(), id, reason, now_ms)?;
    let note = op.apply(&mut trainer, reason)?;
    let checkpoint = CheckpointMeta {
        frozen: trainer.base(),
        promoted_over: None,
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
    copy(&snapshot, &mut draft, |_| true)?;
    draft.checkpoint.weights_hash = weights_hash(&draft);
    write(store, &draft)
}

/// Refuses another configuration than the snapshot's, which could give the weights another meaning.
fn check_config(snapshot: &Snapshot, config: &Config) -> anyhow::Result<()> {
    if snapshot.manifest().checkpoint.config_hash == config.hash() {
        return Ok(());
    }
    Err(anyhow!(
        "snapshot {} was written under another configuration",
        snapshot.id()
    ))
    .hint(
        "name the configuration of the daemon with --config FILE; if that has changed since, start the daemon and repeat \
         this command",
    )
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
    let config = &UsedConfig::of(config, &snapshot)?.config;
    check_schema(&snapshot, config)?;
    let contents = Contents::open(config)?;
    let current = encoders(contents.as_ref());
    let (before, now) = (
        list_encoders(&manifest.checkpoint.encoders),
        list_encoders(&current),
    );
    if manifest.checkpoint.encoders == current {
        bail!("snapshot {id} was made with the encoders {now}: there is nothing to encode again");
    }
    let lease = plan_lease(store)?.context("the state directory is open for reading only")?;
    let plan = store.root().join("plan");
    let (plan, _) = PlanLog::open_leased(lease, &plan, manifest.checkpoint.plan_position)?;
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
        promoted_over: None,
        ..manifest.checkpoint.clone()
    };
    let mut draft = Draft::new(Some(id), now_ms, fingerprint(config), checkpoint);
    let colon = if reason.is_empty() { "" } else { ": " };
    draft.note = Some(format!(
        "encoded again by {now} in place of {before}{colon}{reason}"
    ));
    copy(&snapshot, &mut draft, |_| true)?;
    Ok((write(store, &draft)?, stage.features().vectors().len()))
}

pub(super) fn newest(store: &Store) -> anyhow::Result<Snapshot> {
    let newest = store.newest_valid()?.snapshot;
    newest
        .ok_or_else(|| anyhow!("no snapshot in {} can be used", store.root().display()))
        .hint("`ouzel snapshot list` shows the snapshots")
}

fn write(store: &Store, draft: &Draft) -> anyhow::Result<SnapshotId> {
    let id = store.write(draft)?;
    store.set_alias(Alias::Latest, id)?;
    Ok(id)
}
