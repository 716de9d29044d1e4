use ouzel_learner::model::ModelConfig;
use ouzel_learner::{Error, Trainer, check_draft, verify_weights, weights_hash};
use ouzel_snapshot::{ANY, Array, CheckpointMeta, Draft, Fingerprint, Store};

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

/// The draft of a trained model with one array of `file` changed, and the hash of the weights before.
fn poisoned(
    trainer: &mut Trainer,
    file: &str,
    array: &str,
    change: impl Fn(&mut Vec<f32>),
) -> (Draft, String) {
    let honest = draft(trainer);
    let mut poisoned = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    for name in [
        "dense.safetensors",
        "dense_state.safetensors",
        "rows.safetensors",
        "wide.safetensors",
    ] {
        let mut arrays = honest.arrays(name).unwrap().clone();
        if name == file {
            let shape = arrays.array(array).unwrap().shape().to_vec();
            let mut values = arrays.take::<f32>(array, &shape).unwrap();
            change(&mut values);
            arrays.insert(array, Array::new(&shape, values).unwrap()).unwrap();
        }
        poisoned.add_arrays(name, arrays).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let id = store.write(&honest).unwrap();
    let small = store.read(id).unwrap().blob("trainer.json").unwrap();
    poisoned.add_blob("trainer.json", small).unwrap();
    (poisoned, weights_hash(&honest))
}

#[test]
fn weights_that_cannot_be_used_are_not_loaded_although_the_files_are_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (model, learner) = configs();
    let mut trainer = Trainer::new(model.clone(), learner.clone()).unwrap();
    for batch in batches(3, 60) {
        trainer.step(&batch).unwrap();
    }
    let nan = |values: &mut Vec<f32>| *values.last_mut().unwrap() = f32::NAN;
    let infinite = |values: &mut Vec<f32>| values[0] = f32::INFINITY;
    let larger = |values: &mut Vec<f32>| values.iter_mut().for_each(|value| *value *= 100.0);
    type Change<'a> = &'a dyn Fn(&mut Vec<f32>);
    let cases: [(&str, &str, Change<'_>, bool, &str); 5] = [
        (
            "rows.safetensors",
            "values",
            &nan,
            false,
            "is not finite at value",
        ),
        (
            "wide.safetensors",
            "values",
            &infinite,
            false,
            "is not finite at value 0",
        ),
        (
            "dense.safetensors",
            "norm.mean",
            &nan,
            false,
            "is not finite at value",
        ),
        ("rows.safetensors", "values", &larger, true, "their hash is"),
        ("rows.safetensors", "values", &larger, false, ""),
    ];
    for (file, array, change, has_old_hash, expected) in cases {
        let (mut draft, hash) = poisoned(&mut trainer, file, array, change);
        draft.checkpoint.weights_hash = if has_old_hash { hash } else { weights_hash(&draft) };
        assert_eq!(
            check_draft(&draft).is_err(),
            expected.contains("not finite"),
            "{file}"
        );
        let id = store.write(&draft).unwrap();
        match Trainer::load(&store.read(id).unwrap(), &model, learner.clone()) {
            Err(error) => {
                assert!(error.is_damage(), "{error}");
                assert!(
                    !expected.is_empty() && error.to_string().contains(expected),
                    "{error}"
                );
            }
            Ok(_) => assert_eq!(expected, "", "{file}"),
        }
    }
}

#[test]
fn the_probe_of_a_snapshot_scores_as_recorded_until_a_weight_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (model, learner) = configs();
    let mut trainer = Trainer::new(model, learner).unwrap();
    for batch in batches(3, 200) {
        trainer.step(&batch).unwrap();
    }
    let threads = u32::try_from(trainer.config().threads).unwrap();
    let by = || Fingerprint {
        libtorch: Some(ouzel_learner::LIBTORCH.to_owned()),
        device: "cpu".to_owned(),
        cpu_capability: ouzel_learner::cpu_capability(),
        n_threads: threads,
        ..Fingerprint::default()
    };
    let mut honest = draft(&mut trainer);
    honest.created_by = by();
    let report = verify_weights(&store.read(store.write(&honest).unwrap()).unwrap()).unwrap();
    assert!(
        report.is_exact && report.n_scores >= 64 && report.n_rows > 10,
        "{report:?}"
    );
    assert_eq!(report.largest_difference.to_bits(), 0);
    let scores = honest.arrays("probe.safetensors").unwrap();
    let scores = scores.values::<f32>("scores", &[ANY, ANY]).unwrap().into_owned();
    assert!(
        scores.iter().any(|score| score.to_bits() != scores[0].to_bits()),
        "{scores:?}"
    );

    let flip = |values: &mut Vec<f32>| values.iter_mut().for_each(|value| *value = -*value);
    let (mut changed, _) = poisoned(&mut trainer, "rows.safetensors", "values", flip);
    changed.created_by = by();
    changed
        .add_arrays(
            "probe.safetensors",
            honest.arrays("probe.safetensors").unwrap().clone(),
        )
        .unwrap();
    let changed = store.read(store.write(&changed).unwrap()).unwrap();
    let error = verify_weights(&changed).unwrap_err().to_string();
    assert!(error.contains("of the probe is"), "{error}");
}

#[test]
fn an_id_with_two_rows_is_not_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (model, learner) = configs();
    let mut trainer = Trainer::new(model.clone(), learner.clone()).unwrap();
    for batch in batches(3, 60) {
        trainer.step(&batch).unwrap();
    }
    let mut wrong = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    let (honest, _) = poisoned(&mut trainer, "", "", |_| {});
    for name in ["dense.safetensors", "dense_state.safetensors", "wide.safetensors"] {
        wrong
            .add_arrays(name, honest.arrays(name).unwrap().clone())
            .unwrap();
    }
    let mut rows = honest.arrays("rows.safetensors").unwrap().clone();
    let mut ids = rows.take::<u64>("ids", &[ANY]).unwrap();
    ids[1] = ids[0];
    rows.insert("ids", Array::new(&[ids.len()], ids).unwrap())
        .unwrap();
    wrong.add_arrays("rows.safetensors", rows).unwrap();
    let id = store.write(&honest).unwrap();
    let small = store.read(id).unwrap().blob("trainer.json").unwrap();
    wrong.add_blob("trainer.json", small).unwrap();
    let id = store.write(&wrong).unwrap();
    let error = Trainer::load(&store.read(id).unwrap(), &model, learner).unwrap_err();
    assert!(
        error.is_damage() && error.to_string().contains("distinct ids"),
        "{error}"
    );
}
