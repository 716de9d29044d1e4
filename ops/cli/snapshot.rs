//! The arguments of `ouzel snapshot`. The doc comments are the help text.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use super::point::RangePoint;

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

/// `ouzel status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Print one JSON document on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// `ouzel pause` and `ouzel resume`.
#[derive(Debug, Args)]
pub(crate) struct LearningArgs {
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Print one JSON document on stdout
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) note: Note,
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
    List {
        /// List those of the remote copy, `snapshot.remote`
        #[arg(long)]
        remote: bool,
    },
    /// Copy a snapshot of the remote copy into this state directory, with those that it needs. The daemon must be stopped
    Fetch {
        /// Id, alias or tag in the remote copy
        #[arg(value_name = "ID", default_value = "latest")]
        id: String,
    },
    /// Show the manifest of a snapshot
    Show {
        /// Id, alias (latest, serving, pinned) or tag
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Read every byte of a snapshot, load its weights and score its probe; exit code 3 if a snapshot or the audit log is
    /// damaged
    Verify {
        /// Id, alias (latest, serving, pinned) or tag [default: every snapshot]
        #[arg(value_name = "ID")]
        id: Option<String>,
    },
    /// Show the differences between two snapshots
    Diff {
        /// First snapshot: id, alias or tag
        #[arg(value_name = "A")]
        a: String,
        /// Second snapshot
        #[arg(value_name = "B")]
        b: String,
    },
    #[command(flatten)]
    Change(SnapshotChange),
    /// Encode all contents again with the configured encoders, after a change of encoders. The daemon must be stopped
    ReEncode(Note),
    /// Write a snapshot for a changed configuration, which --config names: other tasks, windows, features or another model.
    /// What fits is kept. The daemon must be stopped
    Migrate {
        /// Id, alias or tag [default: the newest snapshot]
        #[arg(value_name = "ID")]
        id: Option<String>,
        /// Only say what would be kept, started anew and lost
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        note: Note,
    },
    /// Remove old snapshots; those with an alias or tag, the newest, and the last of hours and days stay
    Gc {
        /// Number of newest snapshots to keep [default: snapshot.keep of the configuration]
        #[arg(long, value_name = "N")]
        keep: Option<usize>,
        /// Print what would stay and what would go, and why, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Write the arrays and files of a snapshot to a new folder, for other programs
    Export {
        /// Id, alias or tag
        #[arg(value_name = "ID")]
        id: String,
        /// The folder, which must not exist
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Format of the arrays: safetensors, which `import` reads back, npz for NumPy, or parquet with a row for each id
        #[arg(long, value_enum, default_value_t = ExportFormat::Safetensors)]
        format: ExportFormat,
    },
    /// Write an exported snapshot into this state directory; `rollback` to it makes it the latest. The daemon must be
    /// stopped
    Import {
        /// The folder that `export` wrote
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        #[command(flatten)]
        note: Note,
    },
}

/// A command that changes what is served and resumed from.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotChange {
    /// Write a snapshot now, of what the running daemon has learned so far
    Create,
    /// Serve a snapshot until `unpin`, whatever is learned meanwhile
    Pin(Target),
    /// Serve the newest version again
    Unpin(Note),
    /// Go back to a snapshot: serve it and continue to learn from it
    Rollback(Rollback),
    /// Exclude events from learning, and read the log again without them
    Quarantine(Quarantine),
    /// Give a snapshot a name, which keeps it from being removed
    Tag {
        /// Id, alias or tag
        #[arg(value_name = "ID")]
        id: String,
        /// The name: letters a to z, digits, points, hyphens and underscores
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        note: Note,
    },
    /// Remove the name that `tag` gave
    Untag {
        /// The name
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        note: Note,
    },
    /// Freeze the base of the model, which is the blocks over content and history; adapters learn in its place from now on
    FreezeBase(Note),
    /// Add what the adapters have learned to the frozen base, and reset them
    Rebase(Note),
}

/// A rollback, which says where learning goes on.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("learn_from").required(true))]
pub(crate) struct Rollback {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Go back in the log, too: everything after the snapshot is read and learned again
    #[arg(long, group = "learn_from")]
    pub(crate) rewind: bool,
    /// Skip what came after the snapshot: with `now` the log goes on at its present position, with a time, such as
    /// 2026-05-01T12:00:00Z or @1777636800000, at the first records of that time
    #[arg(long, group = "learn_from", value_name = "now|TIME", value_parser = skip_to)]
    pub(crate) skip_to: Option<SkipTo>,
    /// Only say how far back that is
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Where the log goes on after a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SkipTo {
    /// At its present position.
    Now,
    /// At the first records at or after this time, ms since 1970.
    TimeMs(i64),
}

/// Parses `now` or a time.
fn skip_to(text: &str) -> anyhow::Result<SkipTo> {
    match text {
        "now" => Ok(SkipTo::Now),
        _ => Ok(SkipTo::TimeMs(time_ms(text)?)),
    }
}

/// The events of a quarantine: those that fit every condition given.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("event").required(true).multiple(true))]
pub(crate) struct Quarantine {
    /// Events of this user
    #[arg(long, group = "event", value_name = "ID")]
    pub(crate) user: Option<String>,
    /// Actions on this item, and this item where it is shown
    #[arg(long, group = "event", value_name = "ID")]
    pub(crate) item: Option<String>,
    /// Events from this event time on, such as 2026-05-01T12:00:00Z or @1777636800000
    #[arg(long, group = "event", value_name = "TIME", value_parser = time_ms)]
    pub(crate) from: Option<i64>,
    /// Events before this event time
    #[arg(long, group = "event", value_name = "TIME", value_parser = time_ms)]
    pub(crate) to: Option<i64>,
    /// Records with this value at this path, such as 'context.source = app-7'
    #[arg(long = "where", group = "event", value_name = "PATH = VALUE", value_parser = condition)]
    pub(crate) condition: Option<(String, String)>,
    /// Snapshot to go back to [default: the newest one before --from]
    #[arg(long, value_name = "ID", conflicts_with = "only_new")]
    pub(crate) again: Option<String>,
    /// Go back to no snapshot: exclude only events that are read from now on
    #[arg(long)]
    pub(crate) only_new: bool,
    /// Only say how far back that is
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) note: Note,
}

/// Parses a time, ms since 1970.
fn time_ms(text: &str) -> anyhow::Result<i64> {
    match text.parse()? {
        RangePoint::TimeMs(ms) => Ok(ms),
        _ => bail!("expected a time such as 2026-05-01T12:00:00Z or @1777636800000"),
    }
}

/// Parses `PATH = VALUE`.
fn condition(text: &str) -> anyhow::Result<(String, String)> {
    let (path, value) = text.split_once('=').context("expected 'PATH = VALUE'")?;
    Ok((path.trim().to_owned(), value.trim().to_owned()))
}

/// A format of exported arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// One safetensors file each.
    Safetensors,
    /// One `.npz` file each, which `numpy.load` reads.
    Npz,
    /// One Parquet file for each table of rows, and one for the other arrays of each type.
    Parquet,
}

/// The snapshot of a change, with the reason.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Id, alias (latest, serving, pinned) or tag
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
