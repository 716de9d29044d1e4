//! Holds operations and blocks to libtorch: the same outputs, and for every input and weight the gradient of autograd.

use tch::{Device, Kind, Tensor};

use super::weights::{NamedGradients, WeightSource};
use crate::blocks::History;
use crate::config::ModelConfig;
use crate::groups::{Groups, Layout};
use crate::host_slice::to_vec;
use crate::params::Params;
use crate::random::normal;
use crate::shapes::weight_specs;

/// The largest allowed deviation from a reference.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tolerance {
    /// Of sums of `f32` in another order.
    F32,
    /// Of products whose factors are rounded to 8 bits of mantissa.
    Bf16,
    /// A share of the largest value, which counts as at least 1.
    Share(f32),
}

impl Tolerance {
    /// The deviation allowed in an array with this largest value.
    fn allowed(self, largest: f32) -> f32 {
        match self {
            Tolerance::F32 => 2e-5 * largest + 1e-6,
            Tolerance::Bf16 => 2e-2 * largest + 1e-6,
            Tolerance::Share(share) => share * largest.max(1.0),
        }
    }
}

/// Places for entries of a history, and the entries of each: full, none, some and one.
pub(super) const LEN: usize = 7;
pub(super) const LENS: [usize; 4] = [7, 0, 3, 1];
/// Seconds from each entry to its request, `[4, LEN]`.
pub(super) const AGES: [f32; 4 * LEN] = [
    9e5, 8e4, 8e4, 700.0, 90.0, 3.0, 0.0, //
    0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, //
    6e6, 50.0, 20.0, 0.0, 0.0, 0.0, 0.0, //
    40.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
];
/// The request of each candidate.
pub(super) const REQUEST_OF: [i64; 8] = [0, 0, 0, 1, 2, 2, 3, 0];

/// Made-up tokens `[4, LEN, width]` of these histories, 0 in padding.
pub(super) fn history_tokens(width: usize) -> Vec<f32> {
    let mut tokens = made_up(21, LENS.len() * LEN * width);
    for (request, filled) in LENS.iter().enumerate() {
        tokens[(request * LEN + filled) * width..(request + 1) * LEN * width].fill(0.0);
    }
    tokens
}

/// These histories with their tokens, and the layout of the candidates.
pub(super) fn history_of(tokens: &Tensor) -> (History, Layout) {
    let mut valid = vec![0.0f32; LENS.len() * LEN];
    for (request, filled) in LENS.iter().enumerate() {
        valid[request * LEN..request * LEN + filled].fill(1.0);
    }
    let valid = tensor(&valid, &[LENS.len(), LEN]);
    let history = History {
        tokens: tokens.shallow_clone(),
        tasks: valid.zeros_like().to_kind(Kind::Int64),
        ages: tensor(&AGES, &[LENS.len(), LEN]),
        valid,
    };
    let groups = Groups::new(&REQUEST_OF, LENS.len());
    (history, Layout::new(&groups, Device::Cpu).unwrap())
}

/// Random weights and inputs by name, as slices for the loops and as tracked tensors for autograd.
#[derive(Debug)]
pub(super) struct Case {
    params: Params,
    values: Vec<(String, Vec<f32>)>,
    lora_scale: f64,
}

impl Case {
    /// A case without any weight.
    pub(super) fn new() -> Self {
        Self {
            params: Params::default(),
            values: Vec::new(),
            lora_scale: 1.0,
        }
    }

    /// The weights of a model whose names pass the filter, none of them at a value where it does nothing.
    pub(super) fn of_model(config: &ModelConfig, is_used: impl Fn(&str) -> bool) -> Self {
        let mut case = Self {
            lora_scale: config.lora.scale(),
            ..Self::new()
        };
        for (spec, stream) in weight_specs(config).into_iter().zip(100..) {
            if is_used(&spec.name) {
                let n = spec.shape.iter().product();
                let values = made_up(stream, n).into_iter().map(|x| 0.4 * x).collect();
                case.put(&spec.name, &spec.shape, values);
            }
        }
        case.track();
        case
    }

    /// The case with a random input of this shape.
    pub(super) fn input(self, name: &str, shape: &[usize]) -> Self {
        let values = made_up(1 + self.values.len() as u64, shape.iter().product());
        self.with(name, shape, values)
    }

    /// The case with this input.
    pub(super) fn with(mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Self {
        self.put(name, shape, values);
        self.track();
        self
    }

    fn put(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        let tensor = tensor(&values, shape);
        let others = self.params.iter();
        let others: Vec<_> = others
            .map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()))
            .collect();
        let all = others.into_iter().chain([(name.to_owned(), tensor)]);
        self.params = Params::new(all, self.lora_scale);
        self.values.push((name.to_owned(), values));
    }

    fn track(&self) {
        for (_, tensor) in self.params.iter() {
            let _tracked = tensor.set_requires_grad(true);
        }
    }

    /// The weights and inputs as tensors.
    pub(super) fn params(&self) -> &Params {
        &self.params
    }

    /// A weight or input as a tensor.
    pub(super) fn tensor(&self, name: &str) -> &Tensor {
        self.params.get(name).unwrap()
    }

    /// A weight or input as a slice.
    pub(super) fn values(&self, name: &str) -> &[f32] {
        self.find(name).unwrap()
    }

    /// The gradient of `output` that [`Case::check`] assumes.
    pub(super) fn direction(&self, output: &Tensor) -> Vec<f32> {
        made_up(99, output.numel())
    }

    /// Compares an output, and the gradients of all weights and inputs of the case.
    #[track_caller]
    pub(super) fn check(
        &self,
        expected: &Tensor,
        output: &[f32],
        gradients: &NamedGradients,
        tolerance: Tolerance,
    ) {
        close("output", output, expected, tolerance);
        let direction = Tensor::from_slice(&self.direction(expected)).view_as(expected);
        let sum = (expected * direction).sum(Kind::Float);
        let (names, leaves): (Vec<&str>, Vec<&Tensor>) = self.params.iter().unzip();
        let expected = Tensor::run_backward(&[&sum], &leaves, true, false);
        let mut found: Vec<&str> = gradients.iter().map(|(name, _)| name.as_str()).collect();
        let mut all = names.clone();
        found.sort_unstable();
        all.sort_unstable();
        assert_eq!(found, all, "gradients");
        for (name, expected) in names.into_iter().zip(&expected) {
            let (_, gradient) = gradients.iter().find(|(found, _)| found == name).unwrap();
            close(name, gradient, expected, tolerance);
        }
    }
}

impl WeightSource for Case {
    fn find(&self, name: &str) -> Option<&[f32]> {
        let (_, values) = self.values.iter().find(|(found, _)| found == name)?;
        Some(values)
    }

    fn n_weights(&self) -> usize {
        self.values.len()
    }
}

/// Normally distributed numbers, a pure function of the stream.
pub(super) fn made_up(stream: u64, n: usize) -> Vec<f32> {
    (0..n as u64).map(|lane| normal(17, stream, lane)).collect()
}

/// A tensor of this shape.
pub(super) fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    let shape: Vec<i64> = shape.iter().map(|n| i64::try_from(*n).unwrap()).collect();
    Tensor::from_slice(values).reshape(&shape)
}

/// Compares values, each within the tolerance of the largest expected one.
#[track_caller]
pub(super) fn close(what: &str, found: &[f32], expected: &Tensor, tolerance: Tolerance) {
    let expected = to_vec(expected).unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!(
            (found - expected).abs() <= tolerance.allowed(largest),
            "{what}: {found} {expected}, the largest value is {largest}"
        );
    }
}
