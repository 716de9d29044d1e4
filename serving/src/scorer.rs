//! The [`Ranker`] in production: scores requests by current features and the newest published weights.
//!
//! Each worker owns the model of the version it used last. Features are read as of now, and both features and weights come
//! from structures that training shares, so a score equals the learner's prediction of the same impression.
//!
//! Where no version can score, the fallback does: by the popularity of the items, which needs the feature state alone.

mod candidate;
mod retrieve;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::counter;
use ouzel_model::{Inputs, Model, Weights};
use ouzel_sample::{
    EventTime, FeatureQuery, FeatureState, Id, IdKind, IdSpace, Number, NumberScope, ShownFeatures,
    ShownItem, sort_numbers,
};
use tch::Device;

use candidate::CandidateScorer;

use crate::index::ItemIndex;
use crate::metrics::{FALLBACK_TOTAL, SCORES_NOT_FINITE_TOTAL};
use crate::retrieval::{CheckedRetrieval, RetrieveError, Retrieved};
use crate::{
    CheckedRequest, LoadedVersion, NamedValues, Published, RankError, Ranked, Ranker, ScoreExpression,
    ServedModel,
};

/// The score of a candidate whose expression is not a finite number: below every other, and a number in JSON.
const LEAST_SCORE: f32 = f32::MIN;

/// A publishable model: weights that fit their configuration, and the snapshot they belong to.
#[derive(Debug)]
pub struct Version {
    snapshot: Arc<str>,
    tasks: Arc<[Arc<str>]>,
    weights: Weights,
    /// Candidates whose scores by it were not finite.
    n_not_finite: AtomicU64,
}

impl Version {
    /// A version of `weights`, which are those of `snapshot` or were learned from there.
    ///
    /// # Errors
    /// When a weight is missing or has another shape than the configuration asks for: with such weights every request would
    /// fail.
    pub fn new(snapshot: &str, weights: Weights) -> Result<Self, ouzel_model::Error> {
        weights.check()?;
        let tasks = weights.config.tasks.iter();
        Ok(Self {
            snapshot: Arc::from(snapshot),
            tasks: tasks.map(|task| Arc::from(task.as_str())).collect(),
            weights,
            n_not_finite: AtomicU64::new(0),
        })
    }

    /// Number of candidates whose scores by this version were not finite, which the fallback scored.
    pub fn n_not_finite(&self) -> u64 {
        self.n_not_finite.load(Ordering::Relaxed)
    }

    /// Id of the snapshot that it is or descends from.
    pub fn snapshot(&self) -> &str {
        &self.snapshot
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }
}

impl Published<Version> {
    /// The newest version, for the status routes.
    pub fn served(&self) -> Option<ServedModel> {
        let LoadedVersion { version, value } = self.load()?;
        Some(ServedModel {
            version,
            snapshot: Arc::clone(&value.snapshot),
            tasks: Arc::clone(&value.tasks),
        })
    }
}

/// The clock of requests: features are read as of this time.
pub type Now = Arc<dyn Fn() -> EventTime + Send + Sync>;

/// The feature state of requests. It is another one after the learner has gone back to an earlier state.
pub type Features = Arc<dyn Fn() -> Arc<FeatureState> + Send + Sync>;

/// The scorer of one worker.
pub struct Scorer {
    published: Arc<Published<Version>>,
    features: Features,
    ids: IdSpace,
    now: Now,
    device: Device,
    expression: ScoreExpression,
    current: Option<LoadedModel>,
    /// None where no candidate takes part.
    candidate: Option<CandidateScorer>,
    /// The indexes of the catalog; none where no item is looked for.
    indexes: Option<Arc<Published<ItemIndex>>>,
}

/// A version with the model that runs it, which belongs to this thread.
struct LoadedModel {
    loaded: LoadedVersion<Version>,
    model: Model,
}

impl Scorer {
    /// A scorer that reads `features` as of `now` and weights from `published`. `ids` must hash like the decoder of
    /// events. `expression` makes one score of the tasks, which must be those of every version.
    pub fn new(
        published: Arc<Published<Version>>,
        features: Features,
        ids: IdSpace,
        now: Now,
        device: Device,
        expression: ScoreExpression,
    ) -> Self {
        Self {
            published,
            features,
            ids,
            now,
            device,
            expression,
            current: None,
            candidate: None,
            indexes: None,
        }
    }

    /// Looks for items in the newest of these indexes.
    pub fn with_indexes(self, indexes: Arc<Published<ItemIndex>>) -> Self {
        Self {
            indexes: Some(indexes),
            ..self
        }
    }

    /// The newest version; loads its model when this worker has an older one.
    fn newest(&mut self) -> Result<&mut LoadedModel, RankError> {
        load_newest(&mut self.current, &self.published, self.device, &self.expression)
    }

    fn user(&self, request: &CheckedRequest) -> Id {
        self.ids.id(IdKind::User, &request.user_id)
    }

    /// Hashes named values as the decoder of events does.
    fn named(&self, scope: NumberScope, values: &NamedValues) -> ShownFeatures {
        let categories = values.categories.iter();
        let categories = categories.map(|(name, value)| self.ids.attribute(name, value));
        let mut of_request = ShownFeatures {
            values: categories.collect(),
            numbers: Vec::new(),
        };
        of_request.values.sort_unstable();
        let numbers = values.numbers.iter().map(|(name, value)| Number {
            name: self.ids.number(scope, name),
            value: *value,
        });
        of_request.numbers = numbers.collect();
        sort_numbers(&mut of_request.numbers);
        of_request
    }

    /// The scores by a version from probabilities `[n_items, n_tasks]`. A candidate whose probabilities are not finite is
    /// scored by its popularity and ranks last; if all are such, the whole reply is the fallback's.
    fn ranked(
        &self,
        request: &CheckedRequest,
        loaded: &LoadedVersion<Version>,
        mut probabilities: Vec<f32>,
    ) -> Ranked {
        let n_tasks = self.expression.tasks().len().max(1);
        let rows = probabilities.chunks_exact(n_tasks).enumerate();
        let is_broken = |row: &[f32]| !row.iter().all(|p| p.is_finite());
        let broken: BTreeSet<usize> = rows
            .filter(|(_, row)| is_broken(row))
            .map(|(index, _)| index)
            .collect();
        if !broken.is_empty() {
            let n = broken.len() as u64;
            loaded.value.n_not_finite.fetch_add(n, Ordering::Relaxed);
            counter!(FALLBACK_TOTAL, "reason" => "not_finite").increment(n);
            if broken.len() == request.items.len() {
                return self.fallback(request);
            }
        }
        for index in &broken {
            let row = &mut probabilities[index * n_tasks..][..n_tasks];
            row.fill(f32::NAN);
            row[0] = self.popularity(&request.items[*index]);
        }
        let mut n_not_finite = 0;
        let mut score = |(index, probabilities): (usize, &[f32])| {
            if broken.contains(&index) {
                return LEAST_SCORE;
            }
            let score = self.expression.score(probabilities);
            if score.is_finite() {
                return score;
            }
            n_not_finite += 1;
            LEAST_SCORE
        };
        let scores = probabilities
            .chunks_exact(n_tasks)
            .enumerate()
            .map(&mut score)
            .collect();
        if n_not_finite > 0 {
            counter!(SCORES_NOT_FINITE_TOTAL).increment(n_not_finite);
        }
        Ranked {
            version: loaded.version,
            snapshot: Arc::clone(&loaded.value.snapshot),
            tasks: Arc::clone(&loaded.value.tasks),
            scores,
            probabilities,
            fallback: broken,
            variant: None,
        }
    }

    /// Ranks by popularity, without a version. It knows the first task only.
    fn fallback(&self, request: &CheckedRequest) -> Ranked {
        let scores: Vec<f32> = request.items.iter().map(|item| self.popularity(item)).collect();
        Ranked {
            tasks: self
                .expression
                .tasks()
                .iter()
                .take(1)
                .map(|task| Arc::from(task.as_str()))
                .collect(),
            probabilities: scores.clone(),
            fallback: (0..scores.len()).collect(),
            scores,
            ..Ranked::default()
        }
    }

    fn popularity(&self, item: &str) -> f32 {
        (self.features)().popularity(self.ids.id(IdKind::Item, item))
    }

    /// Inputs of a request with current features, built as in training.
    fn inputs(&self, request: &CheckedRequest, weights: &Weights) -> Inputs {
        let state = (self.features)();
        let context = self.named(NumberScope::Context, &request.context);
        let items = request.items.iter().zip(&request.features);
        let items = items.map(|(item, features)| ShownItem {
            item: self.ids.id(IdKind::Item, item),
            position: None,
            features: self.named(NumberScope::Item, features),
        });
        let items: Vec<ShownItem> = items.collect();
        let query = FeatureQuery {
            // Identifies the request within a batch; here it is the only one.
            request: Id::default(),
            user: self.user(request),
            ts: (self.now)(),
            context: &context.values,
            numbers: &context.numbers,
            items: &items,
            slate_size: None,
        };
        let norm = &weights.norm;
        let (request, candidates) = norm.read_candidates(&state, &query, request.top_k);
        let vectors = state.vectors_of(std::iter::once(&request), candidates.iter());
        Inputs::of_request(&weights.config, &request, &candidates, &vectors)
    }
}

impl Scorer {
    /// Scores with the newest version.
    fn score(&mut self, request: &CheckedRequest) -> Result<Ranked, RankError> {
        let version = Arc::clone(&self.newest()?.loaded.value);
        let inputs = self.inputs(request, &version.weights);
        let LoadedModel { loaded, model } = self.current.as_mut().ok_or(RankError::NotReady)?;
        let loaded = loaded.clone();
        let logits = model
            .score(&inputs, &version.weights)
            .map_err(|error| RankError::Failed(format!("version {}: {error}", loaded.version)))?;
        let probabilities: Vec<f32> = logits.into_iter().map(sigmoid).collect();
        Ok(self.ranked(request, &loaded, probabilities))
    }
}

impl Ranker for Scorer {
    fn rank(&mut self, request: &CheckedRequest) -> Result<Ranked, RankError> {
        if let Some(ranked) = self.rank_by_canary(request) {
            return Ok(ranked);
        }
        let ranked = self.rank_by_served(request);
        self.note_for_shadow(request, &ranked);
        Ok(ranked)
    }

    fn retrieve(&mut self, request: &CheckedRetrieval) -> Result<Retrieved, RetrieveError> {
        self.find(request)
    }

    fn replied(&mut self, request: &Arc<CheckedRequest>) {
        self.send_to_shadow(request);
    }

    fn refresh(&mut self) {
        match self.newest() {
            Ok(_) | Err(RankError::NotReady) => {}
            Err(error) => tracing::error!(%error, "an idle worker cannot take the newest version"),
        }
        self.refresh_candidate();
    }
}

impl Scorer {
    /// Scores with the newest version, or with the fallback where that cannot.
    fn rank_by_served(&mut self, request: &CheckedRequest) -> Ranked {
        let reason = match self.score(request) {
            Ok(ranked) => return ranked,
            Err(RankError::NotReady) => "no_version",
            Err(error) => {
                tracing::error!(%error, "a version cannot score: the fallback answers");
                "failed"
            }
        };
        counter!(FALLBACK_TOTAL, "reason" => reason).increment(request.items.len() as u64);
        self.fallback(request)
    }
}

/// The newest version of `published` as the current one; loads its model when `current` is an older one.
fn load_newest<'a>(
    current: &'a mut Option<LoadedModel>,
    published: &Published<Version>,
    device: Device,
    expression: &ScoreExpression,
) -> Result<&'a mut LoadedModel, RankError> {
    let version = current.as_ref().map_or(0, |current| current.loaded.version);
    if let Some(loaded) = published.load_if_newer(version) {
        check_tasks(&loaded, expression)?;
        let model = Model::for_inference(&loaded.value.weights, device);
        let mut model = model
            .map_err(|error| RankError::Failed(format!("cannot load version {}: {error}", loaded.version)))?;
        if let Some(current) = current.as_mut() {
            model.reuse_contents(&mut current.model);
        }
        *current = Some(LoadedModel { loaded, model });
    }
    current.as_mut().ok_or(RankError::NotReady)
}

/// Refuses a version of other tasks: the expression would read the wrong probabilities.
fn check_tasks(loaded: &LoadedVersion<Version>, expression: &ScoreExpression) -> Result<(), RankError> {
    let (found, expected) = (&loaded.value.weights.config.tasks, expression.tasks());
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (found.join(", "), expected.join(", "));
    Err(RankError::Failed(format!(
        "version {} has the tasks {found}, the configuration {expected}",
        loaded.version
    )))
}

/// A probability from a logit. NaN stays NaN, which the caller recognises.
fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod candidate_tests;
#[cfg(test)]
mod tests;
