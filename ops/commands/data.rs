//! Helpers of several commands: state and data folders, histories, join figures.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;

use ouzel_ingest::join::Counters;
use ouzel_ingest::{DataDir, DeadLetters, ReadOptions, RejectedRow};
use ouzel_sample::{EventTime, FeatureState, IdKind, PartitionId, Record, Reject};

use crate::cli::StateArgs;
use crate::config::{Config, ConfigError};
use crate::pipeline::spec::decoder;

/// The configuration of a command on a state directory.
pub(crate) fn state_config(args: &StateArgs) -> Result<Config, ConfigError> {
    let mut config = Config::load_or_default(args.config.as_deref())?;
    if let Some(dir) = &args.state {
        config.snapshot.dir.clone_from(dir);
    }
    Ok(config)
}

/// Reads a data folder through the mapping of `config`. Rejected rows go to `dead_letters`.
pub(crate) fn open_data(
    path: &Path,
    config: &Config,
    is_strict: bool,
    dead_letters: &mut DeadLetters,
) -> anyhow::Result<DataDir> {
    let decoder = decoder(config)?;
    let mut send = |rejected: RejectedRow<'_>| {
        let row = Record {
            position: PartitionId::new(rejected.stream, 0)
                .at(i64::try_from(rejected.line).unwrap_or(i64::MAX)),
            timestamp_ms: None,
            payload: Some(rejected.row.to_vec()),
            metadata: None,
        };
        let reject = Reject {
            detail: format!(
                "{}:{}: {}",
                rejected.path.display(),
                rejected.line,
                rejected.reject.detail
            ),
            ..rejected.reject.clone()
        };
        dead_letters.send(&row, &reject);
    };
    let mut options = ReadOptions {
        is_strict,
        on_reject: Some(&mut send),
    };
    Ok(DataDir::open(path, &decoder, &mut options)?)
}

/// Seeds the histories of a data folder, which precede its log.
pub(crate) fn seed_histories(features: &FeatureState, config: &Config, data: &DataDir) {
    let ids = config.id_space();
    let before = EventTime(data.summary().first_ts.saturating_sub(1));
    let histories = data.histories().iter().map(|(user, items)| {
        let items = items.iter().map(|item| ids.id(IdKind::Item, item)).collect();
        (ids.id(IdKind::User, user), items)
    });
    ouzel_ingest::seed_histories(features, histories, before);
}

/// Creates a folder in the system's temporary folder that outlives the command.
///
/// The name is short, because the path of an admin socket is limited.
pub(crate) fn temporary_dir(command: &str) -> anyhow::Result<PathBuf> {
    let base = std::env::temp_dir();
    for number in 0..10_000u32 {
        let dir = base.join(format!("ouzel-{command}-{}-{number}", std::process::id()));
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", dir.display())),
        }
    }
    bail!("cannot find a free name for a folder in {}", base.display())
}

/// Outcomes of the join: shown items by the primary task, and actions.
#[derive(Debug, Serialize)]
pub(crate) struct JoinFigures {
    /// Shown items.
    pub impressions: u64,
    /// Shown items of repeated impressions.
    pub duplicates: u64,
    /// Shown items with the primary action.
    pub positives: u64,
    /// Shown items without the primary action when their window closed.
    pub negatives: u64,
    /// Shown items whose window had closed on arrival.
    pub late: u64,
    /// Action records.
    pub actions: u64,
    /// Actions without an impression.
    pub orphans: u64,
    /// Repeated actions.
    pub duplicate_actions: u64,
    /// Actions after their window.
    pub late_actions: u64,
    /// Records that could not be decoded.
    pub rejected: u64,
}

impl JoinFigures {
    /// The figures of `counters`.
    pub(crate) fn new(counters: &Counters) -> Self {
        let task = counters.tasks.first().copied().unwrap_or_default();
        Self {
            impressions: counters.items,
            duplicates: counters.duplicate_items,
            positives: task.positive,
            negatives: task.negative,
            late: task.late,
            actions: counters.actions,
            orphans: counters.orphans,
            duplicate_actions: counters.duplicate_actions,
            late_actions: counters.late_actions,
            rejected: counters.rejected_impressions + counters.rejected_actions,
        }
    }
}
