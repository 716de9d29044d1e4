//! The arguments of `ouzel candidate`. The doc comments are the help text.

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
    /// Let a snapshot score the requests of a share of the users, and compare it with the model that learns
    Start(CandidateStart),
    /// Show the candidate, the figures of both models and their difference
    Show,
    /// End the candidate
    Stop(Note),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("variant").args(["shadow", "canary"]).required(true))]
pub(crate) struct CandidateStart {
    /// Id, alias (latest, serving, pinned) or tag of a snapshot
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) id: String,
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
