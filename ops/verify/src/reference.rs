//! The reference run: one daemon that is left alone, whose states all others must reach.

use std::time::Duration;

use crate::Request;
use crate::digest::{StateDigest, check_outcomes};
use crate::event_log::EventLog;
use crate::lineage::{Lineage, Timing};
use crate::lineage_dir::LineageDir;
use crate::settings::{DaemonSettings, KEEP_ALL};

/// The reference run, in error messages.
pub(crate) const REFERENCE: &str = "the reference run";

/// A run over a complete log, and its states.
pub(crate) struct ReferenceRun {
    settings: DaemonSettings,
    /// All its snapshots.
    pub(crate) digests: Vec<StateDigest>,
    /// Its last snapshot.
    pub(crate) last: StateDigest,
    pub(crate) timing: Timing,
}

impl ReferenceRun {
    /// Runs one daemon until it has consumed the log, and checks the outcome of every record.
    pub(crate) fn new(request: &Request, log: &mut EventLog) -> anyhow::Result<Self> {
        let settings = DaemonSettings::new(&log.bootstrap).of_workload(&log.workload);
        let all_kept = settings.clone().with("snapshot", "keep", KEEP_ALL);
        let dir = LineageDir::create(&request.dir.join("reference"), &all_kept)?;
        let estimate = Timing {
            startup: Duration::from_millis(500),
            total: Duration::from_secs(5),
        };
        let (snapshot, timing) = Lineage::new(dir.clone(), request, log, estimate, "reference").finish()?;
        check_outcomes(&dir, &snapshot, &log.workload.expected)?;
        Ok(Self {
            settings,
            digests: StateDigest::read_all(&dir)?,
            last: StateDigest::new(snapshot.manifest())?,
            timing,
        })
    }

    /// One line of text about the run.
    pub(crate) fn summary(&self) -> String {
        format!(
            "reference run: {} batches, {} samples, {} snapshots; startup {:.2} s, total {:.2} s",
            self.last.n_batches,
            self.last.n_samples,
            self.digests.len(),
            self.timing.startup.as_secs_f64(),
            self.timing.total.as_secs_f64()
        )
    }

    /// A new lineage on the same log, with a snapshot every `every_batches` batches.
    pub(crate) fn lineage<'a>(
        &self,
        request: &'a Request,
        log: &'a mut EventLog,
        name: &str,
        every_batches: i64,
    ) -> anyhow::Result<Lineage<'a>> {
        let settings = self.settings.clone();
        let settings = settings.with("snapshot", "every_batches", every_batches);
        let dir = LineageDir::create(&request.dir.join(name), &settings)?;
        Ok(Lineage::new(dir, request, log, self.timing, name))
    }

    /// Finishes a lineage, which must end in the last state of this run.
    pub(crate) fn finish(&self, lineage: &mut Lineage<'_>) -> anyhow::Result<StateDigest> {
        let (snapshot, _) = lineage.finish()?;
        let digest = StateDigest::new(snapshot.manifest())?;
        digest.must_equal(&self.last, REFERENCE)?;
        Ok(digest)
    }
}
