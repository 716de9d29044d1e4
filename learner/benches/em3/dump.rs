//! Batches, weights and scores for a peer in another language: what it must compute, and from what.

use std::collections::HashMap;
use std::path::Path;

use tch::Tensor;

use ouzel_learner::Trainer;
use ouzel_learner::model::{Fields, Inputs, Key, Model};
use ouzel_sample::{Batch, Id};

use crate::world::{IMAGE, N_ITEMS, TEXT, World};

/// Writes `batches` with the weights of `trainer`, and its scores of them.
pub(crate) fn dump(path: &Path, world: &World, batches: &[Batch], trainer: &mut Trainer) {
    let weights = trainer.weights().expect("a trained model has weights");
    let mut model = Model::new(&weights, tch::Device::Cpu).expect("its weights have its own shapes");
    let mut out: Vec<(String, Tensor)> = model
        .net()
        .weights()
        .map(|(spec, tensor)| (format!("w.{}", spec.name), tensor.detach()))
        .collect();
    out.push(("prior".into(), Tensor::from_slice(&weights.prior)));
    let mut rows = Rows::default();
    for (seq, batch) in batches.iter().enumerate() {
        let mut add = |name: &str, tensor: Tensor| out.push((format!("b{seq}.{name}"), tensor));
        let mut requests: Vec<_> = batch.samples.iter().map(|sample| &*sample.request).collect();
        requests.dedup_by_key(|request| request.id);
        let n = i64::try_from(requests.len()).expect("few requests");
        let mut users = Vec::new();
        let (mut history, mut about, mut content) = (Vec::new(), Vec::new(), Vec::new());
        for request in &requests {
            Fields::new(request, request.history.len()).user(|field, key, _| {
                if field == 0 {
                    users.push(rows.place(key));
                }
            });
            for entry in &request.history {
                let [item, category] = Fields::token(entry);
                history.push(rows.of(item));
                about.push(rows.of(category));
                content.push(place(entry.item));
            }
        }
        let shape = [n, -1];
        add("user", Tensor::from_slice(&users));
        add("history", Tensor::from_slice(&history).reshape(shape));
        add("history_about", Tensor::from_slice(&about).reshape(shape));
        add("history_content", Tensor::from_slice(&content).reshape(shape));
        let targets: Vec<_> = batch
            .samples
            .iter()
            .map(|sample| Fields::target(&sample.candidate))
            .collect();
        let of = |at: usize, rows: &mut Rows| -> Vec<i64> {
            targets.iter().map(|keys| rows.of(keys[at])).collect()
        };
        add("item", Tensor::from_slice(&of(0, &mut rows)));
        add("about", Tensor::from_slice(&of(1, &mut rows)));
        let contents: Vec<i64> = batch
            .samples
            .iter()
            .map(|sample| place(sample.candidate.item))
            .collect();
        add("content", Tensor::from_slice(&contents));
        let dense: Vec<f32> = batch
            .samples
            .iter()
            .flat_map(|sample| sample.candidate.dense.to_vec())
            .collect();
        add(
            "dense",
            Tensor::from_slice(&dense).reshape([i64::try_from(contents.len()).expect("few"), -1]),
        );
        let labels = batch
            .samples
            .iter()
            .map(|sample| f32::from(u8::from(sample.labels.get(0) == Some(true))));
        add("labels", Tensor::from_slice(&labels.collect::<Vec<_>>()));
        let inputs = Inputs::of_samples(&weights.config, &batch.samples, &batch.vectors);
        let scores = model.score(&inputs, &weights).expect("a made-up batch is scored");
        add("logits", Tensor::from_slice(&scores));
    }
    let table = weights.rows.read_all(&rows.keys);
    let n_rows = i64::try_from(rows.keys.len()).expect("few rows");
    out.push(("rows".into(), Tensor::from_slice(&table).reshape([n_rows, -1])));
    for (modality, (name, width)) in [("text", TEXT), ("image", IMAGE)].into_iter().enumerate() {
        let values: Vec<f32> = (0..N_ITEMS)
            .flat_map(|item| world.vector(item, modality))
            .collect();
        let width = i64::try_from(width).expect("a width");
        out.push((name.into(), Tensor::from_slice(&values).reshape([-1, width])));
    }
    let named: Vec<(&str, &Tensor)> = out.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    Tensor::write_safetensors(&named, path).expect("the file to dump to can be written");
}

/// Rows by their keys, numbered as they come.
#[derive(Default)]
struct Rows {
    places: HashMap<Key, i64>,
    keys: Vec<Key>,
}

impl Rows {
    fn place(&mut self, key: Key) -> i64 {
        *self.places.entry(key).or_insert_with(|| {
            self.keys.push(key);
            i64::try_from(self.keys.len() - 1).expect("few rows")
        })
    }

    fn of(&mut self, key: Option<Key>) -> i64 {
        self.place(key.expect("every made-up item has a category"))
    }
}

fn place(item: Id) -> i64 {
    i64::try_from(item.0).expect("made-up items are numbered from 0")
}
