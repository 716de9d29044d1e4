//! The settings as each room takes them: no text, no humane units.

use std::path::Path;

use ouzel_ingest::join::{JoinConfig, LabelPolicy, SledLimits, StoreConfig, TaskConfig};
use ouzel_ingest::tier::GroupConfig;
use ouzel_ingest::{EventLimits, KafkaConfig, Topics as IngestTopics};
use ouzel_sample::{FeatureConfig, IdSpace, Stream};
use ouzel_serving::Limits as ServingLimits;

use super::{Config, Dedup, Features, Join, JoinSource, JoinStore, Policy, PropertyError, Serving, Topics};

impl Config {
    /// Hashes ids under this deployment's salt.
    #[must_use]
    pub fn id_space(&self) -> IdSpace {
        IdSpace::new(self.ids.salt)
    }

    /// The names of the actions that are positives, in task order.
    #[must_use]
    pub fn task_names(&self) -> Vec<String> {
        self.join.tasks.iter().map(|task| task.name.clone()).collect()
    }

    /// The topics.
    #[must_use]
    pub fn topics(&self) -> IngestTopics {
        let Topics {
            impressions,
            actions,
            items,
            samples,
        } = self.kafka.topics.clone();
        IngestTopics {
            impressions,
            actions,
            items,
            samples,
        }
    }

    /// How to reach the brokers, secrets looked up. Not for printing.
    pub fn kafka_config(&self) -> Result<KafkaConfig, PropertyError> {
        let properties = self.kafka.properties.resolve(|name| std::env::var(name).ok())?;
        Ok(KafkaConfig {
            bootstrap: self.kafka.bootstrap.clone(),
            properties: properties.as_map().clone(),
            topics: self.topics(),
            streams: match self.join.source {
                JoinSource::Events => Stream::EVENTS.to_vec(),
                JoinSource::Tier => Stream::BEHIND_TIER.to_vec(),
            },
            is_whole_log_expected: false,
        })
    }

    /// How `ouzel join` takes part in its group, under this name if not empty.
    #[must_use]
    pub fn group_config(&self, instance: &str) -> GroupConfig {
        let instance = if instance.is_empty() {
            &self.tier.instance
        } else {
            instance
        };
        GroupConfig {
            group: self.tier.group.clone(),
            instance: instance.to_owned(),
            session_timeout_ms: self.tier.session_timeout.ms(),
            max_future_skew_ms: self.join.max_future_skew.ms(),
        }
    }

    /// Bounds on one event.
    #[must_use]
    pub fn event_limits(&self) -> EventLimits {
        EventLimits {
            max_record_bytes: self.events.max_record.len(),
            max_items: self.events.max_items,
            max_attributes: self.events.max_attributes,
            max_texts: self.events.max_texts,
            max_vector_values: self.events.max_vector_values,
            max_future_skew_ms: self.join.max_future_skew.ms(),
        }
    }

    /// Windows, bounds and policy of the join.
    #[must_use]
    pub fn join_config(&self) -> JoinConfig {
        let Join {
            tasks,
            policy,
            policy_wait,
            lateness,
            skew,
            dedup,
            ..
        } = &self.join;
        let wait_ms = policy_wait.ms();
        JoinConfig {
            tasks: tasks
                .iter()
                .map(|task| TaskConfig::new(&task.name, task.window.ms()))
                .collect(),
            lateness_ms: lateness.ms(),
            skew_ms: skew.ms(),
            dedup_ms: match dedup {
                Dedup::Auto => None,
                Dedup::For(period) => Some(period.ms()),
            },
            max_pending: self.join.max_pending,
            max_waiting: self.join.max_waiting,
            max_remembered: self.join.max_remembered,
            policy: match policy {
                Policy::Eager => LabelPolicy::Eager,
                Policy::Wait => LabelPolicy::Wait,
                Policy::Fnw => LabelPolicy::Fnw { ahead_ms: wait_ms },
                Policy::Fnc => LabelPolicy::Fnc { ahead_ms: wait_ms },
                Policy::EsDfm => LabelPolicy::EsDfm { wait_ms },
                Policy::Defer => LabelPolicy::Defer { wait_ms },
            },
        }
    }

    /// Where the join state is kept; on disk, in `dir`.
    #[must_use]
    pub fn join_store(&self, dir: &Path) -> StoreConfig {
        match self.join.store {
            JoinStore::Memory => StoreConfig::Memory,
            JoinStore::Sled => StoreConfig::Sled {
                dir: dir.to_owned(),
                limits: SledLimits {
                    hot_requests: self.join.sled.hot_requests,
                    cache_bytes: self.join.sled.cache.len() as u64,
                    slack_bytes: self.join.sled.slack.len() as u64,
                },
            },
        }
    }

    /// What is kept of users and items.
    #[must_use]
    pub fn feature_config(&self) -> FeatureConfig {
        let Features {
            history_len,
            history_kept,
            shown_kept,
            decay,
            fast_rate,
            slow_rate,
            prior_actions,
            max_users,
            max_counters,
            max_catalog,
            expire,
        } = self.features;
        FeatureConfig {
            history_len,
            history_contents: self.model_config().history_contents(),
            history_kept,
            shown_kept,
            decay_ms: decay.ms(),
            fast_rate: single(fast_rate),
            slow_rate: single(slow_rate),
            prior_actions: single(prior_actions),
            max_users,
            max_counters,
            max_catalog_bytes: max_catalog.bytes(),
            expire_ms: expire.ms(),
        }
    }

    /// Bounds of the scoring port.
    #[must_use]
    pub fn serving_limits(&self) -> ServingLimits {
        let Serving {
            queue,
            deadline,
            max_candidates,
            max_body,
            max_connections,
            ..
        } = self.serving;
        ServingLimits {
            max_body_bytes: max_body.len(),
            max_items: max_candidates,
            queue_len: queue,
            deadline: deadline.duration(),
            head_timeout: self.serving.head_timeout.duration(),
            body_timeout: self.serving.body_timeout.duration(),
            max_connections,
            shutdown_grace: self.serving.shutdown_grace.duration(),
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a rate needs no more digits than an f32 has"
)]
fn single(rate: f64) -> f32 {
    rate as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_here_are_those_of_the_rooms() {
        let config = Config::default();
        assert_eq!(config.feature_config(), FeatureConfig::default());
        // Which stream is joined and which loss undoes it are chosen together, here alone.
        let policy = LabelPolicy::Fnw { ahead_ms: 60_000 };
        let join = JoinConfig {
            policy,
            ..JoinConfig::default()
        };
        assert_eq!(config.join_config(), join);
        assert_eq!(config.event_limits(), EventLimits::default());
        assert_eq!(config.join_store(Path::new("x")), StoreConfig::Memory);
        let on_disk = Config::parse("join.store = \"sled\"", "x").unwrap();
        assert_eq!(
            on_disk.join_store(Path::new("x")),
            StoreConfig::Sled {
                dir: "x".into(),
                limits: SledLimits::default()
            }
        );
        assert_eq!(config.topics(), IngestTopics::default());
        assert_eq!(
            config.serving_limits(),
            ServingLimits {
                queue_len: 1024,
                ..ServingLimits::default()
            }
        );
    }

    #[test]
    fn what_this_file_accepts_the_joiner_accepts() {
        for text in [
            "",
            "policy = \"es_dfm\"\npolicy_wait = \"5m\"",
            "dedup = \"11m5s\"",
            "tasks = [{ name = \"click\", window = \"1ms\" }, { name = \"order\", window = \"3660d\" }]",
        ] {
            let config = Config::parse(&format!("[join]\n{text}"), "x").unwrap();
            config.join_config().validate().unwrap();
        }
    }
}
