//! Names the numbers that come after the limit of names.
//!
//! The feature state decides which names are learned and keeps hashes only; the decoder has the texts.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use ouzel_sample::{Id, MAX_NUMBER_NAMES, NumberScope};

/// Names beyond the limit that are logged.
const MAX_LOGGED: usize = 16;

/// The names of numbers that this process has decoded, up to a few beyond the limit.
#[derive(Debug, Default)]
pub(super) struct NumberNames([Mutex<BTreeSet<Id>>; 2]);

impl NumberNames {
    /// Notes a name. Logs it when it is one of the first beyond the limit; returns whether it was logged.
    pub(super) fn see(&self, scope: NumberScope, id: Id, name: &str) -> bool {
        let (known, side) = match scope {
            NumberScope::Item => (&self.0[0], "items"),
            NumberScope::Context => (&self.0[1], "requests"),
        };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_logged =
            known.len() < MAX_NUMBER_NAMES + MAX_LOGGED && known.insert(id) && known.len() > MAX_NUMBER_NAMES;
        if is_logged {
            tracing::warn!(
                name,
                "{side} have more than {MAX_NUMBER_NAMES} names of numbers: this one is not learned unless an earlier \
                 run learned it. Send fewer names"
            );
        }
        is_logged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_names_beyond_the_limit_are_logged_once() {
        let names = NumberNames::default();
        let see = |n: u64| names.see(NumberScope::Item, Id(n), "price");
        let logged: Vec<u64> = (0..600).map(|n| n % 300).filter(|n| see(*n)).collect();
        assert_eq!(logged, (256..272).collect::<Vec<u64>>());
        assert!(!names.see(NumberScope::Context, Id(299), "hour"));
    }
}
