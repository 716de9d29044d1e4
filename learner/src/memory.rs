//! The memory of a trainer.

use std::fmt;

use ouzel_model::Table;
use serde::{Deserialize, Serialize};

use crate::trainer::Trainer;

/// Bytes of a row beside its floats and optimizer state: id, time of its last sample, entry of the index.
const ROW_BYTES: u64 = 24;

/// Memory of weights and optimizer state, bytes. While a version is served, pages of rows that change exist twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// At present.
    pub now: u64,
    /// When every table has `learner.max_rows` rows.
    pub most: u64,
}

impl fmt::Display for MemoryUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let (now, most) = (mib(self.now), mib(self.most));
        write!(
            f,
            "{now} MiB now, {most} MiB when every table has learner.max_rows rows"
        )
    }
}

impl Trainer {
    /// The memory of this model, its members and their optimizers. Counts of ids that wait for a row come on top.
    #[must_use]
    pub fn memory(&self) -> MemoryUse {
        let dense = self.model.net().weights().map(|(_, tensor)| tensor.numel());
        let states = self.dense.states.iter().flat_map(|kept| &kept.tensors);
        let floats: usize = dense.chain(states.map(tch::Tensor::numel)).sum();
        let dense = 4 * floats as u64;
        let row = |table: &Table| 4 * table.stride() as u64 + ROW_BYTES;
        let tables = || self.weights.rows.tables().chain([&self.weights.wide]);
        let own = MemoryUse {
            now: dense + tables().map(|table| table.len() as u64 * row(table)).sum::<u64>(),
            most: dense
                + tables()
                    .map(|table| self.config.max_rows as u64 * row(table))
                    .sum::<u64>(),
        };
        let members = self.members.iter().flatten().map(Self::memory);
        members.fold(own, |sum, member| MemoryUse {
            now: sum.now + member.now,
            most: sum.most + member.most,
        })
    }
}
