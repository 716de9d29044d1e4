//! Every score of a bounded run, for exact figures over any part of it.

use ouzel_sample::{Batch, EventTime, dense_index};

use crate::loss;
use crate::validation::{Figures, auc, gauc};

/// One scored sample of the primary task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// When it was shown.
    pub ts: EventTime,
    /// In which slate.
    pub request: u64,
    /// The model's logit when it was shown, or, where that is not known, before learning from it.
    pub logit: f32,
    /// The popularity baseline's score: the item's smoothed click-through rate as of the impression.
    pub popularity: f32,
    /// What happened.
    pub label: bool,
}

/// The scores of a replay or a demo, 32 bytes a sample.
#[derive(Clone, Debug, Default)]
pub struct ScoreLog {
    scored: Vec<Scored>,
}

impl ScoreLog {
    /// Adds a batch with its logits `[n_samples, n_tasks]`, from before it was learned from; the prediction made
    /// at the impression takes precedence.
    pub fn add(&mut self, batch: &Batch, logits: &[f32]) {
        let item_ctr = dense_index("item_ctr").expect("item_ctr is a live feature");
        let n_tasks = logits.len().checked_div(batch.samples.len()).unwrap_or(1).max(1);
        for (sample, logits) in batch.samples.iter().zip(logits.chunks_exact(n_tasks)) {
            let Some(label) = sample.labels.get(0) else {
                continue;
            };
            self.scored.push(Scored {
                ts: sample.request.ts,
                request: sample.request.id.0,
                logit: sample.candidate.predicted.get().unwrap_or(logits[0]),
                popularity: sample.candidate.dense[item_ctr],
                label,
            });
        }
    }

    /// Adds one score.
    pub fn push(&mut self, scored: Scored) {
        self.scored.push(scored);
    }

    /// The scores, in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Scored> {
        self.scored.iter()
    }

    /// Samples in the log.
    #[must_use]
    pub fn len(&self) -> usize {
        self.scored.len()
    }

    /// True without samples.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scored.is_empty()
    }

    /// The middle of the span of event time.
    #[must_use]
    pub fn middle(&self) -> EventTime {
        let first = self.scored.iter().map(|s| s.ts.0).min().unwrap_or(0);
        let last = self.scored.iter().map(|s| s.ts.0).max().unwrap_or(0);
        EventTime(first + (last - first) / 2)
    }

    /// Figures of the samples shown at or after `from`.
    #[must_use]
    pub fn figures(&self, from: EventTime) -> Figures {
        Figures::of(self.scored.iter().filter(|s| s.ts >= from))
    }

    /// AUC and per-request AUC of the popularity baseline at or after `from`.
    #[must_use]
    pub fn popularity(&self, from: EventTime) -> (Option<f64>, Option<f64>) {
        let chosen = || self.scored.iter().filter(|s| s.ts >= from);
        let mut pairs: Vec<_> = chosen().map(|s| (s.popularity, s.label)).collect();
        let mut slates: Vec<_> = chosen().map(|s| (s.request, s.popularity, s.label)).collect();
        (auc(&mut pairs), gauc(&mut slates))
    }
}

impl Figures {
    /// Exact figures of scored samples.
    pub fn of<'a>(scored: impl Iterator<Item = &'a Scored>) -> Self {
        let (mut pairs, mut slates) = (Vec::new(), Vec::new());
        let (mut positives, mut predicted, mut log_loss) = (0u64, 0.0f64, 0.0f64);
        for sample in scored {
            pairs.push((sample.logit, sample.label));
            slates.push((sample.request, sample.logit, sample.label));
            positives += u64::from(sample.label);
            predicted += f64::from(loss::sigmoid(sample.logit));
            log_loss += f64::from(loss::binary(sample.logit, sample.label).value);
        }
        let samples = pairs.len() as u64;
        Figures::new(
            samples,
            positives,
            predicted,
            log_loss,
            auc(&mut pairs),
            gauc(&mut slates),
        )
    }
}
