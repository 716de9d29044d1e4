//! The remote copy of the state directory: a start on a machine that has none takes it from there, and a task of its own
//! sends what the learner has written. Learning and serving never wait for it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{anyhow, bail};
use metrics::{counter, gauge};
use ouzel_snapshot::{Error, Remote, RemoteCopy, RemoteRestore, Replica, Retention, Store};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::{ErrorExt, Exit};
use crate::supervisor::Shutdown;
use crate::telemetry::clock::Clock;
use crate::telemetry::float;
use crate::telemetry::metrics::{REMOTE_AGE, REMOTE_FAILURES};

/// Time between two looks at the state directory.
const EVERY: Duration = Duration::from_secs(1);
/// Longest time from a failure to the next attempt.
const MAX_RETRY: Duration = Duration::from_secs(60);

/// How the remote copy stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RemoteReport {
    /// Its address.
    pub url: String,
    /// Its newest snapshot.
    pub newest: Option<String>,
    /// When that was made, ms since the epoch.
    pub newest_ms: Option<i64>,
    /// Why nothing can be sent at present.
    pub failing: Option<String>,
}

/// The report of a process, shared by cloning; `None` without a remote copy.
#[derive(Clone, Debug, Default)]
pub struct RemoteStatus(Arc<Mutex<Option<RemoteReport>>>);

impl RemoteStatus {
    /// The report.
    pub fn get(&self) -> Option<RemoteReport> {
        super::lock(&self.0).clone()
    }

    fn set(&self, report: RemoteReport) {
        *super::lock(&self.0) = Some(report);
    }
}

/// The remote copy of a configuration, if it names one.
pub(crate) fn remote(config: &Config) -> anyhow::Result<Option<Remote>> {
    match config.snapshot.remote.as_str() {
        "" => Ok(None),
        url => Ok(Some(Remote::open(url)?)),
    }
}

/// The remote copy that a command needs.
pub(crate) fn required(config: &Config) -> anyhow::Result<Remote> {
    remote(config)?
        .ok_or_else(|| anyhow!("the configuration names no remote copy"))
        .hint("set `snapshot.remote` and name the file with --config")
}

/// Makes the writers of an empty state directory follow those of the remote copy. Returns true if the directory is to be
/// restored from it. Call it before the directory is opened.
pub(crate) fn prepare(config: &Config, remote: &Remote) -> anyhow::Result<bool> {
    if !Replica::is_new(&Store::inspect(&config.snapshot.dir))? {
        return Ok(false);
    }
    let Some(copy) = RemoteCopy::read(remote).hint(
        "the state directory is empty, so the daemon must know whether the remote copy has snapshots; leave \
         `snapshot.remote` out to learn everything from the log",
    )?
    else {
        return Ok(false);
    };
    copy.prepare(&config.snapshot.dir)?;
    Ok(!copy.list().is_empty())
}

/// Fills an empty state directory from the remote copy. Returns what it took.
pub(crate) fn restore(
    config: &Config,
    store: &Arc<Store>,
    remote: &Remote,
    now_ms: i64,
) -> anyhow::Result<RemoteRestore> {
    let mut replica = Replica::claim(Arc::clone(store), remote, (&config.snapshot).into(), now_ms)?;
    let Some(restored) = replica.restore()? else {
        bail!("another daemon has filled {} meanwhile", store.root().display());
    };
    for (id, why) in &restored.skipped {
        tracing::warn!(snapshot = %id, why, "a snapshot of the remote copy is passed over");
    }
    for name in &restored.lost_names {
        tracing::warn!(
            name,
            "the snapshot of this name is damaged in the remote copy: the name is gone"
        );
    }
    tracing::warn!(
        remote = remote.url(),
        snapshot = restored.snapshot.map(|id| id.to_string()).unwrap_or_default(),
        snapshots = restored.fetched.len(),
        order = if restored.has_plan { "as recorded" } else { "new" },
        "the state directory was empty: restored from the remote copy"
    );
    Ok(restored)
}

/// The task that sends.
pub(crate) struct Replicator {
    pub(crate) store: Arc<Store>,
    pub(crate) remote: Remote,
    pub(crate) rules: Retention,
    pub(crate) status: RemoteStatus,
    /// Triggered once nothing more is written to the state directory.
    pub(crate) last: Shutdown,
    /// Triggered by this task when it has ended: until then the keeper keeps the lease.
    pub(crate) done: Shutdown,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Triggers when it is dropped, even by a panic.
struct TriggerAtEnd(Shutdown);

impl Drop for TriggerAtEnd {
    fn drop(&mut self) {
        self.0.trigger();
    }
}

impl Replicator {
    /// Sends until nothing more is written, then once more. Fails when another machine has gone on from the copy.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let _end = TriggerAtEnd(self.done.clone());
        let (mut replica, mut problem, mut wait) = (None, None, EVERY);
        loop {
            let is_last = self.last.wait_timeout(wait);
            // A standby sends nothing. What could not be sent for a while is not waited for.
            if self.store.epoch().is_none() || (is_last && problem.is_some()) {
                if is_last {
                    return Ok(());
                }
                continue;
            }
            match self.send(&mut replica) {
                Ok(()) => (problem, wait) = (None, EVERY),
                Err(error @ (Error::RemoteTakenOver { .. } | Error::RemoteForeign { .. })) if !is_last => {
                    tracing::error!(%error, "the remote copy is that of another daemon: this one stops");
                    return Err(error).exit(Exit::TakenOver);
                }
                Err(error) => {
                    counter!(REMOTE_FAILURES).increment(1);
                    let error = error.to_string();
                    if problem.as_ref() != Some(&error) {
                        tracing::warn!(error, "the remote copy is behind; sending is tried again");
                    }
                    problem = Some(error);
                    wait = (wait * 2).min(MAX_RETRY);
                }
            }
            self.report(replica.as_ref(), problem.clone());
            if is_last {
                return Ok(());
            }
        }
    }

    fn send(&self, replica: &mut Option<Replica>) -> Result<(), Error> {
        let now_ms = self.clock.now_ms();
        let replica = match replica {
            Some(replica) => replica,
            none => none.insert(Replica::claim(
                Arc::clone(&self.store),
                &self.remote,
                self.rules,
                now_ms,
            )?),
        };
        let report = replica.sync(now_ms)?;
        for (id, why) in report.damaged {
            tracing::warn!(snapshot = %id, why, "not sent to the remote copy");
        }
        if report.n_skipped > 0 {
            tracing::warn!(
                snapshots = report.n_skipped,
                "removed before they could be sent to the remote copy"
            );
        }
        Ok(())
    }

    fn report(&self, replica: Option<&Replica>, failing: Option<String>) {
        let newest = replica.and_then(Replica::newest);
        if let Some((_, made_ms)) = newest {
            gauge!(REMOTE_AGE).set(float(self.clock.now_ms().abs_diff(made_ms)) / 1000.0);
        }
        self.status.set(RemoteReport {
            url: self.remote.url().to_owned(),
            newest: newest.map(|(id, _)| id.to_string()),
            newest_ms: newest.map(|(_, made_ms)| made_ms),
            failing,
        });
    }
}
