//! The root of the configuration: its sections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ouzel_ingest::EventLimits;
use ouzel_ingest::join::JoinConfig;
use ouzel_ingest::order::OrderConfig;
use ouzel_ingest::tier::TierConfig;
use ouzel_learner::model::ModelConfig;
use ouzel_learner::{LearnerConfig, OptimizerConfig, RowRules};
use ouzel_sample::FeatureConfig;
use ouzel_sample::settings::schema_of;
use ouzel_serving::ServingConfig;
use ouzel_snapshot::SnapshotConfig;

use super::model;
use super::sections::{Admin, Content, Ids, Kafka, Log};

/// The configuration. It holds the sections as stated; methods such as [`Config::learner_config`] derive settings from
/// several of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The Kafka cluster that events come from.
    pub kafka: Kafka,
    /// How ids become numbers.
    pub ids: Ids,
    /// Limits of one event. An event beyond a limit is rejected and goes to the dead-letter topic.
    pub events: EventLimits,
    /// How impressions and actions become samples.
    pub join: JoinConfig,
    /// How `ouzel join` processes share the partitions, with `join.source = "tier"`.
    pub tier: TierConfig,
    /// The order in which records of several partitions are processed.
    pub order: OrderConfig,
    /// What is stored of users and items between events. Part of a snapshot's schema except for the limits: other values
    /// make other features.
    pub features: FeatureConfig,
    /// Frozen content encoders. Vectors that item events carry need none. Part of a snapshot's schema: another encoder makes
    /// other vectors.
    pub content: Content,
    /// How samples become training steps. May change between two starts.
    pub learner: LearnerConfig,
    /// The shape of the ranker. Part of a snapshot's schema: other values make other weights.
    pub model: ModelConfig,
    /// Learning rates, losses and gradient clipping. May change between two starts.
    pub optimizer: OptimizerConfig,
    /// When an id gets an embedding row, and when it loses it. May change between two starts.
    pub rows: RowRules,
    /// What is stored on disk.
    pub snapshot: SnapshotConfig,
    /// The scoring port. A request beyond a limit gets a status code; none waits without end.
    pub serving: ServingConfig,
    /// Administration, never on the scoring port.
    pub admin: Admin,
    /// The log on stderr.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kafka: Kafka::default(),
            ids: Ids::default(),
            events: EventLimits::default(),
            join: JoinConfig::default(),
            tier: TierConfig::default(),
            order: OrderConfig::default(),
            features: FeatureConfig::default(),
            content: Content::default(),
            learner: LearnerConfig::default(),
            model: model::preset(model::DEFAULT).expect("the default model is ready-made"),
            optimizer: OptimizerConfig::default(),
            rows: RowRules::default(),
            snapshot: SnapshotConfig::default(),
            serving: ServingConfig::default(),
            admin: Admin::default(),
            log: Log::default(),
        }
    }
}

impl Config {
    /// The JSON Schema of the file, without references: every section in place.
    pub fn schema() -> serde_json::Value {
        schema_of::<Self>()
    }
}
