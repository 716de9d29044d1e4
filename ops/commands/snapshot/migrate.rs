//! `ouzel snapshot migrate`: a new snapshot for a changed configuration, with what fits of an older one.
//!
//! The migrated state is built in memory first, and a start would restore it before `latest` moves: until then the store
//! is as it was.

mod table;

use std::io::Write;

use anyhow::{Context, anyhow};
use serde::Serialize;

use ouzel_ingest::join::StoreConfig;
use ouzel_ingest::plan::PlanLog;
use ouzel_ingest::{NewStage, Stage, StageBytes, StageMigration};
use ouzel_learner::validation::Progressive;
use ouzel_learner::{Trainer, WeightOutcome, WeightsMigration, check_draft, saved_model, weights_hash};
use ouzel_sample::EventTime;
use ouzel_snapshot::{
    Alias, AuditVerb, CheckpointMeta, Draft, GateResult, IntervalStart, Snapshot, SnapshotId, Store,
};

use super::StateDir;
use super::offline::{newest, note_unchecked_log};
use crate::commands::output;
use crate::config::Config;
use crate::error::{ErrorExt, Exit};
use crate::pipeline::checkpoint::{CONFIG_FILE, counters};
use crate::pipeline::contents::Contents;
use crate::pipeline::provenance::{fingerprint, list_encoders, list_of, provenance};
use crate::pipeline::resume::{ResumePoint, positions_of, restore_vectors};
use crate::pipeline::schema::{ChangedSetting, changed_settings, has_same_salt};
use crate::pipeline::stages::join::plan_lease;
use crate::pipeline::stages::save::FINITE_GATE;
use crate::telemetry::clock::{Clock, SystemClock};

/// What a migration changes, keeps and loses.
#[derive(Debug)]
struct Migration {
    from: SnapshotId,
    changed: Vec<ChangedSetting>,
    stage: StageMigration,
    weights: WeightsMigration,
    /// Items whose contents are encoded again, or for the first time.
    encoded: Option<usize>,
    /// What else there is to say, a sentence each.
    notes: Vec<String>,
}

/// The answer of a migration that was made.
#[derive(Serialize)]
struct Made {
    snapshot: SnapshotId,
    migrated: SnapshotId,
    also: Vec<String>,
}

/// Migrates snapshot `id`, or the newest one, to the configuration of `state`; with a dry run says what that would do.
pub(super) fn run(
    state: &StateDir,
    id: Option<SnapshotId>,
    (note, is_dry): (&str, bool),
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    if !state.is_configured {
        return Err(anyhow!("the configuration to migrate to is not known"))
            .hint("name it with --config FILE")
            .exit(Exit::Usage);
    }
    if is_dry {
        let store = Store::inspect(&state.dir);
        let snapshot = chosen(&store, id)?;
        let (migration, ..) = prepare(&snapshot, &state.config)?;
        let log = note_unchecked_log(&store, state.kafka.as_ref(), snapshot.id())?;
        table::write(&migration, &snapshot, &log, json, out)?;
        return Ok(Exit::Ok);
    }
    state.refuse_daemon("a running daemon would write its own next snapshot over the change")?;
    let store = Store::open(&state.dir)?;
    let snapshot = chosen(&store, id)?;
    let (mut migration, stage, trainer) = prepare(&snapshot, &state.config)?;
    migration
        .notes
        .extend(note_unchecked_log(&store, state.kafka.as_ref(), snapshot.id())?);
    let now_ms = SystemClock.now_ms();
    let written = write(
        &store,
        &snapshot,
        &state.config,
        (&mut migration, &stage, trainer),
        (note, now_ms),
    )?;
    match json {
        true => output::json(
            &Made {
                snapshot: written,
                migrated: snapshot.id(),
                also: migration.notes,
            },
            out,
        )?,
        false => {
            writeln!(
                out,
                "migrated snapshot {} to {written}: {}",
                snapshot.id(),
                migration.summary()
            )?;
            for note in &migration.notes {
                writeln!(out, "{note}")?;
            }
        }
    }
    Ok(Exit::Ok)
}

fn chosen(store: &Store, id: Option<SnapshotId>) -> anyhow::Result<Snapshot> {
    match id {
        Some(id) => Ok(store.read(id)?),
        None => newest(store),
    }
}

/// Builds the migrated state in memory. Writes nothing.
fn prepare(snapshot: &Snapshot, config: &Config) -> anyhow::Result<(Migration, Stage, Trainer)> {
    let id = snapshot.id();
    let checkpoint = &snapshot.manifest().checkpoint;
    let former = saved_model(snapshot)?;
    let bytes = StageBytes {
        join: snapshot.blob("join.bin")?,
        features: snapshot.blob("features.bin")?,
        batcher: snapshot.blob("batcher.bin")?,
    };
    let new = NewStage {
        positions: positions_of(snapshot.manifest())?,
        event_time: EventTime(checkpoint.event_time_ms),
        next_batch: checkpoint.batch_seq,
        next_sample: checkpoint.sample_seq,
        batch_min_samples: config.learner.batch_min_samples,
    };
    let features = config.feature_config();
    let (stage, done) = Stage::migrate(&bytes, (&config.join, features), &former.tasks, new)
        .map_err(|error| anyhow!("cannot migrate the join and the features of snapshot {id}: {error}"))?;
    let mut notes = Vec::new();
    match has_same_salt(snapshot, config) {
        Some(true) => {}
        Some(false) if !done.starts_anew => {
            return Err(anyhow!("ids.salt is not that of snapshot {id}: every id would be another one")).hint(
                "configure the former ids.salt; a state under another one can only start in an empty state directory",
            );
        }
        _ => notes.push(
            "whether ids.salt is that of the snapshot could not be checked: it must be, or every id is another one"
                .to_owned(),
        ),
    }
    let (trainer, weights) = Trainer::migrate(snapshot, &config.model_config(), config.learner_config())?;
    let versions = Contents::load_encoders(config)?;
    let present = list_of(versions.map(|encoder| encoder.map(|encoder| encoder.version().clone())));
    let encoded = (checkpoint.encoders != present).then(|| stage.features().items().len());
    let texts = changed_settings(snapshot, config);
    let texts = texts
        .iter()
        .any(|setting| setting.key == "content.texts_per_item");
    if texts && encoded.is_none() && !present.is_empty() {
        return Err(anyhow!(
            "content.texts_per_item differs from that of snapshot {id}, whose vectors are of other texts"
        ))
        .hint("configure the former value, or another encoder too, which encodes every item again");
    }
    if encoded.is_some() {
        notes.push(format!(
            "encoders: {} in place of {}",
            list_encoders(&present),
            list_encoders(&checkpoint.encoders)
        ));
    }
    let migration = Migration {
        from: id,
        changed: changed_settings(snapshot, config),
        stage: done,
        weights,
        encoded,
        notes,
    };
    if migration.is_identity() && checkpoint.schema_fingerprint == config.schema_fingerprint() {
        return Err(anyhow!(
            "there is nothing to migrate: snapshot {id} fits this configuration"
        ))
        .hint("start the daemon");
    }
    Ok((migration, stage, trainer))
}

/// Writes the migrated snapshot and makes it the latest one.
fn write(
    store: &Store,
    snapshot: &Snapshot,
    config: &Config,
    (migration, stage, trainer): (&mut Migration, &Stage, Trainer),
    (reason, now_ms): (&str, i64),
) -> anyhow::Result<SnapshotId> {
    let contents = Contents::open(config)?;
    if let Some(contents) = &contents {
        if migration.encoded.is_some() {
            encode_all(contents, stage)?;
        }
        restore_vectors(contents, stage.features())?;
    }
    let mut draft = draft(
        store,
        snapshot,
        config,
        (migration, stage, trainer),
        contents.as_ref(),
    )?;
    draft.created_ms = now_ms;
    let colon = if reason.is_empty() { "" } else { ": " };
    draft.note = Some(format!(
        "migrated from {}: {}{colon}{reason}",
        snapshot.id(),
        migration.summary()
    ));
    check_draft(&draft)?;
    let latest = store.alias(Alias::Latest)?;
    store.record_action(AuditVerb::Migrate, snapshot.id(), reason, now_ms)?;
    let written = store.write(&draft)?;
    // A snapshot that no start can restore never becomes the latest one.
    let migrated = store.read(written)?;
    ResumePoint::at(migrated, config, contents.as_ref(), &StoreConfig::Memory).map_err(|error| {
        anyhow!("the migrated snapshot {written} cannot be restored, and nothing was changed: {error:#}")
    })?;
    if latest == Some(snapshot.id()) {
        store.set_alias(Alias::Latest, written)?;
    } else {
        store.adopt(written, reason, now_ms)?;
        migration.notes.push(format!(
            "everything after snapshot {} is read and learned again",
            snapshot.id()
        ));
    }
    Ok(written)
}

/// The migrated state as a snapshot whose parent is `snapshot`.
fn draft(
    store: &Store,
    snapshot: &Snapshot,
    config: &Config,
    (migration, stage, mut trainer): (&Migration, &Stage, Trainer),
    contents: Option<&Contents>,
) -> anyhow::Result<Draft> {
    let former = &snapshot.manifest().checkpoint;
    let point = stage.checkpoint()?;
    let tasks = config.task_names();
    let has_same_tasks = migration.stage.join.tasks.is_empty() && !migration.stage.starts_anew;
    let metrics = if has_same_tasks {
        former.metrics.clone()
    } else {
        Default::default()
    };
    let plan_position = match migration.stage.starts_anew || migration.encoded.is_some() {
        // Entries after the snapshot say nothing of items and users that are read from their first record, and name vectors
        // of the former encoders.
        true => {
            let lease = plan_lease(store)?.context("the state directory is open for reading only")?;
            let (plan, _) = PlanLog::open_leased(lease, &store.root().join("plan"), former.plan_position)?;
            plan.position()
        }
        false => former.plan_position,
    };
    let checkpoint = CheckpointMeta {
        batch_seq: trainer.next_batch(),
        sample_seq: point.ledger.n_samples(),
        ledger_hash: point.ledger.hex(),
        frozen: trainer.base(),
        positions: point
            .positions
            .iter()
            .map(|(id, next)| (id.to_string(), next))
            .collect(),
        plan_position,
        event_time_ms: point.event_time.0,
        counters: counters(&point.counters, &tasks),
        interval_start: Some(IntervalStart {
            batch_seq: former.batch_seq,
            sample_seq: point.ledger.n_samples(),
            event_time_ms: former.event_time_ms,
        }),
        metrics,
        ..provenance(config, contents, former.quarantine.clone())
    };
    let mut draft = Draft::new(Some(snapshot.id()), 0, fingerprint(config), checkpoint);
    trainer.save(&mut draft)?;
    draft.add_blob("join.bin", point.bytes.join)?;
    draft.add_blob("features.bin", point.bytes.features)?;
    draft.add_blob("batcher.bin", point.bytes.batcher)?;
    let figures = match has_same_tasks {
        true => snapshot.blob("validation.json")?,
        false => Progressive::new(1, tasks.len()).dump(),
    };
    draft.add_blob("validation.json", figures)?;
    draft.add_blob(CONFIG_FILE, config.recorded())?;
    draft.checkpoint.weights_hash = weights_hash(&draft);
    let passed = GateResult {
        passed: true,
        figure: None,
        limit: None,
    };
    draft.gates.insert(FINITE_GATE.to_owned(), passed);
    Ok(draft)
}

/// Encodes the contents of every item of the catalog. A vector that came with an item stays.
fn encode_all(contents: &Contents, stage: &Stage) -> anyhow::Result<()> {
    let items = stage.features().items();
    let vectors = contents.vectors(&items, |_| {})?;
    for (item, encoded) in items.iter().zip(vectors) {
        let table = stage.features().vectors();
        let known = table
            .read()
            .get(table.current(item.id))
            .cloned()
            .unwrap_or_default();
        let mut both = known;
        for (kept, encoded) in both.iter_mut().zip(encoded) {
            *kept = encoded.or_else(|| kept.take());
        }
        stage.use_vectors(item.id, both);
    }
    Ok(())
}

impl Migration {
    fn is_identity(&self) -> bool {
        let (features, weights) = (&self.stage.features, &self.weights);
        self.stage.join.is_identity()
            && !self.stage.starts_anew
            && features.lost_users + features.lost_actions + features.lost_counters == 0
            && weights
                .weights
                .iter()
                .all(|(_, _, outcome)| *outcome == WeightOutcome::Kept)
            && weights
                .tables
                .iter()
                .all(|table| table.lost == 0 && table.former_width == table.width)
            && weights.notes.is_empty()
            && self.encoded.is_none()
    }

    /// What has changed, in a phrase.
    fn summary(&self) -> String {
        let mut changed: Vec<String> = self.changed.iter().map(|setting| setting.key.clone()).collect();
        if self.stage.starts_anew {
            changed.push("the format of an older version".to_owned());
        }
        match changed.is_empty() {
            true => "settings that were not recorded".to_owned(),
            false => changed.join(", "),
        }
    }
}
