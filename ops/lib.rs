//! The program: command line, configuration, pipelines, supervision, telemetry.
//!
//! The top floor of the house. It connects the rooms and starts their threads; it imports neither tch nor rdkafka, because
//! tensors are the model's matter and brokers are ingest's. [`pipeline`] is the place to begin.

pub mod admin;
pub mod cli;
pub mod commands;
pub mod config;
pub mod error;
pub mod failpoint;
pub mod pipeline;
pub mod supervisor;
pub mod telemetry;
pub mod verify;
