//! The `[snapshot]` section: where snapshots are, how often they are written, and how many are kept.

use std::path::PathBuf;

use crate::remote::check_url;
use ouzel_sample::settings::{KeyError, Period, out_of_range};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is stored on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotConfig {
    /// The state directory, with snapshots, plan log and admin socket. One daemon at a time writes to it.
    ///
    /// Set it to a durable disk.
    pub dir: PathBuf,
    /// The directory of what belongs to one daemon only: admin socket, join state on disk, content vectors. Empty: `dir`.
    ///
    /// Set it to a local disk where a standby shares `dir`.
    pub local_dir: PathBuf,
    /// Where a copy of snapshots, plan log and audit log is kept for another machine: `s3://BUCKET/PREFIX`, in a build with
    /// the feature `s3`, or `file:///DIR`. Empty: nowhere. Credentials, endpoint and region of S3 come from the environment
    /// (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `AWS_REGION`, ..).
    ///
    /// Set it where the disk of `dir` may be lost with its machine.
    pub remote: String,
    /// Time without a sign of life after which a standby takes over from this daemon.
    ///
    /// Raise it where the disk or the network of the state directory pauses for seconds.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "1h"))]
    pub lease: Period,
    /// Wall time from one snapshot to the next while there is something new; `0s` for never. Another one is written at
    /// shutdown. The time decides when a snapshot is taken, nothing that is learned.
    ///
    /// Lower it for a shorter restart, raise it for less writing.
    #[schemars(extend("x-maximum" = "1d"))]
    pub every: Period,
    /// Batches from one snapshot to the next, beside `every`; 0 for never.
    ///
    /// Unit: batches. Set it, and `every = "0s"`, where snapshots must be at the same batches in every run.
    #[schemars(range(min = 0))]
    pub every_batches: u64,
    /// Snapshots after a whole one that store only the rows of tables that changed. A whole one follows sooner when the
    /// changes add up to half of its size; 0: every snapshot is whole.
    ///
    /// Unit: snapshots. Raise it where tables are large and snapshots frequent; a restart reads the whole one and all after
    /// it.
    #[schemars(range(min = 0, max = 100))]
    pub max_deltas: usize,
    /// Newest snapshots that are kept, besides those of the hours and days below and those with an alias or a tag.
    ///
    /// Unit: snapshots. Raise it to be able to roll back by small steps.
    #[schemars(range(min = 1))]
    pub keep: usize,
    /// Newest hours with a snapshot of which the last one is kept.
    ///
    /// Unit: hours. A snapshot takes as much disk as the state: with the defaults up to 41 of them are kept. Lower it
    /// where the disk is small.
    #[schemars(range(min = 0, max = 10_000))]
    pub keep_hourly: usize,
    /// Newest days (UTC) with a snapshot of which the last one is kept. The plan log is kept as far back.
    ///
    /// Unit: days. Raise it to be able to roll back further; the topics must retain their records as long for a rewind.
    #[schemars(range(min = 0, max = 10_000))]
    pub keep_daily: usize,
}

impl SnapshotConfig {
    /// Every value that cannot be used, by its key in the section.
    #[must_use]
    pub fn validate(&self) -> Vec<KeyError> {
        let mut errors = out_of_range(self);
        if let Some(Err(why)) = Some(&self.remote)
            .filter(|url| !url.is_empty())
            .map(|url| check_url(url))
        {
            errors.push(KeyError::new("remote", why));
        }
        if self.every.ms() == 0 && self.every_batches == 0 {
            let message =
                "must be more than 0s where every_batches is 0: a start would read the whole log again";
            errors.push(KeyError::new("every", message));
        }
        errors
    }
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("state"),
            local_dir: PathBuf::new(),
            remote: String::new(),
            lease: Period::from_secs(3),
            every: Period::from_secs(60),
            every_batches: 0,
            max_deltas: 10,
            keep: 10,
            keep_hourly: 24,
            keep_daily: 7,
        }
    }
}
