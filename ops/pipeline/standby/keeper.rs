//! Keeps the lease of the writer, or watches it and takes it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};

use ouzel_snapshot::{Error, LeaseState, LeaseWatch, Store};

use super::OperatorState;
use crate::error::{ErrorExt, Exit};
use crate::pipeline::run::CurrentRun;
use crate::supervisor::Shutdown;
use crate::telemetry::clock::Clock;
use crate::telemetry::float;
use crate::telemetry::metrics::{LEASE_EPOCH, PRIMARY, STANDBY_LAG, TAKE_OVERS};

/// Beats, and looks at the heartbeat of another, in each lease.
const BEATS: u32 = 10;
/// Longest time between two of them.
const MAX_INTERVAL: Duration = Duration::from_millis(200);

/// The task.
pub(crate) struct Keeper {
    pub(crate) store: Arc<Store>,
    /// Time after which this process may be taken for dead.
    pub(crate) lease: Duration,
    pub(crate) run: CurrentRun,
    /// Stops the process.
    pub(crate) shutdown: Shutdown,
    /// Triggered once no other task runs: until then the last snapshot may be written.
    pub(crate) last: Shutdown,
    /// Triggered once the last snapshot was copied elsewhere; `None` if nothing is.
    pub(crate) copied: Option<Shutdown>,
    /// Why the lease could not be claimed at the start, if there was no room.
    pub(crate) full: Option<String>,
    /// For the audit log.
    pub(crate) clock: Arc<dyn Clock>,
}

impl Keeper {
    /// Runs until every other task has ended, then releases the lease. Fails as soon as another process has taken it.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let mut watch = self.store.watch();
        let mut problem = self.full.clone();
        while !self.is_over((self.lease / BEATS).min(MAX_INTERVAL)) {
            let done = self.keep(&mut watch);
            if self.store.epoch().is_some() {
                self.full = None;
            }
            self.report();
            let Err(error) = done else {
                problem = self.full.clone();
                continue;
            };
            if is_lost(&error) {
                tracing::error!(
                    "another daemon has taken over: this one stops, and nothing that it has not saved counts"
                );
                return Err(error).exit(Exit::TakenOver);
            }
            let is_full = error.downcast_ref().is_some_and(Error::is_full);
            let error = format!("{error:#}");
            if is_full && self.store.epoch().is_none() {
                // Each try writes to a directory of another name: the first one is reported.
                if self.full.is_some() {
                    continue;
                }
                self.full = Some(error.clone());
            }
            if problem.as_ref() != Some(&error) {
                tracing::warn!(
                    error,
                    "the lease of the state directory cannot be kept or watched"
                );
                problem = Some(error);
            }
        }
        match self.store.epoch() {
            Some(_) => Ok(self.store.release()?),
            None => Ok(()),
        }
    }

    /// Waits at most `limit` until nothing more needs the lease; returns whether that is so.
    fn is_over(&self, limit: Duration) -> bool {
        match &self.copied {
            Some(copied) if !copied.is_triggered() => copied.wait_timeout(limit) && self.last.is_triggered(),
            // Nothing is copied, or no more: also after an error, which stops the process.
            _ => self.last.wait_timeout(limit),
        }
    }

    /// Shows that this process lives, if it is the writer; otherwise looks at the writer once, and takes over if that is
    /// silent.
    fn keep(&self, watch: &mut LeaseWatch) -> anyhow::Result<()> {
        match self.store.epoch() {
            Some(_) => self.store.beat()?,
            None if self.shutdown.is_triggered() => return Ok(()),
            None => self.watch(watch)?,
        }
        let run = self.run.get();
        let Some(role) = run
            .role
            .as_ref()
            .filter(|role| role.is_standby && !role.may_lead())
        else {
            return Ok(());
        };
        // What the former writer did last is read after it can do no more.
        let is_writer = self.store.epoch().is_some();
        if OperatorState::read(&self.store)?.has_changed_since(&role.operator) {
            role.resync
                .request("an operator has changed what is learned or served");
        } else if is_writer {
            role.let_lead();
        }
        Ok(())
    }

    fn watch(&self, watch: &mut LeaseWatch) -> anyhow::Result<()> {
        let before = match watch.look(Instant::now())? {
            LeaseState::Held { .. } => return Ok(()),
            LeaseState::Expired { .. } => "the writer was silent",
            LeaseState::Free => "the writer had released it",
        };
        let epoch = match self.store.take_over(self.lease) {
            // Another standby was faster.
            Err(Error::Locked { .. } | Error::TakenOver { .. }) => return Ok(()),
            taken => taken?,
        };
        counter!(TAKE_OVERS).increment(1);
        tracing::warn!(epoch, before, "taking over");
        let note = format!("epoch {epoch}: {before}");
        Ok(self.store.record_take_over(&note, self.clock.now_ms())?)
    }

    fn report(&self) {
        let epoch = self.store.epoch();
        if let Some(role) = &self.run.get().role {
            role.set_unwritable(self.full.clone());
        }
        gauge!(PRIMARY).set(f64::from(u8::from(epoch.is_some())));
        gauge!(LEASE_EPOCH).set(float(epoch.unwrap_or_default()));
        gauge!(STANDBY_LAG).set(float(self.run.get().status.standby_lag()));
    }
}

/// True for the errors of a process that was the writer.
pub(crate) fn is_lost(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::TakenOver { .. }))
}
