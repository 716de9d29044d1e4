//! Candidates grouped by request, so that attention over a request's history is one matrix product.
//!
//! The candidates of a request are split into groups of equal width, and each group reads the history once. The history of
//! a full slate is not copied per candidate, and a batch of single candidates has no padding.

use tch::{Device, Tensor};

use crate::error::Error;

/// Largest width of a group, candidates.
const MAX_WIDTH: usize = 64;

/// Which candidate is at which place of which group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// Places of a group.
    pub width: usize,
    /// The request of each group, `[n_groups]`.
    pub request: Vec<i64>,
    /// The candidate at each place, `[n_groups * width]`; any one of the group in padding.
    pub candidate: Vec<i64>,
    /// The place of each candidate, `[n_candidates]`.
    pub place: Vec<i64>,
}

impl Groups {
    /// Groups candidates by their requests.
    #[must_use]
    pub fn new(request_of: &[i64], n_requests: usize) -> Self {
        let mut slates: Vec<Vec<i64>> = vec![Vec::new(); n_requests];
        for (candidate, request) in (0i64..).zip(request_of) {
            if let Some(slate) = usize::try_from(*request).ok().and_then(|r| slates.get_mut(r)) {
                slate.push(candidate);
            }
        }
        // The size of the mean slate: at most about half of all places are padding.
        let width = request_of.len().div_ceil(n_requests.max(1)).clamp(1, MAX_WIDTH);
        let mut groups = Self {
            width,
            place: vec![0; request_of.len()],
            ..Self::default()
        };
        for (request, slate) in (0i64..).zip(&slates) {
            for piece in slate.chunks(width) {
                groups.request.push(request);
                for candidate in piece {
                    if let Ok(at) = usize::try_from(*candidate) {
                        groups.place[at] = i64::try_from(groups.candidate.len()).unwrap_or(i64::MAX);
                    }
                    groups.candidate.push(*candidate);
                }
                groups.candidate.resize(groups.request.len() * width, piece[0]);
            }
        }
        groups
    }
}

/// [`Groups`] as tensors on one device.
#[derive(Debug)]
pub struct Layout {
    width: i64,
    request: Tensor,
    candidate: Tensor,
    place: Tensor,
}

impl Layout {
    /// Copies groups to a device.
    pub fn new(groups: &Groups, device: Device) -> Result<Self, Error> {
        let put = |values: &[i64]| -> Result<Tensor, Error> {
            Ok(Tensor::f_from_slice(values)?.f_to_device(device)?)
        };
        Ok(Self {
            width: i64::try_from(groups.width).unwrap_or(1),
            request: put(&groups.request)?,
            candidate: put(&groups.candidate)?,
            place: put(&groups.place)?,
        })
    }

    /// Arranges candidates in groups: `[n_candidates, ..]` -> `[n_groups, width, ..]`.
    pub fn group(&self, x: &Tensor) -> Result<Tensor, Error> {
        let mut shape = vec![-1, self.width];
        shape.extend(&x.size()[1..]);
        Ok(x.f_index_select(0, &self.candidate)?.f_reshape(&shape)?)
    }

    /// Repeats a request for each of its groups: `[n_requests, ..]` -> `[n_groups, ..]`.
    pub fn of_request(&self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.f_index_select(0, &self.request)?)
    }

    /// Repeats a request for each of its candidates: `[n_requests, ..]` -> `[n_candidates, ..]`.
    pub fn per_candidate(&self, x: &Tensor) -> Result<Tensor, Error> {
        let group = self.place.f_divide_scalar_mode(self.width, "floor")?;
        Ok(self.of_request(x)?.f_index_select(0, &group)?)
    }

    /// The inverse of [`group`](Self::group): `[n_groups, width, ..]` -> `[n_candidates, ..]`.
    pub fn ungroup(&self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.f_flatten(0, 1)?.f_index_select(0, &self.place)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_is_in_a_group_of_its_request() {
        for (request_of, n_requests) in [
            (vec![0, 0, 0, 1, 2, 2], 3),
            (vec![2, 0, 2, 1, 2, 2, 2], 3),
            (vec![0; 150], 1),
            ((0..40).collect(), 40),
        ] {
            let groups = Groups::new(&request_of, n_requests);
            for (candidate, request) in request_of.iter().enumerate() {
                let place = usize::try_from(groups.place[candidate]).unwrap();
                assert_eq!(usize::try_from(groups.candidate[place]).unwrap(), candidate);
                assert_eq!(groups.request[place / groups.width], *request);
            }
            assert_eq!(groups.candidate.len(), groups.request.len() * groups.width);
            assert!(groups.candidate.len() <= 2 * request_of.len() + groups.width);
        }
    }
}
