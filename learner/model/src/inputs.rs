//! A batch as the model takes it: unique rows, fields as weighted sums of them, the user side once a request.
//!
//! Pooling is linear, so it is done here in plain loops and its backward is [`Pool::scatter`], in an order that
//! depends on the batch alone: on any device the gradient of a row is summed in the same order.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use ouzel_sample::{Candidate, Id, IdHasher, N_DENSE, Request, Sample, Shown};

use crate::config::ModelConfig;
use crate::fields::{CANDIDATE_FIELDS, Fields, USER_FIELDS};
use crate::table::Table;

/// Weighted sums of unique rows: segment `s` is the sum of its members' rows times their coefficients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    ends: Vec<usize>,
    members: Vec<(usize, f32)>,
}

impl Pool {
    /// Closes the open segment.
    fn close(&mut self) {
        self.ends.push(self.members.len());
    }

    /// Number of segments.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True without segments.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn segments(&self) -> impl Iterator<Item = &[(usize, f32)]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let segment = &self.members[start..*end];
            start = *end;
            segment
        })
    }

    /// Sums rows into segments.
    ///
    /// # Shapes
    /// `rows [n_unique, dim]` -> `[n_segments, dim]`
    #[must_use]
    pub fn gather(&self, rows: &[f32], dim: usize) -> Vec<f32> {
        let mut out = vec![0.0; self.len() * dim];
        for (segment, out) in self.segments().zip(out.chunks_exact_mut(dim)) {
            for (row, coefficient) in segment {
                let row = &rows[row * dim..(row + 1) * dim];
                for (out, value) in out.iter_mut().zip(row) {
                    *out += coefficient * value;
                }
            }
        }
        out
    }

    /// The transpose of [`gather`](Self::gather): adds each segment's gradient to its members' rows.
    ///
    /// # Shapes
    /// `gradient [n_segments, dim]` added into `rows [n_unique, dim]`
    pub fn scatter(&self, gradient: &[f32], dim: usize, rows: &mut [f32]) {
        for (segment, gradient) in self.segments().zip(gradient.chunks_exact(dim)) {
            for (row, coefficient) in segment {
                let row = &mut rows[row * dim..(row + 1) * dim];
                for (out, value) in row.iter_mut().zip(gradient) {
                    *out += coefficient * value;
                }
            }
        }
    }
}

/// Everything the forward pass needs of a list of candidates, apart from the weights.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Unique keys of embedding rows, in order of first use.
    pub rows: Vec<Id>,
    /// Unique keys of the wide part.
    pub wide: Vec<Id>,
    /// Segments `[n_requests * USER_FIELDS]` over `rows`.
    pub user: Pool,
    /// Segments `[n_candidates * CANDIDATE_FIELDS]` over `rows`.
    pub candidate: Pool,
    /// Segments `[n_candidates]` over `wide`.
    pub wide_sum: Pool,
    /// The request of each candidate, `[n_candidates]`.
    pub request_of: Vec<i64>,
    /// Live features `[n_candidates, N_DENSE]`.
    pub dense: Vec<f32>,
    n_requests: usize,
}

impl Inputs {
    /// Inputs of a training batch. Samples of one request share its user side wherever they stand.
    #[must_use]
    pub fn of_samples(config: &ModelConfig, samples: &[Sample]) -> Self {
        let mut build = Builder::new(config);
        let mut seen: HashMap<Id, i64, BuildHasherDefault<IdHasher>> = HashMap::default();
        for sample in samples {
            let next = build.n_requests();
            let request = *seen.entry(sample.request.id).or_insert(next);
            if request == next {
                build.request(&sample.request);
            }
            build.candidate(&sample.request, request, &sample.candidate);
        }
        build.done()
    }

    /// Inputs of slates that are only predicted, in order.
    #[must_use]
    pub fn of_shown(config: &ModelConfig, shown: &[Shown]) -> Self {
        let mut build = Builder::new(config);
        for slate in shown {
            let request = build.n_requests();
            build.request(&slate.request);
            for candidate in &slate.candidates {
                build.candidate(&slate.request, request, candidate);
            }
        }
        build.done()
    }

    /// Inputs of one request with its candidates.
    #[must_use]
    pub fn of_request(config: &ModelConfig, request: &Request, candidates: &[Candidate]) -> Self {
        let mut build = Builder::new(config);
        build.request(request);
        for candidate in candidates {
            build.candidate(request, 0, candidate);
        }
        build.done()
    }

    /// Requests in the batch.
    #[must_use]
    pub fn n_requests(&self) -> usize {
        self.n_requests
    }

    /// Candidates in the batch.
    #[must_use]
    pub fn n_candidates(&self) -> usize {
        self.request_of.len()
    }

    /// Reads the unique rows from a table, `[n_unique, dim]`.
    #[must_use]
    pub fn read(keys: &[Id], table: &Table) -> Vec<f32> {
        let mut out = vec![0.0; keys.len() * table.dim()];
        for (key, out) in keys.iter().zip(out.chunks_exact_mut(table.dim())) {
            table.read(*key, out);
        }
        out
    }
}

/// Collects requests and candidates, giving each distinct id one place.
struct Builder {
    history_len: usize,
    inputs: Inputs,
    rows: Unique,
    wide: Unique,
}

/// Places of ids in order of first use.
#[derive(Default)]
struct Unique {
    place: HashMap<Id, usize, BuildHasherDefault<IdHasher>>,
    ids: Vec<Id>,
}

impl Unique {
    fn place(&mut self, id: Id) -> usize {
        let ids = &mut self.ids;
        *self.place.entry(id).or_insert_with(|| {
            ids.push(id);
            ids.len() - 1
        })
    }
}

impl Builder {
    fn new(config: &ModelConfig) -> Self {
        Self {
            history_len: config.history_len,
            inputs: Inputs::default(),
            rows: Unique::default(),
            wide: Unique::default(),
        }
    }

    fn n_requests(&self) -> i64 {
        i64::try_from(self.inputs.n_requests).expect("a batch has fewer than 2^63 requests")
    }

    fn request(&mut self, request: &Request) {
        let mut fields: [Vec<(usize, f32)>; USER_FIELDS] = Default::default();
        Fields::new(request, self.history_len)
            .user(|field, id, coefficient| fields[field].push((self.rows.place(id), coefficient)));
        for field in fields {
            self.inputs.user.members.extend(field);
            self.inputs.user.close();
        }
        self.inputs.n_requests += 1;
    }

    fn candidate(&mut self, request: &Request, request_index: i64, candidate: &Candidate) {
        let mut fields: [Vec<(usize, f32)>; CANDIDATE_FIELDS] = Default::default();
        Fields::candidate(candidate, |field, id, coefficient| {
            fields[field].push((self.rows.place(id), coefficient));
        });
        for field in fields {
            self.inputs.candidate.members.extend(field);
            self.inputs.candidate.close();
        }
        Fields::new(request, self.history_len).wide(candidate, |id| {
            self.inputs.wide_sum.members.push((self.wide.place(id), 1.0));
        });
        self.inputs.wide_sum.close();
        self.inputs.request_of.push(request_index);
        debug_assert_eq!(candidate.dense.len(), N_DENSE);
        self.inputs.dense.extend_from_slice(candidate.dense.as_slice());
    }

    fn done(mut self) -> Inputs {
        self.inputs.rows = self.rows.ids;
        self.inputs.wide = self.wide.ids;
        self.inputs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// `<gather(x), y> = <x, scatter(y)>` for any pool: scatter is the exact transpose.
        #[test]
        fn scatter_is_the_transpose_of_gather(
            segments in prop::collection::vec(prop::collection::vec((0usize..5, -2.0f32..2.0), 0..4), 1..6),
            x in prop::collection::vec(-1.0f32..1.0, 15),
            seed in 0u64..1000,
        ) {
            let mut pool = Pool::default();
            for segment in &segments {
                pool.members.extend(segment);
                pool.close();
            }
            let y: Vec<f32> = (0..pool.len() * 3).map(|i| crate::normal(seed, 0, i as u64)).collect();
            let forward = pool.gather(&x, 3);
            let mut back = vec![0.0; x.len()];
            pool.scatter(&y, 3, &mut back);
            let left: f32 = forward.iter().zip(&y).map(|(a, b)| a * b).sum();
            let right: f32 = x.iter().zip(&back).map(|(a, b)| a * b).sum();
            prop_assert!((left - right).abs() <= 1e-4 * (1.0 + left.abs()), "{left} {right}");
        }
    }
}
