//! Optimizers of dense weights, with their state.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, TchError, Tensor};

use ouzel_model::host_slice::{values, values_mut};

use super::shampoo::{Factor, Sides, precondition};

/// Adam's decay of the means of gradients and of their squares (Kingma and Ba 2015). The first is above the usual 0.9,
/// because gradients of a stream are noisy and no sample is seen twice.
const BETAS: (f64, f64) = (0.95, 0.999);

const EPSILON: f64 = 1e-8;

/// The optimizer of the dense weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DenseRule {
    /// Adagrad: sums all squared gradients (Duchi et al. 2011).
    #[default]
    Adagrad,
    /// Adam: means of gradients and of their squares, with bias correction (Kingma and Ba 2015).
    Adam,
    /// Shampoo for matrices, at the length of Adagrad's steps; Adagrad for vectors (Gupta et al. 2018).
    Shampoo,
}

/// A state tensor as the rule asks for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StateSpec {
    /// Its name, behind that of the weight.
    pub(crate) name: &'static str,
    pub(crate) shape: Vec<i64>,
    /// Value that it starts from.
    initial: f64,
}

impl DenseRule {
    /// The state tensors of a weight of this shape; `accumulator` is what Adagrad's sums start from.
    fn state(self, shape: &[i64], accumulator: f64) -> Vec<StateSpec> {
        let of = |name, shape: &[i64], initial| StateSpec {
            name,
            shape: shape.to_vec(),
            initial,
        };
        let adagrad = of("adagrad_sum", shape, accumulator);
        match self {
            DenseRule::Adagrad => vec![adagrad],
            DenseRule::Adam => vec![of("adam_mean", shape, 0.0), of("adam_square", shape, 0.0)],
            DenseRule::Shampoo => {
                let names = [
                    ["shampoo_left", "shampoo_left_root"],
                    ["shampoo_right", "shampoo_right_root"],
                ];
                let has = Sides::of(shape).map_or([false; 2], |sides| sides.has);
                let sides = shape.iter().zip(has).zip(names).filter(|((_, has), _)| *has);
                let factors =
                    sides.flat_map(|((side, _), names)| names.map(|name| of(name, &[*side; 2], 0.0)));
                std::iter::once(adagrad).chain(factors).collect()
            }
        }
    }
}

/// What one step of a weight depends on, besides its gradient and state.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// Learning rate.
    rate: f64,
    /// Multiplies the gradient, if any.
    factor: Option<f64>,
    /// Number of this step, from 1.
    n: u64,
}

/// The update rule with its state.
#[derive(Debug)]
pub(crate) struct DenseOptimizer {
    rule: DenseRule,
    /// By weight, in the order of the network's weights.
    pub(crate) states: Vec<OptimizerState>,
}

/// Optimizer state of one weight.
#[derive(Debug)]
pub(crate) struct OptimizerState {
    /// Steps of this weight: it may be frozen while others learn, and bias correction counts its own steps.
    pub(crate) n_steps: u64,
    /// What the tensors are.
    pub(crate) specs: Vec<StateSpec>,
    /// As `specs`.
    pub(crate) tensors: Vec<Tensor>,
}

impl OptimizerState {
    /// Starts anew.
    pub(crate) fn reset(&mut self) {
        self.n_steps = 0;
        for (tensor, spec) in self.tensors.iter_mut().zip(&self.specs) {
            let _filled = tensor.fill_(spec.initial);
        }
    }
}

impl DenseOptimizer {
    /// New state for each weight, with what Adagrad's sums of its squared gradients start from.
    pub(crate) fn new<'a>(rule: DenseRule, weights: impl Iterator<Item = (&'a Tensor, f64)>) -> Self {
        let states = weights.map(|(weight, accumulator)| {
            let specs = rule.state(&weight.size(), accumulator);
            let device = rule.state_device(weight);
            let tensor = |spec: &StateSpec| Tensor::full(&spec.shape, spec.initial, (Kind::Float, device));
            OptimizerState {
                n_steps: 0,
                tensors: specs.iter().map(tensor).collect(),
                specs,
            }
        });
        Self {
            rule,
            states: states.collect(),
        }
    }

    pub(crate) fn rule(&self) -> DenseRule {
        self.rule
    }

    /// Updates every weight that has a gradient, in place and at its own rate. Gradients are multiplied by `factor`, if any.
    pub(crate) fn step<'a>(
        &mut self,
        weights: impl Iterator<Item = (&'a Tensor, f64)>,
        gradients: &[Option<Tensor>],
        factor: Option<f64>,
    ) -> Result<(), TchError> {
        tch::no_grad(|| {
            for (((weight, rate), kept), gradient) in weights.zip(&mut self.states).zip(gradients) {
                let Some(gradient) = gradient else { continue };
                kept.n_steps += 1;
                let mut weight = weight.f_detach()?;
                let gradient = gradient.f_contiguous()?;
                let step = Step {
                    rate,
                    factor,
                    n: kept.n_steps,
                };
                let (rule, state) = (self.rule, &mut kept.tensors);
                if !rule.step_on_host(&mut weight, state, &gradient, step) {
                    rule.step_on_device(&mut weight, state, &gradient, step)?;
                }
            }
            Ok(())
        })
    }
}

impl DenseRule {
    /// Where the state of a weight is: Shampoo computes its roots in host memory.
    fn state_device(self, weight: &Tensor) -> Device {
        match self {
            DenseRule::Adagrad | DenseRule::Adam => weight.device(),
            DenseRule::Shampoo => Device::Cpu,
        }
    }

    /// A step of a weight on any device.
    fn step_on_device(
        self,
        weight: &mut Tensor,
        state: &mut [Tensor],
        gradient: &Tensor,
        Step { rate, factor, n }: Step,
    ) -> Result<(), TchError> {
        let scaled = factor.map(|factor| gradient.f_mul_scalar(factor)).transpose()?;
        let gradient = scaled.as_ref().unwrap_or(gradient);
        match (self, state) {
            (DenseRule::Adagrad, [sum]) => adagrad(weight, sum, gradient, rate),
            (DenseRule::Adam, [mean, square]) => adam(weight, [mean, square], gradient, rate, n),
            (DenseRule::Shampoo, state) => {
                let mut host = weight.f_to_device(Device::Cpu)?.f_contiguous()?;
                let gradient = gradient.f_to_device(Device::Cpu)?.f_contiguous()?;
                let step = Step {
                    rate,
                    factor: None,
                    n,
                };
                let is_done = self.step_on_host(&mut host, state, &gradient, step);
                debug_assert!(is_done, "all of it is in host memory");
                weight.f_copy_(&host)?;
                Ok(())
            }
            _ => unreachable!("the state was made for the rule"),
        }
    }

    /// The same in one loop over host memory. Returns false and does nothing for weights elsewhere.
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    fn step_on_host(
        self,
        weight: &mut Tensor,
        state: &mut [Tensor],
        gradient: &Tensor,
        Step { rate, factor, n }: Step,
    ) -> bool {
        let factor = factor.unwrap_or(1.0) as f32;
        let sides = Sides::of(&weight.size());
        let (Some(weight), Some(gradient)) = (values_mut(weight), values(gradient)) else {
            return false;
        };
        if let (DenseRule::Shampoo, Some(sides)) = (self, sides) {
            let gradient: Vec<f32> = gradient.iter().map(|g| factor * g).collect();
            return shampoo(weight, state, &gradient, sides, (rate as f32, n));
        }
        let gradient = gradient.iter().map(|g| factor * g);
        match (self, state) {
            (DenseRule::Adagrad | DenseRule::Shampoo, [sum]) => {
                let Some(sum) = values_mut(sum) else { return false };
                for ((w, sum), g) in weight.iter_mut().zip(sum).zip(gradient) {
                    *sum += g * g;
                    *w -= rate as f32 * (g / (sum.sqrt() + EPSILON as f32));
                }
            }
            (DenseRule::Adam, [mean, square]) => {
                let (Some(mean), Some(square)) = (values_mut(mean), values_mut(square)) else {
                    return false;
                };
                let [keep, keep_square] = [BETAS.0, BETAS.1].map(|beta| beta as f32);
                let [new, new_square] = [BETAS.0, BETAS.1].map(|beta| (1.0 - beta) as f32);
                let rate = (rate / unbiased(BETAS.0, n)) as f32;
                let scale = (1.0 / unbiased(BETAS.1, n).sqrt()) as f32;
                for (((w, mean), square), g) in weight.iter_mut().zip(mean).zip(square).zip(gradient) {
                    *mean = *mean * keep + g * new;
                    *square = *square * keep_square + g * g * new_square;
                    *w -= rate * (*mean / (square.sqrt() * scale + EPSILON as f32));
                }
            }
            _ => unreachable!("the state was made for the rule"),
        }
        true
    }
}

/// A step of a matrix by Shampoo. `state` is Adagrad's sum, then sum and root of each factor. Returns false and does nothing
/// for state outside host memory.
#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn shampoo(
    weight: &mut [f32],
    state: &mut [Tensor],
    gradient: &[f32],
    sides: Sides,
    (rate, n): (f32, u64),
) -> bool {
    let slices: Option<Vec<&mut [f32]>> = state.iter_mut().map(values_mut).collect();
    let Some(mut slices) = slices.map(Vec::into_iter) else {
        return false;
    };
    let Some(sum) = slices.next() else { return false };
    let mut factor = |has: bool| {
        let (sum, root) = has.then(|| (slices.next(), slices.next()))?;
        Some(Factor {
            sum: sum?,
            root: root?,
        })
    };
    let factors = sides.has.map(&mut factor);
    let adagrad = gradient.iter().zip(sum).map(|(g, sum)| {
        *sum += g * g;
        g / (sum.sqrt() + EPSILON as f32)
    });
    let mut step: Vec<f32> = adagrad.collect();
    precondition(sides, factors, gradient, &mut step, n);
    for (w, step) in weight.iter_mut().zip(step) {
        *w -= rate * step;
    }
    true
}

/// Bias correction of a mean that started from 0, after `n` steps: `1 - beta^n`.
fn unbiased(beta: f64, n: u64) -> f64 {
    1.0 - beta.powi(i32::try_from(n).unwrap_or(i32::MAX))
}

/// `w -= rate g / (sqrt(sum of g^2) + eps)`
fn adagrad(weight: &mut Tensor, sum: &mut Tensor, gradient: &Tensor, rate: f64) -> Result<(), TchError> {
    let _summed = sum.f_addcmul_(gradient, gradient)?;
    let step = gradient.f_div(&sum.f_sqrt()?.f_add_scalar(EPSILON)?)?;
    let _moved = weight.f_sub_(&step.f_mul_scalar(rate)?)?;
    Ok(())
}

/// `w -= rate m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)` at the `n`-th step, `t = n`, as torch orders it.
fn adam(
    weight: &mut Tensor,
    [mean, square]: [&mut Tensor; 2],
    gradient: &Tensor,
    rate: f64,
    n: u64,
) -> Result<(), TchError> {
    let _mean = mean
        .f_mul_scalar_(BETAS.0)?
        .f_add_(&gradient.f_mul_scalar(1.0 - BETAS.0)?)?;
    let _square = square
        .f_mul_scalar_(BETAS.1)?
        .f_add_(&gradient.f_square()?.f_mul_scalar(1.0 - BETAS.1)?)?;
    let size = square
        .f_sqrt()?
        .f_div_scalar(unbiased(BETAS.1, n).sqrt())?
        .f_add_scalar(EPSILON)?;
    let step = mean.f_div(&size)?.f_mul_scalar(rate / unbiased(BETAS.0, n))?;
    let _moved = weight.f_sub_(&step)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tch::nn::{self, OptimizerConfig};

    use super::*;

    /// Gradients of all sizes, some of them 0.
    fn gradient(step: i32, lane: i32) -> f32 {
        let size = [1.0f32, 1e-3, 30.0, 0.0][usize::try_from(lane % 4).unwrap()];
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let wave = ((step * 7 + lane * 3) % 11 - 4) as f32;
        size * wave
    }

    #[test]
    fn dense_adagrad_matches_its_formula() {
        let weight = Tensor::from_slice(&[1.0f32, -1.0]);
        let mut optimizer = DenseOptimizer::new(DenseRule::Adagrad, [(&weight, 0.0)].into_iter());
        let gradient = Some(Tensor::from_slice(&[0.5f32, -0.25]));
        for _ in 0..2 {
            optimizer
                .step(
                    [(&weight, 0.1)].into_iter(),
                    std::slice::from_ref(&gradient),
                    None,
                )
                .unwrap();
        }
        let moved = 0.1 * (1.0 + 0.5f64.sqrt());
        let found = Vec::<f32>::try_from(&weight).unwrap();
        assert!((f64::from(found[0]) - (1.0 - moved)).abs() < 1e-6, "{found:?}");
        assert!((f64::from(found[1]) - (-1.0 + moved)).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn adam_takes_the_steps_of_libtorch() {
        let vs = nn::VarStore::new(tch::Device::Cpu);
        let theirs = vs.root().var("w", &[8], nn::Init::Const(0.3));
        let mut torch = nn::adam(BETAS.0, BETAS.1, 0.0).build(&vs, 1e-2).unwrap();
        let ours = theirs.detach().copy();
        let mut optimizer = DenseOptimizer::new(DenseRule::Adam, [(&ours, 0.0)].into_iter());
        for step in 0..50 {
            let values: Vec<f32> = (0..8).map(|lane| gradient(step, lane)).collect();
            let gradient = Tensor::from_slice(&values);
            torch.zero_grad();
            (&theirs * &gradient).sum(tch::Kind::Float).backward();
            torch.step();
            optimizer
                .step([(&ours, 1e-2)].into_iter(), &[Some(gradient)], None)
                .unwrap();
            let [ours, theirs] = [&ours, &theirs.detach()].map(|w| Vec::<f32>::try_from(w).unwrap());
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert!((ours - theirs).abs() < 2e-6, "step {step}: {ours} {theirs}");
            }
        }
        let moved = (ours - theirs.detach()).abs().max();
        assert!(f64::try_from(moved).unwrap() < 2e-6);
    }

    #[test]
    fn steps_on_host_and_device_agree() {
        for rule in [DenseRule::Adagrad, DenseRule::Adam, DenseRule::Shampoo] {
            let [mut host, mut device] =
                [(); 2].map(|()| Tensor::full([4, 5], 0.3, (tch::Kind::Float, tch::Device::Cpu)));
            let [mut host_state, mut device_state] = [(); 2].map(|()| {
                let specs = rule.state(&[4, 5], 0.0);
                let zeros = |spec: &StateSpec| Tensor::zeros(&spec.shape, (Kind::Float, Device::Cpu));
                specs.iter().map(zeros).collect::<Vec<_>>()
            });
            for n in 1..=50u64 {
                let values: Vec<f32> = (0..20)
                    .map(|lane| gradient(i32::try_from(n).unwrap(), lane))
                    .collect();
                let gradient = Tensor::from_slice(&values).view([4, 5]);
                let step = Step {
                    rate: 0.01,
                    factor: Some(0.5),
                    n,
                };
                assert!(rule.step_on_host(&mut host, &mut host_state, &gradient, step));
                rule.step_on_device(&mut device, &mut device_state, &gradient, step)
                    .unwrap();
                let off = f64::try_from((&host - &device).abs().max()).unwrap();
                assert!(off < 1e-6, "{rule:?}, step {n}: {off}");
            }
        }
    }

    #[test]
    fn a_clipping_factor_scales_the_gradient() {
        for rule in [DenseRule::Adagrad, DenseRule::Adam] {
            let [a, b] = [(); 2].map(|()| Tensor::from_slice(&[0.5f32, 2.0]));
            let [mut of_a, mut of_b] = [&a, &b].map(|w| DenseOptimizer::new(rule, [(w, 0.0)].into_iter()));
            let gradient = Tensor::from_slice(&[0.25f32, -8.0]);
            let (half, gradient) = (Some(&gradient * 0.5), Some(gradient));
            for _ in 0..3 {
                of_a.step(
                    [(&a, 0.1)].into_iter(),
                    std::slice::from_ref(&gradient),
                    Some(0.5),
                )
                .unwrap();
                of_b.step([(&b, 0.1)].into_iter(), std::slice::from_ref(&half), None)
                    .unwrap();
            }
            assert_eq!(a, b, "{rule:?}");
        }
    }

    #[test]
    fn a_weight_that_was_frozen_continues_from_its_own_steps() {
        for rule in [DenseRule::Adagrad, DenseRule::Adam] {
            let weights = [(); 3].map(|()| Tensor::from_slice(&[0.5f32, 2.0]));
            let [always, later, alone] = &weights;
            let mut both = DenseOptimizer::new(rule, [(always, 0.0), (later, 0.0)].into_iter());
            let mut one = DenseOptimizer::new(rule, [(alone, 0.0)].into_iter());
            for step in 0..30 {
                let of = |lane| Some(Tensor::from_slice(&[gradient(step, lane), 1.0]));
                let moving = if step < 20 { None } else { of(1) };
                both.step([(always, 0.1), (later, 0.1)].into_iter(), &[of(0), moving], None)
                    .unwrap();
                if step >= 20 {
                    one.step([(alone, 0.1)].into_iter(), &[of(1)], None).unwrap();
                }
            }
            assert_eq!(later, alone, "{rule:?}");
            assert_ne!(later, always, "{rule:?}");

            // The same once more, after all of it was forgotten.
            let start = later.copy();
            both.states[1].reset();
            both.step(
                [(always, 0.1), (later, 0.1)].into_iter(),
                &[None, Some(start.ones_like())],
                None,
            )
            .unwrap();
            let first = Vec::<f32>::try_from(start - later).unwrap();
            assert!(
                first.iter().all(|step| (step - 0.1).abs() < 1e-5),
                "{rule:?} {first:?}"
            );
        }
    }
}
