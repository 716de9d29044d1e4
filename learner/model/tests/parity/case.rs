//! A recording of `fixtures.py`, and how a block is held against it.

use std::collections::BTreeMap;
use std::path::Path;

use ouzel_model::blocks::History;
use ouzel_model::{Groups, Layout, Params};
use tch::{Device, Kind, Tensor};

/// Of one number, absolute and relative, after one layer.
pub(crate) const LAYER: f64 = 1e-5;
/// The same after a few.
pub(crate) const STACK: f64 = 5e-5;
/// Of a gradient, relative to the largest of its tensor.
const GRADIENT: f64 = 1e-4;
/// No tensor's gradients are held to less than this share of the largest of all: those that are 0 but for rounding,
/// as by the bias of a key under a softmax, are as wrong as their neighbours are large.
const GRADIENT_FLOOR: f64 = 1e-2;
/// Of a loss, relative.
const LOSS: f64 = 1e-4;
/// A mistake is off by hundreds of times what is allowed.
const FAR: f64 = 1e-2;

const LEARNING_RATE: f64 = 0.03;
const EPSILON: f64 = 1e-8;

/// Inputs by name.
pub(crate) type Given = BTreeMap<String, Tensor>;

pub(crate) struct Case {
    name: &'static str,
    tensors: BTreeMap<String, Tensor>,
    lora_scale: f64,
}

impl Case {
    pub(crate) fn load(name: &'static str) -> Self {
        // The tests run side by side, and threads that wait for each other take many times as long.
        tch::set_num_threads(1);
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/parity/fixtures")
            .join(name)
            .with_extension("safetensors");
        let tensors = Tensor::read_safetensors(path).unwrap();
        Self {
            name,
            tensors: tensors.into_iter().collect(),
            lora_scale: 1.0,
        }
    }

    /// With this scale of adapters.
    pub(crate) fn with_lora_scale(mut self, scale: f64) -> Self {
        self.lora_scale = scale;
        self
    }

    pub(crate) fn get(&self, name: &str) -> Tensor {
        let found = self.tensors.get(name);
        found
            .unwrap_or_else(|| panic!("{} has no {name}", self.name))
            .copy()
    }

    pub(crate) fn number(&self, name: &str) -> f64 {
        f64::try_from(self.get(&format!("config.{name}"))).unwrap()
    }

    pub(crate) fn size(&self, name: &str) -> usize {
        let whole = self.get(&format!("config.{name}")).to_kind(Kind::Int64);
        i64::try_from(whole).unwrap().try_into().unwrap()
    }

    /// What a block makes of the recorded weights and inputs, after `plant` has changed them by name.
    pub(crate) fn run(
        &self,
        plant: impl Fn(&str, Tensor) -> Tensor,
        forward: impl Fn(&Params, &Given) -> Tensor,
    ) -> Tensor {
        let (weights, given) = self.leaves(plant);
        forward(&self.params(&weights), &given)
    }

    /// Holds a block against all that is recorded.
    pub(crate) fn check(&self, tolerance: f64, forward: impl Fn(&Params, &Given) -> Tensor) {
        let (weights, given) = self.leaves(|_, tensor| tensor);
        let out = forward(&self.params(&weights), &given);
        self.check_near("out", &out, tolerance);
        for name in self.tensors.keys().filter(|name| name.starts_with("wrong.")) {
            self.check_far(name, &out);
        }
        (&out * self.get("r")).sum(Kind::Float).backward();
        self.check_gradients(&weights, &given);
        self.check_losses(forward);
    }

    /// That an output is the recorded one of this name.
    pub(crate) fn check_near(&self, name: &str, ours: &Tensor, tolerance: f64) {
        let (name, theirs) = (format!("{}, {name}", self.name), self.get(name));
        assert_eq!(ours.size(), theirs.size(), "{name}");
        let off = largest(&((ours - &theirs) / (theirs.abs() + 1.0)));
        println!("{name}: off by {off:.1e}");
        assert!(off <= tolerance, "{name}: off by {off:e}");
    }

    /// That an output is not the recorded one of this name.
    pub(crate) fn check_far(&self, name: &str, ours: &Tensor) {
        let off = largest(&(ours - self.get(name)));
        println!("{}, {name}: off by {off:.1e}", self.name);
        assert!(off > FAR, "{} is but {off:e} from {name}", self.name);
    }

    fn check_gradients(&self, weights: &Given, given: &Given) {
        let recorded = |name: &str| self.tensors.get(&format!("grad.{name}"));
        let of_inputs = given.iter().map(|(name, tensor)| (format!("in.{name}"), tensor));
        let leaves: Vec<_> = weights
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor))
            .chain(of_inputs)
            .filter_map(|(name, leaf)| Some((recorded(&name)?, name, leaf)))
            .collect();
        assert_eq!(leaves.len(), self.count("grad."), "{}: gradients", self.name);
        let all = leaves
            .iter()
            .map(|(theirs, ..)| largest(theirs))
            .fold(0.0, f64::max);
        let mut worst: (f64, &str) = (0.0, "");
        for (theirs, name, leaf) in &leaves {
            let ours = leaf.grad();
            assert!(ours.defined(), "{}: nothing reaches {name}", self.name);
            let off = largest(&(ours - *theirs)) / largest(theirs).max(GRADIENT_FLOOR * all);
            assert!(
                off <= GRADIENT,
                "{}: gradient by {name} is off by {off:e}",
                self.name
            );
            if off >= worst.0 {
                worst = (off, name);
            }
        }
        println!(
            "{}, gradients: off by {:.1e} of the largest, by {}",
            self.name, worst.0, worst.1
        );
    }

    /// 50 steps of Adagrad on the recorded batch.
    fn check_losses(&self, forward: impl Fn(&Params, &Given) -> Tensor) {
        let (weights, given) = self.leaves(|_, tensor| tensor);
        let params = self.params(&weights);
        let is_trained = |name: &str| self.tensors.contains_key(&format!("trained.{name}"));
        let mut moved: Vec<(Tensor, Tensor)> = weights
            .iter()
            .filter(|(name, _)| is_trained(name))
            .chain(given.iter().filter(|(name, _)| is_trained(&format!("in.{name}"))))
            .map(|(_, tensor)| (tensor.shallow_clone(), tensor.zeros_like().detach()))
            .collect();
        assert_eq!(
            moved.len(),
            self.count("trained."),
            "{}: trained tensors",
            self.name
        );
        let target = self.tensors.get("target");
        let theirs = Vec::<f64>::try_from(self.get("loss").to_kind(Kind::Double)).unwrap();
        let mut worst = 0.0_f64;
        for (step, theirs) in (0i64..).zip(theirs) {
            let out = forward(&params, &given);
            let loss = match target {
                Some(target) => (out - target.get(step % 2)).square().mean(Kind::Float),
                None => out.sum(Kind::Float),
            };
            let off = (f64::try_from(&loss).unwrap() / theirs - 1.0).abs();
            assert!(
                off <= LOSS,
                "{}: the loss before step {step} is off by {off:e}",
                self.name
            );
            worst = worst.max(off);
            for (tensor, _) in &mut moved {
                tensor.zero_grad();
            }
            loss.backward();
            tch::no_grad(|| {
                for (tensor, squares) in &mut moved {
                    let gradient = tensor.grad();
                    *squares += gradient.square();
                    *tensor -= gradient / (squares.sqrt() + EPSILON) * LEARNING_RATE;
                }
            });
        }
        println!("{}, losses: off by {worst:.1e} relative", self.name);
    }

    /// Weights, which have names of no prefix, and inputs; both ask for gradients where there are recorded ones.
    fn leaves(&self, plant: impl Fn(&str, Tensor) -> Tensor) -> (Given, Given) {
        let (mut weights, mut given) = (Given::new(), Given::new());
        for (name, tensor) in &self.tensors {
            let has_gradient = self.tensors.contains_key(&format!("grad.{name}"));
            let leaf = plant(name, tensor.copy()).set_requires_grad(has_gradient);
            if let Some(input) = name.strip_prefix("in.") {
                given.insert(input.to_owned(), leaf);
            } else if has_gradient {
                weights.insert(name.clone(), leaf);
            }
        }
        (weights, given)
    }

    fn count(&self, prefix: &str) -> usize {
        self.tensors
            .keys()
            .filter(|name| name.starts_with(prefix))
            .count()
    }

    fn params(&self, weights: &Given) -> Params {
        let shared = weights
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        Params::new(shared, self.lora_scale)
    }
}

/// The largest absolute value; not a number if one is not.
fn largest(x: &Tensor) -> f64 {
    f64::try_from(x.abs().max().to_kind(Kind::Double)).unwrap()
}

/// Which request each candidate is of, as the blocks want it.
pub(crate) fn layout(given: &Given) -> Layout {
    let request_of = Vec::<i64>::try_from(&given["request_of"]).unwrap();
    let n_requests = given["history"].size()[0];
    let groups = Groups::new(&request_of, n_requests.try_into().unwrap());
    Layout::new(&groups, Device::Cpu).unwrap()
}

/// The recorded history of each request.
pub(crate) fn history(given: &Given) -> History {
    let tokens = given["history"].shallow_clone();
    let valid = given["valid"].to_kind(Kind::Float);
    let other = |name: &str, kind: Kind| match given.get(name) {
        Some(tensor) => tensor.shallow_clone(),
        None => valid.zeros_like().to_kind(kind),
    };
    History {
        tasks: other("tasks", Kind::Int64),
        ages: other("ages", Kind::Float),
        tokens,
        valid,
    }
}
