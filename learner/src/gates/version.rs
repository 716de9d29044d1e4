//! The gate of versions: compares a version with the last good one before it serves.

use std::collections::{BTreeMap, VecDeque};

use ouzel_model::{Model, Weights};
use ouzel_sample::Batch;
use tch::Device;

use super::compare::{mean_probability, rank_correlation, spread};
use super::config::GatesConfig;
use super::moments::Moments;
use super::probe::Probe;
use super::signal::Breach;
use super::weights::{
    ChangedRows, MIN_ROWS, changed_rows, dense_hash, float_u64, is_dense_finite, relative_change,
};
use crate::error::Error;

/// Dense weights of earlier versions that a stale copy is recognised by.
const REMEMBERED: usize = 256;
/// Least spread of log-odds on the probe: below it the order of items is rounding.
const MIN_SPREAD: f64 = 1e-4;
/// Good versions before changes of weights are compared with theirs.
const MIN_VERSIONS: u64 = 10;
/// Least number of candidates that scores are compared on.
const MIN_CANDIDATES: usize = 32;

/// What was learned since the last good version: bounds what may have changed.
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
}

/// Compares each version with the last good one.
#[derive(Debug)]
pub struct VersionGate {
    config: GatesConfig,
    device: Device,
    good: Option<Good>,
    /// Hashes of the dense weights of the last good versions.
    seen: VecDeque<[u8; 32]>,
    n_versions: u64,
    /// Largest relative change of the dense weights by a batch.
    dense_change: f64,
    /// Figures of the tables, in the order of the tables that a version lists.
    rows: Vec<RowFigures>,
}

/// The last good version.
#[derive(Debug)]
struct Good {
    weights: Weights,
    /// Log-odds on the probe by number of the slate.
    logits: BTreeMap<u64, Vec<f32>>,
}

/// Norms of the rows of one table, over all good versions.
#[derive(Clone, Copy, Debug, Default)]
struct RowFigures {
    largest: f64,
    /// Mean norm of the rows that a version changed.
    mean: Moments,
    /// Norm of the change of these rows over their norm.
    change: Moments,
}

/// What was measured of a version, to be kept if it is good.
#[derive(Debug)]
pub struct Measured {
    /// What the gates found; a version without any serves.
    pub breaches: Vec<Breach>,
    logits: BTreeMap<u64, Vec<f32>>,
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
            n_versions: 0,
            dense_change: 0.0,
            rows: Vec::new(),
        }
    }

    /// The weights of the last good version.
    #[must_use]
    pub fn good(&self) -> Option<&Weights> {
        self.good.as_ref().map(|good| &good.weights)
    }

    /// Forgets every version, as after a rollback: the next one is checked for itself.
    pub fn reset(&mut self) {
        *self = Self::new(self.config, self.device);
    }

    /// Measures a version that learned `learned` since the last good one. With `is_warm` it is compared with that; before,
    /// it is only checked for itself.
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
        self.judge_scores(&logits, weights, is_warm, &mut breaches);
        Ok(Measured {
            breaches,
            logits,
            hash,
            dense_change: dense_change / float_u64(learned.n_batches.max(1)),
            rows,
        })
    }

    /// Takes a version as the last good one.
    pub fn accept(&mut self, weights: Weights, measured: Measured) {
        // The first version has nothing that it changed.
        if self.good.is_some() {
            self.dense_change = self.dense_change.max(measured.dense_change);
            self.n_versions += 1;
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
        if self.seen.back() != Some(&measured.hash) {
            self.seen.push_back(measured.hash);
        }
        if self.seen.len() > REMEMBERED {
            self.seen.pop_front();
        }
        self.good = Some(Good {
            weights,
            logits: measured.logits,
        });
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
                let most = growth * figures.change.mean();
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
        let most = self.config.max_growth * self.dense_change * float_u64(learned.n_batches.max(1));
        if self.n_versions >= MIN_VERSIONS && change > most {
            breaches.push(Breach::above("dense_change", change, most));
        }
    }

    fn judge_age(&self, hash: &[u8; 32], learned: Learned, breaches: &mut Vec<Breach>) {
        if learned.n_batches == 0 {
            return;
        }
        if let Some(age) = self.seen.iter().rev().position(|seen| seen == hash) {
            let detail = format!("it has the weights of {age} versions before");
            breaches.push(Breach::stated("stale", detail));
        }
    }

    /// Log-odds of the version on the probe; fills in those of the last good version for slates that are new.
    fn score(&mut self, weights: &Weights, probe: &Probe) -> Result<BTreeMap<u64, Vec<f32>>, Error> {
        let mut model = Model::for_inference(weights, self.device)?;
        let mut logits = BTreeMap::new();
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

    fn judge_scores(
        &self,
        logits: &BTreeMap<u64, Vec<f32>>,
        weights: &Weights,
        is_warm: bool,
        breaches: &mut Vec<Breach>,
    ) {
        let n_tasks = weights.config.n_tasks().max(1);
        let after: Vec<f32> = logits.values().flatten().copied().collect();
        if !after.iter().all(|logit| logit.is_finite()) {
            breaches.push(Breach::stated("finite", "a score on the probe is not"));
            return;
        }
        let of_task = |all: &[f32], task: usize| -> Vec<f32> {
            all.iter().skip(task).step_by(n_tasks).copied().collect()
        };
        if !is_warm || after.len() / n_tasks < MIN_CANDIDATES {
            return;
        }
        let primary = of_task(&after, 0);
        let found = spread(&primary);
        if found < MIN_SPREAD {
            breaches.push(Breach::below("spread", found, MIN_SPREAD));
        }
        let Some(good) = &self.good else { return };
        let before: Vec<f32> = good.logits.values().flatten().copied().collect();
        if before.len() != after.len() {
            return;
        }
        let least = self.config.min_rank_correlation;
        // Without any spread the version above is refused for that; so is one before it.
        if let Some(found) = rank_correlation(&of_task(&before, 0), &primary)
            && found < least
        {
            breaches.push(Breach::below("rank_correlation", found, least));
        }
        for task in 0..n_tasks {
            let level = |all: &[f32]| mean_probability(of_task(all, task).into_iter());
            let (before, after) = (level(&before), level(&after));
            let factor = self.config.max_level_change;
            if after > before * factor || after < before / factor {
                breaches.push(Breach::outside("level", after, before / factor, before * factor));
            }
        }
    }
}

impl Measured {
    fn refused(breach: Breach) -> Self {
        Self {
            breaches: vec![breach],
            logits: BTreeMap::new(),
            hash: [0; 32],
            dense_change: 0.0,
            rows: Vec::new(),
        }
    }
}
