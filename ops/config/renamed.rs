//! Renamed keys: an old key still works, and is named with the new one.

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
    fn an_old_key_works_and_is_named_with_the_new_one() {
        let schema = Config::schema();
        for (old, new) in RENAMED {
            let place = |path: &str| {
                path.split('.')
                    .fold(&schema, |schema, key| &schema["properties"][key])
                    .clone()
            };
            assert!(!place(new).is_null(), "{new} is no key");
            assert!(place(old).is_null(), "{old} is a key");
        }
        let config = Config::parse(
            "[join]\nskew = \"5m\"\n[model.content]\nwidths = [8, 0]\n",
            "x.toml",
        )
        .unwrap();
        assert_eq!(config.join.max_clock_skew.ms(), 300_000);
        assert_eq!(config.model.content.vector_widths, [8, 0]);
        assert_eq!(
            config.notices,
            [
                "x.toml:2: join.skew is now join.max_clock_skew; the old name still works",
                "x.toml:4: model.content.widths is now model.content.vector_widths; the old name still works",
            ]
        );
    }

    #[test]
    fn a_key_under_both_names_and_a_wrong_value_under_the_old_one_are_refused() {
        for (text, expected) in [
            (
                "[join]\nskew = \"5m\"\nmax_clock_skew = \"1m\"",
                "x.toml:2:1: join.skew: this key is now",
            ),
            ("[join]\nskew = 5", "x.toml:2:8: join.max_clock_skew"),
        ] {
            let Err(ConfigError::Invalid { problems }) = Config::parse(text, "x.toml") else {
                panic!("{text} was accepted")
            };
            assert!(problems[0].to_string().starts_with(expected), "{}", problems[0]);
        }
    }
}
