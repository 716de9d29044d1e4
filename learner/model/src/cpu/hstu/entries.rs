//! The histories of a batch as the loops read them: each row once, each entry as places in one table.

use crate::config::TOKEN_FIELDS;
use crate::cpu::history_inputs::time_bucket;
use crate::inputs::Inputs;

/// Parts whose rows an entry sums: its item, the item's attribute, its action, its position and its time.
pub(super) const PARTS: usize = 5;

/// Histories without their padding.
///
/// The table that entries refer to holds, one after the other, the rows read as items, the rows read as attributes of items,
/// and the rows of actions, positions and times. Each of the first two begins with a row of zeros, for entries that
/// lack the part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries {
    /// The batch's rows that are read, by field, without the leading row of zeros.
    pub(super) rows: [Vec<usize>; TOKEN_FIELDS],
    /// Table places of the parts of each entry, `[n_entries]`.
    pub(super) places: Vec<[usize; PARTS]>,
    /// Where each request's entries begin, and where the last one's end, `[n_requests + 1]`.
    pub(super) starts: Vec<usize>,
}

impl Entries {
    /// The histories of a batch, for a model with these counts of actions, positions and times.
    pub(crate) fn new(inputs: &Inputs, counts: [usize; 3]) -> Self {
        let history = &inputs.history;
        let mut out = Self {
            starts: vec![0],
            ..Self::default()
        };
        // 0 for rows without a place yet.
        let mut place_of = [(); TOKEN_FIELDS].map(|()| vec![0usize; inputs.rows.len()]);
        let mut segments = history.tokens.segments();
        for request in 0..inputs.n_requests() {
            let at = request * history.len..(request + 1) * history.len;
            let n = history.valid[at.clone()].iter().filter(|v| **v > 0.0).count();
            let context = history.tasks[at.clone()].iter().zip(&history.ages[at]);
            for (entry, (task, age)) in context.enumerate() {
                let mut places = [0; PARTS];
                for field in 0..TOKEN_FIELDS {
                    if let Some([(row, _)]) = segments.next().filter(|_| entry < n) {
                        places[field] = out.place(field, *row, &mut place_of[field]);
                    }
                }
                if entry < n {
                    let [actions, positions, times] = counts;
                    // Entries are counted back from the candidates, which all stand at 0.
                    let context = [
                        usize::try_from(*task).unwrap_or(0).min(actions - 1),
                        (n - entry).min(positions - 1),
                        time_bucket(*age).min(times - 1),
                    ];
                    places[TOKEN_FIELDS..].copy_from_slice(&context);
                    out.places.push(places);
                }
            }
            out.starts.push(out.places.len());
        }
        let begins = out.begins(counts);
        for places in &mut out.places {
            for (place, begin) in places.iter_mut().zip(begins) {
                *place += begin;
            }
        }
        out
    }

    fn place(&mut self, field: usize, row: usize, place_of: &mut [usize]) -> usize {
        if place_of[row] == 0 {
            self.rows[field].push(row);
            place_of[row] = self.rows[field].len();
        }
        place_of[row]
    }

    /// The first table place of each part.
    pub(super) fn begins(&self, [actions, positions, _]: [usize; 3]) -> [usize; PARTS] {
        let about = self.n_of(0);
        let action = about + self.n_of(1);
        [0, about, action, action + actions, action + actions + positions]
    }

    /// Table rows of a field, the leading row of zeros included.
    pub(super) fn n_of(&self, field: usize) -> usize {
        1 + self.rows[field].len()
    }

    /// Copies the rows of both fields, each behind its row of zeros, `[n_of(0) + n_of(1), dim]`.
    pub(super) fn gather(&self, rows: &[f32], dim: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity((self.n_of(0) + self.n_of(1)) * dim);
        for of_field in &self.rows {
            out.resize(out.len() + dim, 0.0);
            for row in of_field {
                out.extend_from_slice(&rows[row * dim..(row + 1) * dim]);
            }
        }
        out
    }

    /// Adds gradients, laid out as by [`Entries::gather`], to those of the batch's rows.
    pub(crate) fn scatter(&self, gathered: &[f32], dim: usize, rows: &mut [f32]) {
        let mut gathered = gathered.chunks_exact(dim);
        for of_field in &self.rows {
            let _zeros = gathered.next();
            for (row, of_row) in of_field.iter().zip(&mut gathered) {
                for (sum, value) in rows[row * dim..(row + 1) * dim].iter_mut().zip(of_row) {
                    *sum += value;
                }
            }
        }
    }
}

/// The candidates of each request, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slates {
    /// Candidates by request.
    pub(super) candidates: Vec<usize>,
    /// Where each request's candidates begin, and where the last one's end, `[n_requests + 1]`.
    pub(super) starts: Vec<usize>,
}

impl Slates {
    /// Groups candidates by their requests.
    pub(crate) fn new(request_of: &[i64], n_requests: usize) -> Self {
        let request_of = request_of
            .iter()
            .map(|of| usize::try_from(*of).ok().filter(|r| *r < n_requests));
        let mut starts = vec![0; n_requests + 1];
        for request in request_of.clone().flatten() {
            starts[request + 1] += 1;
        }
        for request in 0..n_requests {
            starts[request + 1] += starts[request];
        }
        let mut next = starts.clone();
        let mut candidates = vec![0; starts[n_requests]];
        for (candidate, request) in request_of.enumerate() {
            if let Some(request) = request {
                candidates[next[request]] = candidate;
                next[request] += 1;
            }
        }
        Self { candidates, starts }
    }
}
