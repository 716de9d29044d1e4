//! The join stage alone: restarts that follow the plan log, and stops at any point of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{channel, sync_channel};
use std::time::Duration;

use ouzel::config::Config;
use ouzel::pipeline::control::Control;
use ouzel::pipeline::stages::backlog::Backlog;
use ouzel::pipeline::stages::join::{Join, JoinLinks, JoinSettings, PlanWriter};
use ouzel::pipeline::stages::{JoinCheckpoint, Joined, Read};
use ouzel::pipeline::status::PipelineStatus;
use ouzel_ingest::join::StoreConfig;
use ouzel_ingest::plan::PlanLog;
use ouzel_ingest::{Sequencer, Stage};
use ouzel_sample::{DecodedRecord, FeatureState, PartitionId, Position, Positions, Stream};

use super::world::World;

const BATCH_MIN_SAMPLES: usize = 32;

/// The result of one run of the stage.
struct RunResult {
    n_batches: u64,
    last_checkpoint: Option<JoinCheckpoint>,
}

fn id(stream: Stream) -> PartitionId {
    PartitionId::new(stream, 0)
}

/// The streams of the world, which has no profiles of users.
const STREAMS: [Stream; 3] = [Stream::Items, Stream::Impressions, Stream::Actions];

/// The world's records by stream, in the order of [`STREAMS`].
fn records(world: &World) -> Vec<Vec<DecodedRecord>> {
    let records = world.decoded(&Config::default());
    let select = |stream| {
        let records = records
            .iter()
            .filter(move |record| record.position.partition.stream == stream);
        records.cloned().collect()
    };
    STREAMS.map(select).to_vec()
}

/// Runs the stage from `checkpoint`, or from the start, with the plan log in `dir`, on the records up to `ends`, by
/// stream.
fn run(
    dir: &Path,
    checkpoint: Option<&JoinCheckpoint>,
    records: &[Vec<DecodedRecord>],
    ends: &[usize],
) -> anyhow::Result<RunResult> {
    let next = |id| {
        checkpoint
            .and_then(|checkpoint| checkpoint.stage.positions.next(id))
            .unwrap_or(0)
    };
    let start: Positions = STREAMS
        .iter()
        .map(|stream| (id(*stream), next(id(*stream))))
        .collect();
    let mut reads = Vec::new();
    for (stream, (records, end)) in STREAMS.iter().zip(records.iter().zip(ends)) {
        let next = usize::try_from(next(id(*stream)))?;
        if next < *end {
            reads.push(Read::Records(records[next..*end].to_vec()));
        }
        if *end == records.len() {
            reads.push(Read::AtEnd(id(*stream)));
        }
    }
    run_on(dir, checkpoint, &start, reads)
}

/// Runs the stage on `reads`, from partitions that start at `start`.
fn run_on(
    dir: &Path,
    checkpoint: Option<&JoinCheckpoint>,
    start: &Positions,
    reads: Vec<Read>,
) -> anyhow::Result<RunResult> {
    let config = Config::default();
    let stage = match checkpoint {
        None => Stage::new(
            &StoreConfig::Memory,
            &config.join,
            [id(Stream::Impressions), id(Stream::Actions)],
            Arc::new(FeatureState::new(config.feature_config())),
            BATCH_MIN_SAMPLES,
        )?,
        Some(JoinCheckpoint { stage, .. }) => Stage::restore(
            &StoreConfig::Memory,
            &config.join,
            config.feature_config(),
            &stage.bytes,
        )?,
    };
    let from = checkpoint.map_or(0, |checkpoint| checkpoint.plan_position);
    let (plan, _) = PlanLog::open(dir, from)?;
    let recorded = plan.read_from(from)?;
    let settings = JoinSettings {
        max_reorder_delay: Duration::ZERO,
        flush_after: Duration::ZERO,
        checkpoint_after: Duration::ZERO,
    };
    let (to_join, from_poll) = channel();
    // Wide enough for all messages, which are received after the end.
    let (to_learner, from_join) = sync_channel(10_000);
    for read in reads {
        to_join.send(read)?;
    }
    drop(to_join);
    let backlog = Arc::new(Backlog::default());
    let join = Join::new(
        Sequencer::new(stage, start, from, recorded, 5),
        PlanWriter::new(plan, Arc::clone(&backlog)),
        settings,
        JoinLinks {
            backlog,
            status: Arc::new(PipelineStatus::default()),
            control: Control::new(None).join,
            out: to_learner,
            late: None,
            encoding: None,
        },
    );
    join.run(&from_poll)?;
    let mut ran = RunResult {
        n_batches: checkpoint.map_or(0, |checkpoint| checkpoint.stage.next_batch),
        last_checkpoint: None,
    };
    for joined in from_join {
        match joined {
            Joined::Batch(batch) => {
                assert_eq!(batch.seq, ran.n_batches, "batches follow each other");
                ran.n_batches += 1;
            }
            Joined::Checkpoint(checkpoint) => ran.last_checkpoint = Some(*checkpoint),
        }
    }
    Ok(ran)
}

#[test]
fn the_stage_may_be_stopped_anywhere_while_it_follows_the_plan() {
    let home = tempfile::tempdir().unwrap();
    let world = World::generate(200, &home.path().join("world"));
    let records = records(&world);
    let all: Vec<usize> = records.iter().map(Vec::len).collect();
    let plan = home.path().join("plan");
    let undisturbed = run(&plan, None, &records, &all).unwrap();
    let expected = undisturbed.last_checkpoint.unwrap();
    assert!(undisturbed.n_batches > 10);

    let mut n_without_checkpoint = 0;
    for part in 1..40 {
        // A restart after a crash, without a snapshot yet, that stops when it has read up to `ends`.
        let ends = [all[0], all[1] * part / 40, all[2] * part / 40];
        let stopped = run(&plan, None, &records, &ends).unwrap();
        n_without_checkpoint += usize::from(
            stopped
                .last_checkpoint
                .as_ref()
                .is_none_or(|checkpoint| !checkpoint.is_last),
        );
        let ended = run(&plan, stopped.last_checkpoint.as_ref(), &records, &all)
            .unwrap_or_else(|error| panic!("stopped at {ends:?}: {error:#}"));
        let checkpoint = ended.last_checkpoint.unwrap();
        assert_eq!(
            checkpoint.stage.ledger, expected.stage.ledger,
            "stopped at {ends:?}"
        );
        assert_eq!(checkpoint.stage.next_batch, expected.stage.next_batch);
        assert_eq!(checkpoint.stage.positions, expected.stage.positions);
        assert_eq!(checkpoint.stage.bytes.join, expected.stage.bytes.join);
        assert_eq!(checkpoint.stage.bytes.features, expected.stage.bytes.features);
    }
    assert!(
        n_without_checkpoint > 0,
        "some stops were inside an entry of the plan"
    );
}

#[test]
fn a_partition_that_the_log_gains_is_followed_like_the_others() {
    let home = tempfile::tempdir().unwrap();
    let world = World::generate(200, &home.path().join("world"));
    let [items, impressions, actions] = <[_; 3]>::try_from(records(&world)).unwrap();
    let new = PartitionId::new(Stream::Impressions, 1);
    // Every other slate of the second half is in the new partition.
    let half = impressions.len() / 2;
    let (mut stayed, mut moved) = (impressions[..half].to_vec(), Vec::new());
    for (number, recorded) in impressions[half..].iter().enumerate() {
        let (partition, to) = if number % 2 == 0 {
            (id(Stream::Impressions), &mut stayed)
        } else {
            (new, &mut moved)
        };
        let offset = i64::try_from(to.len()).unwrap();
        to.push(DecodedRecord {
            position: Position { partition, offset },
            ..recorded.clone()
        });
    }
    let all = |is_new: bool| {
        let mut reads = Vec::new();
        let partitions = [
            (id(Stream::Items), items.clone()),
            (id(Stream::Impressions), stayed.clone()),
        ];
        for (id, records) in partitions
            .into_iter()
            .chain([(id(Stream::Actions), actions.clone())])
        {
            reads.extend([Read::Records(records), Read::AtEnd(id)]);
        }
        if is_new {
            reads.push(Read::Added(new));
        }
        reads.extend([Read::Records(moved.clone()), Read::AtEnd(new)]);
        reads
    };
    let before: Positions = STREAMS.iter().map(|stream| (id(*stream), 0)).collect();
    let plan = home.path().join("plan");
    let ran = run_on(&plan, None, &before, all(true)).unwrap();
    let expected = ran.last_checkpoint.unwrap();
    assert_eq!(
        expected.stage.positions.next(new),
        i64::try_from(moved.len()).ok()
    );

    // After a restart the new partition is one of the assigned ones.
    let mut after = before;
    after.set(new, 0);
    let followed = run_on(&plan, None, &after, all(false)).unwrap();
    let checkpoint = followed.last_checkpoint.unwrap();
    assert_eq!(followed.n_batches, ran.n_batches);
    assert_eq!(
        checkpoint.plan_position, expected.plan_position,
        "no new entry was recorded"
    );
    assert_eq!(checkpoint.stage.ledger, expected.stage.ledger);
    assert_eq!(
        checkpoint.stage.bytes.join, expected.stage.bytes.join,
        "the same partitions have a watermark"
    );
    assert_eq!(checkpoint.stage.bytes.features, expected.stage.bytes.features);
}
