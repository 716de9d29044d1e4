//! The input of a batch: unique rows, fields as weighted sums of them, the user side once per request.
//!
//! Pooling is linear: [`Pool::gather`] sums rows into fields, and its transpose [`Pool::scatter`] sums gradients into rows,
//! in an order that depends on the batch alone, not on the device.

mod contents;
mod long;
mod negatives;
mod pool;
mod retrieval;
mod slates;

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use ouzel_sample::{Candidate, HistoryEntry, Id, IdHasher, N_DENSE, Request, Sample, ShownSlate, VectorMap};

use crate::config::{ModelConfig, SequenceKind, TOKEN_FIELDS};
use crate::fields::{CANDIDATE_FIELDS, Fields, Key, USER_FIELDS};
use crate::groups::Groups;
use crate::table::Table;
pub use contents::ContentInputs;
pub use long::LongInputs;
pub use pool::Pool;
pub use retrieval::{ContentVectors, TowerInputs, TowerItem, catalog};

/// Everything that a forward pass reads of a list of candidates, apart from weights.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Unique keys of embedding rows, in order of first use.
    pub rows: Vec<Key>,
    /// Unique keys of the wide part.
    pub wide: Vec<Id>,
    /// Segments `[n_requests * USER_FIELDS]` over `rows`.
    pub user: Pool,
    /// Segments `[n_candidates * CANDIDATE_FIELDS]` over `rows`.
    pub candidate: Pool,
    /// Segments `[n_candidates]` over `wide`.
    pub wide_sum: Pool,
    /// Request of each candidate, `[n_candidates]`.
    pub request_of: Vec<i64>,
    /// Live features, `[n_candidates, N_DENSE]`.
    pub dense: Vec<f32>,
    /// Offsets of the logits, `[n_requests, n_tasks]`; empty where every request has those of the network.
    pub prior: Vec<f32>,
    /// Histories of items; empty without a block that reads them.
    pub history: HistoryInputs,
    /// Lists of the long past; none without the block that reads them.
    pub long: Option<LongInputs>,
    /// Contents; none without a block that reads them.
    pub contents: Option<ContentInputs>,
    /// Candidates grouped by request; empty without attention over a history.
    pub groups: Groups,
    /// Whether a candidate counts in the slate of its request, `[n_candidates]`: the first one of each item does. None without
    /// a pooled head.
    pub members: Option<Vec<bool>>,
    /// Ids of the requests, `[n_requests]`.
    pub requests: Vec<Id>,
}

/// The newest actions of each request's user, oldest first, left-aligned.
#[derive(Clone, Debug, Default)]
pub struct HistoryInputs {
    /// Entries of a request with padding; 0 without the sequence block.
    pub len: usize,
    /// Segments `[n_requests * len * TOKEN_FIELDS]` over `rows`.
    pub tokens: Pool,
    /// Candidates as tokens, segments `[n_candidates * TOKEN_FIELDS]` over `rows`.
    pub target: Pool,
    /// 1 for an entry, 0 for padding, `[n_requests * len]`.
    pub valid: Vec<f32>,
    /// Task of each entry's action, `[n_requests * len]`.
    pub tasks: Vec<i64>,
    /// Age of each entry at the request, seconds, `[n_requests * len]`.
    pub ages: Vec<f32>,
}

impl Inputs {
    /// Inputs of a training batch. Samples of one impression share its user side, whatever their order.
    #[must_use]
    pub fn of_samples(config: &ModelConfig, samples: &[Sample], vectors: &VectorMap) -> Self {
        let mut build = Builder::new(config);
        let mut seen: HashMap<Id, i64, BuildHasherDefault<IdHasher>> = HashMap::default();
        for sample in samples {
            let next = build.n_requests();
            let request = *seen.entry(sample.impression()).or_insert(next);
            if request == next {
                build.request(&sample.request);
            }
            build.candidate(&sample.request, request, &sample.candidate);
        }
        build.done(vectors)
    }

    /// Inputs of slates to predict, in order.
    #[must_use]
    pub fn of_shown(config: &ModelConfig, shown: &[ShownSlate], vectors: &VectorMap) -> Self {
        let mut build = Builder::new(config);
        for slate in shown {
            let request = build.n_requests();
            build.request(&slate.request);
            for candidate in &slate.candidates {
                build.candidate(&slate.request, request, candidate);
            }
        }
        build.done(vectors)
    }

    /// Inputs of one request with its candidates.
    #[must_use]
    pub fn of_request(
        config: &ModelConfig,
        request: &Request,
        candidates: &[Candidate],
        vectors: &VectorMap,
    ) -> Self {
        let mut build = Builder::new(config);
        build.request(request);
        for candidate in candidates {
            build.candidate(request, 0, candidate);
        }
        build.done(vectors)
    }

    /// The inputs of a plain model, which has no block over histories.
    #[must_use]
    pub fn without_blocks(&self) -> Cow<'_, Self> {
        if self.history.len == 0 && self.history.target.is_empty() && self.contents.is_none() {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self {
            history: HistoryInputs::default(),
            long: None,
            contents: self.contents.as_ref().map(ContentInputs::without_histories),
            members: self.members.clone(),
            requests: self.requests.clone(),
            groups: self.groups.clone(),
            rows: self.rows.clone(),
            wide: self.wide.clone(),
            user: self.user.clone(),
            candidate: self.candidate.clone(),
            wide_sum: self.wide_sum.clone(),
            dense: self.dense.clone(),
            prior: self.prior.clone(),
            request_of: self.request_of.clone(),
        })
    }

    /// Number of requests.
    #[must_use]
    pub fn n_requests(&self) -> usize {
        self.requests.len()
    }

    /// Number of candidates.
    #[must_use]
    pub fn n_candidates(&self) -> usize {
        self.request_of.len()
    }

    /// Offsets of the logits, `[n_requests, n_tasks]`, where requests without their own have these, `[n_tasks]`.
    #[must_use]
    pub fn priors(&self, default: &[f32]) -> Vec<f32> {
        match self.prior.is_empty() {
            true => default.repeat(self.n_requests()),
            false => self.prior.clone(),
        }
    }

    /// Reads rows of a table, `[n_keys, dim]`.
    #[must_use]
    pub fn read(keys: &[Id], table: &Table) -> Vec<f32> {
        let mut out = vec![0.0; keys.len() * table.dim()];
        for (key, out) in keys.iter().zip(out.chunks_exact_mut(table.dim())) {
            table.read(*key, out);
        }
        out
    }
}

/// Collects requests and candidates, and numbers distinct ids.
struct Builder<'a> {
    config: &'a ModelConfig,
    inputs: Inputs,
    rows: Unique<Key>,
    wide: Unique<Id>,
    histories: Vec<(i64, Vec<HistoryEntry>)>,
    long: Option<long::Collected>,
    contents: contents::Collected,
    slates: Option<slates::Collected>,
}

/// Distinct keys in order of first use.
#[derive(Debug)]
struct Unique<K> {
    place: HashMap<Id, usize, BuildHasherDefault<IdHasher>>,
    keys: Vec<K>,
}

impl<K> Default for Unique<K> {
    fn default() -> Self {
        Self {
            place: HashMap::default(),
            keys: Vec::new(),
        }
    }
}

impl<K> Unique<K> {
    fn place(&mut self, id: Id, key: K) -> usize {
        let keys = &mut self.keys;
        *self.place.entry(id).or_insert_with(|| {
            keys.push(key);
            keys.len() - 1
        })
    }
}

impl<'a> Builder<'a> {
    fn new(config: &'a ModelConfig) -> Self {
        Self {
            config,
            inputs: Inputs::default(),
            rows: Unique::default(),
            wide: Unique::default(),
            histories: Vec::new(),
            long: config
                .long_history
                .enabled
                .then(|| long::Collected::new(config.long_history.len)),
            contents: contents::Collected::default(),
            slates: config.pool_slate.then(slates::Collected::default),
        }
    }

    fn reads_history(&self) -> bool {
        self.config.sequence.kind != SequenceKind::Mean
    }

    /// Whether candidates are read as tokens: by the sequence block, the long past or the contrast.
    fn reads_target(&self) -> bool {
        self.reads_history() || self.config.long_history.enabled || self.config.contrast_width > 0
    }

    fn n_requests(&self) -> i64 {
        i64::try_from(self.inputs.n_requests()).expect("a batch has fewer than 2^63 requests")
    }

    fn request(&mut self, request: &Request) {
        let mut fields: [Vec<(usize, f32)>; USER_FIELDS] = Default::default();
        Fields::new(request, self.config.history_len)
            .user(|field, key, coefficient| fields[field].push((self.rows.place(key.id, key), coefficient)));
        for field in fields {
            self.inputs.user.segment(field);
        }
        if self.reads_history() {
            let newest = request
                .history
                .len()
                .saturating_sub(self.config.sequence.history_len);
            self.histories
                .push((request.ts.0, request.history[newest..].to_vec()));
        }
        if self.config.interest.enabled {
            let newest = request
                .contents
                .len()
                .saturating_sub(self.config.interest.history_len);
            self.contents.histories.push(request.contents[newest..].to_vec());
        }
        self.inputs.requests.push(request.id);
    }

    fn candidate(&mut self, request: &Request, request_index: i64, candidate: &Candidate) {
        let mut fields: [Vec<(usize, f32)>; CANDIDATE_FIELDS] = Default::default();
        Fields::candidate(candidate, |field, key, coefficient| {
            fields[field].push((self.rows.place(key.id, key), coefficient));
        });
        for field in fields {
            self.inputs.candidate.segment(field);
        }
        if self.reads_target() {
            for key in Fields::target(candidate) {
                let member = key.map(|key| (self.rows.place(key.id, key), 1.0));
                self.inputs.history.target.segment(member);
            }
        }
        if let Some(long) = &mut self.long {
            long.candidate(request_index, request, candidate);
        }
        if self.config.reads_vectors() {
            self.contents.candidates.push(candidate.content);
        }
        if let Some(slates) = &mut self.slates {
            slates.candidate(request_index, candidate.item);
        }
        Fields::new(request, self.config.history_len).wide(candidate, |id, _| {
            if self.config.wide {
                self.inputs.wide_sum.add(self.wide.place(id, id), 1.0);
            }
        });
        self.inputs.wide_sum.close();
        self.inputs.request_of.push(request_index);
        debug_assert_eq!(candidate.dense.len(), N_DENSE);
        self.inputs.dense.extend_from_slice(candidate.dense.as_slice());
    }

    fn done(mut self, vectors: &VectorMap) -> Inputs {
        let histories = std::mem::take(&mut self.histories);
        if !histories.is_empty() {
            let target = std::mem::take(&mut self.inputs.history.target);
            self.inputs.history = HistoryInputs {
                target,
                ..HistoryInputs::new(histories, &mut self.rows)
            };
        }
        self.inputs.long = self.long.map(|long| long.done(&mut self.rows));
        if self.config.reads_vectors() {
            self.inputs.contents = Some(ContentInputs::new(self.contents, vectors));
        }
        if self.config.sequence.kind != SequenceKind::Mean || self.config.interest.enabled {
            self.inputs.groups = Groups::new(&self.inputs.request_of, self.inputs.n_requests());
        }
        self.inputs.members = self.slates.map(slates::Collected::members);
        self.inputs.rows = self.rows.keys;
        self.inputs.wide = self.wide.keys;
        self.inputs
    }
}

impl HistoryInputs {
    /// Histories with the times of their requests, ms, padded to the longest. Numbers their ids among `rows`.
    fn new(histories: Vec<(i64, Vec<HistoryEntry>)>, rows: &mut Unique<Key>) -> Self {
        let longest = histories.iter().map(|(_, entries)| entries.len()).max();
        let len = longest.unwrap_or(0).max(1);
        let mut out = Self {
            len,
            ..Self::default()
        };
        for (now, entries) in histories {
            for entry in &entries {
                for key in Fields::token(entry) {
                    out.tokens.segment(key.map(|key| (rows.place(key.id, key), 1.0)));
                }
                out.valid.push(1.0);
                out.tasks.push(i64::from(entry.task));
                out.ages.push(seconds(now.saturating_sub(entry.ts.0)));
            }
            for _ in entries.len()..len {
                (0..TOKEN_FIELDS).for_each(|_| out.tokens.segment([]));
                out.valid.push(0.0);
                out.tasks.push(0);
                out.ages.push(0.0);
            }
        }
        out
    }

    /// Entries of each history.
    pub(crate) fn lens(&self) -> Vec<usize> {
        let valid = self.valid.chunks_exact(self.len.max(1));
        valid
            .map(|valid| valid.iter().filter(|v| **v > 0.0).count())
            .collect()
    }
}

fn seconds(ms: i64) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "ages are read by their logarithm")]
    let ms = ms.max(0) as f32;
    ms / 1000.0
}
