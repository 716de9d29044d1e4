//! In what the configuration of a second learner may differ from that of the serving one: the model, and how it learns.

use anyhow::anyhow;

use crate::config::{Config, SettingChange};
use crate::error::ErrorExt;

/// Sections and keys that may differ.
const OWN: [&str; 8] = [
    "model.",
    "optimizer.",
    "rows.",
    "learner.negative_sample_rate",
    "learner.calibrate",
    "learner.max_rows",
    "learner.seed",
    "learner.task_chains",
];

/// Why other settings must be those of the serving learner, by the start of their keys; the first one that fits counts.
const SHARED: [(&str, &str); 6] = [
    (
        "model.content.vector_widths",
        "both read the vectors of one encoder",
    ),
    ("learner.batch_min_samples", "both learn the same batches"),
    ("learner.flush_after_idle", "both learn the same batches"),
    ("learner.", "both run on one device in one process"),
    ("join.", "one joiner makes the samples of both"),
    ("", "it belongs to the daemon, or decides what both read"),
];

/// The settings of a second learner: what `other` changes of the configuration in use.
///
/// # Errors
/// Names each setting that must not differ, with the reason.
pub(crate) fn settings_of(used: &Config, other: &Config) -> anyhow::Result<Vec<SettingChange>> {
    let changes = used.changes_to(other);
    let refused: Vec<String> = changes.iter().filter_map(|change| refusal(&change.key)).collect();
    if !refused.is_empty() {
        return Err(anyhow!("a second learner cannot differ in {}", refused.join("; "))).hint(
            "state only [model], [optimizer], [rows] and the learner's own keys in the file; a daemon of its own, with its \
             own state directory, can differ in everything",
        );
    }
    let [captured, needed] = [used, other].map(|config| config.feature_config().history_contents);
    if captured != needed {
        return Err(anyhow!(
            "the joiner captures the contents of {captured} actions of each history, and the model of the second learner \
             would have {needed}: both read the same samples"
        ))
        .hint("give model.interest and model.sequence the settings that the serving model has");
    }
    let [captured, needed] = [used, other].map(|config| config.feature_config().long_len);
    if captured != needed {
        return Err(anyhow!(
            "the joiner captures {captured} actions of each list of the long past, and the model of the second learner would \
             read {needed}: both read the same samples"
        ))
        .hint("give model.long_history the settings that the serving model has");
    }
    Ok(changes)
}

/// Why this setting must not differ; `None` if it may.
fn refusal(key: &str) -> Option<String> {
    let is_widths = key.starts_with("model.content.vector_widths");
    if !is_widths && OWN.iter().any(|own| key.starts_with(own)) {
        return None;
    }
    let reason = SHARED.iter().find(|(start, _)| key.starts_with(start));
    Some(format!("`{key}` ({})", reason.map_or("", |(_, why)| why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_may_differ_and_what_both_read_may_not() {
        let used = Config::default();
        let with = |text: &str| settings_of(&used, &used.overlaid(text, "b.toml").unwrap());
        let changes = with(
            "model.dim = 4\noptimizer.row_rate = 0.2\nrows.expire_after = \"3d\"\nlearner.negative_sample_rate = 0.5\n\
             learner.max_rows = 5000",
        );
        assert_eq!(changes.unwrap().len(), 5);
        assert_eq!(with("").unwrap(), []);
        for (text, why) in [
            ("join.label_policy = \"wait\"", "`join.label_policy` (one joiner"),
            ("learner.batch_min_samples = 8", "(both learn the same batches)"),
            ("learner.threads = 3", "(both run on one device"),
            ("features.history_len = 150", "`features.history_len`"),
            (
                "serving.workers = 7",
                "`serving.workers` (it belongs to the daemon",
            ),
        ] {
            let error = with(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
