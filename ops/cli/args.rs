//! The arguments of every command. The doc comments are the help text.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::point::RangePoint;
use super::snapshot::{SnapshotArgs, StateArgs};

/// A streaming online-learning ranker: Kafka in, scores out, one process.
#[derive(Debug, Parser)]
#[command(
    name = "ouzel",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Learn from Kafka and serve scores until SIGTERM; a second signal exits at once
    Daemon(DaemonArgs),
    /// Join impressions with actions for daemons elsewhere, sharing the partitions with others that do, until SIGTERM
    Join(JoinArgs),
    /// Watch the whole thing work on a broker of its own: events in, a model, scores out
    Demo(DemoArgs),
    /// Learn from files or a range of Kafka without serving, and say how good the predictions were
    Replay(ReplayArgs),
    /// Score requests with a snapshot, without a daemon
    Score(ScoreArgs),
    /// Kill daemons again and again, and check that nothing was lost, learned twice or changed
    Verify(VerifyArgs),
    /// List, inspect, check, pin, roll back and clean up snapshots
    Snapshot(SnapshotArgs),
    /// Show, check and describe the configuration
    Config(ConfigArgs),
    /// Say what a model is made of, and what it costs
    Model(ModelArgs),
    /// Make the topics
    Topics(TopicsArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

impl Verb {
    /// The command's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Daemon(_) => "daemon",
            Verb::Demo(_) => "demo",
            Verb::Join(_) => "join",
            Verb::Replay(_) => "replay",
            Verb::Score(_) => "score",
            Verb::Verify(_) => "verify",
            Verb::Snapshot(_) => "snapshot",
            Verb::Config(_) => "config",
            Verb::Model(_) => "model",
            Verb::Topics(_) => "topics",
            Verb::Completions(_) => "completions",
        }
    }
}

/// `ouzel daemon`.
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// The configuration; `ouzel config show` prints one to start from
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// `ouzel join`.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The configuration, the daemon's own: join.source must be "tier"
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Name of this process in the group, the same over restarts [default: tier.instance of the configuration]
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
}

/// `ouzel demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// A folder with impressions, actions (or clicks) and items as NDJSON, plain, .gz or .zst
    /// [default: MovieLens-100K, as `make demo` fetches it]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Stay up and serve after the last event, until a signal
    #[arg(long)]
    pub keep_serving: bool,
    /// Print one JSON document on stdout instead of the summary
    #[arg(long)]
    pub json: bool,
    /// Where snapshots go [default: a new folder below the system's temporary one]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Address and port to serve on [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
}

/// `ouzel replay`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").args(["data", "from", "to"]).required(true).multiple(true))]
pub struct ReplayArgs {
    /// A folder with impressions, actions (or clicks) and items as NDJSON, plain, .gz or .zst
    #[arg(long, value_name = "DIR", conflicts_with_all = ["from", "to"])]
    pub data: Option<PathBuf>,
    /// Where in Kafka to begin: an offset, a time (2026-05-01T12:00:00Z, or @ and ms since 1970), or start
    #[arg(long, value_name = "POINT", requires = "config")]
    pub from: Option<RangePoint>,
    /// Where in Kafka to end, not included: as --from, or end, which is where the topics end now
    #[arg(long, value_name = "POINT", requires = "config")]
    pub to: Option<RangePoint>,
    /// Configurations to replay with, one run each [default: one run with every default]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub config: Vec<PathBuf>,
    /// When labels become known
    #[arg(long, value_enum, default_value_t = Labels::Configured)]
    pub labels: Labels,
    /// Use this seed instead of the configured one
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Print one JSON document on stdout instead of the table
    #[arg(long)]
    pub json: bool,
}

/// When labels become known in a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Labels {
    /// As join.label_policy of the configuration says
    Configured,
    /// Right after their request was predicted, as offline references do it
    Immediate,
}

/// `ouzel score`.
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// Where the snapshots are.
    #[command(flatten)]
    pub state: StateArgs,
    /// Score with this snapshot [default: the one being served, or the newest]
    #[arg(long, value_name = "ID")]
    pub snapshot: Option<String>,
    /// Requests as for POST /v1/rank, one JSON object a line; - is stdin
    #[arg(value_name = "FILE", default_value = "-")]
    pub requests: PathBuf,
}

/// Fail points to die at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FailPoints {
    /// Those that have a name.
    Named,
    /// And every write-side call of a snapshot.
    All,
}

/// `ouzel verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// How many times to kill with SIGKILL
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub kills: u64,
    /// Decides the events, the delays and the damages; the instants are the machine's
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Have daemons die at fail points, too: each that has a name, or also each write-side call of a snapshot
    #[arg(long, value_name = "WHICH")]
    pub fail_points: Option<FailPoints>,
    /// Print one JSON document on stdout instead of the table
    #[arg(long)]
    pub json: bool,
    /// Keep every state directory in this empty folder
    /// [default: a new folder below the system's temporary one; only what failed is kept]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// `ouzel config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: ConfigVerb,
}

/// The commands about the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Print the configuration as TOML: the keys that most users set and those that were changed, with their meaning, unit
    /// and default
    Show {
        /// Print every key
        #[arg(long)]
        all: bool,
        /// The configuration file [default: none, every key has its default]
        #[command(flatten)]
        file: FileArgs,
        /// Print every key as JSON instead, without comments
        #[arg(long, conflicts_with = "all")]
        json: bool,
    },
    /// Check a configuration file; exit code 3 when it cannot be used
    #[command(arg_required_else_help = true)]
    Check {
        /// The file
        #[command(flatten)]
        file: FileArgs,
        /// Print one JSON document on stdout
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the configuration file
    Schema,
    /// Print the reference of all keys as Markdown
    Docs,
}

/// `ouzel model`.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: ModelVerb,
}

/// The commands about models.
#[derive(Debug, Subcommand)]
pub enum ModelVerb {
    /// List the ready-made models
    List,
    /// Show a model's blocks, its weights, and the operations of a request, of a candidate and of an item
    Describe(DescribeArgs),
}

/// `ouzel model describe`.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// A ready-made model, or a .toml file with keys of the section model [default: the configuration's]
    #[arg(value_name = "NAME|FILE.toml")]
    pub model: Option<String>,
    /// The configuration that it is to run under [default: every default, and vectors as `make encoders` has them]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Entries of the user's history [default: as many as each block reads]
    #[arg(long, value_name = "N")]
    pub history: Option<u32>,
    /// Candidates of a request
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub candidates: u32,
}

/// A configuration file, by place or by name.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// The configuration
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The same, as other commands take it
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub config: Option<PathBuf>,
}

impl FileArgs {
    /// The file, if one was given.
    #[must_use]
    pub fn path(&self) -> Option<&PathBuf> {
        self.file.as_ref().or(self.config.as_ref())
    }
}

/// `ouzel topics`.
#[derive(Debug, Args)]
pub struct TopicsArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: TopicsVerb,
}

/// The commands about topics.
#[derive(Debug, Subcommand)]
pub enum TopicsVerb {
    /// Make the topics of a configuration that are not there yet, and their dead-letter topics
    Create {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Partitions of each topic
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: i32,
        /// Replicas of each partition
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
        replication: i32,
        /// Print one JSON document on stdout
        #[arg(long)]
        json: bool,
    },
}

/// `ouzel completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: Shell,
}

#[cfg(test)]
mod tests;
