//! What is learned of positions, and the logits it gives.

use std::sync::Arc;

use ouzel_model::uniform;
use ouzel_sample::{Candidate, SampleKind};

use super::*;
use crate::loss::{binary, sigmoid};
use crate::testing::sample;

fn at(position: Option<u16>, y: bool) -> Sample {
    let first = sample(1, 1, SampleKind::Final, y);
    Sample {
        candidate: Arc::new(Candidate {
            position,
            ..Candidate::clone(&first.candidate)
        }),
        ..first
    }
}

/// The positions of a model of one task, its logits learned by gradients of the binary loss.
struct Learner {
    bias: PositionBias,
    /// By item.
    logits: Vec<f32>,
    prior: [f32; 1],
    output: Output,
}

impl Learner {
    fn new(kind: PositionKind, n_items: usize, rate: f32) -> Self {
        Self {
            bias: PositionBias::new(kind, 1).unwrap(),
            logits: vec![0.0; n_items],
            prior: [(rate / (1.0 - rate)).ln()],
            output: Output::LogOdds,
        }
    }

    /// Learns a batch of (item, position, outcome).
    fn learn(&mut self, shown: &[(usize, u16, bool)], rate: f32) {
        let samples: Vec<Sample> = shown
            .iter()
            .map(|(_, position, y)| at(Some(*position), *y))
            .collect();
        let mut logits: Vec<f32> = shown.iter().map(|(item, _, _)| self.logits[*item]).collect();
        let slopes = self.bias.place(&mut logits, &samples, &self.prior, self.output);
        let gradients = shown.iter().zip(&logits);
        let mut gradients: Vec<f32> = gradients.map(|((_, _, y), z)| binary(*z, *y).gradient).collect();
        let by_bias = slopes.split(1, &mut gradients);
        self.bias.learn(&samples, &by_bias);
        for ((item, _, _), gradient) in shown.iter().zip(gradients) {
            self.logits[*item] -= rate * gradient;
        }
    }

    /// The logits at positions of an item with the logit of item 0.
    fn at(&self, positions: [Option<u16>; 4]) -> Vec<f32> {
        let samples = positions.map(|position| at(position, true));
        let mut logits = vec![self.logits[0]; 4];
        self.bias.place(&mut logits, &samples, &self.prior, self.output);
        logits
    }
}

fn of_samples(by_bias: &[f64]) -> PositionGradients {
    PositionGradients {
        by_bias: by_bias.to_vec(),
        ..PositionGradients::default()
    }
}

fn log_odds(p: f32) -> f32 {
    (p / (1.0 - p)).ln()
}

#[test]
fn biases_become_those_of_the_positions_and_the_logit_that_of_the_average_rate() {
    // The first position is shown as often as the two others together.
    let shown = [0u16, 0, 1, 2];
    let additive = [1.0f32, 0.0, -2.0].map(sigmoid);
    let examined = [0.9f32, 0.45, 0.1].map(|examined| 0.6 * examined);
    for (kind, truth) in [(PositionKind::Additive, additive), (PositionKind::Pal, examined)] {
        let rates = shown.map(|position| truth[usize::from(position)]);
        let mut learner = Learner::new(kind, 1, rates.iter().sum::<f32>() / 4.0);
        for batch in 0..400u64 {
            let samples = (0..60u64).map(|n| {
                let lane = usize::try_from(n % 4).unwrap();
                (0, shown[lane], uniform(3, batch * 60 + n, 0) < rates[lane])
            });
            let samples: Vec<(usize, u16, bool)> = samples.collect();
            learner.learn(&samples, 0.01 / 6.0);
        }
        let (level, [prior]) = (learner.logits[0], learner.prior);
        assert!((level - prior).abs() < 0.1, "{kind:?}: {level}, expected {prior}");
        let learned = learner.at([Some(0), Some(1), Some(2), None]);
        let expected = truth.map(log_odds).into_iter().chain([prior]);
        for (found, expected) in learned.iter().zip(expected) {
            assert!((found - expected).abs() < 0.3, "{kind:?}: {learned:?}");
        }
    }
}

#[test]
fn pal_recovers_the_examination_of_places_that_good_items_have_more_often() {
    let examined = [0.95f32, 0.6, 0.3, 0.15, 0.05];
    let acted = |item: usize| 0.05 + 0.07 * [0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0][item];
    let draw = |request: u64, lane: u64| uniform(5, request, lane);
    let slate = |request: u64| {
        // Half of the requests show the best items first, the others in any order.
        let mut items: Vec<usize> = (0..8).collect();
        let is_sorted = draw(request, 100) < 0.5;
        items.sort_by(|a, b| {
            let key = |item: usize| match is_sorted {
                true => -acted(item),
                false => draw(request, 200 + item as u64),
            };
            key(*a).total_cmp(&key(*b))
        });
        let shown = items.into_iter().zip(0u16..5);
        let shown = shown.map(move |(item, position)| {
            let p = acted(item) * examined[usize::from(position)];
            (item, position, draw(request, u64::from(position)) < p)
        });
        shown.collect::<Vec<_>>()
    };
    let requests: Vec<_> = (0..24_000u64).map(slate).collect();
    let outcomes = requests.iter().flatten().map(|(_, _, y)| *y);
    let rate = outcomes.map(|y| f32::from(u8::from(y))).sum::<f32>() / 120_000.0;
    for output in [Output::LogOdds, Output::FakeNegatives] {
        let mut learner = Learner::new(PositionKind::Pal, 8, rate);
        learner.output = output;
        learner.logits.fill(learner.prior[0]);
        for batch in requests.chunks(12) {
            let mut shown = batch.concat();
            if output == Output::FakeNegatives {
                // Each shown item as a negative, and each positive once more.
                let positives: Vec<_> = shown.iter().copied().filter(|(_, _, y)| *y).collect();
                shown.iter_mut().for_each(|(_, _, y)| *y = false);
                shown.extend(positives);
            }
            learner.learn(&shown, 0.02);
        }
        let found = |position: usize| learner.bias.bias[position].exp();
        for position in 1..5 {
            let expected = f64::from(examined[position] / examined[0]);
            let relative = found(position) / found(0) / expected;
            assert!((relative - 1.0).abs() < 0.15, "{output:?} {position}: {relative}");
        }
        // The items are in the order of their quality, wherever they were shown; neighbours are within the noise.
        let better = learner.logits.windows(3).filter(|three| three[0] < three[2]);
        assert_eq!(better.count(), 6, "{output:?}: {:?}", learner.logits);
    }
}

#[test]
fn samples_without_a_position_change_nothing_and_far_positions_share_one() {
    for kind in [PositionKind::Additive, PositionKind::Pal] {
        let mut bias = PositionBias::new(kind, 2).unwrap();
        let new = bias.clone();
        bias.learn(&[at(None, true)], &of_samples(&[0.5, 0.5]));
        assert_eq!(bias, new);
        let far = [at(Some(63), true), at(Some(u16::MAX), true)];
        bias.learn(&far[..1], &of_samples(&[-0.5, 0.5]));
        let mut logits = [0.0; 4];
        bias.place(&mut logits, &far, &[0.0, 0.0], Output::LogOdds);
        assert_eq!(logits[..2], logits[2..]);
        let text = serde_json::to_string(&bias).unwrap();
        assert_eq!(text.contains("link"), kind == PositionKind::Pal);
        assert_eq!(serde_json::from_str::<PositionBias>(&text).unwrap(), bias);
        let mut other = PositionBias::new(PositionKind::Additive, 2);
        let is_restored = PositionBias::restore(&mut other, Some(bias));
        assert_eq!(is_restored, kind == PositionKind::Additive);
    }
    assert_eq!(PositionBias::new(PositionKind::None, 2), None);
}
