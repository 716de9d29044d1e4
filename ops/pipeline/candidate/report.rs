//! What a candidate reports: its requests, the figures of both models, and a sentence that compares them.

use metrics::gauge;
use serde::{Deserialize, Serialize};

use ouzel_learner::metrics as names;
use ouzel_learner::validation::{Difference, Figures, TaskComparison};
use ouzel_sample::UserShare;
use ouzel_serving::{CandidateCounts, CandidateSlot, Variant};
use ouzel_snapshot::SnapshotId;

use super::choice::CandidateChoice;
use crate::pipeline::promoted::list;
use crate::pipeline::second::SecondReport;

/// The state of a candidate, for the admin socket and `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CandidateReport {
    /// The snapshot whose weights it has, or started from; absent for a second learner that started from nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// How a second learner stands; absent for a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learner: Option<SecondReport>,
    /// Whether it answers.
    pub variant: Variant,
    /// The users whose requests it scores.
    pub share: UserShare,
    /// When it started, ms since the epoch.
    pub since_ms: i64,
    /// What became of the requests of the share since the process began to score them.
    pub requests: CandidateCounts,
    /// Slates shown to the users of the share since it started.
    pub slates: u64,
    /// Predictions left out of the figures because that of one model is not finite.
    pub not_finite: u64,
    /// The figures by task, over the items of these slates whose outcomes are known.
    pub tasks: Vec<TaskReport>,
    /// The comparison of the first task in a sentence.
    pub summary: String,
    /// Why it ended by itself; absent while it takes part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<String>,
}

/// The figures of one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Its name.
    pub task: String,
    /// Its figures.
    #[serde(flatten)]
    pub figures: TaskComparison,
}

impl CandidateReport {
    /// The report of a candidate that could not go on after a start, for the reason `why`.
    pub(super) fn withdrawn(choice: &CandidateChoice, why: &str) -> Self {
        Self {
            snapshot: choice.snapshot,
            learner: choice.learns.as_deref().map(|changes| SecondReport {
                settings: list(changes),
                ..SecondReport::default()
            }),
            variant: choice.variant,
            share: choice.share,
            since_ms: choice.at_ms,
            requests: CandidateCounts::default(),
            slates: 0,
            not_finite: 0,
            tasks: Vec::new(),
            summary: "nothing was compared since this start".to_owned(),
            withdrawn: Some(why.to_owned()),
        }
    }

    /// The report with the present counts of `slot`.
    #[must_use]
    pub fn with_counts(mut self, slot: &CandidateSlot) -> Self {
        self.requests = slot.counts().unwrap_or(self.requests);
        self
    }

    /// Sets the gauges of the figures.
    pub(super) fn set_gauges(&self) {
        for TaskReport { task, figures } in &self.tasks {
            for (model, figures) in [("serving", &figures.serving), ("candidate", &figures.candidate)] {
                for (figure, value) in [
                    ("auc", figures.auc),
                    ("gauc", figures.gauc),
                    ("log_loss", figures.log_loss),
                    ("normalised_entropy", figures.ne),
                    ("calibration", figures.calibration),
                ] {
                    gauge!(names::CANDIDATE_FIGURE, "task" => task.clone(), "model" => model, "figure" => figure)
                        .set(value.unwrap_or(f64::NAN));
                }
            }
            for (name, difference) in [
                (names::CANDIDATE_DIFFERENCE, figures.difference),
                (names::CANDIDATE_AUC_DIFFERENCE, figures.auc_difference),
                (names::CANDIDATE_GAUC_DIFFERENCE, figures.gauc_difference),
            ] {
                let bounds = difference.map(|Difference { mean, low, high }| [mean, low, high]);
                let bounds = bounds.unwrap_or([f64::NAN; 3]);
                for (bound, value) in ["mean", "low", "high"].into_iter().zip(bounds) {
                    gauge!(name, "task" => task.clone(), "bound" => bound).set(value);
                }
            }
        }
    }

    /// Removes the figures from the metrics page.
    pub(super) fn clear_gauges(mut self) {
        for task in &mut self.tasks {
            task.figures = TaskComparison::default();
        }
        self.set_gauges();
    }
}

/// Compares a candidate with the serving model in a sentence.
pub(crate) fn summary(comparison: &TaskComparison, n_slates: u64) -> String {
    let Figures { judged, .. } = comparison.serving;
    let seen = format!(
        "{} shown items of {} requests",
        grouped(judged),
        grouped(n_slates)
    );
    let Some(Difference { mean, low, high }) = comparison.difference else {
        return format!("too few users with known outcomes to compare: {seen}");
    };
    // A lower loss is better.
    let (verdict, mean, low, high) = match (high < 0.0, low > 0.0) {
        (true, _) => ("better by", -mean, -high, -low),
        (_, true) => ("worse by", mean, low, high),
        _ => ("no difference found:", mean, low, high),
    };
    format!("{verdict} {mean:.4} log loss, 95 % interval {low:.4} to {high:.4}; {seen}")
}

/// A number with a comma before each group of three digits.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let places = (1..=digits.len()).rev();
    let mut out = String::new();
    for (digit, place) in digits.chars().zip(places) {
        out.push(digit);
        if place > 1 && place % 3 == 1 {
            out.push(',');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_says_which_is_better_and_how_sure_that_is() {
        let sentence = |difference: Option<(f64, f64, f64)>| {
            let comparison = TaskComparison {
                serving: Figures {
                    judged: 16_480,
                    ..Figures::default()
                },
                difference: difference.map(|(mean, low, high)| Difference { mean, low, high }),
                ..TaskComparison::default()
            };
            summary(&comparison, 1_004_120)
        };
        let seen = "16,480 shown items of 1,004,120 requests";
        for (difference, expected) in [
            (
                Some((-0.003, -0.005, -0.001)),
                "better by 0.0030 log loss, 95 % interval 0.0010 to 0.0050; ",
            ),
            (
                Some((0.003, 0.001, 0.005)),
                "worse by 0.0030 log loss, 95 % interval 0.0010 to 0.0050; ",
            ),
            (
                Some((0.001, -0.001, 0.003)),
                "no difference found: 0.0010 log loss, 95 % interval -0.0010 to 0.0030; ",
            ),
            (None, "too few users with known outcomes to compare: "),
        ] {
            assert_eq!(sentence(difference), format!("{expected}{seen}"));
        }
        assert_eq!([7, 120, 4120].map(grouped), ["7", "120", "4,120"]);
    }
}
