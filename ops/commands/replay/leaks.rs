//! What a folder is learned from, and values that tell the outcome.
//!
//! A value that is known only after the outcome makes every figure of a replay worthless. So each named value of the first
//! shown items is judged alone: the share of positives among its earlier occurrences, and a number also by itself, as a
//! prediction of the first task.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use ouzel_ingest::DataDir;
use ouzel_learner::validation;
use ouzel_sample::Stream;

/// Shown items that are judged.
const MAX_JUDGED: usize = 50_000;
/// Fewer shown items, or positives among them, say nothing.
const FEWEST: usize = 50;
/// Area under the curve of a value alone from which it is suspicious.
const SUSPICIOUS: f64 = 0.98;

/// The named values of a folder.
#[derive(Debug, Default)]
pub(super) struct Inspection {
    /// Shown items, among those judged, that have each value.
    pub(super) learned_from: BTreeMap<String, u64>,
    /// A sentence for each value that predicts the outcome almost alone.
    pub(super) suspicions: Vec<String>,
}

/// One value of every shown item: its score and the outcome.
#[derive(Default)]
struct Judged {
    /// Positives and occurrences by value.
    seen: HashMap<String, (f32, f32)>,
    by_share: Vec<(f32, bool)>,
    by_number: Vec<(f32, bool)>,
}

/// Inspects the values that the impressions, the catalogue and the users of a folder bring; `task` is the action to predict.
pub(super) fn inspect(data: &DataDir, task: &str) -> Inspection {
    let events = |stream| data.events().iter().filter(move |event| event.stream == stream);
    let parse = |payload: &[u8]| serde_json::from_slice::<Value>(payload).unwrap_or_default();
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let positives: HashSet<(String, String)> = events(Stream::Actions)
        .map(|event| parse(&event.payload))
        .filter(|action| action["action"] == task)
        .map(|action| (text(&action, "request_id"), text(&action, "item_id")))
        .collect();
    let [catalogue, profiles] = [Stream::Items, Stream::Users].map(|stream| {
        let versions = events(stream).map(|event| (event.key.as_str(), parse(&event.payload)));
        versions.collect::<HashMap<&str, Value>>()
    });
    let mut judged: BTreeMap<String, Judged> = BTreeMap::new();
    let mut n = 0;
    for event in events(Stream::Impressions) {
        if n >= MAX_JUDGED {
            break;
        }
        let slate = parse(&event.payload);
        let user = text(&slate, "user_id");
        let profile = profiles.get(user.as_str()).unwrap_or(&Value::Null);
        for shown in slate["items"].as_array().into_iter().flatten() {
            n += 1;
            let item = text(shown, "item_id");
            let is_positive = positives.contains(&(event.key.clone(), item.clone()));
            let known = catalogue.get(item.as_str()).unwrap_or(&Value::Null);
            for (prefix, values) in [
                ("context", &slate["context"]),
                ("features", &shown["features"]),
                ("item", &known["features"]),
                ("user", &profile["features"]),
            ] {
                for (name, value) in values.as_object().into_iter().flatten() {
                    judged
                        .entry(format!("{prefix}.{name}"))
                        .or_default()
                        .add(value, is_positive);
                }
            }
            for name in ["category", "author", "title"] {
                if !known[name].is_null() {
                    judged
                        .entry(format!("item.{name}"))
                        .or_default()
                        .add(&known[name], is_positive);
                }
            }
        }
    }
    let suspicion = |(name, judged): (&String, &Judged)| {
        let auc = judged.auc().filter(|auc| *auc > SUSPICIOUS)?;
        Some(format!(
            "{name} predicts {task} almost alone (AUC {auc:.3}): if it is known only after the outcome, remove it, or no figure \
             means anything"
        ))
    };
    Inspection {
        suspicions: judged.iter().filter_map(suspicion).collect(),
        learned_from: judged
            .iter()
            .map(|(name, judged)| (name.clone(), judged.by_share.len() as u64))
            .collect(),
    }
}

impl Judged {
    fn add(&mut self, value: &Value, is_positive: bool) {
        let (positives, n) = self.seen.entry(value.to_string()).or_default();
        self.by_share.push(((*positives + 0.1) / (*n + 1.0), is_positive));
        *positives += f32::from(u8::from(is_positive));
        *n += 1.0;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "numbers are learned as 32-bit floats"
        )]
        if let Some(number) = value.as_f64() {
            self.by_number.push((number as f32, is_positive));
        }
    }

    /// The larger area under the curve of the two scores, or of the number's opposite.
    fn auc(&self) -> Option<f64> {
        let by_number = auc(&self.by_number).map(|auc| auc.max(1.0 - auc));
        [auc(&self.by_share), by_number]
            .into_iter()
            .flatten()
            .reduce(f64::max)
    }
}

/// The area under the curve of scores with their outcomes; `None` of too few.
fn auc(scores: &[(f32, bool)]) -> Option<f64> {
    let n_positive = scores.iter().filter(|(_, is_positive)| *is_positive).count();
    let is_enough = n_positive >= FEWEST && scores.len() - n_positive >= FEWEST;
    is_enough.then(|| validation::auc(&mut scores.to_vec())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_tells_the_outcome_is_suspicious_and_others_are_not() {
        let mut judged: [Judged; 3] = Default::default();
        for n in 0..1000u32 {
            let is_positive = n % 7 == 0;
            judged[0].add(&Value::from(if is_positive { 5 } else { 1 }), is_positive);
            judged[1].add(&Value::from(format!("user {n}")), is_positive);
            judged[2].add(&Value::from(n % 3), is_positive);
        }
        assert!(judged[0].auc().unwrap() > 0.98);
        assert!(
            judged[1].auc().unwrap() < 0.6,
            "a value that never comes again predicts nothing"
        );
        assert!(judged[2].auc().unwrap() < 0.6);
        assert_eq!(Judged::default().auc(), None);
    }
}
