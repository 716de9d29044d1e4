//! The feeder: writes a data folder's events to the broker, as fast as the daemon takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};

use ouzel_ingest::{DataDir, EMBEDDED_PARTITION_BYTES, Feeder};
use ouzel_sample::{PartitionId, Positions, Stream};
use ouzel_snapshot::SnapshotId;

use crate::clock::Clock;
use crate::live::PipelineStatus;
use crate::supervisor::Shutdown;

/// Longest wait for the broker to acknowledge or the daemon to catch up.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(1);
/// Events between two looks at how far the daemon is behind.
const LOOK_EVERY: usize = 64;
/// Most events sent ahead of what the daemon has joined: enough to keep it busy, little enough that what it
/// learns is fresh.
const AHEAD: u64 = 2048;

/// How far the feeder is, and the snapshot of half time.
#[derive(Debug, Default)]
pub struct Fed {
    /// Events sent.
    pub n_events: AtomicU64,
    half: Mutex<Option<SnapshotId>>,
}

impl Fed {
    /// The snapshot taken when half of the log's time had passed.
    #[must_use]
    pub fn half(&self) -> Option<SnapshotId> {
        *self.half.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where each partition of the folder's log ends.
#[must_use]
pub fn ends(data: &DataDir) -> Positions {
    let mut ends: Positions = Stream::EVENTS
        .iter()
        .map(|stream| {
            (
                PartitionId {
                    stream: *stream,
                    partition: 0,
                },
                0,
            )
        })
        .collect();
    for event in data.events() {
        let id = PartitionId {
            stream: event.stream,
            partition: 0,
        };
        ends.set(id, ends.next(id).unwrap_or(0) + 1);
    }
    ends
}

/// Feeds every event, stamped with the time it is sent. At half time it waits for the daemon to catch up and
/// has a snapshot taken, which is what the model would have stayed at had learning stopped there.
pub fn run(
    data: &DataDir,
    feeder: &Feeder,
    live: &PipelineStatus,
    fed: &Arc<Fed>,
    clock: &dyn Clock,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let middle = data.summary().mid_ts;
    let mut sent = Positions::default();
    let mut is_past_half = false;
    for (n, event) in data.events().iter().enumerate() {
        if shutdown.is_triggered() {
            return Ok(());
        }
        if !is_past_half && event.stream != Stream::Items && event.ts_ms >= middle {
            is_past_half = true;
            catch_up(feeder, live, &sent, shutdown)?;
            let half = live
                .snapshot_now(PATIENCE)
                .context("no snapshot was written at half time")?;
            *fed.half.lock().unwrap_or_else(PoisonError::into_inner) = Some(half);
        }
        // The embedded broker drops what does not fit, so it is never filled beyond half.
        if n.is_multiple_of(LOOK_EVERY) {
            while is_far_ahead(n, feeder, live) {
                feeder.poll(LOOK);
                if shutdown.is_triggered() {
                    return Ok(());
                }
            }
        }
        feeder.send(
            event.stream,
            &event.key,
            Some(clock.now_ms()),
            Some(&event.payload),
        )?;
        let id = PartitionId {
            stream: event.stream,
            partition: 0,
        };
        sent.set(id, sent.next(id).unwrap_or(0) + 1);
        fed.n_events.fetch_add(1, Ordering::Relaxed);
    }
    feeder.flush(PATIENCE)?;
    Ok(())
}

fn is_far_ahead(n_sent: usize, feeder: &Feeder, live: &PipelineStatus) -> bool {
    let n_joined = live.events.load(Ordering::Relaxed);
    n_sent as u64 > n_joined + AHEAD || feeder.unread_bytes(&live.positions()) > EMBEDDED_PARTITION_BYTES / 2
}

/// Waits until the daemon has joined everything sent.
fn catch_up(
    feeder: &Feeder,
    live: &PipelineStatus,
    sent: &Positions,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    feeder.flush(PATIENCE)?;
    let looks = PATIENCE.as_millis() / LOOK.as_millis();
    for _ in 0..looks {
        let joined = live.positions();
        if sent.iter().all(|(id, next)| joined.next(id).unwrap_or(0) >= next) || shutdown.is_triggered() {
            return Ok(());
        }
        feeder.poll(LOOK);
    }
    bail!(
        "the daemon did not take what was sent within {} s",
        PATIENCE.as_secs()
    )
}
