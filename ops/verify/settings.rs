//! The configuration that is verified: small windows, small batches, many snapshots, so that a few seconds hold
//! what takes a day elsewhere.

use std::net::{Ipv4Addr, SocketAddr};

use crate::config::{Config, Period, Task};

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
    let task = |name: &str, window_ms| Task {
        name: name.to_owned(),
        window: period(window_ms),
    };
    config.join.tasks = vec![task("click", CLICK_MS), task("order", ORDER_MS)];
    config.join.lateness = period(LATENESS_MS);
    config.join.skew = period(SKEW_MS);
    config.order.hold = Period::from_ms(10);
    config.features.history_len = 20;
    config.features.history_kept = 40;
    config.learner.batch_min_samples = 32;
    config.learner.flush_idle = Period::from_ms(0);
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

fn period(ms: i64) -> Period {
    Period::from_ms(u32::try_from(ms).expect("a window is a positive number of minutes at most"))
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
