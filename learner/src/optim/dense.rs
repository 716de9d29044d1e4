//! Optimizers of dense weights, with their state.

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use ouzel_model::host_slice::{values, values_mut};

/// Adam's decay of the running mean of gradients, and of their squares (Kingma and Ba 2015). The first is a little
/// longer than the usual .9: a stream's gradients are noisy, and nothing is seen twice.
const BETAS: (f64, f64) = (0.95, 0.999);

const EPSILON: f64 = 1e-8;

/// The rule by which dense weights move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DenseRule {
    /// Every squared gradient is remembered for good (Duchi et al. 2011).
    #[default]
    Adagrad,
    /// Running means of gradients and of their squares, corrected for having started from 0.
    Adam,
}

impl DenseRule {
    /// What is kept of each weight, by name, each of the weight's shape.
    pub(crate) fn kept(self) -> &'static [&'static str] {
        match self {
            DenseRule::Adagrad => &["adagrad_sum"],
            DenseRule::Adam => &["adam_mean", "adam_square"],
        }
    }
}

/// The rule with what it keeps.
#[derive(Debug)]
pub(crate) struct DenseOptimizer {
    rule: DenseRule,
    /// By weight, in the order of the net's parameters.
    pub(crate) states: Vec<OptimizerState>,
}

/// What is kept of one weight.
#[derive(Debug)]
pub(crate) struct OptimizerState {
    /// Steps it has taken, count. Its own: a weight may stand still while others learn, and what corrects for having
    /// started from 0 must know when it did.
    pub(crate) n_steps: u64,
    /// As [`DenseRule::kept`], of its shape.
    pub(crate) tensors: Vec<Tensor>,
}

impl OptimizerState {
    /// Forgets everything.
    pub(crate) fn reset(&mut self) {
        self.n_steps = 0;
        for tensor in &mut self.tensors {
            *tensor = tensor.zeros_like();
        }
    }
}

impl DenseOptimizer {
    /// A new one, everything from 0.
    pub(crate) fn new<'a>(rule: DenseRule, weights: impl Iterator<Item = &'a Tensor>) -> Self {
        let zeros = |weight: &Tensor| weight.zeros_like().set_requires_grad(false);
        let states = weights.map(|weight| OptimizerState {
            n_steps: 0,
            tensors: rule.kept().iter().map(|_| zeros(weight)).collect(),
        });
        Self {
            rule,
            states: states.collect(),
        }
    }

    pub(crate) fn rule(&self) -> DenseRule {
        self.rule
    }

    /// One step of every weight that has a gradient, at its own rate, in place; gradients are multiplied by `factor`
    /// first, if there is one.
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
                let (mut weight, n) = (weight.f_detach()?, kept.n_steps);
                let gradient = gradient.f_contiguous()?;
                if self
                    .rule
                    .by_hand(&mut weight, &mut kept.tensors, &gradient, rate, factor, n)
                {
                    continue;
                }
                let scaled = factor.map(|factor| gradient.f_mul_scalar(factor)).transpose()?;
                let gradient = scaled.as_ref().unwrap_or(&gradient);
                self.rule
                    .by_torch(&mut weight, &mut kept.tensors, gradient, rate, n)?;
            }
            Ok(())
        })
    }
}

impl DenseRule {
    /// The `n`-th step of a weight on any device.
    fn by_torch(
        self,
        weight: &mut Tensor,
        kept: &mut [Tensor],
        gradient: &Tensor,
        rate: f64,
        n: u64,
    ) -> Result<(), TchError> {
        match (self, kept) {
            (DenseRule::Adagrad, [sum]) => adagrad(weight, sum, gradient, rate),
            (DenseRule::Adam, [mean, square]) => adam(weight, [mean, square], gradient, rate, n),
            _ => unreachable!("what is kept was made for the rule"),
        }
    }

    /// The same in one pass over the numbers, for weights on the CPU. False, and nothing done, for others.
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    fn by_hand(
        self,
        weight: &mut Tensor,
        kept: &mut [Tensor],
        gradient: &Tensor,
        rate: f64,
        factor: Option<f64>,
        n: u64,
    ) -> bool {
        let factor = factor.unwrap_or(1.0) as f32;
        let (Some(weight), Some(gradient)) = (values_mut(weight), values(gradient)) else {
            return false;
        };
        let gradient = gradient.iter().map(|g| factor * g);
        match (self, kept) {
            (DenseRule::Adagrad, [sum]) => {
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
            _ => unreachable!("what is kept was made for the rule"),
        }
        true
    }
}

/// What a running mean that started from 0 has of its weight after `n` steps.
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
        let mut optimizer = DenseOptimizer::new(DenseRule::Adagrad, [&weight].into_iter());
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
        let mut optimizer = DenseOptimizer::new(DenseRule::Adam, [&ours].into_iter());
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
    fn by_hand_and_by_libtorch_are_the_same_steps() {
        for rule in [DenseRule::Adagrad, DenseRule::Adam] {
            let [mut hand, mut torch] =
                [(); 2].map(|()| Tensor::full([4, 5], 0.3, (tch::Kind::Float, tch::Device::Cpu)));
            let [mut of_hand, mut of_torch] =
                [(); 2].map(|()| rule.kept().iter().map(|_| hand.zeros_like()).collect::<Vec<_>>());
            for n in 1..=50u64 {
                let step = i32::try_from(n).unwrap();
                let values: Vec<f32> = (0..20).map(|lane| gradient(step, lane)).collect();
                let gradient = Tensor::from_slice(&values).view([4, 5]);
                assert!(rule.by_hand(&mut hand, &mut of_hand, &gradient, 0.01, Some(0.5), n));
                rule.by_torch(&mut torch, &mut of_torch, &(&gradient * 0.5), 0.01, n)
                    .unwrap();
                let off = f64::try_from((&hand - &torch).abs().max()).unwrap();
                assert!(off < 1e-6, "{rule:?}, step {n}: {off}");
            }
        }
    }

    #[test]
    fn a_factor_is_a_smaller_gradient() {
        for rule in [DenseRule::Adagrad, DenseRule::Adam] {
            let [a, b] = [(); 2].map(|()| Tensor::from_slice(&[0.5f32, 2.0]));
            let [mut of_a, mut of_b] = [&a, &b].map(|w| DenseOptimizer::new(rule, [w].into_iter()));
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
    fn a_weight_that_stood_still_goes_on_as_if_the_others_had_not_moved() {
        for rule in [DenseRule::Adagrad, DenseRule::Adam] {
            let weights = [(); 3].map(|()| Tensor::from_slice(&[0.5f32, 2.0]));
            let [always, later, alone] = &weights;
            let mut both = DenseOptimizer::new(rule, [always, later].into_iter());
            let mut one = DenseOptimizer::new(rule, [alone].into_iter());
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
