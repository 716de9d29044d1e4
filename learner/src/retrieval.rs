//! Learns the towers of retrieval from the positives of each batch, in the same step as the ranker and apart from it.
//!
//! The loss of a positive is the softmax of its user's scores over all items, estimated from the newest positives of the
//! stream, this batch's included ([`ouzel_model::SampledSoftmax`]). How often an item is a positive, which the correction needs, is estimated by
//! [`FrequencyEstimator`]. Items that the user acted on are no negatives: they are not recommended to the user again.
//!
//! No weight and no number of the ranker changes by it.

mod frequency;

use std::collections::{HashMap, HashSet, VecDeque};

use ouzel_model::{Feature, Key, SampledSoftmax, TowerInputs, TowerItem, Towers};
use ouzel_sample::{AttributeField, Batch, Candidate, Id, Sample, VectorMap};
use tch::Tensor;

use crate::error::Error;
use crate::prior::{comes_late, label};
use crate::trainer::Trainer;

pub(crate) use frequency::FrequencyEstimator;

const EPSILON: f32 = 1e-8;

/// What learning the towers needs beside their weights. All of it is in a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Retrieval {
    /// Most items of `newest`.
    capacity: usize,
    /// Items of the newest positives, oldest first; an item is there once for each of its positives.
    pub(crate) newest: VecDeque<TowerItem>,
    /// How often each item is a positive.
    pub(crate) frequency: FrequencyEstimator,
}

/// What one step of the towers did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RetrievalReport {
    /// Positives learned from.
    pub n_positives: usize,
    /// Their mean loss before, nats.
    pub loss: f64,
    /// False when the step was skipped because its loss or a gradient was not finite.
    pub is_learned: bool,
}

/// Whether a sample is the first to report a positive of the primary task.
pub(crate) fn is_positive(sample: &Sample) -> bool {
    label(sample, 0) == Some(true) && comes_late(sample, true).is_some()
}

/// A candidate as its tower reads it: with the values that the catalog knows, without those of one request.
pub(crate) fn tower_item(candidate: &Candidate, vectors: &VectorMap) -> TowerItem {
    let of_item = candidate.attributes.iter().filter(|attribute| {
        matches!(
            attribute.field,
            AttributeField::Category | AttributeField::Author | AttributeField::Tag
        )
    });
    let values = of_item.map(|attribute| attribute.value);
    TowerItem::new(candidate.item, values, vectors.get(candidate.content))
}

impl Retrieval {
    /// Keeps up to `capacity` positives, at least one.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            newest: VecDeque::new(),
            frequency: FrequencyEstimator::new(),
        }
    }

    /// Adds a positive.
    pub(crate) fn add(&mut self, item: TowerItem) {
        if self.newest.len() >= self.capacity {
            self.newest.pop_front();
        }
        self.newest.push_back(item);
    }

    /// The distinct items of the newest positives, the newest first and as they were last, and how often each is there.
    fn distinct(&self) -> (Vec<&TowerItem>, Vec<u32>, HashMap<Id, usize>) {
        let (mut items, mut counts, mut places) = (Vec::new(), Vec::new(), HashMap::new());
        for item in self.newest.iter().rev() {
            let place = *places.entry(item.item).or_insert_with(|| {
                items.push(item);
                counts.push(0);
                items.len() - 1
            });
            counts[place] += 1;
        }
        (items, counts, places)
    }

    /// The inputs of the towers and the sampled softmax for these positives, whose items are among the newest ones.
    fn sample(&self, trainer: &Trainer, positives: &[&Sample]) -> (TowerInputs, SampledSoftmax) {
        let (items, counts, places) = self.distinct();
        let mut inputs = TowerInputs::default();
        for item in &items {
            inputs.add_item(item);
        }
        #[expect(clippy::cast_precision_loss, reason = "counts below 2^24")]
        let corrections = items.iter().zip(&counts).map(|(item, count)| {
            let expected = self.newest.len() as f32 * self.frequency.share(item.item);
            (*count as f32).ln() - expected.ln()
        });
        let mut softmax = SampledSoftmax {
            corrections: corrections.collect(),
            ..SampledSoftmax::default()
        };
        let mut of_user: HashMap<Id, Vec<Id>> = HashMap::new();
        for sample in positives {
            of_user
                .entry(sample.request.user)
                .or_default()
                .push(sample.candidate.item);
        }
        for sample in positives {
            // A batch larger than the capacity leaves out its oldest positives.
            let Some(place) = places.get(&sample.candidate.item) else {
                continue;
            };
            inputs.add_user(&trainer.weights.config, &sample.request);
            softmax.positives.push(*place);
            let history = sample.request.history.iter().map(|entry| &entry.item);
            let acted: HashSet<&Id> = history.chain(&of_user[&sample.request.user]).collect();
            let masked = items.iter().enumerate();
            let masked = masked.filter(|(_, item)| acted.contains(&item.item));
            softmax.masked.push(masked.map(|(place, _)| place).collect());
        }
        (inputs, softmax)
    }
}

impl Trainer {
    /// Learns the towers from the positives of a batch; nothing without towers or positives.
    ///
    /// A step whose loss or gradients are not finite changes no weight.
    pub(crate) fn learn_retrieval(&mut self, batch: &Batch) -> Result<RetrievalReport, Error> {
        let Some(mut retrieval) = self.retrieval.take() else {
            return Ok(RetrievalReport::default());
        };
        let report = self.step_towers(&mut retrieval, batch);
        self.retrieval = Some(retrieval);
        report
    }

    fn step_towers(&mut self, retrieval: &mut Retrieval, batch: &Batch) -> Result<RetrievalReport, Error> {
        let deleted: HashSet<Id> = batch.deleted.iter().copied().collect();
        if !deleted.is_empty() {
            retrieval.newest.retain(|item| !deleted.contains(&item.item));
        }
        let of_batch = batch.samples.iter().filter(|sample| is_positive(sample));
        let positives: Vec<&Sample> = of_batch
            .filter(|sample| !deleted.contains(&sample.candidate.item))
            .collect();
        for sample in &positives {
            retrieval.frequency.observe(sample.candidate.item);
            retrieval.add(tower_item(&sample.candidate, &batch.vectors));
        }
        let (inputs, softmax) = retrieval.sample(self, &positives);
        if softmax.positives.is_empty() {
            return Ok(RetrievalReport::default());
        }
        self.create_tower_rows(&inputs, &deleted);
        self.flush_device_rows()?;
        let towers = Towers::of_net(self.model.net())?;
        let rows = self.weights.read_tower_rows(inputs.keys());
        let gradients = towers.learn(&inputs, &rows, &softmax);
        let is_learned = gradients.loss.is_finite()
            && gradients.rows.iter().all(|g| g.is_finite())
            && gradients
                .dense
                .iter()
                .flat_map(|(_, values)| values)
                .all(|g| g.is_finite());
        if is_learned {
            self.update_tower_rows(&inputs, &gradients.rows, softmax.positives.len());
            self.update_towers(gradients.dense)?;
        }
        Ok(RetrievalReport {
            n_positives: softmax.positives.len(),
            loss: gradients.loss,
            is_learned,
        })
    }

    /// Creates the towers' own rows of ids that are admitted: where the ids of a feature wait for their rows, those that the
    /// ranker has a row of.
    fn create_tower_rows(&mut self, inputs: &TowerInputs, deleted: &HashSet<Id>) {
        let waits = self.config.rows.waits();
        let refused: HashSet<Key> = deleted.iter().map(|item| Key::item(*item)).collect();
        let Some(table) = &mut self.weights.retrieval else {
            return;
        };
        for key in inputs.keys().iter().filter(|key| !refused.contains(key)) {
            if waits[key.feature.index()] && self.weights.rows.find(*key).is_none() {
                continue;
            }
            let row = table.insert(key.id);
            if let Some(clock) = self.age {
                table.see(row, clock.now);
            }
        }
    }

    /// Row-wise Adagrad of the towers' own rows, by the gradient of the summed loss.
    fn update_tower_rows(&mut self, inputs: &TowerInputs, gradient: &[f32], n_positives: usize) {
        let rates = self.rates().rows;
        let Some(table) = &mut self.weights.retrieval else {
            return;
        };
        let dim = table.dim();
        #[expect(clippy::cast_precision_loss, reason = "a batch's size and a row's width")]
        let (n, width) = (n_positives as f32, dim as f32);
        for (key, gradient) in inputs.keys().iter().zip(gradient.chunks_exact(dim)) {
            let squares: f32 = gradient.iter().map(|g| (n * g) * (n * g)).sum();
            let Some(row) = table.find(key.id).filter(|_| squares > 0.0) else {
                continue;
            };
            let row = table.row_mut(row);
            row[dim] += squares / width;
            let step = n * rates[key.feature.index()] / (row[dim].sqrt() + EPSILON);
            for (weight, gradient) in row.iter_mut().zip(gradient) {
                *weight -= step * gradient;
            }
        }
        debug_assert_eq!(rates.len(), Feature::N);
    }

    /// One step of the dense optimizer for the towers alone.
    fn update_towers(&mut self, gradients: Vec<(String, Vec<f32>)>) -> Result<(), Error> {
        let mut by_name: HashMap<String, Vec<f32>> = gradients.into_iter().collect();
        let rate = self.rates().head * TOWER_RATE;
        let net = self.model.net();
        let tensors = net.weights().map(|(spec, weight)| {
            let gradient = by_name.remove(&spec.name);
            let tensor = |values: Vec<f32>| {
                Tensor::f_from_slice(&values)?
                    .f_to_device(weight.device())?
                    .f_view_as(weight)
            };
            gradient.map(tensor).transpose()
        });
        let gradients: Vec<Option<Tensor>> = tensors
            .collect::<Result<_, _>>()
            .map_err(ouzel_model::Error::from)?;
        let weights = net.weights().map(|(_, weight)| (weight, rate));
        let stepped = self.dense.step(weights, &gradients, None);
        Ok(stepped.map_err(ouzel_model::Error::from)?)
    }
}

/// Learning rate of the towers' dense weights, in units of `optimizer.dense_rate`.
const TOWER_RATE: f64 = 0.3;
