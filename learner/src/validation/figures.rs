//! Metrics of predictions, and the sums they are computed from.

use serde::{Deserialize, Serialize};

use crate::loss::{binary, sigmoid};

/// Metrics of predictions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Number of shown items with a label, each counted once however many samples were learned of it.
    pub judged: u64,
    /// Number of positives.
    pub positives: u64,
    /// Area under the ROC curve.
    pub auc: Option<f64>,
    /// Mean per-request AUC.
    pub gauc: Option<f64>,
    /// Mean log-loss, nats.
    pub log_loss: Option<f64>,
    /// Log-loss over the entropy of the mean label (He et al. 2014, eq. 3).
    pub ne: Option<f64>,
    /// Sum of predictions over sum of labels.
    pub calibration: Option<f64>,
}

/// Sums over shown items, each a logit with its label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sums {
    pub(super) judged: u64,
    pub(super) positives: u64,
    /// Sum of predicted probabilities.
    predicted: f64,
    log_loss: f64,
}

impl Sums {
    /// Adds a shown item.
    pub(crate) fn count(&mut self, z: f32, y: bool) {
        self.judged += 1;
        self.positives += u64::from(y);
        self.predicted += f64::from(sigmoid(z));
        self.log_loss += f64::from(binary(z, y).value);
    }

    /// Turns an item that was added as a negative into a positive.
    pub(crate) fn revise(&mut self, z: f32) {
        self.positives += 1;
        self.log_loss += f64::from(binary(z, true).value) - f64::from(binary(z, false).value);
    }

    /// The metrics, with AUC values computed elsewhere.
    pub(crate) fn figures(&self, auc: Option<f64>, gauc: Option<f64>) -> Figures {
        let (n, y) = (float(self.judged), float(self.positives));
        let mean = y / n;
        let entropy = -(mean * mean.ln() + (1.0 - mean) * (1.0 - mean).ln());
        Figures {
            judged: self.judged,
            positives: self.positives,
            auc,
            gauc,
            log_loss: (self.judged > 0).then(|| self.log_loss / n),
            ne: (entropy > 0.0).then(|| self.log_loss / n / entropy),
            calibration: (self.positives > 0).then(|| self.predicted / y),
        }
    }
}

pub(crate) fn float(n: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    let n = n as f64;
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_of_the_base_rate_have_entropy_and_calibration_1() {
        let mut sums = Sums::default();
        let base_rate = (1.0f32 / 3.0).ln();
        for y in [true, false, false, false] {
            sums.count(base_rate, y);
        }
        let figures = sums.figures(Some(0.5), None);
        assert!((figures.ne.unwrap() - 1.0).abs() < 1e-6);
        assert!((figures.calibration.unwrap() - 1.0).abs() < 1e-6);
        assert_eq!(Sums::default().figures(None, None).log_loss, None);
    }
}
