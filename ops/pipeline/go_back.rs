//! Going back: the changes of a store by a rollback with `--rewind` and by a quarantine, and the checks before them.
//!
//! A running daemon makes the same calls as the command line without a daemon, between two runs of its stages.

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};

use ouzel_ingest::{KafkaConfig, KafkaSource, QuarantineRule};
use ouzel_sample::Positions;
use ouzel_snapshot::{Alias, AuditVerb, SnapshotEntry, SnapshotId, Store};

use super::quarantine::{QuarantineEntry, QuarantineFile};
use super::resume::positions_of;
use crate::error::ErrorExt;

/// Where the log is read from again after a quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadAgain {
    /// From the newest snapshot before the first quarantined event time.
    BeforeIt,
    /// From this snapshot.
    From(String),
    /// Only events that are read from now on are excluded.
    Nothing,
}

/// Moves `latest` back to `id`, so that a start reads the log again from there. Returns what else was changed.
pub(crate) fn rewind(store: &Store, id: SnapshotId, note: &str, now_ms: i64) -> anyhow::Result<Vec<String>> {
    let pinned = store.alias(Alias::Pinned)?;
    store.rollback(id, note, now_ms)?;
    unpin(store, pinned, note, now_ms)
}

/// Removes a pin, which would serve another snapshot than the operator has just chosen. Returns what was changed.
pub(crate) fn unpin(
    store: &Store,
    pinned: Option<SnapshotId>,
    note: &str,
    now_ms: i64,
) -> anyhow::Result<Vec<String>> {
    let Some(pinned) = pinned else {
        return Ok(Vec::new());
    };
    store.unpin(note, now_ms)?;
    Ok(vec![format!("snapshot {pinned} is no longer pinned")])
}

/// Refuses a rule that cannot be applied to what this process reads: the results of a join tier, or the events.
pub(crate) fn check_can_quarantine(rule: &QuarantineRule, is_behind_tier: bool) -> anyhow::Result<()> {
    rule.check().map_err(|why| anyhow!(why))?;
    match is_behind_tier {
        true => rule
            .check_behind_tier()
            .map_err(|why| anyhow!(why))
            .hint("name users, items or times instead: --user, --item, --from, --to"),
        false => Ok(()),
    }
}

/// Excludes the events of `rule` from learning, and moves `latest` back to `again`. Returns what else was changed.
pub(crate) fn quarantine(
    store: &Store,
    rule: &QuarantineRule,
    again: Option<SnapshotId>,
    note: &str,
    now_ms: i64,
) -> anyhow::Result<Vec<String>> {
    let latest = store.alias(Alias::Latest)?;
    let id = again
        .or(latest)
        .context("there is no snapshot yet: nothing was learned")?;
    let colon = if note.is_empty() { "" } else { ": " };
    let reason = format!("quarantine of {rule}{colon}{note}");
    store.record_action(AuditVerb::Quarantine, id, &reason, now_ms)?;
    let entry = QuarantineEntry {
        rule: rule.clone(),
        note: note.to_owned(),
        at_ms: now_ms,
    };
    let mut also = Vec::new();
    if !QuarantineFile::read(store.root())?.add(store, entry)? {
        also.push(format!("{rule} was in quarantine already"));
    }
    if let Some(again) = again {
        also.extend(rewind(store, again, &reason, now_ms)?);
    }
    Ok(also)
}

/// The snapshot that a quarantine goes back to; `None` to read nothing again.
pub(crate) fn snapshot_before(
    store: &Store,
    rule: &QuarantineRule,
    again: &ReadAgain,
) -> anyhow::Result<Option<SnapshotId>> {
    let from = match again {
        ReadAgain::Nothing => return Ok(None),
        ReadAgain::From(id) => return Ok(Some(id.parse()?)),
        ReadAgain::BeforeIt => rule.from_ms,
    };
    let from = from
        .context("without a first event time, nothing says how far to go back")
        .hint(
            "give --from TIME, or --again SNAPSHOT, or --only-new to exclude only what is read from now on",
        )?;
    let is_before = |entry: &&SnapshotEntry| {
        let manifest = entry.manifest.as_ref().filter(|_| entry.fault.is_none());
        manifest.is_some_and(|manifest| manifest.checkpoint.event_time_ms < from) && !entry.is_rolled_back
    };
    let listed = store.list()?;
    let before = listed.iter().rev().find(is_before).map(|entry| entry.id);
    before
        .map(Some)
        .ok_or_else(|| anyhow!("no snapshot is older than the first quarantined event time, {from} ms"))
        .hint(
            "give --again SNAPSHOT to go back to a later one, or start with an empty state directory that has the same \
             quarantine.json",
        )
}

/// Refuses to go back to `id` if Kafka no longer holds a record that would be read again.
pub(crate) fn check_log(store: &Store, id: SnapshotId, kafka: &KafkaConfig) -> anyhow::Result<()> {
    let starts = KafkaSource::starts(kafka)?;
    let lost = |id: SnapshotId| -> anyhow::Result<Option<String>> {
        let positions = positions_of(store.read(id)?.manifest())?;
        Ok(first_lost(&positions, &starts))
    };
    let Some(lost_here) = lost(id)? else {
        return Ok(());
    };
    let listed = store.list()?;
    let sound = listed.iter().filter(|entry| entry.fault.is_none());
    let oldest = sound
        .map(|entry| entry.id)
        .find(|id| lost(*id).is_ok_and(|lost| lost.is_none()));
    let hint = match oldest {
        Some(oldest) => format!("the oldest snapshot that Kafka can still be read from is {oldest}"),
        None => "Kafka cannot be read from any snapshot; `--skip-to now` goes back without reading again"
            .to_owned(),
    };
    Err(anyhow!(
        "Kafka no longer holds the log from snapshot {id} on: {lost_here}"
    ))
    .hint(hint)
}

/// The first partition whose log begins after its position.
pub(super) fn first_lost(positions: &Positions, starts: &Positions) -> Option<String> {
    positions.iter().find_map(|(partition, next)| {
        let start = starts.next(partition).filter(|start| *start > next)?;
        Some(format!(
            "{partition} begins at offset {start}, and {next} would be read next"
        ))
    })
}

#[cfg(test)]
mod tests {
    use ouzel_sample::{PartitionId, Stream};

    use super::*;

    #[test]
    fn a_partition_whose_log_begins_too_late_is_named() {
        let shown = PartitionId::new(Stream::Impressions, 0);
        let acted = PartitionId::new(Stream::Actions, 1);
        let positions = |a, b| Positions::from_iter([(shown, a), (acted, b)]);
        assert_eq!(first_lost(&positions(5, 9), &positions(5, 9)), None);
        assert_eq!(first_lost(&positions(5, 9), &Positions::default()), None);
        let lost = first_lost(&positions(5, 9), &positions(5, 12)).unwrap();
        assert_eq!(lost, "actions[1] begins at offset 12, and 9 would be read next");
    }
}
