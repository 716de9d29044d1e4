//! The arguments of every command.

mod args;
mod candidate;
mod point;
mod snapshot;

pub(crate) use args::{
    ChooseArgs, Cli, ConfigVerb, DaemonArgs, DemoArgs, DescribeArgs, EventsVerb, FileArgs, JoinArgs, Labels,
    ModelArgs, ModelVerb, ReplayArgs, ScoreArgs, StreamName, TopicsVerb, TryArgs, Verb, VerifyArgs,
};
pub(crate) use candidate::{CandidateArgs, CandidateStart, CandidateVerb};
pub(crate) use point::RangePoint;
pub(crate) use snapshot::{
    ExportFormat, LearningArgs, Note, Quarantine, SkipTo, SnapshotArgs, SnapshotChange, SnapshotVerb,
    StateArgs, StatusArgs, Target,
};
