//! The sections of the program itself: `[kafka]`, `[ids]`, `[content]`, `[admin]` and `[log]`.
//!
//! `config show` and the reference print the doc comments of the keys.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ouzel_ingest::Topics;

use super::properties::Properties;

/// The Kafka cluster that events come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// Brokers to contact first, as `host:port`, separated by commas.
    ///
    /// Set it to your cluster.
    pub bootstrap: String,
    /// Whether every record that cannot be used is sent to `<topic>.dlq`, with its coordinates and the reason in its
    /// headers. When false it is only counted.
    ///
    /// Turn it off where the process may not write to the cluster.
    pub dlq: bool,
    /// Whether impressions and actions that come too late to be learned are copied to `<topic>.late`, with their payload,
    /// their coordinates and the reason in their headers. They are counted in any case.
    ///
    /// Turn it on to look at them or to train on them elsewhere.
    pub late_records: bool,
    /// The topics.
    pub topics: Topics,
    /// Any librdkafka property, passed through; the few that ouzel sets itself are refused with the reason. A secret is
    /// stated by reference only: `sasl.password = "${env:NAME}"` takes it from the environment,
    /// `sasl.password_file = "PATH"` from a file.
    ///
    /// Set it for encryption, authentication and tuning of the client.
    pub properties: Properties,
    /// Where the schemas of Avro and Protobuf records are.
    pub schema_registry: SchemaRegistry,
}

/// Where the schemas of Avro and Protobuf records are. While the registry does not answer, reading waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SchemaRegistry {
    /// Where the registry's API begins, such as `http://127.0.0.1:8081`; empty for none.
    ///
    /// Set it when `format` of a section below `[events]` is `avro` or `protobuf`.
    pub url: String,
    /// A file with `user:password`, or with the key and secret of an API key as `key:secret`; empty for none.
    ///
    /// Set it when the registry asks for a login.
    pub login_file: PathBuf,
    /// A file with the certificates of the authorities that sign the registry's own, in PEM form; empty for those that
    /// browsers trust.
    ///
    /// Set it for a registry with a certificate of your own.
    pub ca_file: PathBuf,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            bootstrap: "127.0.0.1:9092".to_owned(),
            dlq: true,
            late_records: false,
            topics: Topics::default(),
            properties: Properties::default(),
            schema_registry: SchemaRegistry::default(),
        }
    }
}

/// How ids become numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ids {
    /// Salt of the hash of every id. A snapshot made with another salt cannot be resumed from.
    ///
    /// Set it once, to a secret number, where ids must not be recognised in snapshots.
    #[schemars(range(max = 9_223_372_036_854_775_807_u64))]
    pub salt: u64,
}

/// Frozen content encoders. Vectors that item events carry need none. Part of a snapshot's schema: another encoder makes
/// other vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Content {
    /// Folder of the text encoder, a BERT with `config.json`, `model.safetensors` and `tokenizer.json`, such as one that
    /// `make encoders` puts into `.encoders`; empty for none.
    ///
    /// Set it to rank new items by their texts.
    pub text_encoder: PathBuf,
    /// How many of an item's texts are encoded together, the title first.
    ///
    /// Unit: texts. Raise it when the title alone says little.
    #[schemars(range(min = 1))]
    pub texts_per_item: usize,
    /// Folder of the image encoder, an EfficientNet-Lite with `config.json` and `model.safetensors`; empty for none.
    ///
    /// Set it to rank new items by their pictures.
    pub image_encoder: PathBuf,
    /// Folder that the items' `image` paths are relative to; nothing outside of it is read.
    ///
    /// Set it to the folder of the pictures.
    pub image_root: PathBuf,
    /// Directory of the encoded vectors, so that each content is encoded once; empty for `vectors` in the state directory.
    ///
    /// Set it to share vectors between state directories.
    pub vector_dir: PathBuf,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            text_encoder: PathBuf::new(),
            texts_per_item: 1,
            image_encoder: PathBuf::new(),
            image_root: PathBuf::from("."),
            vector_dir: PathBuf::new(),
        }
    }
}

/// Administration, never on the scoring port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The Unix socket that `ouzel snapshot rollback` and similar commands talk to, mode 0600. Unset: `admin.sock` in the
    /// state directory. A path has at most 103 bytes.
    ///
    /// Set it when the path of the state directory is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

/// The log on stderr.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Least severe level that is written: `error`, `warn`, `info`, `debug` or `trace`; or a filter by module, such as
    /// `info,ouzel_ingest=debug`. The environment variable OUZEL_LOG overrides it.
    ///
    /// Change it to `debug` while looking for a fault.
    pub level: String,
    /// Format of a log line.
    ///
    /// Change it to `json` for a log collector.
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

/// Format of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}
