//! Content interest in plain loops: what [`crate::blocks::interest`] computes, and its gradients.
//!
//! An adapter of rank `r` adds `(q B)(A v)` to the score of query `q` and content `v`: so a key is laid beside its `A v`,
//! a query beside its `q B`, and one product of the two gives the score. A request's history is laid side by side while its
//! candidates attend to it, and stays in the cache.

use pulp::{Arch, NullaryFnOnce};

use super::gemm::{Lhs, Rows, add_product, add_product_to};
use super::kernel::{COLUMNS, exp, total, transpose};
use crate::config::LoraConfig;
use crate::error::Error;
use crate::host_slice::to_vec;
use crate::params::Params;

mod backward;

pub(crate) use backward::Learning;

/// The block with the weights of one moment.
#[derive(Debug)]
pub(crate) struct Interest {
    /// Floats of a content vector.
    n_in: usize,
    /// Floats of a query or key without what adapters add.
    width: usize,
    /// Floats of what is low of one in an adapter, a whole number of vector registers.
    low: usize,
    /// Both together.
    extent: usize,
    query: Projection,
    key: Projection,
}

/// A layer without bias, `[width, n_in]`, with its adapter.
#[derive(Debug)]
struct Projection {
    weight: Vec<f32>,
    transposed: Vec<f32>,
    adapter: Option<Adapter>,
}

/// `scale B A`, `A [rank, n_in]`, `B [width, rank]`.
#[derive(Debug)]
struct Adapter {
    rank: usize,
    scale: f32,
    a: Vec<f32>,
    a_transposed: Vec<f32>,
    b: Vec<f32>,
    b_transposed: Vec<f32>,
}

/// What it reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InterestInputs<'a> {
    /// Contents, `[n_contents, n_in]`, those of candidates first.
    pub(crate) vectors: &'a [f32],
    /// How many are candidates'.
    pub(crate) n_targets: usize,
    /// Their keys without what an adapter adds, `[n_contents, width]`, where they are known.
    pub(crate) keys: Option<&'a [f32]>,
    /// The content of each candidate.
    pub(crate) of_candidate: &'a [i64],
    /// The content of each entry, `[n_requests, len]`, and 1 where there is one.
    pub(crate) of_history: &'a [i64],
    pub(crate) valid: &'a [f32],
    pub(crate) len: usize,
    /// The request of each candidate.
    pub(crate) request_of: &'a [i64],
}

/// A forward pass.
#[derive(Debug, Default)]
pub(crate) struct InterestPass {
    /// What each candidate finds, `[n_candidates, n_in]`; 0 where the history has no content.
    pub(crate) found: Vec<f32>,
    /// Of candidates' contents: queries, and what is low of them in an adapter.
    queries: Vec<f32>,
    low_queries: Vec<f32>,
    /// Queries beside what is low of them for an adapter of keys, `[n_targets, width + low]`.
    asks: Vec<f32>,
    /// Keys, where they were not known, `[n_contents, width]`; what is low of them, `[n_contents, low]`.
    keys: Vec<f32>,
    low_keys: Vec<f32>,
    /// Weights of entries, candidate after candidate, only those with content.
    weights: Vec<f32>,
}

impl Interest {
    /// The block with the weights of this moment.
    pub(crate) fn new(params: &Params, lora: &LoraConfig) -> Result<Self, Error> {
        #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
        let scale = lora.scale() as f32;
        let query = Projection::new(params, "interest.query", scale)?;
        let key = Projection::new(params, "interest.key", scale)?;
        let extents = params.get("interest.key.weight")?.size();
        let of = |dim: usize| {
            extents
                .get(dim)
                .and_then(|n| usize::try_from(*n).ok())
                .unwrap_or(0)
        };
        let rank = key.adapter.as_ref().map_or(0, |adapter| adapter.rank);
        let low = rank.next_multiple_of(COLUMNS);
        Ok(Self {
            width: of(0),
            n_in: of(1),
            low,
            extent: of(0) + low,
            query,
            key,
        })
    }

    /// What each candidate finds in its request's history.
    pub(crate) fn forward(&self, inputs: InterestInputs<'_>) -> InterestPass {
        let mut pass = InterestPass::default();
        Arch::new().dispatch(Forward(self, inputs, &mut pass));
        pass
    }

    #[inline(always)]
    fn forward_loops(&self, inputs: InterestInputs<'_>, pass: &mut InterestPass) {
        self.ask(inputs, pass);
        self.answer(inputs, pass);
        let keys = inputs.keys.unwrap_or(&pass.keys);
        let (n_in, extent) = (self.n_in, self.extent);
        pass.found = vec![0.0; inputs.request_of.len() * n_in];
        let mut read = Read::default();
        for run in inputs.runs() {
            read.begin(self, inputs, inputs.request_of[run.start], [keys, &pass.low_keys]);
            let (n, start) = (read.entries.len(), pass.weights.len());
            let asks = inputs.transposed(run.clone(), &pass.asks, extent);
            let mut scores = vec![0.0; n * run.len()];
            let size = [n, extent, run.len()];
            add_product(&mut scores, Lhs::Rows(&read.keys), &asks, size);
            pass.weights.extend(transpose(&scores, n, run.len()));
            for weights in pass.weights[start..].chunks_exact_mut(n.max(1)) {
                let mut most = f32::MIN;
                for score in weights.iter() {
                    most = most.max(*score);
                }
                for weight in weights.iter_mut() {
                    *weight = exp(*weight - most);
                }
                let sum = total(weights);
                for weight in weights.iter_mut() {
                    *weight /= sum;
                }
            }
            add_product(
                &mut pass.found[run.start * n_in..run.end * n_in],
                Lhs::Rows(&pass.weights[start..]),
                &read.vectors,
                [run.len(), n, n_in],
            );
        }
    }

    /// Queries of the candidates' contents, `[n_targets, width + low]`.
    #[inline(always)]
    fn ask(&self, inputs: InterestInputs<'_>, pass: &mut InterestPass) {
        let (n, n_in, width) = (inputs.n_targets, self.n_in, self.width);
        let targets = &inputs.vectors[..n * n_in];
        let mut queries = vec![0.0; n * width];
        add_product(
            &mut queries,
            Lhs::Rows(targets),
            &self.query.transposed,
            [n, n_in, width],
        );
        if let Some(adapter) = &self.query.adapter {
            pass.low_queries = adapter.low(targets, n_in);
            adapter.rise(&pass.low_queries, &mut queries, width);
        }
        pass.asks = vec![0.0; n * self.extent];
        let low = match &self.key.adapter {
            Some(adapter) => {
                let mut low = vec![0.0; n * adapter.rank];
                add_product(
                    &mut low,
                    Lhs::Rows(&queries),
                    &adapter.b,
                    [n, width, adapter.rank],
                );
                low
            }
            None => Vec::new(),
        };
        let scale = self.scale();
        let (rank, low_scale) = self
            .key
            .adapter
            .as_ref()
            .map_or((0, 0.0), |adapter| (adapter.rank, adapter.scale * scale));
        for (at, ask) in pass.asks.chunks_exact_mut(self.extent).enumerate() {
            for (ask, query) in ask.iter_mut().zip(row(&queries, at, width)) {
                *ask = scale * query;
            }
            for (ask, low) in ask[width..].iter_mut().zip(row(&low, at, rank)) {
                *ask = low_scale * low;
            }
        }
        pass.queries = queries;
    }

    /// Keys of all contents where they are not known, `[n_contents, width]`, and what is low of them.
    #[inline(always)]
    fn answer(&self, inputs: InterestInputs<'_>, pass: &mut InterestPass) {
        let (n_in, width) = (self.n_in, self.width);
        let n = inputs.vectors.len() / n_in.max(1);
        if inputs.keys.is_none() {
            pass.keys = vec![0.0; n * width];
            let size = [n, n_in, width];
            add_product(
                &mut pass.keys,
                Lhs::Rows(inputs.vectors),
                &self.key.transposed,
                size,
            );
        }
        pass.low_keys = vec![0.0; n * self.low];
        if let Some(adapter) = &self.key.adapter {
            add_product_to(
                &mut pass.low_keys,
                self.low,
                Lhs::Rows(inputs.vectors),
                Rows::of(&adapter.a_transposed, adapter.rank, 0),
                [n, n_in, adapter.rank],
            );
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a layer's width")]
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}

impl Projection {
    fn new(params: &Params, layer: &str, scale: f32) -> Result<Self, Error> {
        let weight = to_vec(params.get(&format!("{layer}.weight"))?)?;
        let find = |part: &str| params.find(&format!("{layer}.{part}")).map(to_vec).transpose();
        let width = usize::try_from(params.get(&format!("{layer}.weight"))?.size()[0]).unwrap_or(0);
        let n_in = weight.len() / width.max(1);
        let adapter = match (find("lora_a")?, find("lora_b")?) {
            (Some(a), Some(b)) => {
                let rank = b.len() / width.max(1);
                Some(Adapter {
                    rank,
                    scale,
                    a_transposed: transpose(&a, rank, n_in),
                    b_transposed: transpose(&b, width, rank),
                    a,
                    b,
                })
            }
            _ => None,
        };
        Ok(Self {
            transposed: transpose(&weight, width, n_in),
            weight,
            adapter,
        })
    }
}

impl Adapter {
    /// `A x` of rows, `[n, rank]`.
    #[inline(always)]
    fn low(&self, x: &[f32], n_in: usize) -> Vec<f32> {
        let n = x.len() / n_in.max(1);
        let mut low = vec![0.0; n * self.rank];
        add_product(&mut low, Lhs::Rows(x), &self.a_transposed, [n, n_in, self.rank]);
        low
    }

    /// Adds `scale B` of rows `[n, rank]`.
    #[inline(always)]
    fn rise(&self, low: &[f32], out: &mut [f32], width: usize) {
        let scaled: Vec<f32> = low.iter().map(|x| self.scale * x).collect();
        let n = low.len() / self.rank.max(1);
        add_product(out, Lhs::Rows(&scaled), &self.b_transposed, [n, self.rank, width]);
    }
}

/// A request's history, its contents side by side.
#[derive(Debug, Default)]
struct Read {
    /// Which contents.
    entries: Vec<usize>,
    /// `[n, extent]`
    keys: Vec<f32>,
    /// `[n, n_in]`
    vectors: Vec<f32>,
}

impl Read {
    #[inline(always)]
    fn begin(&mut self, of: &Interest, inputs: InterestInputs<'_>, request: i64, [keys, low]: [&[f32]; 2]) {
        self.entries = inputs.entries(request);
        self.keys.clear();
        self.vectors.clear();
        for entry in &self.entries {
            self.keys.extend_from_slice(row(keys, *entry, of.width));
            self.keys.extend_from_slice(row(low, *entry, of.low));
            self.vectors
                .extend_from_slice(row(inputs.vectors, *entry, of.n_in));
        }
    }
}

impl InterestInputs<'_> {
    /// Rows of the candidates' contents side by side and transposed, `[width, candidates]`.
    #[inline(always)]
    fn transposed(&self, run: std::ops::Range<usize>, rows: &[f32], width: usize) -> Vec<f32> {
        let mut side_by_side = Vec::with_capacity(run.len() * width);
        for candidate in run.clone() {
            side_by_side.extend_from_slice(row(rows, self.target(candidate), width));
        }
        transpose(&side_by_side, run.len(), width)
    }

    /// Candidates of one request that stand together, run by run.
    fn runs(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let mut at = 0;
        self.request_of.chunk_by(|a, b| a == b).map(move |run| {
            at += run.len();
            at - run.len()..at
        })
    }

    /// The contents of a request's history.
    fn entries(&self, request: i64) -> Vec<usize> {
        let start = usize::try_from(request).unwrap_or(0) * self.len;
        let places = start..start + self.len;
        let entries = self.of_history[places.clone()].iter().zip(&self.valid[places]);
        entries
            .filter(|(_, valid)| **valid > 0.0)
            .filter_map(|(entry, _)| usize::try_from(*entry).ok())
            .collect()
    }

    /// The content of a candidate.
    fn target(&self, candidate: usize) -> usize {
        usize::try_from(self.of_candidate[candidate]).unwrap_or(0)
    }
}

/// Row `at` of a matrix of this width.
#[inline(always)]
fn row(values: &[f32], at: usize, width: usize) -> &[f32] {
    &values[at * width..(at + 1) * width]
}

/// The passes as things to call, not closures: see [`super::din`].
struct Forward<'a>(&'a Interest, InterestInputs<'a>, &'a mut InterestPass);

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.forward_loops(self.1, self.2);
    }
}
