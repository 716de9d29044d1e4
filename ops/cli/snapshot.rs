//! The arguments of `ouzel snapshot`. The doc comments are the help text.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// The state directory of a command.
#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    /// State directory [default: state]
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "config")]
    pub(crate) state: Option<PathBuf>,
    /// Configuration file that names the state directory and the admin socket
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: SnapshotVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotVerb {
    /// List every snapshot, the newest last
    List,
    /// Show the manifest of a snapshot
    Show {
        /// Id, or latest, serving or pinned
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Read every byte of a snapshot and compare hashes; exit code 3 if a snapshot or the audit log is damaged
    Verify {
        /// Id, or latest, serving or pinned [default: every snapshot]
        #[arg(value_name = "ID")]
        id: Option<String>,
    },
    /// Show the differences between two snapshots
    Diff {
        /// First snapshot: id, or latest, serving or pinned
        #[arg(value_name = "A")]
        a: String,
        /// Second snapshot
        #[arg(value_name = "B")]
        b: String,
    },
    #[command(flatten)]
    Change(SnapshotChange),
    /// Remove old snapshots; pinned, served and newest ones stay
    Gc {
        /// Number of snapshots to keep [default: snapshot.keep of the configuration]
        #[arg(long, value_name = "N")]
        keep: Option<usize>,
    },
}

/// A command that changes what is served and resumed from.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotChange {
    /// Serve a snapshot until `unpin`, whatever is learned meanwhile
    Pin(Target),
    /// Serve the newest version again
    Unpin(Note),
    /// Go back to a snapshot: serve it and continue to learn from it
    Rollback(Target),
    /// Freeze the base of the model, which is the blocks over content and history; adapters learn in its place from now on
    FreezeBase(Note),
    /// Add what the adapters have learned to the frozen base, and reset them
    Rebase(Note),
    /// Encode all contents again with the configured encoders, after a change of encoders. The daemon must be stopped
    ReEncode(Note),
}

/// The snapshot of a change, with the reason.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Id, or latest, serving or pinned
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) note: Note,
}

/// The reason of a change.
#[derive(Debug, Args)]
pub(crate) struct Note {
    /// Reason, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) note: String,
}
