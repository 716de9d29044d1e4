//! Settings that are derived from several sections.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use ouzel_ingest::join::{JoinSource, LabelPolicy, StoreConfig, StoreKind, ValueUse};
use ouzel_ingest::{EventProducer, KafkaConfig, RecordFormats, RegistryConfig, Topics};
use ouzel_learner::LearnerConfig;
use ouzel_learner::loss::{Policy as LossPolicy, ValueRole};
use ouzel_learner::model::ModelConfig;
use ouzel_sample::{FeatureConfig, IdSpace};
use ouzel_serving::{ScoreError, ScoreExpression};

use super::properties::PropertyError;
use super::root::Config;
use crate::pipeline::spec::decoder;

/// Width of the vectors of an EfficientNet-Lite of any size.
const EFFICIENTNET_LITE: usize = 1280;

impl Config {
    /// Hashes ids with this deployment's salt.
    pub fn id_space(&self) -> IdSpace {
        IdSpace::new(self.ids.salt)
    }

    /// The action names of the tasks, in task order.
    pub fn task_names(&self) -> Vec<String> {
        self.join.task_names()
    }

    /// What orders the items, by `serving.score`.
    pub fn score_expression(&self) -> Result<ScoreExpression, ScoreError> {
        ScoreExpression::parse(&self.serving.score, &self.task_names())
    }

    /// The topics.
    pub fn topics(&self) -> Topics {
        self.kafka.topics.clone()
    }

    /// The connection to the brokers, with resolved secrets. Do not print it.
    pub fn kafka_config(&self) -> anyhow::Result<KafkaConfig> {
        Ok(KafkaConfig {
            bootstrap: self.kafka.bootstrap.clone(),
            properties: self.kafka.properties.resolve(|name| std::env::var(name).ok())?,
            topics: self.topics(),
            streams: match self.join.source {
                JoinSource::Events => self.kafka.topics.events(),
                JoinSource::Tier => self.kafka.topics.behind_tier(),
            },
            with_metadata: self.events.with_metadata(),
            formats: Arc::new(self.record_formats()?),
            is_whole_log_expected: false,
        })
    }

    /// The formats of the records, with a client of the schema registry. Nothing is requested yet.
    pub(crate) fn record_formats(&self) -> anyhow::Result<RecordFormats> {
        let section = &self.kafka.schema_registry;
        let read = |path: &Path, key: &str| match path.as_os_str().is_empty() {
            true => Ok(None),
            false => fs::read(path)
                .map(Some)
                .with_context(|| format!("cannot read kafka.schema_registry.{key}, {}", path.display())),
        };
        let login = read(&section.login_file, "login_file")?;
        let login = login.map(String::from_utf8).transpose();
        let registry = RegistryConfig {
            url: section.url.clone(),
            login: login.context("kafka.schema_registry.login_file holds no text")?,
            authorities: read(&section.ca_file, "ca_file")?,
        };
        let registry = (!section.url.is_empty()).then_some(&registry);
        Ok(RecordFormats::new(|stream| self.events.format(stream), registry)?)
    }

    /// The connection to the brokers with a stand-in for each secret that this machine lacks, and those that it lacks.
    pub(crate) fn kafka_config_to_check(&self) -> (KafkaConfig, Vec<PropertyError>) {
        let properties = &self.kafka.properties;
        let (properties, unresolved) = properties.resolve_to_check(|name| std::env::var(name).ok());
        let kafka = KafkaConfig {
            bootstrap: self.kafka.bootstrap.clone(),
            properties,
            topics: self.topics(),
            ..KafkaConfig::default()
        };
        (kafka, unresolved)
    }

    /// The producer of the events that clients post.
    pub(crate) fn event_producer(&self, kafka: &KafkaConfig) -> anyhow::Result<EventProducer> {
        let max_record = self.events.max_record.len();
        let timeout = self.serving.events_timeout.duration();
        let producer = EventProducer::connect(kafka, decoder(self)?, self.join.by, max_record, timeout)?;
        Ok(producer)
    }

    /// The store of the join state; on disk it is in `dir`.
    pub fn join_store(&self, dir: &Path) -> StoreConfig {
        match self.join.store {
            StoreKind::Memory => StoreConfig::Memory,
            StoreKind::Sled => StoreConfig::Sled {
                dir: dir.to_owned(),
                limits: self.join.sled,
            },
        }
    }

    /// The state of users and items.
    pub fn feature_config(&self) -> FeatureConfig {
        FeatureConfig {
            history_contents: self.model_config().history_contents(),
            long_len: self.model_config().long_len(),
            ..self.features.clone()
        }
    }

    /// The losses for the samples of the label policy.
    pub fn loss_policy(&self) -> LossPolicy {
        match self.join.label_policy {
            LabelPolicy::Eager | LabelPolicy::Wait => LossPolicy::Plain,
            LabelPolicy::Fnw => LossPolicy::Fnw,
            LabelPolicy::Fnc => LossPolicy::Fnc,
            LabelPolicy::EsDfm => LossPolicy::EsDfm,
            LabelPolicy::Defer => LossPolicy::Defer,
        }
    }

    /// The shape of the ranker, without blocks over content if there are no content vectors.
    pub fn model_config(&self) -> ModelConfig {
        let mut model = self.stated_model();
        if model.content.vector_widths.iter().all(|width| *width == 0) {
            model.content.enabled = false;
            model.interest.enabled = false;
            model.contrast_width = 0;
        }
        model
    }

    /// The shape of the ranker as stated, with or without content vectors.
    pub fn stated_model(&self) -> ModelConfig {
        let policy = self.loss_policy();
        ModelConfig {
            from: String::new(),
            seed: self.learner.seed,
            tasks: self.task_names(),
            output: policy.output(),
            auxiliary: policy.auxiliary(),
            ..self.model.clone()
        }
    }

    /// The settings of the learner.
    pub fn learner_config(&self) -> LearnerConfig {
        LearnerConfig {
            optimizer: self.optimizer.clone(),
            rows: self.rows,
            policy: self.loss_policy(),
            values: self
                .join
                .tasks
                .iter()
                .map(|task| value_role(task.value))
                .collect(),
            ..self.learner.clone()
        }
    }

    /// The admin socket: as configured, or `admin.sock` in the state directory.
    pub fn admin_socket(&self) -> PathBuf {
        let socket = self.admin.socket.clone();
        socket.unwrap_or_else(|| self.local_dir().join("admin.sock"))
    }

    /// The directory of what belongs to one daemon only.
    pub fn local_dir(&self) -> &Path {
        match self.snapshot.local_dir.as_os_str().is_empty() {
            true => &self.snapshot.dir,
            false => &self.snapshot.local_dir,
        }
    }

    /// The directory of the encoded vectors.
    pub fn vector_dir(&self) -> PathBuf {
        match self.content.vector_dir.as_os_str().is_empty() {
            true => self.local_dir().join("vectors"),
            false => self.content.vector_dir.clone(),
        }
    }

    /// Fills in vector widths of 0 with those in the folders of the encoders.
    pub(super) fn with_encoder_widths(mut self) -> Self {
        let folders = [&self.content.text_encoder, &self.content.image_encoder];
        for (width, folder) in self.model.content.vector_widths.iter_mut().zip(folders) {
            if *width == 0 && !folder.as_os_str().is_empty() {
                *width = encoder_width(folder).unwrap_or(0);
            }
        }
        self
    }
}

/// How the learner uses values that the join gives this use.
fn value_role(value: ValueUse) -> ValueRole {
    match value {
        ValueUse::Ignore => ValueRole::Ignore,
        ValueUse::Weight => ValueRole::Weight,
        ValueUse::Target => ValueRole::Target,
    }
}

/// Vector width of the encoder in `folder`. Opening the encoder later reports any error.
fn encoder_width(folder: &Path) -> Option<usize> {
    let text = fs::read_to_string(folder.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    if config["model_type"] == "efficientnet-lite" {
        return Some(EFFICIENTNET_LITE);
    }
    usize::try_from(config["hidden_size"].as_u64()?).ok()
}
