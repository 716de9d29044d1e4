//! The program: command line, configuration, wiring, supervision, telemetry.
//!
//! The top floor of the house. It connects the rooms and starts their threads; it imports neither tch nor
//! rdkafka, because tensors are the model's matter and brokers are ingest's.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod contents;
pub mod control;
pub mod demo;
pub mod failpoint;
pub mod gauges;
pub mod live;
pub mod metrics;
pub mod progress;
pub mod resume;
pub mod stages;
pub mod supervisor;
pub mod telemetry;
pub mod topology;
pub mod turn;
pub mod verify;
