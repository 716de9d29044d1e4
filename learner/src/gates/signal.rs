//! The figures of an interval that the breaker watches, each on a scale where its noise is even.

use serde::{Deserialize, Serialize};

/// A figure of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Positives of the first task per sample.
    LabelRate,
    /// Log-loss of predictions made before learning, over the entropy of the labels.
    Ne,
    /// Sum of these predictions over the sum of the labels.
    Calibration,
    /// Area under the ROC curve of these predictions.
    Auc,
    /// Categorical values of a request.
    ContextValues,
    /// Categorical values of an item.
    ItemValues,
    /// Share of samples whose item has none: not in the catalogue, or without features.
    UnknownItems,
    /// Distinct users per sample.
    Users,
    /// Distinct items per sample.
    Items,
    /// Records that could not be decoded, of all.
    Rejected,
    /// Actions per shown item, as they were read.
    Actions,
    /// Actions that matched nothing, of all.
    Unmatched,
    /// Samples per second of event time.
    EventRate,
    /// `Ne` of items with fewer than 20 earlier impressions.
    NewItemsNe,
    /// `Calibration` of these.
    NewItemsCalibration,
    /// `Ne` of items with 20 to 999 earlier impressions.
    WarmItemsNe,
    /// `Calibration` of these.
    WarmItemsCalibration,
    /// `Ne` of items with more.
    HotItemsNe,
    /// `Calibration` of these.
    HotItemsCalibration,
}

/// The scale of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Plain,
    /// `ln x`, for ratios.
    Log,
    /// `ln(x / (1 - x))`, for rates.
    LogOdds,
    /// `asin(sqrt x)`, for shares that are often 0.
    Share,
}

impl Signal {
    /// All signals.
    pub const ALL: [Self; 19] = [
        Self::LabelRate,
        Self::Ne,
        Self::Calibration,
        Self::Auc,
        Self::ContextValues,
        Self::ItemValues,
        Self::UnknownItems,
        Self::Users,
        Self::Items,
        Self::Rejected,
        Self::Actions,
        Self::Unmatched,
        Self::EventRate,
        Self::NewItemsNe,
        Self::NewItemsCalibration,
        Self::WarmItemsNe,
        Self::WarmItemsCalibration,
        Self::HotItemsNe,
        Self::HotItemsCalibration,
    ];

    /// Its name in metrics and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LabelRate => "label_rate",
            Self::Ne => "ne",
            Self::Calibration => "calibration",
            Self::Auc => "auc",
            Self::ContextValues => "context_values",
            Self::ItemValues => "item_values",
            Self::UnknownItems => "unknown_items",
            Self::Users => "users",
            Self::Items => "items",
            Self::Rejected => "rejected",
            Self::Actions => "actions",
            Self::Unmatched => "unmatched",
            Self::EventRate => "event_rate",
            Self::NewItemsNe => "new_items_ne",
            Self::NewItemsCalibration => "new_items_calibration",
            Self::WarmItemsNe => "warm_items_ne",
            Self::WarmItemsCalibration => "warm_items_calibration",
            Self::HotItemsNe => "hot_items_ne",
            Self::HotItemsCalibration => "hot_items_calibration",
        }
    }

    /// Whether it compares predictions with outcomes: it says that the model and the data disagree.
    #[must_use]
    pub fn is_quality(self) -> bool {
        matches!(self, Self::Ne | Self::Calibration | Self::Auc) || self.is_slice()
    }

    /// Whether it is of a part of the items.
    pub(super) fn is_slice(self) -> bool {
        self.is_slice_ne() || self.is_slice_calibration()
    }

    fn is_slice_ne(self) -> bool {
        matches!(self, Self::NewItemsNe | Self::WarmItemsNe | Self::HotItemsNe)
    }

    fn is_slice_calibration(self) -> bool {
        matches!(
            self,
            Self::NewItemsCalibration | Self::WarmItemsCalibration | Self::HotItemsCalibration
        )
    }

    /// Whether only a value above the average is a breach: better than ever is none.
    pub(super) fn is_cost(self) -> bool {
        matches!(self, Self::Ne | Self::Rejected | Self::Unmatched) || self.is_slice_ne()
    }

    /// The least distance from the average that counts, on the signal's scale: below it a breach would be of no consequence.
    pub(super) fn floor(self) -> f64 {
        match self {
            Self::LabelRate | Self::Calibration | Self::Actions => 0.4,
            Self::Ne => 0.1,
            Self::Auc => 0.1,
            Self::ContextValues | Self::ItemValues => 0.1,
            Self::UnknownItems | Self::Rejected | Self::Unmatched => 0.2,
            Self::Users | Self::Items => 0.7,
            Self::EventRate => 3.0,
            // A slice is smaller than an interval, and its noise greater.
            Self::NewItemsNe | Self::WarmItemsNe | Self::HotItemsNe => 0.2,
            Self::NewItemsCalibration | Self::WarmItemsCalibration | Self::HotItemsCalibration => 0.7,
        }
    }

    fn scale(self) -> Scale {
        match self {
            Self::Ne | Self::Auc | Self::NewItemsNe | Self::WarmItemsNe | Self::HotItemsNe => Scale::Plain,
            Self::Calibration
            | Self::NewItemsCalibration
            | Self::WarmItemsCalibration
            | Self::HotItemsCalibration
            | Self::ContextValues
            | Self::ItemValues
            | Self::Users
            | Self::Items
            | Self::Actions
            | Self::EventRate => Scale::Log,
            Self::LabelRate => Scale::LogOdds,
            Self::UnknownItems | Self::Rejected | Self::Unmatched => Scale::Share,
        }
    }

    /// The value on the signal's scale; `None` where it has none, such as the logarithm of 0.
    pub(super) fn scaled(self, value: f64) -> Option<f64> {
        let scaled = match self.scale() {
            Scale::Plain => value,
            Scale::Log => value.ln(),
            Scale::LogOdds => (value / (1.0 - value)).ln(),
            Scale::Share => value.clamp(0.0, 1.0).sqrt().asin(),
        };
        scaled.is_finite().then_some(scaled)
    }

    /// The inverse of [`scaled`](Self::scaled).
    pub(super) fn unscaled(self, scaled: f64) -> f64 {
        match self.scale() {
            Scale::Plain => scaled,
            Scale::Log => scaled.exp(),
            Scale::LogOdds => 1.0 / (1.0 + (-scaled).exp()),
            Scale::Share => scaled.clamp(0.0, std::f64::consts::FRAC_PI_2).sin().powi(2),
        }
    }
}

/// A figure outside of its limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Breach {
    /// The gate or signal, of a closed set.
    pub gate: String,
    /// What was found, where no number says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The figure that was found.
    pub value: f64,
    /// The least and the largest value allowed; none: no bound on that side.
    pub limits: (Option<f64>, Option<f64>),
}

impl Breach {
    pub(super) fn stated(gate: &str, detail: impl Into<String>) -> Self {
        Self {
            detail: Some(detail.into()),
            ..Self::new(gate, 1.0, (None, None))
        }
    }

    pub(super) fn above(gate: &str, value: f64, most: f64) -> Self {
        Self::new(gate, value, (None, Some(most)))
    }

    pub(super) fn below(gate: &str, value: f64, least: f64) -> Self {
        Self::new(gate, value, (Some(least), None))
    }

    pub(super) fn outside(gate: &str, value: f64, least: f64, most: f64) -> Self {
        Self::new(gate, value, (Some(least), Some(most)))
    }

    pub(super) fn new(gate: &str, value: f64, limits: (Option<f64>, Option<f64>)) -> Self {
        Self {
            gate: gate.to_owned(),
            detail: None,
            value,
            limits,
        }
    }
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            gate,
            detail,
            value,
            limits,
        } = self;
        if let Some(detail) = detail {
            return write!(f, "{gate}: {detail}");
        }
        write!(f, "{gate} is {value:.4}, ")?;
        match limits {
            (Some(least), Some(most)) => write!(f, "allowed are {least:.4} to {most:.4}"),
            (Some(least), None) => write!(f, "at least {least:.4} is needed"),
            (None, Some(most)) => write!(f, "at most {most:.4} is allowed"),
            (None, None) => write!(f, "which is not allowed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scale_has_its_inverse() {
        for signal in Signal::ALL {
            for value in [0.02, 0.3, 0.9] {
                let scaled = signal.scaled(value).unwrap();
                assert!((signal.unscaled(scaled) - value).abs() < 1e-9, "{signal:?}");
            }
        }
        assert_eq!(Signal::EventRate.scaled(0.0), None);
        assert_eq!(Signal::Rejected.scaled(0.0), Some(0.0));
    }
}
