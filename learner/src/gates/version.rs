//! The gate of versions: compares a version with the last good one before it serves.

use std::collections::{BTreeMap, VecDeque};

use ouzel_model::{Model, Table, Weights};
use ouzel_sample::Batch;
use tch::Device;

use super::compare::{float, mean_probability, rank_correlation, spread};
use super::config::GatesConfig;
use super::moments::Moments;
use super::probe::Probe;
use super::signal::Breach;
use crate::error::Error;

/// Dense weights of earlier versions that a stale copy is recognised by.
const REMEMBERED: usize = 256;
/// Least spread of log-odds on the probe: below it the order of items is rounding.
const MIN_SPREAD: f64 = 1e-4;
/// Changed rows from which their mean norm says something.
const MIN_ROWS: u64 = 32;
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
    /// Figures of the tables, in the order of [`tables`].
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

/// The rows of one table that differ from the last good version.
#[derive(Clone, Copy, Debug, Default)]
struct ChangedRows {
    n: u64,
    sum: f64,
    largest: f64,
    /// Sums of squares of the change, and of the values before, of the rows that were there before.
    change: f64,
    before: f64,
    is_finite: bool,
}

impl ChangedRows {
    /// Norm of the change over the norm before; `None` without enough rows from before.
    fn relative_change(&self) -> Option<f64> {
        (self.n >= MIN_ROWS && self.before > 0.0).then(|| (self.change / self.before).sqrt())
    }
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

impl Breach {
    fn stated(gate: &str, detail: impl Into<String>) -> Self {
        Self {
            detail: Some(detail.into()),
            ..Self::new(gate, 1.0, (None, None))
        }
    }

    fn above(gate: &str, value: f64, most: f64) -> Self {
        Self::new(gate, value, (None, Some(most)))
    }

    fn below(gate: &str, value: f64, least: f64) -> Self {
        Self::new(gate, value, (Some(least), None))
    }

    fn outside(gate: &str, value: f64, least: f64, most: f64) -> Self {
        Self::new(gate, value, (Some(least), Some(most)))
    }

    fn new(gate: &str, value: f64, limits: (Option<f64>, Option<f64>)) -> Self {
        Self {
            gate: gate.to_owned(),
            detail: None,
            value,
            limits,
        }
    }
}

/// Checks weights for themselves: shapes, and that every number is finite.
///
/// # Errors
/// What is wrong.
pub(super) fn check_weights(weights: &Weights) -> Result<(), Breach> {
    if let Err(error) = weights.check() {
        return Err(Breach::stated("schema", error.to_string()));
    }
    if !is_dense_finite(weights) || changed_rows(None, weights).iter().any(|table| !table.is_finite) {
        return Err(Breach::stated("finite", "a weight is not"));
    }
    Ok(())
}

/// This model and its members that are awake.
fn models(weights: &Weights) -> Vec<&Weights> {
    let awake = weights.members.iter().zip(weights.shares.iter().skip(1));
    let awake = awake.filter(|(_, share)| **share > 0.0).map(|(member, _)| member);
    std::iter::once(weights).chain(awake).collect()
}

/// All tables of a version, in a fixed order.
fn tables(weights: &Weights) -> Vec<&Table> {
    let mut tables = Vec::new();
    for model in models(weights) {
        tables.extend(model.rows.tables());
        tables.push(&model.wide);
    }
    tables
}

/// The rows of each table that differ from those of the last good version.
fn changed_rows(good: Option<&Weights>, weights: &Weights) -> Vec<ChangedRows> {
    let before = good.map(tables).unwrap_or_default();
    let measure = |(at, table): (usize, &Table)| {
        let before = before
            .get(at)
            .copied()
            .filter(|before| before.stride() == table.stride());
        let mut changed = ChangedRows {
            is_finite: true,
            ..ChangedRows::default()
        };
        table.for_each_changed(before, |row, before| {
            let weights = row[..table.dim()].iter().map(|x| f64::from(*x));
            let norm = weights.clone().map(|x| x * x).sum::<f64>().sqrt();
            changed.n += 1;
            changed.sum += norm;
            changed.largest = changed.largest.max(norm);
            changed.is_finite &= norm.is_finite() && row.iter().all(|x| x.is_finite());
            if let Some(before) = before {
                let before = before.iter().map(|x| f64::from(*x));
                changed.change += weights
                    .zip(before.clone())
                    .map(|(x, before)| (x - before).powi(2))
                    .sum::<f64>();
                changed.before += before.take(table.dim()).map(|x| x * x).sum::<f64>();
            }
        });
        changed
    };
    tables(weights).into_iter().enumerate().map(measure).collect()
}

fn is_dense_finite(weights: &Weights) -> bool {
    models(weights).into_iter().all(|model| {
        let mut arrays = model.dense.values().flat_map(|array| array.values.iter());
        let mut lines = model.calibration.iter();
        arrays.all(|x| x.is_finite())
            && model.prior.iter().all(|x| x.is_finite())
            && lines.all(|line| line.scale.is_finite() && line.shift.is_finite())
            && model
                .norm
                .mean
                .iter()
                .chain(&model.norm.variance)
                .all(|x| x.is_finite())
    })
}

/// Hash of everything dense that scores depend on.
fn dense_hash(weights: &Weights) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for model in models(weights) {
        let arrays = model.dense.values().flat_map(|array| array.values.iter());
        let lines = model
            .calibration
            .iter()
            .flat_map(|line| [&line.scale, &line.shift]);
        for value in arrays.chain(&model.prior).chain(lines) {
            hasher.update(&value.to_le_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

/// Norm of the change of the dense weights over their norm.
fn relative_change(before: &Weights, after: &Weights) -> f64 {
    let (mut change, mut norm) = (0.0f64, 0.0f64);
    for (before, after) in models(before).into_iter().zip(models(after)) {
        for (name, after) in &after.dense {
            let Some(before) = before.dense.get(name) else {
                continue;
            };
            for (before, after) in before.values.iter().zip(after.values.iter()) {
                change += (f64::from(*after) - f64::from(*before)).powi(2);
                norm += f64::from(*before).powi(2);
            }
        }
    }
    if norm > 0.0 { (change / norm).sqrt() } else { 0.0 }
}

fn float_u64(n: u64) -> f64 {
    float(usize::try_from(n).unwrap_or(usize::MAX))
}
