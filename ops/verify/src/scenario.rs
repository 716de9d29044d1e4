//! The ways to bring a daemon down, and the order in which a verification plays them.

use serde::Serialize;

use crate::rng::SeededRng;

/// One way to bring a daemon down: a SIGKILL, and what happens before or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scenario {
    SnapshotWrite,
    Startup,
    DamagedSnapshot,
    /// The plan log loses its last bytes, as a power cut loses what was not synced.
    TruncatedPlan,
    /// The second kill is during the next startup.
    Twice,
    Stop,
    Random,
}

impl Scenario {
    /// All scenarios, in the order in which each is first played.
    pub(crate) const ALL: [Scenario; 7] = [
        Scenario::SnapshotWrite,
        Scenario::Startup,
        Scenario::DamagedSnapshot,
        Scenario::TruncatedPlan,
        Scenario::Twice,
        Scenario::Stop,
        Scenario::Random,
    ];

    /// The name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scenario::SnapshotWrite => "while writing a snapshot",
            Scenario::Startup => "during startup",
            Scenario::DamagedSnapshot => "then the newest snapshot damaged",
            Scenario::TruncatedPlan => "then the plan log truncated",
            Scenario::Twice => "twice in a row",
            Scenario::Stop => "then SIGTERM while catching up",
            Scenario::Random => "at a random time",
        }
    }

    /// Number of SIGKILLs.
    pub(crate) fn n_kills(self) -> u64 {
        if self == Scenario::Twice { 2 } else { 1 }
    }

    /// Frequency in a round of 20.
    fn frequency(self) -> usize {
        if self == Scenario::Random { 8 } else { 2 }
    }
}

/// The sequence of scenarios: each one once, so that a short run has all, then shuffled rounds of 20.
#[derive(Debug)]
pub(crate) struct ScenarioQueue {
    /// The next scenario is the last.
    queue: Vec<Scenario>,
    rng: SeededRng,
}

impl ScenarioQueue {
    /// The sequence of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            queue: Scenario::ALL.into_iter().rev().collect(),
            rng: SeededRng::new(seed, "scenarios"),
        }
    }

    /// Removes and returns the next scenario.
    pub(crate) fn pop(&mut self) -> Scenario {
        loop {
            if let Some(scenario) = self.queue.pop() {
                return scenario;
            }
            for scenario in Scenario::ALL {
                self.queue.extend([scenario].repeat(scenario.frequency()));
            }
            self.rng.shuffle(&mut self.queue);
        }
    }

    /// Puts back a scenario that could not be played.
    pub(crate) fn push(&mut self, scenario: Scenario) {
        self.queue.push(scenario);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_played_early_and_then_by_its_frequency() {
        let mut queue = ScenarioQueue::new(1);
        let first: Vec<Scenario> = (0..Scenario::ALL.len()).map(|_| queue.pop()).collect();
        assert_eq!(first, Scenario::ALL);
        let later: Vec<Scenario> = (0..20).map(|_| queue.pop()).collect();
        for scenario in Scenario::ALL {
            let n_played = later.iter().filter(|played| **played == scenario).count();
            assert_eq!(n_played, scenario.frequency());
        }
        queue.push(Scenario::Stop);
        assert_eq!(queue.pop(), Scenario::Stop);
    }
}
