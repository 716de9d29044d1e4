//! Weighted sums of rows into segments, and their transpose for gradients.

/// Weighted sums of unique rows: a segment is the sum of its members' rows times their coefficients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    ends: Vec<usize>,
    members: Vec<(usize, f32)>,
}

impl Pool {
    /// Adds a member to the open segment.
    pub(super) fn add(&mut self, row: usize, coefficient: f32) {
        self.members.push((row, coefficient));
    }

    /// Adds a whole segment.
    pub(crate) fn segment(&mut self, members: impl IntoIterator<Item = (usize, f32)>) {
        self.members.extend(members);
        self.close();
    }

    /// Closes the open segment.
    pub(super) fn close(&mut self) {
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

    /// Members of each segment: rows with their coefficients.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &[(usize, f32)]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let segment = &self.members[start..*end];
            start = *end;
            segment
        })
    }

    /// The transposed pool: a segment for each of `n_rows` rows, whose members are the segments that the row is in.
    #[must_use]
    pub fn transposed(&self, n_rows: usize) -> Self {
        let mut ends = vec![0; n_rows];
        for (row, _) in &self.members {
            ends[*row] += 1;
        }
        let mut end = 0;
        let mut next: Vec<usize> = ends
            .iter_mut()
            .map(|n| {
                let start = end;
                end += *n;
                *n = end;
                start
            })
            .collect();
        let mut members = vec![(0, 0.0); self.members.len()];
        for (at, segment) in self.segments().enumerate() {
            for (row, coefficient) in segment {
                members[next[*row]] = (at, *coefficient);
                next[*row] += 1;
            }
        }
        Self { ends, members }
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
