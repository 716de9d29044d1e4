//! Models with content and sequence blocks, through the whole trainer.

use ouzel_learner::model::{
    ContentConfig, HeadConfig, HeadKind, Inputs, InterestConfig, MatmulPrecision, Model, ModelConfig,
    SequenceConfig, SequenceKind, WeightGroup, WeightSpec, weight_specs,
};
use ouzel_learner::validation::ScoreLog;
use ouzel_learner::{Error, LearnerConfig, OptimizerConfig, Trainer};
use ouzel_sample::Batch;
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};
use tch::Device;

use crate::world::{N_CONTENT, batches, batches_with_content, configs, unpredicted};

pub(crate) fn em3(kind: SequenceKind, freeze_samples: u64) -> (ModelConfig, LearnerConfig) {
    let (model, learner) = configs();
    let model = ModelConfig {
        hidden: vec![32],
        content: ContentConfig {
            enabled: true,
            vector_widths: [N_CONTENT, 0],
            width: 16,
            ..ContentConfig::default()
        },
        interest: InterestConfig {
            enabled: true,
            width: 16,
            history_len: 20,
        },
        contrast_width: 16,
        sequence: SequenceConfig {
            kind,
            history_len: 20,
            width: 16,
            key_width: 8,
            value_width: 8,
            ..SequenceConfig::default()
        },
        ..model
    };
    let learner = LearnerConfig {
        optimizer: OptimizerConfig {
            freeze_after_samples: freeze_samples,
            ..learner.optimizer.clone()
        },
        ..learner
    };
    (model, learner)
}

fn learn(trainer: &mut Trainer, batches: &[Batch]) {
    for batch in batches {
        assert!(trainer.step(batch).unwrap().is_learned);
    }
}

fn auc(model: ModelConfig, learner: LearnerConfig, batches: &[Batch]) -> f64 {
    let mut trainer = Trainer::new(model, learner).unwrap();
    let mut log = ScoreLog::default();
    unpredicted(batches);
    for batch in batches {
        let report = trainer.step(batch).unwrap();
        assert!(report.is_learned);
        log.add(batch, &report.logits);
    }
    log.figures(log.middle()).auc.unwrap()
}

#[test]
fn every_block_learns_a_generated_world() {
    let batches = batches_with_content(1, 1500);
    for kind in [
        SequenceKind::Mean,
        SequenceKind::Din,
        SequenceKind::Gru,
        SequenceKind::Dien,
        SequenceKind::Sasrec,
        SequenceKind::Bst,
        SequenceKind::Hstu,
        SequenceKind::HstuResearch,
    ] {
        let (model, learner) = em3(kind, 0);
        let auc = auc(model, learner, &batches);
        assert!(auc > 0.78, "{kind:?}: {auc}, the noise allows .85");
    }
    for kind in [HeadKind::SharedBottom, HeadKind::Omoe, HeadKind::Mmoe] {
        let (model, learner) = configs();
        let model = ModelConfig {
            head: HeadConfig {
                kind,
                ..HeadConfig::default()
            },
            learned_missing: true,
            ..model
        };
        let auc = auc(model, learner, &batches);
        assert!(auc > 0.78, "{kind:?}: {auc}");
    }
}

#[test]
fn a_restored_trainer_with_content_continues_bit_for_bit_before_and_after_the_freeze() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let batches = batches_with_content(3, 240);
    for kind in [
        SequenceKind::Din,
        SequenceKind::Dien,
        SequenceKind::Bst,
        SequenceKind::Hstu,
    ] {
        let (model, learner) = em3(kind, 500);
        let mut straight = Trainer::new(model.clone(), learner.clone()).unwrap();
        let mut saved = Vec::new();
        for (at, batch) in batches.iter().enumerate() {
            if at == 5 || at == 20 {
                let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
                straight.save(&mut draft).unwrap();
                saved.push((at, store.write(&draft).unwrap(), straight.is_frozen()));
            }
            straight.step(batch).unwrap();
        }
        assert_eq!(
            saved.iter().map(|(.., frozen)| *frozen).collect::<Vec<_>>(),
            [false, true]
        );
        for (at, id, _) in saved {
            let mut restored = Trainer::load(&store.read(id).unwrap(), &model, learner.clone()).unwrap();
            learn(&mut restored, &batches[at..]);
            assert_eq!(
                straight.hash().unwrap(),
                restored.hash().unwrap(),
                "{kind:?} from {at}"
            );
        }
    }
}

#[test]
fn a_frozen_base_keeps_its_weights_while_all_others_learn() {
    let batches = batches_with_content(4, 200);
    let (model, learner) = em3(SequenceKind::Hstu, 0);
    let mut trainer = Trainer::new(model, learner).unwrap();
    let (warm, rest) = batches.split_at(12);
    learn(&mut trainer, warm);
    let before = trainer.weights().unwrap();
    let is_zero = |weights: &ouzel_learner::model::Weights| {
        let adapters = weights.dense.iter().filter(|(name, _)| name.ends_with("lora_b"));
        adapters.clone().count() == 2 && adapters.flat_map(|(_, a)| a.values.iter()).all(|x| *x == 0.0)
    };
    assert!(is_zero(&before), "adapters wait for the freeze");
    trainer.freeze().unwrap();
    assert!(trainer.is_frozen());
    learn(&mut trainer, rest);
    let after = trainer.weights().unwrap();
    for WeightSpec { name, group, .. } in weight_specs(&after.config) {
        let has_moved = after.dense[&name].values != before.dense[&name].values;
        match group {
            WeightGroup::Base => assert!(!has_moved, "{name} is of the base"),
            // No contrast loss is configured.
            WeightGroup::Contrast => {}
            _ => assert!(has_moved, "{name} should learn"),
        }
    }
    assert_ne!(before.rows.pages(), after.rows.pages());
}

#[test]
fn rebasing_keeps_scores_and_resets_adapters() {
    let batches = batches_with_content(5, 200);
    let (model, learner) = em3(SequenceKind::Din, 300);
    let mut trainer = Trainer::new(model, learner).unwrap();
    assert!(matches!(trainer.rebase(), Err(Error::NotFrozen)));
    let (last, most) = batches.split_last().unwrap();
    learn(&mut trainer, most);
    let score = |trainer: &mut Trainer| {
        let weights = trainer.weights().unwrap();
        let inputs = Inputs::of_samples(&weights.config, &last.samples, &last.vectors);
        Model::new(&weights, Device::Cpu)
            .unwrap()
            .score(&inputs, &weights)
            .unwrap()
    };
    let (before, base) = (score(&mut trainer), trainer.weights().unwrap().frozen);
    trainer.rebase().unwrap();
    let after = score(&mut trainer);
    let apart = before
        .iter()
        .zip(&after)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0f32, f32::max);
    assert!(apart < 1e-5, "{apart}");
    let weights = trainer.weights().unwrap();
    assert_ne!(
        weights.frozen, base,
        "what was kept of the old base is not of this one"
    );
    let adapters = weights.dense.iter().filter(|(name, _)| name.ends_with("lora_b"));
    assert!(
        adapters
            .flat_map(|(_, array)| array.values.iter())
            .all(|x| *x == 0.0)
    );
    learn(&mut trainer, std::slice::from_ref(last));
}

#[test]
fn adapters_of_content_layers_learn_after_the_freeze() {
    let batches = batches_with_content(6, 200);
    let (mut model, learner) = em3(SequenceKind::Din, 0);
    model.lora.layers = ["content.layer0.query", "interest.query"]
        .map(str::to_owned)
        .to_vec();
    let mut trainer = Trainer::new(model.clone(), learner.clone()).unwrap();
    let (warm, rest) = batches.split_at(10);
    let (last, rest) = rest.split_last().unwrap();
    learn(&mut trainer, warm);
    trainer.freeze().unwrap();
    let score = |trainer: &mut Trainer, replaced: Option<Model>| {
        let weights = trainer.weights().unwrap();
        let inputs = Inputs::of_samples(&weights.config, &last.samples, &last.vectors);
        let mut model = Model::for_inference(&weights, Device::Cpu).unwrap();
        if let Some(mut replaced) = replaced {
            model.reuse_contents(&mut replaced);
        }
        let scores = model.score(&inputs, &weights).unwrap();
        (scores, model)
    };
    let (_, served) = score(&mut trainer, None);
    let before = trainer.weights().unwrap();
    learn(&mut trainer, rest);
    let after = trainer.weights().unwrap();
    for WeightSpec { name, group, .. } in weight_specs(&after.config) {
        let has_moved = after.dense[&name].values != before.dense[&name].values;
        assert!(!has_moved || group != WeightGroup::Base, "{name} is of the base");
        assert!(has_moved || group != WeightGroup::Adapter, "{name} should learn");
    }
    let fresh = score(&mut trainer, None).0;
    assert_eq!(
        score(&mut trainer, Some(served)).0,
        fresh,
        "nothing kept is of an older adapter"
    );

    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    trainer.save(&mut draft).unwrap();
    let id = store.write(&draft).unwrap();
    let mut restored = Trainer::load(&store.read(id).unwrap(), &model, learner).unwrap();
    for trainer in [&mut trainer, &mut restored] {
        learn(trainer, std::slice::from_ref(last));
    }
    assert_eq!(trainer.hash().unwrap(), restored.hash().unwrap());
}

#[test]
fn bf16_products_learn_as_well_as_f32() {
    let batches = batches_with_content(1, 400);
    let (model, learner) = em3(SequenceKind::Hstu, 0);
    let single = auc(model.clone(), learner.clone(), &batches);
    let model = ModelConfig {
        matmul_precision: MatmulPrecision::Bf16,
        ..model
    };
    let half = auc(model, learner, &batches);
    assert!((single - half).abs() < 0.01, "{single} and {half}");
    assert!(single.to_bits() != half.to_bits(), "the setting is not heard");
}

#[test]
fn a_model_without_blocks_has_nothing_to_freeze() {
    let (model, learner) = configs();
    let mut trainer = Trainer::new(model, learner).unwrap();
    learn(&mut trainer, &batches(1, 20));
    trainer.freeze().unwrap();
    assert!(!trainer.is_frozen());
}
