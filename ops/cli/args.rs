//! The arguments of the commands. The doc comments are the help text.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ouzel_sample::settings::Period;
use ouzel_verify::FailPoints;

use super::candidate::CandidateArgs;
use super::point::RangePoint;
use super::snapshot::{LearningArgs, SnapshotArgs, StateArgs, StatusArgs};

/// A streaming online-learning ranker: Kafka in, scores out, one process.
#[derive(Debug, Parser)]
#[command(
    name = "ouzel",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Learn from Kafka and serve scores until SIGTERM; a second signal ends the process at once
    Daemon(DaemonArgs),
    /// Join impressions with actions for daemons elsewhere, until SIGTERM; join processes share the partitions
    Join(JoinArgs),
    /// Learn a data folder live from an embedded broker, serve the model, and report its quality
    Demo(DemoArgs),
    /// Learn from files or a range of Kafka without serving, and report the quality of the predictions
    Replay(ReplayArgs),
    /// Score requests with a snapshot, without a daemon
    Score(ScoreArgs),
    /// Kill daemons repeatedly, and check that no event was lost or learned twice and no result changed
    Verify(VerifyArgs),
    /// Show what a daemon serves and whether it learns; exit code 3 if it does not
    Status(StatusArgs),
    /// Stop learning and go on serving, until `resume`
    Pause(LearningArgs),
    /// Learn again after `pause`, or after a gate stopped it
    Resume(LearningArgs),
    /// Let a snapshot score a share of the traffic beside the served version, as a shadow or a canary
    Candidate(CandidateArgs),
    /// Serve the candidate and learn on from it
    Promote(LearningArgs),
    /// List, inspect, check, pin, roll back and remove snapshots
    Snapshot(SnapshotArgs),
    /// Show, check and describe the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// List the ready-made models, or describe a model's weights and costs
    Model(ModelArgs),
    /// Create the topics
    #[command(subcommand)]
    Topics(TopicsVerb),
    /// Try how records are read as events, and show the ready-made mappings
    #[command(subcommand)]
    Events(EventsVerb),
    /// Print a completion script for a shell
    Completions {
        /// Name of the shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// Configuration file; `ouzel config show` prints one to start from
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Go on from the oldest record where the log no longer holds the next one; the lost records are named in the lineage
    #[arg(long)]
    pub(crate) accept_loss: bool,
    /// While another daemon writes to the state directory, follow it, serve, and take over when it falls silent
    #[arg(long)]
    pub(crate) standby: bool,
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// Configuration file of the daemon, with join.source = "tier"
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Name of this process in the group, the same after a restart [default: tier.instance of the configuration]
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Folder with impressions, actions (or clicks) and items as NDJSON, plain, .gz or .zst
    /// [default: MovieLens-100K, as `make demo` downloads it]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Continue to serve after the last event, until a signal
    #[arg(long)]
    pub(crate) keep_serving: bool,
    /// Print one JSON document on stdout instead of the summary
    #[arg(long)]
    pub(crate) json: bool,
    /// State directory [default: a new folder in the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Address and port of the scoring port [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
}

#[derive(Debug, Default, Args)]
#[command(group = ArgGroup::new("source").args(["data", "from", "to"]).required(true).multiple(true))]
pub(crate) struct ReplayArgs {
    /// Folder with impressions, actions (or clicks) and items as NDJSON, plain, .gz or .zst
    #[arg(long, value_name = "DIR", conflicts_with_all = ["from", "to"])]
    pub(crate) data: Option<PathBuf>,
    /// Start in Kafka: an offset, a time (2026-05-01T12:00:00Z, or @ and ms since 1970), or start
    #[arg(long, value_name = "POINT", requires = "config")]
    pub(crate) from: Option<RangePoint>,
    /// End in Kafka, exclusive: as for --from, or end, the present end of the topics
    #[arg(long, value_name = "POINT", requires = "config")]
    pub(crate) to: Option<RangePoint>,
    /// Configuration files, one run for each [default: one run with the default configuration]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) config: Vec<PathBuf>,
    /// When labels become known
    #[arg(long, value_enum, default_value_t = Labels::Configured)]
    pub(crate) labels: Labels,
    /// Seed in place of learner.seed
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// End at the first row of the files that cannot be used, instead of counting it
    #[arg(long, requires = "data")]
    pub(crate) strict: bool,
    /// Write each record that cannot be used to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(crate) dead_letters: Option<PathBuf>,
    /// End after so many shown items, as if the log ended there
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Also score a quarter of the requests with their shown items hidden among N candidates of the catalogue
    #[arg(long, value_name = "N", value_delimiter = ',', num_args = 1..)]
    pub(crate) candidates: Vec<usize>,
    /// Also score every slate with versions that are published every so often in event time, such as 1s,10m,6h
    #[arg(long, value_name = "PERIOD", value_delimiter = ',', num_args = 1..)]
    pub(crate) publish_every: Vec<Period>,
    /// Print one JSON document on stdout instead of the table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Labels {
    /// By join.label_policy of the configuration
    #[default]
    Configured,
    /// Right after the prediction of their request, as in offline evaluations
    Immediate,
}

#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Snapshot to score with [default: the pinned one, or the latest]
    #[arg(long, value_name = "ID")]
    pub(crate) snapshot: Option<String>,
    /// Requests as for POST /v1/rank, one JSON object per line; - is stdin
    #[arg(value_name = "FILE", default_value = "-")]
    pub(crate) requests: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Number of kills by SIGKILL
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) kills: u64,
    /// Seed of the events, the delays and the damage to files; the instants of the kills depend on the machine
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Also abort daemons at each named fail point (named), or at these and each write call of a snapshot (all)
    #[arg(long, value_name = "WHICH", value_parser = fail_points())]
    pub(crate) fail_points: Option<FailPoints>,
    /// Print one JSON document on stdout instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// Empty folder that keeps every state directory
    /// [default: a new folder in the system's temporary folder, which keeps only failures]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

fn fail_points() -> impl TypedValueParser<Value = FailPoints> {
    PossibleValuesParser::new(["named", "all"]).map(|name| match name.as_str() {
        "all" => FailPoints::All,
        _ => FailPoints::Named,
    })
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print the configuration as TOML: the keys that most users set and those that were changed, each with its meaning,
    /// unit and default
    Show {
        /// Print every key
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        file: FileArgs,
        /// Print every key as JSON instead, without comments
        #[arg(long, conflicts_with = "all")]
        json: bool,
    },
    /// Check a configuration file as the daemon does at its start; exit code 3 if it cannot be used
    #[command(arg_required_else_help = true)]
    Check {
        #[command(flatten)]
        file: FileArgs,
        /// Also ask the broker: topics, partitions, retention and permission to read; nothing is written
        #[arg(long)]
        connect: bool,
        /// Print one JSON document on stdout
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the configuration file
    Schema,
    /// Print the reference of all keys as Markdown
    Docs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EventsVerb {
    /// Show the first records of a file or a topic, the events that they become, and what is missing
    Try(TryArgs),
    /// List the ready-made mappings, or print one as TOML
    Mappings {
        /// Name of the mapping to print
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("input").args(["file", "topic"]).required(true))]
pub(crate) struct TryArgs {
    /// File with one record a line, plain, .gz or .zst
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Topic of the configured brokers
    #[arg(long, value_name = "TOPIC", requires = "config")]
    pub(crate) topic: Option<String>,
    /// Configuration file with the mapping [default: the default configuration]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Stream to read the records as [default: each of the four]
    #[arg(long, value_enum)]
    pub(crate) stream: Option<StreamName>,
    /// Number of records
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) records: usize,
}

/// A stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StreamName {
    /// What was shown
    Impressions,
    /// What users did
    Actions,
    /// The catalogue
    Items,
    /// Profiles of users
    Users,
}

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: ModelVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelVerb {
    /// List the ready-made models
    List,
    /// Show a model's blocks, its weights, and the operations of a request, of a candidate and of an item
    Describe(DescribeArgs),
    /// Replay the ready-made models on the first part of a log, and say which earns its cost
    Choose(ChooseArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ChooseArgs {
    /// Folder with impressions, actions (or clicks) and items as NDJSON, plain, .gz or .zst
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Configuration file whose model is replaced [default: the default configuration]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Ready-made models, or .toml files with keys of the section model [default: all ready-made models]
    #[arg(value_name = "NAME|FILE.toml")]
    pub(crate) models: Vec<String>,
    /// When labels become known
    #[arg(long, value_enum, default_value_t = Labels::Immediate)]
    pub(crate) labels: Labels,
    /// Shown items that are read
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pub(crate) limit: u64,
    /// Runs of each model, with different start values
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=9))]
    pub(crate) seeds: u8,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// Ready-made model, or .toml file with keys of the section model [default: the configured model]
    #[arg(value_name = "NAME|FILE.toml")]
    pub(crate) model: Option<String>,
    /// Configuration file that the model runs under [default: the default configuration, with vectors of the widths that
    /// the encoders of `make encoders` have]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Entries of the user's history [default: as many as each block reads]
    #[arg(long, value_name = "N")]
    pub(crate) history: Option<u32>,
    /// Candidates of a request
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) candidates: u32,
}

/// A configuration file, as an argument or an option.
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// Configuration file
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Configuration file, as other commands take it
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
}

impl FileArgs {
    /// The file, if one was given.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.file.as_deref().or(self.config.as_deref())
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicsVerb {
    /// Create the configured topics that are missing, and their dead-letter topics
    Create {
        /// Configuration file
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

#[cfg(test)]
mod tests;
