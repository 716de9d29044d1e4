//! The gate of versions: compares a version with a reference, a good version of a few batches before, before it serves.

use std::collections::VecDeque;

use ouzel_model::{Model, Weights};
use ouzel_sample::Batch;
use serde::{Deserialize, Serialize};
use tch::Device;

use super::compare::spread;
use super::config::GatesConfig;
use super::moments::Moments;
use super::probe::Probe;
use super::scores::{MIN_CANDIDATES, ProbeLogits, ScoreDistance, UsualDistances, of_task};
use super::signal::Breach;
use super::weights::{
    ChangedRows, MIN_ROWS, changed_rows, dense_hash, float_u64, is_dense_finite, relative_change,
};
use crate::error::Error;

/// Dense weights of earlier versions that a stale copy is recognised by.
const REMEMBERED: usize = 256;
/// Least spread of log-odds on the probe: below it the order of items is rounding.
const MIN_SPREAD: f64 = 1e-4;
/// References before changes of weights are compared with theirs.
const MIN_VERSIONS: u64 = 10;
/// Batches from one reference to the next. It is the same on every machine, and so is what versions are compared with,
/// however many versions are published between.
pub const REFERENCE_EVERY: u64 = 10;

/// What was learned since the reference: bounds what may have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Number of batches.
    pub n_batches: u64,
    /// Most rows of one table that they can have touched.
    pub n_rows: u64,
}

impl Learned {
    /// Adds a batch.
    pub fn add(&mut self, batch: &Batch) {
        self.n_batches += 1;
        let rows = batch.samples.iter().map(|sample| {
            let (request, candidate) = (&sample.request, &sample.candidate);
            2 * (1 + request.context.len() + request.history.len() + candidate.attributes.len())
        });
        self.n_rows += rows.sum::<usize>() as u64;
    }

    /// How many times as far the reference is as it should be, at least 1: farther while no version was good.
    fn span(self) -> f64 {
        (float_u64(self.n_batches) / float_u64(REFERENCE_EVERY)).max(1.0)
    }
}

/// Compares each version with the reference.
#[derive(Debug)]
pub struct VersionGate {
    config: GatesConfig,
    device: Device,
    good: Option<Good>,
    /// Hashes of the dense weights of the last good versions.
    seen: VecDeque<[u8; 32]>,
    /// Batches from the reference to the newest of them.
    seen_at: u64,
    /// Number of references after the first.
    n_references: u64,
    /// Largest relative change of the dense weights from a reference to the next.
    dense_change: f64,
    /// Figures of the tables, in the order of the tables that a version lists.
    rows: Vec<RowFigures>,
    /// Distances of the scores of references.
    scores: UsualDistances,
}

/// The reference.
#[derive(Debug)]
struct Good {
    weights: Weights,
    logits: ProbeLogits,
}

/// Norms of the rows of one table, over all references.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct RowFigures {
    largest: f64,
    /// Mean norm of the rows that a reference changed.
    mean: Moments,
    /// Norm of the change of these rows over their norm.
    change: Moments,
}

/// The part in a snapshot.
#[derive(Serialize, Deserialize)]
struct State {
    n_references: u64,
    dense_change: f64,
    rows: Vec<RowFigures>,
    scores: UsualDistances,
}

/// What was measured of a version, to be kept if it is good.
#[derive(Debug)]
pub struct Measured {
    /// What the gates found; a version without any serves.
    pub breaches: Vec<Breach>,
    logits: ProbeLogits,
    scores: Option<ScoreDistance>,
    hash: [u8; 32],
    dense_change: f64,
    rows: Vec<ChangedRows>,
}

impl VersionGate {
    /// A gate that has seen no version.
    #[must_use]
    pub fn new(config: GatesConfig, device: Device) -> Self {
        Self {
            config,
            device,
            good: None,
            seen: VecDeque::new(),
            seen_at: 0,
            n_references: 0,
            dense_change: 0.0,
            rows: Vec::new(),
            scores: UsualDistances::default(),
        }
    }

    /// The weights of the reference.
    #[must_use]
    pub fn good(&self) -> Option<&Weights> {
        self.good.as_ref().map(|good| &good.weights)
    }

    /// Forgets the reference, as after a rollback: the next version is checked for itself.
    pub fn forget_reference(&mut self) {
        self.good = None;
        self.seen.clear();
        self.seen_at = 0;
    }

    /// What earlier versions were like, as bytes, for a snapshot.
    #[must_use]
    pub fn dump(&self) -> Vec<u8> {
        let state = State {
            n_references: self.n_references,
            dense_change: self.dense_change,
            rows: self.rows.clone(),
            scores: self.scores.clone(),
        };
        serde_json::to_vec(&state).expect("the state is finite numbers")
    }

    /// Restores what [`dump`](Self::dump) returned. The reference is the next version.
    ///
    /// # Errors
    /// When the bytes are no such state.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), serde_json::Error> {
        let state: State = serde_json::from_slice(bytes)?;
        self.forget_reference();
        (self.n_references, self.dense_change) = (state.n_references, state.dense_change);
        (self.rows, self.scores) = (state.rows, state.scores);
        Ok(())
    }

    /// Forgets everything: the next version is the first.
    pub fn reset(&mut self) {
        *self = Self::new(self.config, self.device);
    }

    /// Measures a version that learned `learned` since the reference. With `is_warm` it is compared with that; before, it is
    /// only checked for itself.
    ///
    /// The cost is that of the pages of rows written since, of the dense weights, and of scoring the probe.
    ///
    /// # Errors
    /// When the model cannot be made of the weights or cannot compute.
    pub fn check(
        &mut self,
        weights: &Weights,
        learned: Learned,
        probe: &Probe,
        is_warm: bool,
    ) -> Result<Measured, Error> {
        let mut breaches = Vec::new();
        let good = self.good.as_ref().map(|good| &good.weights);
        if let Err(error) = weights.check() {
            return Ok(Measured::refused(Breach::stated("schema", error.to_string())));
        }
        if good.is_some_and(|good| good.config != weights.config) {
            return Ok(Measured::refused(Breach::stated(
                "schema",
                "it is of another model",
            )));
        }
        let rows = changed_rows(good, weights);
        if !is_dense_finite(weights) || rows.iter().any(|table| !table.is_finite) {
            return Ok(Measured::refused(Breach::stated("finite", "a weight is not")));
        }
        let hash = dense_hash(weights);
        let dense_change = good.map_or(0.0, |good| relative_change(good, weights));
        if let (true, Some(_)) = (is_warm, good) {
            self.judge_rows(&rows, learned, &mut breaches);
            self.judge_dense(dense_change, learned, &mut breaches);
            self.judge_age(&hash, learned, &mut breaches);
        }
        let logits = self.score(weights, probe)?;
        let n_tasks = weights.config.n_tasks().max(1);
        let scores = self.judge_scores(&logits, n_tasks, is_warm.then_some(learned), &mut breaches);
        Ok(Measured {
            breaches,
            logits,
            scores,
            hash,
            dense_change,
            rows,
        })
    }

    /// Takes a version as the reference.
    pub fn accept(&mut self, weights: Weights, measured: Measured) {
        self.remember(&measured, Learned::default());
        // The first version has nothing that it changed.
        if self.good.is_some() {
            self.dense_change = self.dense_change.max(measured.dense_change);
            self.n_references += 1;
        }
        if let Some(distance) = &measured.scores {
            self.scores.add(distance);
        }
        let is_first = self.good.is_none();
        self.rows.resize(measured.rows.len(), RowFigures::default());
        for (figures, changed) in self.rows.iter_mut().zip(&measured.rows) {
            figures.largest = figures.largest.max(changed.largest);
            if changed.n >= MIN_ROWS && !is_first {
                figures.mean.add(changed.sum / float_u64(changed.n));
            }
            if let Some(change) = changed.relative_change().filter(|_| !is_first) {
                figures.change.add(change);
            }
        }
        self.good = Some(Good {
            weights,
            logits: measured.logits,
        });
    }

    /// Remembers a version that serves and is no reference, so that a later copy of it is known.
    pub fn remember(&mut self, measured: &Measured, learned: Learned) {
        self.seen_at = learned.n_batches;
        if self.seen.back() != Some(&measured.hash) {
            self.seen.push_back(measured.hash);
        }
        if self.seen.len() > REMEMBERED {
            self.seen.pop_front();
        }
    }

    fn judge_rows(&self, rows: &[ChangedRows], learned: Learned, breaches: &mut Vec<Breach>) {
        let growth = self.config.max_growth;
        for (figures, changed) in self.rows.iter().zip(rows) {
            if changed.n > learned.n_rows {
                breaches.push(Breach::above(
                    "rows_changed",
                    float_u64(changed.n),
                    float_u64(learned.n_rows),
                ));
            }
            if figures.largest > 0.0 && changed.largest > growth * figures.largest {
                breaches.push(Breach::above(
                    "row_norm",
                    changed.largest,
                    growth * figures.largest,
                ));
            }
            if let Some(change) = changed
                .relative_change()
                .filter(|_| figures.change.n() >= MIN_VERSIONS)
            {
                let most = growth * figures.change.mean() * learned.span();
                if change > most {
                    breaches.push(Breach::above("row_change", change, most));
                }
            }
            if figures.mean.n() < MIN_VERSIONS || changed.n < MIN_ROWS {
                continue;
            }
            let (usual, mean) = (figures.mean.mean(), changed.sum / float_u64(changed.n));
            let (least, most) = (usual / growth, usual * growth);
            if mean < least || mean > most {
                breaches.push(Breach::outside("mean_row_norm", mean, least, most));
            }
        }
    }

    fn judge_dense(&self, change: f64, learned: Learned, breaches: &mut Vec<Breach>) {
        let most = self.config.max_growth * self.dense_change * learned.span();
        if self.n_references >= MIN_VERSIONS && change > most {
            breaches.push(Breach::above("dense_change", change, most));
        }
    }

    fn judge_age(&self, hash: &[u8; 32], learned: Learned, breaches: &mut Vec<Breach>) {
        if learned.n_batches == self.seen_at {
            return;
        }
        if let Some(age) = self.seen.iter().rev().position(|seen| seen == hash) {
            let detail = format!("it has the weights of {age} versions before");
            breaches.push(Breach::stated("stale", detail));
        }
    }

    /// Log-odds of the version on the probe; fills in those of the reference for slates that are new.
    fn score(&mut self, weights: &Weights, probe: &Probe) -> Result<ProbeLogits, Error> {
        let mut model = Model::for_inference(weights, self.device)?;
        let mut logits = ProbeLogits::new();
        for slate in probe.slates() {
            logits.insert(slate.number, slate.score(&mut model, weights)?);
        }
        if let Some(good) = &mut self.good {
            let mut before = None;
            for slate in probe
                .slates()
                .filter(|slate| !good.logits.contains_key(&slate.number))
                .collect::<Vec<_>>()
            {
                let model = match &mut before {
                    Some(model) => model,
                    none => none.insert(Model::for_inference(&good.weights, self.device)?),
                };
                good.logits
                    .insert(slate.number, slate.score(model, &good.weights)?);
            }
            good.logits.retain(|number, _| logits.contains_key(number));
        }
        Ok(logits)
    }

    /// Checks the scores on the probe, and compares them with those of the reference. Returns their distance.
    fn judge_scores(
        &self,
        logits: &ProbeLogits,
        n_tasks: usize,
        judged: Option<Learned>,
        breaches: &mut Vec<Breach>,
    ) -> Option<ScoreDistance> {
        if !logits.values().flatten().all(|logit| logit.is_finite()) {
            breaches.push(Breach::stated("finite", "a score on the probe is not"));
            return None;
        }
        let primary = of_task(logits, 0, n_tasks);
        let found = spread(&primary);
        if judged.is_some() && primary.len() >= MIN_CANDIDATES && found < MIN_SPREAD {
            breaches.push(Breach::below("spread", found, MIN_SPREAD));
        }
        let good = self.good.as_ref()?;
        let distance = ScoreDistance::between(&good.logits, logits, n_tasks)?;
        if let Some(learned) = judged {
            self.scores
                .judge(&self.config, &distance, learned.span(), breaches);
        }
        Some(distance)
    }
}

impl Measured {
    fn refused(breach: Breach) -> Self {
        Self {
            breaches: vec![breach],
            logits: ProbeLogits::new(),
            scores: None,
            hash: [0; 32],
            dense_change: 0.0,
            rows: Vec::new(),
        }
    }
}
