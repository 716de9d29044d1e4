//! Tests of the objective.

use super::*;
use crate::config::OptimizerConfig;
use crate::loss::TaskChain;
use crate::testing::{again, sample, streams};

fn model(tasks: &[&str]) -> ModelConfig {
    ModelConfig {
        seed: 7,
        tasks: tasks.iter().map(|task| (*task).to_owned()).collect(),
        ..ModelConfig::default()
    }
}

fn objective(policy: Policy, negative_rate: f32) -> Objective {
    let config = LearnerConfig {
        policy,
        negative_sample_rate: negative_rate,
        ..LearnerConfig::default()
    };
    Objective::new(&config, &model(&["click"]))
}

fn gradients(policy: Policy, rate: f32, samples: &[Sample], logits: &[f32], late: &[f32]) -> BatchLoss {
    let outputs = Outputs {
        logits: logits.to_vec(),
        auxiliary: late.to_vec(),
    };
    objective(policy, rate).loss(samples, &outputs, &outputs.logits)
}

#[test]
fn certain_labels_alone_give_the_log_loss_and_the_slate_loss() {
    let samples: Vec<Sample> = (0..3).map(|i| sample(1, i, SampleKind::Final, i == 1)).collect();
    let logits = [0.5f32, -1.0, 2.0];
    let found = gradients(Policy::Plain, 1.0, &samples, &logits, &[]);
    let (slate, slate_gradient) = loss::slate(&[(0.5, false), (-1.0, true), (2.0, false)]).unwrap();
    let mut total = 0.3 * slate;
    for (i, z) in logits.iter().enumerate() {
        let loss = binary(*z, i == 1);
        total += loss.value;
        let expected = loss.gradient + 0.3 * slate_gradient[i];
        assert!((found.logits[i] - expected).abs() < 1e-6);
    }
    assert!((found.value - total).abs() < 1e-5, "{} {total}", found.value);
    assert!(found.auxiliary.is_empty());
}

#[test]
fn values_weigh_positives_or_replace_their_labels() {
    // The last positive has no value, which counts as the largest.
    let of = |i: u64| Sample {
        values: (i == 1).then_some((0, 0.25)).into_iter().collect(),
        ..sample(i, i, SampleKind::Final, i > 0)
    };
    let samples: Vec<Sample> = (0..3).map(of).collect();
    let outputs = Outputs {
        logits: vec![0.5, -1.0, 2.0],
        auxiliary: vec![],
    };
    let gradients = |values: ValueRole| {
        let config = LearnerConfig {
            values: vec![values],
            ..LearnerConfig::default()
        };
        Objective::new(&config, &model(&["click"]))
            .loss(&samples, &outputs, &outputs.logits)
            .logits
    };
    let [p, q, r] = [0.5f32, -1.0, 2.0].map(sigmoid);
    for (values, expected) in [
        (ValueRole::Ignore, [p, q - 1.0, r - 1.0]),
        (ValueRole::Weight, [p, 0.25 * (q - 1.0), r - 1.0]),
        (ValueRole::Target, [p, q - 0.25, r - 1.0]),
    ] {
        for (found, expected) in gradients(values).iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{values:?}: {found} {expected}");
        }
    }
}

#[test]
fn thinning_keeps_every_positive_and_its_share_of_negatives_whatever_their_kind() {
    let thin = objective(Policy::EsDfm, 0.1);
    let mut kept = 0u16;
    for request in 0..10_000 {
        let first = sample(request, 3, SampleKind::EarlyNegative, false);
        let takes = thin.takes(&first);
        assert_eq!(
            takes,
            thin.takes(&again(&first, SampleKind::RealCopy, false, false))
        );
        assert!(thin.takes(&again(&first, SampleKind::LatePositive, true, true)));
        assert!(objective(Policy::EsDfm, 1.0).takes(&first));
        kept += u16::from(takes);
    }
    assert!((900..1100).contains(&kept), "{kept}");
}

#[test]
fn a_thinned_negative_of_one_task_is_not_learned_with_the_positive_of_another() {
    let config = LearnerConfig {
        negative_sample_rate: 0.5,
        ..LearnerConfig::default()
    };
    let two = Objective::new(&config, &model(&["click", "order"]));
    let mut seen = [false; 2];
    for request in 0..20 {
        let mut both = sample(request, 1, SampleKind::Final, false);
        both.labels = both.labels.with(1, true);
        assert!(two.takes(&both), "task 1 is positive");
        let outputs = Outputs {
            logits: vec![0.4, 0.4],
            auxiliary: Vec::new(),
        };
        let found = two.loss(&[both], &outputs, &outputs.logits).logits;
        // What is trained is z - ln .5.
        let z = 0.4 + std::f32::consts::LN_2;
        assert!((found[1] - binary(z, true).gradient).abs() < 1e-6);
        let is_kept = found[0] != 0.0;
        assert!(!is_kept || (found[0] - binary(z, false).gradient).abs() < 1e-6);
        seen[usize::from(is_kept)] = true;
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn the_auxiliary_logit_learns_from_each_positive_once() {
    let wrong = 0.5f32; // The gradient at logit 0 of a label 0; that of a label 1 is its negative.
    for (kind, y, is_late, expected) in [
        (SampleKind::Final, true, false, wrong),
        (SampleKind::Final, false, false, 0.0),
        (SampleKind::EarlyNegative, false, false, 0.0),
        (SampleKind::LatePositive, true, true, -wrong),
        (SampleKind::RealCopy, true, true, -wrong),
        (SampleKind::RealCopy, true, false, 0.0),
        (SampleKind::RealCopy, false, false, 0.0),
    ] {
        let one = again(&sample(1, 1, kind, y), kind, y, is_late);
        let found = gradients(Policy::EsDfm, 0.999, &[one], &[0.0], &[0.0]);
        assert_eq!(found.auxiliary, [expected], "{kind:?} {y}");
    }
}

#[test]
fn a_certain_positive_under_fnc_is_worth_both_samples_of_its_stream() {
    let certain = sample(1, 1, SampleKind::Final, true);
    let stream = [
        again(&certain, SampleKind::EarlyNegative, false, false),
        again(&certain, SampleKind::LatePositive, true, true),
    ];
    let one = gradients(Policy::Fnc, 1.0, &[certain], &[-0.7], &[]);
    let two = gradients(Policy::Fnc, 1.0, &stream, &[-0.7, -0.7], &[]);
    assert!((one.logits[0] - two.logits[0] - two.logits[1]).abs() < 1e-6);
    assert!((one.value - two.value).abs() < 1e-6);
}

#[test]
fn a_presumed_negative_is_not_ranked_against() {
    for (policy, samples) in streams() {
        let logits = vec![0.1; samples.len()];
        let late = vec![-3.0; samples.len() * policy.auxiliary()];
        let with = gradients(policy, 1.0, &samples, &logits, &late).value;
        let mut without = objective(policy, 1.0);
        without.slate_loss = 0.0;
        let outputs = Outputs {
            logits: logits.to_vec(),
            auxiliary: late.to_vec(),
        };
        let without = without.loss(&samples, &outputs, &outputs.logits).value;
        // Only these have a certain negative of the slate in the same batch.
        let is_ranked = matches!(policy, Policy::Plain | Policy::Defer);
        assert_eq!(with > without, is_ranked, "{policy:?}");
    }
}

#[test]
fn a_correction_turns_the_gradient_of_a_negative_into_that_of_a_positive() {
    let first = sample(1, 1, SampleKind::Final, false);
    let correction = again(&first, SampleKind::Correction, true, true);
    let found = gradients(Policy::Plain, 1.0, &[first, correction], &[0.8, 0.8], &[]);
    let both = found.logits[0] + found.logits[1];
    assert!((both - binary(0.8, true).gradient).abs() < 1e-6);
}

#[test]
fn the_weight_of_a_task_is_that_of_all_its_losses_and_of_no_other() {
    let samples: Vec<Sample> = (0..3)
        .map(|i| {
            let mut both = sample(1, i, SampleKind::Final, i == 1);
            both.labels = both.labels.with(1, i == 2);
            both
        })
        .collect();
    let logits = [0.5f32, -0.3, -1.0, 0.2, 2.0, 0.0];
    let found = |weights: &[(&str, f32)]| {
        let config = LearnerConfig {
            optimizer: OptimizerConfig {
                task_weights: weights.iter().map(|(name, w)| ((*name).to_owned(), *w)).collect(),
                ..OptimizerConfig::default()
            },
            ..LearnerConfig::default()
        };
        let outputs = Outputs {
            logits: logits.to_vec(),
            auxiliary: Vec::new(),
        };
        Objective::new(&config, &model(&["click", "order"])).loss(&samples, &outputs, &outputs.logits)
    };
    let (plain, clicks, orders) = (
        found(&[]),
        found(&[("order", 0.0)]),
        found(&[("click", 0.0), ("order", 1.0)]),
    );
    let weighed = found(&[("click", 0.5), ("order", 3.0)]);
    assert!((plain.value - clicks.value - orders.value).abs() < 1e-5);
    assert!((weighed.value - 0.5 * clicks.value - 3.0 * orders.value).abs() < 1e-5);
    for (at, weighed) in weighed.logits.iter().enumerate() {
        let (click, order) = (clicks.logits[at], orders.logits[at]);
        assert!(if at % 2 == 0 { order == 0.0 } else { click == 0.0 }, "{at}");
        assert!((weighed - 0.5 * click - 3.0 * order).abs() < 1e-6, "{at}");
    }
}

#[test]
fn a_bound_moves_the_logits_of_its_tasks_once_an_item() {
    let (first, second) = (
        sample(1, 1, SampleKind::Final, false),
        sample(2, 2, SampleKind::EarlyNegative, false),
    );
    let corrections = [
        SampleKind::LatePositive,
        SampleKind::RealCopy,
        SampleKind::Correction,
    ]
    .map(|kind| again(&first, kind, true, true));
    let samples = [vec![first, second], corrections.to_vec()].concat();
    let logits: Vec<f32> = (0u8..20).map(|i| f32::from(i % 7) / 2.0 - 2.0).collect();
    let found = |weight: f32| {
        let chain = TaskChain {
            first: "click".to_owned(),
            then: "conversion".to_owned(),
            both: "order".to_owned(),
            weight,
        };
        let config = LearnerConfig {
            task_chains: vec![chain],
            ..LearnerConfig::default()
        };
        let outputs = Outputs {
            logits: logits.to_vec(),
            auxiliary: Vec::new(),
        };
        let model = model(&["click", "order", "like", "conversion"]);
        Objective::new(&config, &model).loss(&samples, &outputs, &outputs.logits)
    };
    let (without, with) = (found(0.0), found(0.05));
    let mut expected = vec![0.0; 20];
    let mut value = 0.0;
    for row in 0..2 {
        let [first, then, both] = [0, 3, 1].map(|task| 4 * row + task);
        let of = loss::divergence(logits[first], logits[then], logits[both]);
        value += 0.05 * single(of.value);
        for (at, gradient) in [first, then, both].into_iter().zip(of.gradient) {
            expected[at] = 0.05 * single(gradient);
        }
    }
    assert!(value > 0.0 && (with.value - without.value - value).abs() < 1e-5);
    for (at, expected) in expected.into_iter().enumerate() {
        let found = with.logits[at] - without.logits[at];
        assert!((found - expected).abs() < 1e-6, "{at}: {found} {expected}");
    }
}
