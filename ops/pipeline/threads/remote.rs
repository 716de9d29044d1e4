//! The state directory of a process: opened, restored from its remote copy if it is empty, and copied there.

use std::sync::Arc;

use anyhow::Context;
use ouzel_snapshot::{Alias, Error, Fs, RealFs, Store};
use ouzel_verify::failpoint::{self, FailPoint};

use super::Running;
use crate::config::Config;
use crate::pipeline::remote::{self, Replicator};
use crate::supervisor::{Shutdown, Task};
use crate::telemetry::clock::{Clock, SystemClock};

/// The state directory of a process.
pub struct OpenedStore {
    /// Its snapshots, open for reading only while another process writes, or while there is no room.
    pub store: Arc<Store>,
    /// Why nothing can be written, if there is no room. The task that keeps the lease tries again.
    pub full: Option<String>,
}

/// Opens the state directory of a configuration. A standby opens it for reading only while another daemon writes to it; so
/// does any daemon that finds a snapshot and no room to write.
///
/// If it is empty and there is a remote copy, it is restored from that.
pub fn open_store(config: &Config, is_standby: bool) -> anyhow::Result<OpenedStore> {
    let (dir, lease) = (&config.snapshot.dir, config.snapshot.lease.duration());
    let remote = remote::remote(config)?;
    let is_to_restore = match &remote {
        Some(remote) => remote::prepare(config, remote)?,
        None => false,
    };
    let mut full = None;
    let inspected = || Store::inspect_on(failpoint::file_system(), dir);
    let store = match Store::open_leased(failpoint::file_system(), dir, lease) {
        Err(error) if error.is_full() && inspected().alias(Alias::Latest)?.is_some() => {
            let why = format!("{:#}", anyhow::Error::from(error));
            tracing::error!(
                why,
                "there is no room in the state directory: the newest snapshot is served, nothing new is learned, and \
                 writing is tried again"
            );
            full = Some(why);
            inspected()
        }
        Err(Error::Locked { .. } | Error::HeldElsewhere { .. }) if is_standby => {
            tracing::info!(state = %dir.display(), "another daemon writes: following it");
            inspected()
        }
        opened => opened?,
    };
    failpoint::reach(FailPoint::StoreOpened);
    let local = config.local_dir();
    RealFs
        .create_dir_all(local)
        .with_context(|| format!("cannot create snapshot.local_dir, {}", local.display()))?;
    let store = Arc::new(store);
    if let Some(remote) = remote.filter(|_| is_to_restore && store.epoch().is_some()) {
        remote::restore(config, &store, &remote, SystemClock.now_ms())?;
    }
    Ok(OpenedStore { store, full })
}

impl Running<'_> {
    /// Starts the task that copies the state directory, if the configuration names a place. Returns the token of its end.
    pub(super) fn copy_to_remote(&mut self) -> anyhow::Result<Option<Shutdown>> {
        let Some(remote) = remote::remote(self.config)? else {
            return Ok(None);
        };
        let done = Shutdown::new();
        let replicator = Replicator {
            store: Arc::clone(&self.store),
            remote,
            rules: (&self.config.snapshot).into(),
            status: self.remote.clone(),
            last: self.process.supervisor.last().clone(),
            done: done.clone(),
            clock: Arc::clone(&self.clock),
        };
        self.process
            .supervisor
            .spawn(Task::Remote, move || replicator.run())?;
        Ok(Some(done))
    }
}
