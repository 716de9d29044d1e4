//! `rollback ID --skip-to TIME`: the whole state of a snapshot, continued at the first records of a time.
//!
//! The events between the snapshot and that time are a gap, as records that retention has passed: they are counted, and
//! named in the lineage. Items and users are facts and are read without a gap.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use metrics::counter;

use ouzel_ingest::plan::PlanLog;
use ouzel_ingest::{KafkaConfig, KafkaSource};
use ouzel_learner::weights_hash;
use ouzel_sample::Positions;
use ouzel_snapshot::{Alias, CheckpointMeta, Draft, FileKind, Snapshot, SnapshotId, Store};

use super::go_back::{first_lost, unpin};
use super::promoted::UsedConfig;
use super::provenance::fingerprint;
use super::resume::{inspect_stage, positions_of};
use super::schema::check_schema;
use super::spec::LostRange;
use super::stages::join::plan_lease;
use crate::config::Config;
use crate::error::ErrorExt;
use crate::telemetry::metrics::LOST_RECORDS;

/// The gap of a rollback that continues at the first records at or after `ms`, by partition.
///
/// Refuses a time in the future, one that is not after the positions of `snapshot`, and one whose records Kafka no longer
/// holds.
pub(crate) fn gap(
    snapshot: &Snapshot,
    kafka: &KafkaConfig,
    ms: i64,
    now_ms: i64,
) -> anyhow::Result<Vec<LostRange>> {
    if ms > now_ms {
        return Err(anyhow!("the time {ms} ms is in the future"))
            .hint("`--skip-to now` continues at the end of what was read");
    }
    let from = positions_of(snapshot.manifest())?;
    let targets = KafkaSource::positions_at(kafka, ms)?;
    let gap = ranges(&from, &targets);
    if gap.is_empty() {
        return Err(anyhow!(
            "the time {ms} ms is not after the positions of snapshot {}: nothing would be skipped",
            snapshot.id()
        ))
        .hint("`--rewind` reads and learns everything after the snapshot again");
    }
    let after = moved(from, &gap);
    if let Some(lost) = first_lost(&after, &KafkaSource::starts(kafka)?) {
        return Err(anyhow!("Kafka no longer holds the log from there on: {lost}"))
            .hint("give a later time, or `--skip-to now`");
    }
    Ok(gap)
}

/// From each position to its target, where that is later.
fn ranges(from: &Positions, targets: &Positions) -> Vec<LostRange> {
    let later = from.iter().filter_map(|(partition, from)| {
        let to = targets.next(partition).filter(|to| *to > from)?;
        Some(LostRange { partition, from, to })
    });
    later.collect()
}

fn moved(mut positions: Positions, gap: &[LostRange]) -> Positions {
    for range in gap {
        positions.set(range.partition, range.to);
    }
    positions
}

/// Number of skipped records by stream.
pub(crate) fn by_stream(gap: &[LostRange]) -> BTreeMap<String, u64> {
    let mut streams = BTreeMap::new();
    for range in gap {
        *streams
            .entry(range.partition.stream.name().to_owned())
            .or_default() += range.n();
    }
    streams
}

/// Writes a snapshot with the state of `id` and its positions moved over `gap`, and makes it the latest one. Returns what
/// else was changed.
pub(crate) fn skip_to_time(
    store: &Store,
    config: &Config,
    (id, gap): (SnapshotId, &[LostRange]),
    ms: i64,
    reason: &str,
    now_ms: i64,
) -> anyhow::Result<Vec<String>> {
    let pinned = store.alias(Alias::Pinned)?;
    let snapshot = store.read(id)?;
    let config = &UsedConfig::of(config, &snapshot)?.config;
    check_schema(&snapshot, config)?;
    let mut stage = inspect_stage(config, &snapshot)?;
    for range in gap {
        stage.skip_lost(range.partition, range.to);
    }
    let point = stage.checkpoint()?;
    let former = &snapshot.manifest().checkpoint;
    // The entries after the snapshot name records that are skipped, so the order is new from here on.
    let lease = plan_lease(store)?.context("the state directory is open for reading only")?;
    let (plan, _) = PlanLog::open_leased(lease, &store.root().join("plan"), former.plan_position)?;
    let mut counters = former.counters.clone();
    for (stream, n) in by_stream(gap) {
        counters.insert(format!("skipped.{stream}"), n);
    }
    let checkpoint = CheckpointMeta {
        positions: point
            .positions
            .iter()
            .map(|(id, next)| (id.to_string(), next))
            .collect(),
        plan_position: plan.position(),
        counters,
        ..former.clone()
    };
    let mut draft = Draft::new(Some(id), now_ms, fingerprint(config), checkpoint);
    let named: Vec<String> = gap.iter().map(ToString::to_string).collect();
    let n: u64 = gap.iter().map(LostRange::n).sum();
    let colon = if reason.is_empty() { "" } else { ": " };
    let skipped = format!("skipped {n} records: {}", named.join(", "));
    draft.note = Some(format!(
        "rolled back to {id} and continued at {ms} ms, {skipped}{colon}{reason}"
    ));
    draft.gates = snapshot.manifest().gates.clone();
    draft.add_blob("batcher.bin", point.bytes.batcher)?;
    copy(&snapshot, &mut draft, |_| true)?;
    draft.checkpoint.weights_hash = weights_hash(&draft);
    let written = store.write(&draft)?;
    store.adopt(written, reason, now_ms)?;
    for range in gap {
        counter!(LOST_RECORDS, "stream" => range.partition.stream.name()).increment(range.n());
    }
    let mut also = vec![skipped];
    also.extend(unpin(store, pinned, reason, now_ms)?);
    Ok(also)
}

/// Copies the wanted files of a snapshot that the draft does not have.
pub(crate) fn copy(
    snapshot: &Snapshot,
    draft: &mut Draft,
    is_wanted: fn(FileKind) -> bool,
) -> anyhow::Result<()> {
    for file in &snapshot.manifest().files {
        if draft.has(&file.name) || !is_wanted(file.kind) {
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

#[cfg(test)]
mod tests {
    use ouzel_sample::{PartitionId, Stream};

    use super::*;

    #[test]
    fn the_gap_is_what_lies_between_a_position_and_a_later_target() {
        let at = |stream, partition| PartitionId::new(stream, partition);
        let from = Positions::from_iter([
            (at(Stream::Impressions, 0), 5),
            (at(Stream::Impressions, 1), 9),
            (at(Stream::Actions, 0), 3),
            (at(Stream::Items, 0), 2),
        ]);
        let targets = Positions::from_iter([
            (at(Stream::Impressions, 0), 8),
            (at(Stream::Impressions, 1), 7),
            (at(Stream::Actions, 0), 4),
        ]);
        let gap = ranges(&from, &targets);
        let named: Vec<String> = gap.iter().map(ToString::to_string).collect();
        assert_eq!(
            named,
            ["impressions[0] offsets 5 to 7", "actions[0] offsets 3 to 3"]
        );
        assert_eq!(
            by_stream(&gap),
            [("actions".to_owned(), 1), ("impressions".to_owned(), 3)].into()
        );
        let after = moved(from, &gap);
        assert_eq!(after.next(at(Stream::Impressions, 1)), Some(9));
        assert_eq!(after.next(at(Stream::Impressions, 0)), Some(8));
        assert_eq!(after.next(at(Stream::Items, 0)), Some(2), "items have no gap");
    }
}
