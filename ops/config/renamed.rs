//! Renamed keys: an old key is refused with a message that names the new one.

/// Old and new path of each renamed key.
pub(super) const RENAMED: &[(&str, &str)] = &[
    ("content.store", "content.vector_dir"),
    ("content.texts", "content.texts_per_item"),
    ("features.decay", "features.counter_decay"),
    ("features.expire", "features.expire_after"),
    ("features.fast_rate", "features.fast_ema_rate"),
    ("features.history_kept", "features.history_capacity"),
    ("features.shown_kept", "features.shown_capacity"),
    ("features.slow_rate", "features.slow_ema_rate"),
    ("join.dedup", "join.dedup_window"),
    ("join.lateness", "join.allowed_lateness"),
    ("join.max_future_skew", "events.max_future_skew"),
    ("join.max_pending", "join.max_pending_items"),
    ("join.max_remembered", "join.max_closed_requests"),
    ("join.max_waiting", "join.max_early_actions"),
    ("join.policy", "join.label_policy"),
    ("join.policy_wait", "join.label_wait"),
    ("join.skew", "join.max_clock_skew"),
    ("join.sled.cache", "join.sled.page_cache"),
    ("join.sled.hot_requests", "join.sled.requests_in_memory"),
    ("join.sled.slack", "join.sled.compaction_threshold"),
    ("learner.bounds", "learner.task_chains"),
    ("learner.flush_idle", "learner.flush_after_idle"),
    ("learner.negative_rate", "learner.negative_sample_rate"),
    ("model.content.widths", "model.content.vector_widths"),
    ("model.contrast", "model.contrast_width"),
    ("model.head.expert", "model.head.expert_width"),
    ("model.head.tower", "model.head.tower_width"),
    ("model.lora.on", "model.lora.layers"),
    ("model.products", "model.matmul_precision"),
    ("model.sequence.key", "model.sequence.key_width"),
    ("model.sequence.unit", "model.sequence.attention_hidden"),
    ("model.sequence.value", "model.sequence.value_width"),
    ("optimizer.freeze_samples", "optimizer.freeze_after_samples"),
    ("optimizer.row_accumulator", "optimizer.row_initial_accumulator"),
    ("optimizer.slate_loss", "optimizer.slate_loss_weight"),
    ("order.hold", "order.max_reorder_delay"),
    ("rows.attribute.sightings", "rows.attribute.min_samples"),
    ("rows.attribute.users", "rows.attribute.min_users"),
    ("rows.item.sightings", "rows.item.min_samples"),
    ("rows.item.users", "rows.item.min_users"),
    ("rows.user.sightings", "rows.user.min_samples"),
    ("rows.waiting", "rows.admission_capacity"),
    ("serving.head_timeout", "serving.header_timeout"),
    ("serving.queue", "serving.queue_capacity"),
    ("tier.commit", "tier.commit_interval"),
    ("tier.idle", "tier.idle_timeout"),
];

/// The new path of an old key.
pub(super) fn renamed(path: &str) -> Option<&'static str> {
    RENAMED.iter().find(|(old, _)| *old == path).map(|(_, new)| *new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigError};

    #[test]
    fn every_old_key_is_refused_with_the_new_one() {
        let schema = Config::schema();
        for (old, new) in RENAMED {
            let place = |path: &str| {
                path.split('.')
                    .fold(&schema, |schema, key| &schema["properties"][key])
                    .clone()
            };
            assert!(!place(new).is_null(), "{new} is no key");
            assert!(place(old).is_null(), "{old} is a key");
            let Err(ConfigError::Invalid { problems }) = Config::parse(&format!("{old} = 1"), "x.toml")
            else {
                panic!("{old} was accepted")
            };
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(
                problems[0]
                    .to_string()
                    .ends_with(&format!("{old}: this key is now {new}")),
                "{}",
                problems[0]
            );
        }
    }
}
