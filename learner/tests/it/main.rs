//! The trainer through its public interface: deterministic, restorable, better than baselines, and scoring as it serves.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a step that fails while setting a test up fails the test; dice are cast to small numbers"
)]

mod backends;
mod blocks;
mod bound;
mod bounds;
mod calibrates;
mod delayed;
mod device_rows;
mod earns;
mod gauntlet;
mod hidden_slates;
mod learns;
mod long_history;
mod migrates;
mod mixture;
mod numbers;
mod position;
mod restores;
mod retrieval;
mod rows;
mod scores;
mod second;
mod tastes;
mod thinned;
mod updates;
mod world;
