//! The arguments of `ouzel candidate`. The doc comments are the help text.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use ouzel_sample::UserShare;
use ouzel_serving::Variant;

use super::snapshot::{Note, StateArgs};

#[derive(Debug, Args)]
pub(crate) struct CandidateArgs {
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: CandidateVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CandidateVerb {
    /// Let a snapshot, or a second learner, score the requests of a share of the users, and compare it with the model that
    /// learns
    Start(CandidateStart),
    /// Show the candidate, the figures of both models and their difference
    Show,
    /// End the candidate
    Stop(Note),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("variant").args(["shadow", "canary"]).required(true))]
pub(crate) struct CandidateStart {
    /// Id, alias (latest, serving, pinned) or tag of a snapshot, whose weights stay as they are
    #[arg(value_name = "SNAPSHOT", required_unless_present = "learn")]
    pub(crate) id: Option<String>,
    /// Learn the same batches by a second model, with the settings of this file where they differ: [model], [optimizer],
    /// [rows], [learner]
    #[arg(long, value_name = "FILE", conflicts_with = "id")]
    pub(crate) learn: Option<PathBuf>,
    /// Start the second learner from the weights of this snapshot, as far as they fit, instead of from nothing
    #[arg(long, value_name = "SNAPSHOT", requires = "learn")]
    pub(crate) from: Option<String>,
    /// Score beside the served version, which answers
    #[arg(long)]
    pub(crate) shadow: bool,
    /// Share of the users that a shadow scores, such as 10%
    #[arg(
        long,
        value_name = "PERCENT",
        default_value = "10%",
        conflicts_with = "canary"
    )]
    pub(crate) share: UserShare,
    /// Answer this share of the users, such as 5%; always the same ones
    #[arg(long, value_name = "PERCENT")]
    pub(crate) canary: Option<UserShare>,
    #[command(flatten)]
    pub(crate) note: Note,
}

impl CandidateStart {
    /// How the candidate takes part.
    pub(crate) fn role(&self) -> (Variant, UserShare) {
        match self.canary {
            Some(share) => (Variant::Canary, share),
            None => (Variant::Shadow, self.share),
        }
    }
}
