//! The feeder: writes the events of a data folder to the broker, as fast as the pipeline joins them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};

use ouzel_ingest::{DataDir, EMBEDDED_PARTITION_BYTES, Feeder, KafkaConfig};
use ouzel_sample::{PartitionId, Positions, Stream};
use ouzel_snapshot::SnapshotId;

use crate::pipeline::control::CheckpointRequests;
use crate::pipeline::lock;
use crate::pipeline::status::PipelineStatus;
use crate::pipeline::threads::Running;
use crate::supervisor::Shutdown;
use crate::telemetry::clock::Clock;

/// Longest wait for acknowledgements of the broker, or for the pipeline to catch up.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Pause between two checks of the pipeline's progress.
const CHECK_EVERY: Duration = Duration::from_millis(1);
/// Events between two checks of the pipeline's lag.
const CHECK_EVENTS: usize = 64;
/// Most events sent and not joined: enough to keep the pipeline busy, few enough to keep its samples fresh.
const MAX_AHEAD: u64 = 2048;

/// A feeder, with the parts of the pipeline that it reads.
pub(super) struct Feed {
    feeder: Feeder,
    status: Arc<PipelineStatus>,
    requests: CheckpointRequests,
    half_time: Mutex<Option<SnapshotId>>,
}

/// End offset of each partition of the folder's log.
pub(super) fn ends(data: &DataDir) -> Positions {
    let mut ends: Positions = Stream::EVENTS
        .map(|stream| (partition(stream), 0))
        .into_iter()
        .collect();
    for event in data.events() {
        advance(&mut ends, event.stream);
    }
    ends
}

fn partition(stream: Stream) -> PartitionId {
    PartitionId { stream, partition: 0 }
}

fn advance(positions: &mut Positions, stream: Stream) {
    let id = partition(stream);
    positions.set(id, positions.next(id).unwrap_or(0) + 1);
}

impl Feed {
    /// Connects a feeder to the broker of a running pipeline.
    pub(super) fn connect(kafka: &KafkaConfig, running: &Running<'_>) -> anyhow::Result<Self> {
        let run = running.run.get();
        Ok(Self {
            feeder: Feeder::connect(&kafka.bootstrap, &kafka.properties, kafka.topics.clone())?,
            status: Arc::clone(&run.status),
            requests: run.requests.clone(),
            half_time: Mutex::default(),
        })
    }

    /// The snapshot from half of the log's time.
    pub(super) fn half_time_snapshot(&self) -> Option<SnapshotId> {
        *lock(&self.half_time)
    }

    /// Sends every event, with the present time as record timestamp.
    ///
    /// At half of the log's time it waits until the pipeline has caught up, and requests a snapshot: the baseline model
    /// whose learning stops there.
    pub(super) fn run(&self, data: &DataDir, clock: &dyn Clock, shutdown: &Shutdown) -> anyhow::Result<()> {
        let middle = data.summary().mid_ts;
        let mut sent = Positions::default();
        let mut is_past_half = false;
        for (n, event) in data.events().iter().enumerate() {
            if shutdown.is_triggered() {
                return Ok(());
            }
            if !is_past_half && !event.stream.is_catalog() && event.ts_ms >= middle {
                is_past_half = true;
                self.catch_up(&sent, shutdown)?;
                let snapshot = self
                    .requests
                    .snapshot_now(TIMEOUT)
                    .context("no snapshot was written at half time")?;
                *lock(&self.half_time) = Some(snapshot);
            }
            // The embedded broker drops records that do not fit, so it is kept at most half full.
            while n.is_multiple_of(CHECK_EVENTS) && self.is_far_ahead(n) {
                self.feeder.poll(CHECK_EVERY);
                if shutdown.is_triggered() {
                    return Ok(());
                }
            }
            let now = Some(clock.now_ms());
            self.feeder
                .send(event.stream, &event.key, now, Some(&event.payload))?;
            advance(&mut sent, event.stream);
        }
        self.feeder.flush(TIMEOUT)?;
        Ok(())
    }

    fn is_far_ahead(&self, n_sent: usize) -> bool {
        let n_joined = self.status.events.load(Ordering::Relaxed);
        n_sent as u64 > n_joined + MAX_AHEAD
            || self.feeder.unread_bytes(&self.status.positions()) > EMBEDDED_PARTITION_BYTES / 2
    }

    /// Waits until every sent event is joined.
    fn catch_up(&self, sent: &Positions, shutdown: &Shutdown) -> anyhow::Result<()> {
        self.feeder.flush(TIMEOUT)?;
        for _ in 0..TIMEOUT.as_millis() / CHECK_EVERY.as_millis() {
            let joined = self.status.positions();
            let is_joined = |(id, next)| joined.next(id).unwrap_or(0) >= next;
            if sent.iter().all(is_joined) || shutdown.is_triggered() {
                return Ok(());
            }
            self.feeder.poll(CHECK_EVERY);
        }
        bail!(
            "the pipeline did not join the sent events within {} s",
            TIMEOUT.as_secs()
        )
    }
}
