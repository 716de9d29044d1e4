//! The arguments of `ouzel snapshot`. The doc comments are the help text.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Which state directory a command is about.
#[derive(Debug, Args)]
pub struct StateArgs {
    /// The state directory [default: state]
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "config")]
    pub state: Option<PathBuf>,
    /// Take the state directory and the admin socket from this configuration
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

/// `ouzel snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// Where the snapshots are.
    #[command(flatten)]
    pub state: StateArgs,
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: SnapshotVerb,
}

/// The commands about snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotVerb {
    /// List every snapshot, the newest last
    List,
    /// Show the manifest of a snapshot
    Show {
        /// Its id, or latest, serving or pinned
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Read every byte of a snapshot and compare hashes; exit code 3 when something is wrong
    Verify {
        /// Its id, or latest, serving or pinned [default: every snapshot]
        #[arg(value_name = "ID")]
        id: Option<String>,
    },
    /// Show what differs between two snapshots
    Diff {
        /// The first: an id, or latest, serving or pinned
        #[arg(value_name = "A")]
        a: String,
        /// The second
        #[arg(value_name = "B")]
        b: String,
    },
    /// A change of what is served and resumed from.
    #[command(flatten)]
    Change(SnapshotChange),
    /// Remove old snapshots; pinned, served and newest ones stay
    Gc {
        /// How many to keep [default: snapshot.keep of the configuration]
        #[arg(long, value_name = "N")]
        keep: Option<usize>,
    },
}

/// The commands that change what is served and resumed from.
#[derive(Debug, Subcommand)]
pub enum SnapshotChange {
    /// Keep serving a snapshot, whatever is learned
    Pin {
        /// Its id, or latest or serving
        #[arg(value_name = "ID")]
        id: String,
        /// Why, for the audit log
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
    /// Serve the newest version again
    Unpin {
        /// Why, for the audit log
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
    /// Go back to a snapshot: serve it and learn on from it
    Rollback {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
        /// Why, for the audit log
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
    /// Freeze the base of the model, the blocks over content and history: adapters learn in its place from here on
    FreezeBase {
        /// Why, for the audit log and the manifest
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
    /// Add what the adapters have learned to the frozen base, and start them anew
    Rebase {
        /// Why, for the audit log and the manifest
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
    /// Make the vectors of all contents anew with the encoders that the configuration names now, after a change.
    /// The daemon must be stopped
    ReEncode {
        /// Why, for the audit log and the manifest
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
}
