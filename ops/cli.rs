//! The arguments of every command.

mod args;
mod point;
mod snapshot;

pub use args::{
    Cli, CompletionsArgs, ConfigArgs, ConfigVerb, DaemonArgs, DemoArgs, DescribeArgs, FailPoints, FileArgs,
    JoinArgs, Labels, ModelArgs, ModelVerb, ReplayArgs, ScoreArgs, TopicsArgs, TopicsVerb, Verb, VerifyArgs,
};
pub use point::RangePoint;
pub use snapshot::{SnapshotArgs, SnapshotChange, SnapshotVerb, StateArgs};
