//! The program: command line, configuration, pipelines, supervision, telemetry.
//!
//! It connects the other crates and starts their threads. It imports neither tch nor rdkafka: tensors belong to the
//! model and brokers to ingest. [`pipeline`] is the place to start reading.

pub mod admin;
pub mod cli;
pub mod commands;
pub mod config;
pub mod error;
mod log_problems;
pub mod pipeline;
mod preflight;
pub mod supervisor;
pub mod telemetry;
