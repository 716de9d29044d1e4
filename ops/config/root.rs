//! The root of the configuration: its sections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ouzel_ingest::EventConfig;
use ouzel_ingest::join::JoinConfig;
use ouzel_ingest::order::OrderConfig;
use ouzel_ingest::tier::TierConfig;
use ouzel_learner::gates::GatesConfig;
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
#[allow(missing_docs, reason = "the doc comment of a section describes it")]
pub struct Config {
    pub kafka: Kafka,
    pub ids: Ids,
    pub events: EventConfig,
    pub join: JoinConfig,
    /// How `ouzel join` processes share the partitions, with `join.source = "tier"`.
    pub tier: TierConfig,
    pub order: OrderConfig,
    /// What is stored of users and items between events. Part of a snapshot's schema except for the limits: other values
    /// make other features.
    pub features: FeatureConfig,
    pub content: Content,
    /// How samples become training steps. May change between two starts.
    pub learner: LearnerConfig,
    pub model: ModelConfig,
    /// Learning rates, losses and gradient clipping. May change between two starts.
    pub optimizer: OptimizerConfig,
    /// When an id gets an embedding row, and when it loses it. May change between two starts.
    pub rows: RowRules,
    pub gates: GatesConfig,
    pub snapshot: SnapshotConfig,
    pub serving: ServingConfig,
    pub admin: Admin,
    pub log: Log,
    /// What the file says in an outdated way, one sentence each.
    #[serde(skip)]
    #[schemars(skip)]
    pub notices: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kafka: Kafka::default(),
            ids: Ids::default(),
            events: EventConfig::default(),
            join: JoinConfig::default(),
            tier: TierConfig::default(),
            order: OrderConfig::default(),
            features: FeatureConfig::default(),
            content: Content::default(),
            learner: LearnerConfig::default(),
            model: model::preset(model::DEFAULT).expect("the default model is ready-made"),
            optimizer: OptimizerConfig::default(),
            rows: RowRules::default(),
            gates: GatesConfig::default(),
            snapshot: SnapshotConfig::default(),
            serving: ServingConfig::default(),
            admin: Admin::default(),
            log: Log::default(),
            notices: Vec::new(),
        }
    }
}

impl Config {
    /// The JSON Schema of the file, without references: every section in place.
    pub fn schema() -> serde_json::Value {
        schema_of::<Self>()
    }
}
