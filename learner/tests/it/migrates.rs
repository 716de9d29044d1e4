//! Weights are carried over to another model.

use ouzel_learner::model::{HeadConfig, HeadKind, ModelConfig, SequenceKind};
use ouzel_learner::{LearnerConfig, Trainer, WeightOutcome, saved_model, weights_hash};
use ouzel_sample::Batch;
use ouzel_snapshot::{Arrays, CheckpointMeta, Draft, Fingerprint, Snapshot, Store};
use serde_json::Value;

use crate::world::{batches, configs, unpredicted};

fn draft(trainer: &mut Trainer) -> Draft {
    let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    trainer.save(&mut draft).unwrap();
    draft
}

/// A trained model in a store.
struct Trained {
    _dir: tempfile::TempDir,
    snapshot: Snapshot,
    model: ModelConfig,
    learner: LearnerConfig,
    /// Batches that are not learned yet.
    next: Vec<Batch>,
}

fn trained(model: ModelConfig) -> Trained {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (_, learner) = configs();
    let mut batches = batches(3, 300);
    let next = batches.split_off(batches.len() - 5);
    let mut trainer = Trainer::new(model.clone(), learner.clone()).unwrap();
    for batch in &batches {
        trainer.step(batch).unwrap();
    }
    let id = store.write(&draft(&mut trainer)).unwrap();
    let snapshot = store.read(id).unwrap();
    Trained {
        _dir: dir,
        snapshot,
        model,
        learner,
        next,
    }
}

/// The log-odds of the first task that a trainer predicts for the next batches.
fn predicted(trainer: &mut Trainer, batches: &[Batch]) -> Vec<f32> {
    unpredicted(batches);
    let mut all = Vec::new();
    for batch in batches {
        let slates = ouzel_sample::ShownSlate {
            request: std::sync::Arc::clone(&batch.samples[0].request),
            candidates: batch
                .samples
                .iter()
                .map(|sample| std::sync::Arc::clone(&sample.candidate))
                .collect(),
        };
        trainer.predict_shown(&[slates], &batch.vectors).unwrap();
        all.extend(
            batch
                .samples
                .iter()
                .map(|sample| sample.candidate.predicted.get(0).unwrap()),
        );
    }
    unpredicted(batches);
    all
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

impl Trained {
    /// Migrates, checks that it learns on and restores, and returns how far its predictions are from the former ones.
    fn migrate(&self, model: &ModelConfig) -> (f32, ouzel_learner::WeightsMigration) {
        let mut former = Trainer::load(&self.snapshot, &self.model, self.learner.clone()).unwrap();
        let (mut trainer, done) = Trainer::migrate(&self.snapshot, model, self.learner.clone()).unwrap();
        assert_eq!(trainer.next_batch(), former.next_batch());
        let before = predicted(&mut former, &self.next);
        let after = predicted(&mut trainer, &self.next);
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = store.write(&draft(&mut trainer)).unwrap();
        let mut restored = Trainer::load(&store.read(id).unwrap(), model, self.learner.clone()).unwrap();
        for batch in &self.next {
            trainer.step(batch).unwrap();
            restored.step(batch).unwrap();
        }
        assert_eq!(trainer.hash().unwrap(), restored.hash().unwrap());
        (largest_difference(&before, &after), done)
    }
}

#[test]
fn the_same_model_keeps_every_bit() {
    let trained = trained(ModelConfig::default());
    let mut same = Trainer::load(&trained.snapshot, &trained.model, trained.learner.clone()).unwrap();
    let (mut migrated, done) =
        Trainer::migrate(&trained.snapshot, &trained.model, trained.learner.clone()).unwrap();
    assert_eq!(migrated.hash().unwrap(), same.hash().unwrap());
    assert_eq!(
        done.n_parameters(WeightOutcome::Anew) + done.n_parameters(WeightOutcome::Lost),
        0
    );
    assert!(done.tables.iter().all(|table| table.lost == 0));
}

#[test]
fn wider_rows_a_new_task_and_a_new_block_leave_the_scores() {
    let mut plain = ModelConfig::default();
    plain.sequence.kind = SequenceKind::Mean;
    let trained = trained(plain);
    let with = |change: &dyn Fn(&mut ModelConfig)| {
        let mut model = trained.model.clone();
        change(&mut model);
        trained.migrate(&model)
    };
    let (wider, done) = with(&|model| model.dim = 12);
    assert!(wider < 1e-5, "{wider}");
    assert_eq!(done.n_parameters(WeightOutcome::Anew), 0);
    assert!(
        done.tables[0].kept > 20 && done.tables[0].width == 12,
        "{:?}",
        done.tables
    );
    let (added, _) = with(&|model| model.tasks = vec!["click".into(), "buy".into()]);
    assert!(added < 1e-5, "{added}");
    let (read, done) = with(&|model| model.sequence.kind = SequenceKind::Din);
    assert!(read < 1e-5, "{read}");
    assert!(done.n_parameters(WeightOutcome::Anew) > 0);
    let (moved, _) = with(&|model| model.tasks = vec!["buy".into(), "click".into()]);
    assert!(moved > 1e-3, "the primary task is another one");
    let (narrower, done) = with(&|model| model.dim = 6);
    assert!(narrower < 5.0, "{narrower}");
    assert_eq!(done.n_parameters(WeightOutcome::Anew), 0);
    let (_, done) = with(&|model| model.wide = false);
    assert!(
        done.tables
            .iter()
            .any(|table| table.name == "wide" && table.lost > 0)
    );
    // A deeper head starts at the prior, and the rows stay.
    let (_, done) = with(&|model| model.hidden = vec![32, 16]);
    assert!(done.n_parameters(WeightOutcome::Anew) > 0 && done.tables[0].kept > 20);
    let (_, done) = with(&|model| {
        model.head = HeadConfig {
            kind: HeadKind::SharedBottom,
            ..model.head
        }
    });
    assert!(
        done.weights
            .iter()
            .any(|(name, _, outcome)| { name == "first.candidate" && *outcome == WeightOutcome::Kept })
    );
    // A table of its own cannot be filled from the shared one.
    let (_, done) = with(&|model| model.dims.item = 4);
    assert!(
        done.notes.iter().any(|note| note.contains("feature item")),
        "{:?}",
        done.notes
    );
}

/// A snapshot as the first layout had it: no number, no statistics of live features, other optimizer state.
fn first_layout(trained: &Trained, store: &Store) -> Snapshot {
    let mut old = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    for file in ["rows.safetensors", "wide.safetensors"] {
        old.add_arrays(file, trained.snapshot.arrays(file).unwrap())
            .unwrap();
    }
    let dense = trained.snapshot.arrays("dense.safetensors").unwrap();
    let mut kept = Arrays::new();
    for (name, array) in dense.iter().filter(|(name, _)| !name.starts_with("norm.")) {
        kept.insert(name, array.clone()).unwrap();
    }
    old.add_arrays("dense.safetensors", kept).unwrap();
    old.add_arrays("dense_state.safetensors", Arrays::new()).unwrap();
    let mut small: Value = serde_json::from_slice(&trained.snapshot.blob("trainer.json").unwrap()).unwrap();
    let fields = small.as_object_mut().unwrap();
    for name in ["layout", "norm_samples", "mixture", "position"] {
        fields.remove(name);
    }
    old.add_blob("trainer.json", serde_json::to_vec(&small).unwrap())
        .unwrap();
    old.checkpoint.weights_hash = weights_hash(&old);
    store.read(store.write(&old).unwrap()).unwrap()
}

#[test]
fn the_first_layout_keeps_its_rows_and_its_weights_by_name() {
    let trained = trained(ModelConfig::default());
    let dir = tempfile::tempdir().unwrap();
    let snapshot = first_layout(&trained, &Store::open(dir.path()).unwrap());
    let refused = Trainer::load(&snapshot, &trained.model, trained.learner.clone()).unwrap_err();
    assert!(
        refused.to_string().contains("ouzel snapshot migrate"),
        "{refused}"
    );
    assert_eq!(saved_model(&snapshot).unwrap(), trained.model);
    let (mut trainer, done) = Trainer::migrate(&snapshot, &trained.model, trained.learner.clone()).unwrap();
    let anew = done
        .weights
        .iter()
        .filter(|(_, _, outcome)| *outcome != WeightOutcome::Kept);
    let anew: Vec<&str> = anew.map(|(name, _, _)| name.as_str()).collect();
    assert_eq!(anew, ["first.dense"], "live features are read in other scales");
    assert!(done.tables.iter().all(|table| table.lost == 0 && table.kept > 0));
    for batch in &trained.next {
        trainer.step(batch).unwrap();
    }
    // A setting that this version does not know says which.
    let mut small: Value = serde_json::from_slice(&snapshot.blob("trainer.json").unwrap()).unwrap();
    small["model"]["quantum"] = true.into();
    let mut unknown = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    unknown
        .add_blob("trainer.json", serde_json::to_vec(&small).unwrap())
        .unwrap();
    let store = Store::open(&dir.path().join("other")).unwrap();
    let unknown = store.read(store.write(&unknown).unwrap()).unwrap();
    let refused = saved_model(&unknown).unwrap_err().to_string();
    assert!(
        refused.contains("quantum") && refused.contains("empty state directory"),
        "{refused}"
    );
}

#[test]
fn a_frozen_base_is_kept_or_the_change_is_refused_by_the_weight() {
    let mut model = ModelConfig::default();
    model.sequence.kind = SequenceKind::Din;
    let trained = trained(model.clone());
    let mut trainer = Trainer::load(&trained.snapshot, &model, trained.learner.clone()).unwrap();
    trainer.freeze().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let frozen = store.read(store.write(&draft(&mut trainer)).unwrap()).unwrap();
    let with = |change: &dyn Fn(&mut ModelConfig)| {
        let mut other = model.clone();
        change(&mut other);
        Trainer::migrate(&frozen, &other, trained.learner.clone())
    };
    let (kept, _) = with(&|model| model.tasks.push("buy".into())).unwrap();
    assert!(kept.is_frozen() && kept.base() == trainer.base());
    let refused = with(&|model| model.dim = 12).unwrap_err().to_string();
    assert!(
        refused.contains("sequence.first.weight") && refused.contains("frozen"),
        "{refused}"
    );
}
