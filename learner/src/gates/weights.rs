//! Measures the weights of a version, by themselves and against those of an earlier one.

use ouzel_model::{Table, Weights};

use super::compare::float;
use super::signal::Breach;

/// Changed rows from which their mean norm says something.
pub(super) const MIN_ROWS: u64 = 32;

/// The rows of one table that differ from the last good version.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChangedRows {
    pub(super) n: u64,
    pub(super) sum: f64,
    pub(super) largest: f64,
    /// Sums of squares of the change, and of the values before, of the rows that were there before.
    change: f64,
    before: f64,
    pub(super) is_finite: bool,
}

impl ChangedRows {
    /// Norm of the change over the norm before; `None` without enough rows from before.
    pub(super) fn relative_change(&self) -> Option<f64> {
        (self.n >= MIN_ROWS && self.before > 0.0).then(|| (self.change / self.before).sqrt())
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

/// This model and each of its members, none for one without a share.
fn models(weights: &Weights) -> Vec<Option<&Weights>> {
    let members = weights.members.iter().zip(weights.shares.iter().skip(1));
    let members = members.map(|(member, share)| (*share > 0.0).then_some(member));
    std::iter::once(Some(weights)).chain(members).collect()
}

/// All tables of a version, in a fixed order; those of members without a share are empty.
fn tables(weights: &Weights) -> Vec<&Table> {
    let mut tables = Vec::new();
    for model in std::iter::once(weights).chain(&weights.members) {
        tables.extend(model.rows.tables());
        tables.push(&model.wide);
    }
    tables
}

/// The rows of each table that differ from those of the last good version.
pub(super) fn changed_rows(good: Option<&Weights>, weights: &Weights) -> Vec<ChangedRows> {
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

pub(super) fn is_dense_finite(weights: &Weights) -> bool {
    models(weights).into_iter().flatten().all(|model| {
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
pub(super) fn dense_hash(weights: &Weights) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for model in models(weights).into_iter().flatten() {
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

/// Norm of the change of the dense weights over their norm, of the models that have a share in both versions.
pub(super) fn relative_change(before: &Weights, after: &Weights) -> f64 {
    let (mut change, mut norm) = (0.0f64, 0.0f64);
    let pairs = models(before).into_iter().zip(models(after));
    for (before, after) in pairs.filter_map(|(before, after)| before.zip(after)) {
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

pub(super) fn float_u64(n: u64) -> f64 {
    float(usize::try_from(n).unwrap_or(usize::MAX))
}
