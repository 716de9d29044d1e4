//! The cpu backend against the torch backend, through the whole trainer.

use ouzel_learner::model::{
    HeadConfig, HeadKind, Inputs, LoraConfig, Model, ModelConfig, SequenceConfig, SequenceKind,
};
use ouzel_learner::{LearnerConfig, OptimizerConfig, Trainer};
use tch::Device;

use crate::blocks::em3;
use crate::world::{batches_with_content, configs, unpredicted};

/// Both learn the same steps, and score alike what they have learned.
pub(crate) fn holds(model: ModelConfig, learner: LearnerConfig) {
    let batches = batches_with_content(1, 250);
    let new = || Trainer::new(model.clone(), learner.clone()).unwrap();
    let (mut cpu, mut torch) = (new(), new().on_torch().unwrap());
    for (step, batch) in batches.iter().enumerate() {
        unpredicted(std::slice::from_ref(batch));
        let [one, other] = [&mut cpu, &mut torch].map(|trainer| trainer.step(batch).unwrap());
        assert!(one.is_learned && other.is_learned);
        assert_eq!(
            (one.n_learned, one.n_admitted),
            (other.n_learned, other.n_admitted)
        );
        assert!((one.loss - other.loss).abs() < 1e-3, "{step}");
        for (one, other) in one.logits.iter().zip(&other.logits) {
            assert!(
                (one - other).abs() < 2e-3,
                "step {step}: {one} {other} of {model:?}"
            );
        }
    }
    let weights = cpu.weights().unwrap();
    let batch = batches.last().unwrap();
    let inputs = Inputs::of_samples(&weights.config, &batch.samples, &batch.vectors);
    let mut reference = Model::on_torch(&weights, Device::Cpu).unwrap();
    let expected = reference.score(&inputs, &weights).unwrap();
    for make in [Model::new, Model::for_inference] {
        let scores = make(&weights, Device::Cpu)
            .unwrap()
            .score(&inputs, &weights)
            .unwrap();
        for (one, other) in scores.iter().zip(&expected) {
            assert!((one - other).abs() < 1e-4, "{one} {other} of {model:?}");
        }
    }
}

#[test]
fn the_cpu_backend_learns_the_steps_of_torch() {
    let (model, learner) = configs();
    holds(model.clone(), learner.clone());
    let bare = ModelConfig {
        wide: false,
        fm: false,
        hidden: vec![24, 12],
        learned_missing: true,
        ..model
    };
    holds(bare, learner.clone());
    let (timed, timed_learner) = em3(SequenceKind::Din, 300);
    let timed = ModelConfig {
        sequence: SequenceConfig {
            attention_heads: 2,
            time_buckets: true,
            ..timed.sequence
        },
        ..timed
    };
    holds(timed, timed_learner);
    for (senet, ppnet) in [(true, false), (false, true)] {
        let (gated, learner) = em3(SequenceKind::Mean, 0);
        let gated = ModelConfig {
            senet,
            ppnet,
            hidden: vec![24, 12],
            ..gated
        };
        holds(gated, learner);
    }
    let (pooled, _) = em3(SequenceKind::Mean, 0);
    let pooled = ModelConfig {
        pool_slate: true,
        ..pooled
    };
    holds(pooled, learner);
    for kind in [
        SequenceKind::Mean,
        SequenceKind::Din,
        SequenceKind::Gru,
        SequenceKind::Dien,
        SequenceKind::Sasrec,
        SequenceKind::Bst,
        SequenceKind::Hstu,
    ] {
        for freeze_samples in [0, 300] {
            let (model, learner) = em3(kind, freeze_samples);
            let learner = LearnerConfig {
                optimizer: OptimizerConfig {
                    contrast_weight: 0.05,
                    next_entry_weight: 0.5,
                    ..learner.optimizer.clone()
                },
                ..learner
            };
            holds(model, learner);
        }
    }
}

#[test]
fn the_cpu_backend_learns_heads_and_adapters_as_torch_does() {
    for (head, kind, layers) in [
        (
            HeadKind::Mmoe,
            SequenceKind::Din,
            &[
                "sequence.first",
                "content.layer0.key",
                "head.gate0",
                "interest.key",
            ][..],
        ),
        (
            HeadKind::SharedBottom,
            SequenceKind::Hstu,
            &["sequence.layer0.uvqk", "content.text", "head.tower0", "cic.id"],
        ),
        (HeadKind::Single, SequenceKind::Mean, &["out", "interest.query"]),
        (
            HeadKind::Single,
            SequenceKind::Dien,
            &["sequence.attention", "sequence.evolve.state"],
        ),
        (
            HeadKind::Single,
            SequenceKind::Bst,
            &[
                "sequence.token",
                "sequence.layer0.key_value",
                "sequence.layer0.expand",
            ],
        ),
    ] {
        let (model, learner) = em3(kind, 300);
        let model = ModelConfig {
            head: HeadConfig {
                kind: head,
                ..model.head
            },
            lora: LoraConfig {
                rank: 2,
                layers: layers.iter().map(|layer| (*layer).to_owned()).collect(),
                alpha: 2.0,
            },
            ..model
        };
        let learner = LearnerConfig {
            optimizer: OptimizerConfig {
                contrast_weight: 0.05,
                ..learner.optimizer.clone()
            },
            ..learner
        };
        holds(model, learner);
    }
}
