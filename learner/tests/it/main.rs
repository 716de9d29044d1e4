//! The trainer as its users see it: deterministic, restorable, better than chance, and scoring as it serves.

mod learns;
mod restores;
mod scores;
mod world;
