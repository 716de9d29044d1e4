//! The sections about the surroundings: brokers, device, disk, ports, logs. Those about the stream itself are
//! in `stream.rs`.
//!
//! The doc comments are what `config show` and `config schema` print: they are the one place where a key is
//! explained, with its unit. Written for the person who edits the file.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ouzel_learner::LearnerConfig;

use super::model::Bound;
use super::properties::Properties;
use super::units::{ByteSize, Period};

/// Where events come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// Brokers to ask first, as `host:port`, several separated by commas.
    pub bootstrap: String,
    /// Send every record that cannot be used to `<topic>.dlq`, with its coordinates and the reason in its
    /// headers. When false it is only counted.
    pub dlq: bool,
    /// The topics.
    pub topics: Topics,
    /// Any librdkafka property, passed through as it stands; a few that ouzel sets itself are refused with
    /// the reason. A secret stands here by reference only: `sasl.password = "${env:NAME}"` takes it from
    /// the environment, `sasl.password_file = "PATH"` from a file.
    pub properties: Properties,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            bootstrap: "127.0.0.1:9092".to_owned(),
            dlq: true,
            topics: Topics::default(),
            properties: Properties::default(),
        }
    }
}

/// The topics of the logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Topics {
    /// JoinResultReceiver shown to users, keyed by `request_id`.
    pub impressions: String,
    /// What users did with them, keyed by `request_id`.
    pub actions: String,
    /// The item catalog, read from its start.
    pub items: String,
    /// What `ouzel join` makes of impressions and actions, keyed by user; read and written only with
    /// `join.source = "tier"`. Its partitions must stay as many as they are.
    pub samples: String,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            impressions: "impressions".to_owned(),
            actions: "actions".to_owned(),
            items: "items".to_owned(),
            samples: "samples".to_owned(),
        }
    }
}

/// How ids become numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ids {
    /// Mixed into the hash of every id, any whole number up to 2^63 - 1. A snapshot made with another salt
    /// cannot be resumed from.
    #[schemars(range(min = 0, max = 9_223_372_036_854_775_807_i64))]
    pub salt: u64,
}

/// How samples become steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Learner {
    /// A step is taken when this many samples are there, count; requests are never split, so a batch may be
    /// larger.
    #[schemars(range(min = 1))]
    pub batch_min_samples: usize,
    /// Share of negatives that are learned from, above 0 and at most 1; positives always are. For logs with few
    /// positives: a step costs less, and scores stay calibrated to all that was shown.
    pub negative_rate: f64,
    /// Calibrate each task's scores on certain labels as they come, by a line in log-odds that keeps the order of
    /// items: for where the loss, or what reaches it, makes scores higher or lower than what happens. Wants a
    /// `join.policy` that tells every outcome once it is certain: `eager`, `wait` or `defer`. A jump of more than .5
    /// within an hour of event time is logged and counted in `ouzel_learner_calibration_jumps_total`.
    pub calibrate: bool,
    /// Embedding rows of each table, and weights of the wide part, count each; about 30 bytes a row beside its floats, and
    /// as much again while a version of them is served. Beyond it those that have learned least are forgotten.
    #[schemars(range(min = 1))]
    pub max_rows: usize,
    /// Embedding rows that a GPU keeps in its memory, count: those that batches read last, `4 * (model.dim + 1)` bytes
    /// each. Another number gives the same bits.
    #[schemars(range(min = 1))]
    pub device_rows: usize,
    /// Seeds every random number. The same log and seed give the same model.
    #[schemars(range(min = 0, max = 9_223_372_036_854_775_807_i64))]
    pub seed: u64,
    /// A live stream that is silent for this long, wall time, has its open batch learned as it is; `0s` never
    /// does that. Written to the plan log, so that a replay does the same.
    pub flush_idle: Period,
    /// Threads of the tensor library, count; what runs in plain loops, most of a model on the CPU, has one. Part of
    /// the determinism fingerprint: another number may give other low bits.
    #[schemars(range(min = 1))]
    pub threads: usize,
    /// Where the learner computes: `cpu`, or `cuda:N`.
    pub device: String,
    /// Tasks that are drawn together, as an order that is a click and then a conversion: the symmetric divergence
    /// between the product of the first two predictions and the third is part of the loss.
    pub bounds: Vec<Bound>,
}

impl Default for Learner {
    fn default() -> Self {
        Self {
            batch_min_samples: LearnerConfig::default().batch_min_samples,
            negative_rate: 1.0,
            calibrate: false,
            max_rows: 20_000_000,
            device_rows: LearnerConfig::default().device_rows,
            seed: 0,
            flush_idle: Period::from_ms(200),
            threads: 1,
            device: "cpu".to_owned(),
            bounds: Vec::new(),
        }
    }
}

/// What is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Snapshot {
    /// The state directory: snapshots, plan log, admin socket. One daemon at a time.
    pub dir: PathBuf,
    /// A snapshot is written after this many batches, and at shutdown, count.
    #[schemars(range(min = 1))]
    pub every_batches: u64,
    /// Snapshots kept, count; pinned and served ones are kept beside these.
    #[schemars(range(min = 1))]
    pub keep: usize,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("state"),
            every_batches: 500,
            keep: 10,
        }
    }
}

/// The scoring port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Serving {
    /// Address and port of HTTP. There is no authentication on it: beyond loopback it needs a network that
    /// only callers reach.
    pub listen: SocketAddr,
    /// Scorer threads, count; each has its own copy of the dense weights.
    #[schemars(range(min = 1))]
    pub workers: usize,
    /// Requests that may wait for a scorer, count; one more is answered 429 at once.
    #[schemars(range(min = 1))]
    pub queue: usize,
    /// From a request's last byte to its reply, wall time; later it is answered 504.
    pub deadline: Period,
    /// Most items of one request, count; more is answered 422.
    #[schemars(range(min = 1))]
    pub max_candidates: usize,
    /// Largest body of a request; a larger one is answered 413.
    pub max_body: ByteSize,
    /// Open connections, count; more wait to be accepted.
    #[schemars(range(min = 1))]
    pub max_connections: usize,
    /// From the last reply to the next request's complete head, wall time; later the connection is closed.
    pub head_timeout: Period,
    /// From a request's head to its complete body, wall time; later it is answered 408.
    pub body_timeout: Period,
    /// How long a shutdown waits for requests in flight, wall time.
    pub shutdown_grace: Period,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8600)),
            workers: 1,
            queue: 1024,
            deadline: Period::from_ms(50),
            max_candidates: 1000,
            max_body: ByteSize::from_bytes(262_144),
            max_connections: 1024,
            head_timeout: Period::from_secs(30),
            body_timeout: Period::from_secs(5),
            shutdown_grace: Period::from_secs(5),
        }
    }
}

/// Administration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The Unix socket that `ouzel snapshot rollback` and its like talk to, mode 0600. Unset: `admin.sock` in
    /// the state directory. A path has at most 103 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

/// What the process says of itself on stderr.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Least severe level written: `error`, `warn`, `info`, `debug` or `trace`; or a filter by module, such as
    /// `info,ouzel_ingest=debug`. The environment variable OUZEL_LOG wins over it.
    pub level: String,
    /// One line for people, or one JSON object a line.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Human,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// For machines.
    Json,
}
