//! The configuration that is verified: small windows, small batches, many snapshots, so that a few seconds hold
//! what takes a day elsewhere.

use std::net::{Ipv4Addr, SocketAddr};

use crate::config::{Config, Period, TaskConfig};

use super::world::{CLICK_MS, LATENESS_MS, ORDER_MS, SKEW_MS};

/// Partitions of each topic.
pub const N_PARTITIONS: i32 = 2;
/// Batches from one snapshot to the next, one of these for each lineage: from snapshots all the time to a plan
/// log that takes a while to follow. The undisturbed run has the second, of which the later ones are multiples.
pub const SNAPSHOT_EVERY: [u64; 4] = [4, 20, 40, 120];
/// Snapshots kept where the test is that a few are enough.
pub const KEEP_FEW: usize = 3;
/// Snapshots kept where all are wanted.
pub const KEEP_ALL: usize = 100_000;

/// The settings of every daemon under test; broker and state directory are still those of the defaults.
#[must_use]
pub fn settings() -> Config {
    let mut config = Config::default();
    config.join.tasks = vec![
        TaskConfig::new("click", CLICK_MS),
        TaskConfig::new("order", ORDER_MS),
    ];
    config.join.allowed_lateness = Period::from_ms(LATENESS_MS);
    config.join.max_clock_skew = Period::from_ms(SKEW_MS);
    config.order.max_reorder_delay = Period::from_ms(10);
    config.features.history_len = 20;
    config.features.history_capacity = 40;
    config.learner.batch_min_samples = 32;
    config.learner.flush_after_idle = Period::from_ms(0);
    config.model.dim = 4;
    config.model.history_len = 20;
    config.model.sequence.history_len = 20;
    config.model.interest.history_len = 20;
    config.model.hidden = vec![16];
    config.snapshot.every_batches = SNAPSHOT_EVERY[1];
    config.snapshot.keep = KEEP_FEW;
    // It is asked how far it is a hundred times a second, by a caller that does not always wait.
    config.log.level = "info,ouzel::admin=error".to_owned();
    config.serving.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_are_a_valid_configuration() {
        assert!(
            SNAPSHOT_EVERY[2..]
                .iter()
                .all(|every| every.is_multiple_of(SNAPSHOT_EVERY[1]))
        );
        assert_eq!(Config::parse(&settings().show(), "x.toml").unwrap(), settings());
    }
}
