use ouzel_learner::model::ModelConfig;
use ouzel_learner::{Error, Trainer};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};

use crate::world::{batches, configs};

fn draft(trainer: &mut Trainer) -> Draft {
    let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    trainer.save(&mut draft).unwrap();
    draft
}

#[test]
fn the_same_batches_give_the_same_bits_and_others_do_not() {
    let run = |seed| {
        let (model, learner) = configs();
        let mut trainer = Trainer::new(model, learner).unwrap();
        for batch in batches(seed, 200) {
            trainer.step(&batch).unwrap();
        }
        trainer.hash().unwrap()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_restored_trainer_continues_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (model, learner) = configs();
    let batches = batches(3, 400);
    let (first, second) = batches.split_at(batches.len() / 2);

    let mut straight = Trainer::new(model.clone(), learner.clone()).unwrap();
    for batch in first {
        straight.step(batch).unwrap();
    }
    let id = store.write(&draft(&mut straight)).unwrap();
    for batch in second {
        straight.step(batch).unwrap();
    }

    let mut restored = Trainer::load(&store.read(id).unwrap(), &model, learner).unwrap();
    assert_eq!(restored.next_batch(), second[0].seq);
    for batch in second {
        restored.step(batch).unwrap();
    }
    assert_eq!(straight.hash().unwrap(), restored.hash().unwrap());
}

#[test]
fn a_snapshot_of_another_model_is_refused_with_the_keys_that_differ() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (model, learner) = configs();
    let id = store
        .write(&draft(&mut Trainer::new(model, learner.clone()).unwrap()))
        .unwrap();
    let other = ModelConfig {
        dim: 4,
        ..ModelConfig::default()
    };
    let error = Trainer::load(&store.read(id).unwrap(), &other, learner).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Restore { .. }), "{text}");
    assert!(
        text.contains("made with model.dim = 8 where the configuration says 4;"),
        "{text}"
    );
}
