//! The configuration of the daemons under test: small windows and batches, many snapshots.
//!
//! A few seconds of it hold what takes a day elsewhere.

use anyhow::Context;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::workload::{CLICK_MS, LATENESS_MS, ORDER_MS, SKEW_MS, Workload};

/// Partitions of each topic.
pub(crate) const N_PARTITIONS: i32 = 2;
/// Topic of the users' profiles.
pub(crate) const USERS_TOPIC: &str = "users";
/// Batches from one snapshot to the next; each lineage uses one of these.
///
/// The reference run uses the second, of which the later ones are multiples.
pub(crate) const SNAPSHOT_EVERY: [i64; 4] = [4, 20, 40, 120];
/// A number of snapshots to keep that no run reaches.
pub(crate) const KEEP_ALL: i64 = 100_000;

/// The configuration file of a daemon under test.
#[derive(Clone, Debug)]
pub struct DaemonSettings(Table);

impl DaemonSettings {
    /// Settings for the broker at `bootstrap`, `host:port`.
    ///
    /// # Panics
    /// Never: the text is TOML.
    #[must_use]
    pub fn new(bootstrap: &str) -> Self {
        // The clock closes no batch. The harness polls the admin socket often and hangs up early, which the daemon
        // would log each time.
        let text = format!(
            r#"
            kafka.bootstrap = "{bootstrap}"
            join.allowed_lateness = "{LATENESS_MS}ms"
            join.max_clock_skew = "{SKEW_MS}ms"
            join.tasks = [
                {{ name = "click", window = "{CLICK_MS}ms" }},
                {{ name = "order", window = "{ORDER_MS}ms" }},
            ]
            order.max_reorder_delay = "10ms"
            features = {{ history_len = 20, history_capacity = 40 }}
            learner = {{ batch_min_samples = 32, flush_after_idle = "0ms" }}
            snapshot = {{ every = "0s", keep = 3, keep_hourly = 0, keep_daily = 0 }}
            serving.listen = "127.0.0.1:0"
            log.level = "info,ouzel::admin=error"
            [model]
            dim = 4
            hidden = [16]
            history_len = 20
            sequence.history_len = 20
            interest.history_len = 20
            "#
        );
        let settings = Self(text.parse().expect("the text is TOML"));
        settings.with("snapshot", "every_batches", SNAPSHOT_EVERY[1])
    }

    /// These settings with another value of one key.
    #[must_use]
    pub fn with(mut self, section: &str, key: &str, value: impl Into<Value>) -> Self {
        let section = self.0.entry(section).or_insert_with(|| Table::new().into());
        if let Some(section) = section.as_table_mut() {
            section.insert(key.to_owned(), value.into());
        }
        self
    }

    /// These settings for the log of `workload`: its topic of users, and how its actions find their impressions.
    pub(crate) fn of_workload(self, workload: &Workload) -> Self {
        let users = Table::from_iter([("users".to_owned(), USERS_TOPIC.into())]);
        let settings = self.with("kafka", "topics", users);
        match workload.has_bare_actions {
            true => settings.with("join", "by", "user_item"),
            false => settings,
        }
    }

    /// The text of the configuration file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        self.0.to_string()
    }

    /// Parses one section.
    pub(crate) fn section<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<T> {
        let section = self.0[name].clone().try_into();
        section.with_context(|| format!("[{name}] of the daemons under test is not valid"))
    }
}

#[cfg(test)]
mod tests {
    use ouzel_ingest::join::JoinConfig;

    use super::*;

    #[test]
    fn the_join_section_has_the_windows_of_the_workload() {
        let settings = DaemonSettings::new("127.0.0.1:9092");
        let join: JoinConfig = settings.section("join").unwrap();
        let windows: Vec<i64> = join.tasks.iter().map(|task| task.window.ms()).collect();
        assert_eq!(windows, [CLICK_MS, ORDER_MS]);
    }

    #[test]
    fn later_snapshot_intervals_are_multiples_of_the_reference_run() {
        assert!(
            SNAPSHOT_EVERY[2..]
                .iter()
                .all(|every| every % SNAPSHOT_EVERY[1] == 0)
        );
    }
}
