//! The join stage alone: what a restart follows, and where it may be stopped while it does.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{channel, sync_channel};
use std::time::Duration;

use ouzel::config::Config;
use ouzel::live::Live;
use ouzel::stages::backlog::Backlog;
use ouzel::stages::join::{Join, JoinSettings};
use ouzel::stages::{JoinCut, Joined, Read};
use ouzel_ingest::order::Orderer;
use ouzel_ingest::plan::PlanLog;
use ouzel_ingest::{Decoder, Stage};
use ouzel_sample::{FeatureState, PartitionId, Position, Positions, Record, Recorded, Stream};

use super::world::World;

const BATCH_MIN_SAMPLES: usize = 32;

/// What one run of the stage gave.
struct Ran {
    n_batches: u64,
    last_cut: Option<JoinCut>,
}

fn id(stream: Stream) -> PartitionId {
    PartitionId { stream, partition: 0 }
}

/// The world's records by stream.
fn records(world: &World) -> Vec<Vec<Recorded>> {
    let config = Config::default();
    let decoder = Decoder::new(config.id_space(), config.task_names(), config.event_limits());
    let of = |stream| {
        let events = world.events.iter().filter(move |event| event.stream == stream);
        let recorded = (0..).zip(events).map(|(offset, event)| {
            decoder.decode(&Record {
                position: Position {
                    partition: id(stream),
                    offset,
                },
                timestamp_ms: Some(event.ts_ms),
                payload: Some(event.payload.clone()),
            })
        });
        recorded.collect()
    };
    Stream::ALL.map(of).to_vec()
}

/// Runs the stage from `cut`, or from nothing, with the plan log at `dir`, on the records from there up to
/// `ends`, by stream.
fn run(dir: &Path, cut: Option<&JoinCut>, records: &[Vec<Recorded>], ends: &[usize]) -> anyhow::Result<Ran> {
    let config = Config::default();
    let stage = match cut {
        None => Stage::new(
            config.join_config(),
            [id(Stream::Impressions), id(Stream::Actions)],
            Arc::new(FeatureState::new(config.feature_config())),
            BATCH_MIN_SAMPLES,
        )?,
        Some(JoinCut { stage, .. }) => Stage::restore(
            config.join_config(),
            config.feature_config(),
            &stage.join,
            &stage.features,
            &stage.batcher,
        )?,
    };
    let start: Positions = Stream::ALL
        .iter()
        .map(|stream| (id(*stream), stage.positions().next(id(*stream)).unwrap_or(0)))
        .collect();
    let from = cut.map_or(0, |cut| cut.plan_position);
    let (plan, _) = PlanLog::open(dir, from)?;
    let replay: VecDeque<_> = plan.read_from(from)?.collect::<Result<_, _>>()?;
    let settings = JoinSettings {
        hold: Duration::ZERO,
        flush_after: Duration::ZERO,
        every_batches: 5,
    };
    let (to_join, from_poll) = channel();
    // Wide enough for all, as nobody takes anything out before the end.
    let (to_learner, from_join) = sync_channel(10_000);
    for (stream, (records, end)) in Stream::ALL.iter().zip(records.iter().zip(ends)) {
        let next = usize::try_from(start.next(id(*stream)).unwrap())?;
        if next < *end {
            to_join.send(Read::Records(records[next..*end].to_vec()))?;
        }
        if *end == records.len() {
            to_join.send(Read::AtEnd(id(*stream)))?;
        }
    }
    drop(to_join);
    let join = Join::new(
        stage,
        Orderer::new(&start, cut.is_none()),
        plan,
        replay,
        settings,
        Arc::new(Backlog::default()),
        Arc::new(Live::default()),
        to_learner,
        None,
    );
    join.run(&from_poll)?;
    let mut ran = Ran {
        n_batches: cut.map_or(0, |cut| cut.stage.next_batch),
        last_cut: None,
    };
    for joined in from_join {
        match joined {
            Joined::Batch(batch) => {
                assert_eq!(batch.seq, ran.n_batches, "batches follow each other");
                ran.n_batches += 1;
            }
            Joined::Cut(cut) => ran.last_cut = Some(*cut),
        }
    }
    Ok(ran)
}

#[test]
fn the_stage_may_be_stopped_anywhere_while_it_follows_the_plan() {
    let home = tempfile::tempdir().unwrap();
    let world = World::make(200, &home.path().join("world"));
    let records = records(&world);
    let all: Vec<usize> = records.iter().map(Vec::len).collect();
    let plan = home.path().join("plan");
    let calm = run(&plan, None, &records, &all).unwrap();
    let expected = calm.last_cut.unwrap();
    assert!(calm.n_batches > 10);

    let mut n_without_cut = 0;
    for part in 1..40 {
        // A restart after a crash, with no snapshot yet, that is told to stop when it has read so much.
        let ends = [all[0], all[1] * part / 40, all[2] * part / 40];
        let stopped = run(&plan, None, &records, &ends).unwrap();
        n_without_cut += usize::from(stopped.last_cut.as_ref().is_none_or(|cut| !cut.is_last));
        let ended = run(&plan, stopped.last_cut.as_ref(), &records, &all)
            .unwrap_or_else(|error| panic!("stopped at {ends:?}: {error:#}"));
        let cut = ended.last_cut.unwrap();
        assert_eq!(cut.stage.ledger, expected.stage.ledger, "stopped at {ends:?}");
        assert_eq!(cut.stage.next_batch, expected.stage.next_batch);
        assert_eq!(cut.stage.positions, expected.stage.positions);
        assert_eq!(cut.stage.join, expected.stage.join);
        assert_eq!(cut.stage.features, expected.stage.features);
    }
    assert!(n_without_cut > 0, "some stops fell into an entry of the plan");
}
