//! The `[gates]` section: what stops a bad model from serving, and bad data from being learned.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Checks of the data before more of it is learned, and of each version before it serves. May change between two starts;
/// no weight depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GatesConfig {
    /// Whether versions and data are checked. When false, every version serves that the model can compute.
    ///
    /// Turn it off to rule the gates out while looking for a fault.
    pub enabled: bool,
    /// What happens when a gate finds something: see [Gates](operations.md#gates).
    ///
    /// Set it to `warn` to learn what the gates would do on your log.
    pub on_breach: OnBreach,
    /// Samples of an interval, whose click rate, event rates and figures are compared with those before.
    ///
    /// Unit: samples. Raise it when intervals with few positives raise false alarms; bad data is found after two intervals.
    #[schemars(range(min = 256, max = 1_000_000))]
    pub interval_samples: usize,
    /// Intervals before the data is judged, and before versions are compared with earlier ones.
    ///
    /// Unit: intervals. Raise it for a log whose first hours say little about the later ones.
    #[schemars(range(min = 5, max = 10_000))]
    pub warm_up_intervals: u64,
    /// How far an interval may be from the moving average of those before, in their standard deviations.
    ///
    /// Raise it when a log that changes a lot raises false alarms.
    #[schemars(range(min = 3.0, max = 100.0))]
    pub max_deviations: f64,
    /// Whether log-loss and calibration of an interval are also judged for new, warm and hot items alone, where it has enough
    /// of them.
    ///
    /// Turn it off when false alarms name a slice.
    pub slices: bool,
    /// How many times the largest norm of a row, and the largest change of the dense weights in as many batches, of all
    /// versions before a version may have.
    ///
    /// Raise it after raising learning rates.
    #[schemars(range(min = 1.5, max = 1000.0))]
    pub max_growth: f64,
    /// Least rank correlation of a version's scores with those of the reference, a good version of at most 10 batches before,
    /// on the same slates.
    ///
    /// Lower it when false alarms name it; what is usual on a log lowers it by itself.
    #[schemars(range(min = -1.0, max = 0.999))]
    pub min_rank_correlation: f64,
    /// Most that the mean prediction of a task on these slates may change from the reference, as a factor.
    ///
    /// Raise it when false alarms name it; what is usual on a log raises it by itself.
    #[schemars(range(min = 1.05, max = 100.0))]
    pub max_level_change: f64,
    /// Largest population stability index of the scores on these slates, over the tenths of those of the reference.
    ///
    /// Raise it when false alarms name it.
    #[schemars(range(min = 0.05, max = 100.0))]
    pub max_stability_index: f64,
    /// Least share of the first five items of these slates that are among the first five of the reference, over slates of
    /// ten items and more. 0 turns it off.
    ///
    /// Lower it when items of your slates are nearly alike.
    #[schemars(range(min = 0.0, max = 0.999))]
    pub min_top_overlap: f64,
    /// How much the log-loss of the model that learns may be above that of the last good version on the same items, as a share
    /// of it. Beyond it twice in a row, and certainly above, the daemon swaps back.
    ///
    /// Raise it when false alarms name `previous_version`.
    #[schemars(range(min = 0.01, max = 10.0))]
    pub max_loss_increase: f64,
}

impl Default for GatesConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            on_breach: OnBreach::Stop,
            interval_samples: 2048,
            warm_up_intervals: 20,
            max_deviations: 8.0,
            slices: true,
            max_growth: 5.0,
            min_rank_correlation: 0.8,
            max_level_change: 1.5,
            max_stability_index: 0.75,
            min_top_overlap: 0.5,
            max_loss_increase: 0.1,
        }
    }
}

/// What happens when a gate finds something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBreach {
    /// The last good version serves, and learning stops until an operator resumes it. Kafka keeps what is not read.
    #[default]
    Stop,
    /// The last good version serves and learning goes on; versions serve again once the gates find nothing.
    Hold,
    /// Nothing but a message and a metric.
    Warn,
}
