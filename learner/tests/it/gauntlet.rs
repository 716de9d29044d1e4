//! The gauntlet: fourteen kinds of bad models, twenty seeds of each, and every one is kept from serving.
//!
//! Each seed trains a model on its own world through the gates, without a false alarm. Then each kind damages the version
//! that would be published next; where the damage can be in a snapshot whose hashes are right, it is restored from there,
//! too, and refused for an older one.

#![allow(clippy::print_stdout, reason = "the figures of the run")]

mod poison;

use std::fs;

use ouzel_learner::gates::{Breaker, BreakerEvent, GatesConfig, Learned, Probe, VersionGate, check_restored};
use ouzel_learner::model::{ModelConfig, Weights};
use ouzel_learner::{LearnerConfig, Trainer};
use ouzel_sample::{Batch, Batcher};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Snapshot, SnapshotId, Store};

use crate::world::{configs, slates};
use poison::Poison;

const SEEDS: u64 = 20;
/// Click rates of items of the other parity and of the same.
const RATES: [f32; 2] = [0.03, 0.4];
/// Batches from one version to the next.
const VERSION: usize = 4;
/// Requests that a line learns from before its next version is damaged.
const REQUESTS: u64 = 4_000;

/// A learner with its gates.
pub(crate) struct Line {
    pub(crate) model: ModelConfig,
    pub(crate) config: LearnerConfig,
    pub(crate) trainer: Trainer,
    gate: VersionGate,
    breaker: Breaker,
    probe: Probe,
    learned: Learned,
    n_versions: usize,
    n_alarms: usize,
    /// A version from long before.
    pub(crate) earlier: Option<Weights>,
    /// What is learned next.
    pub(crate) next: Vec<Batch>,
}

pub(crate) fn batches(seed: u64, n_requests: u64) -> Vec<Batch> {
    let mut batcher = Batcher::new(32);
    let slates = slates(seed, n_requests, RATES);
    slates.filter_map(|slate| batcher.push(slate)).collect()
}

impl Line {
    fn new(seed: u64) -> Self {
        let (model, config) = configs();
        let gates = GatesConfig {
            interval_samples: 512,
            warm_up_intervals: 10,
            ..GatesConfig::default()
        };
        let mut batches = batches(seed, REQUESTS + 300);
        let next = batches.split_off(batches.len() - 30);
        let mut line = Self {
            trainer: Trainer::new(model.clone(), config.clone()).unwrap(),
            gate: VersionGate::new(gates, config.device().unwrap()),
            breaker: Breaker::new(gates),
            probe: Probe::default(),
            learned: Learned::default(),
            n_versions: 0,
            n_alarms: 0,
            earlier: None,
            model,
            config,
            next,
        };
        for batch in &batches {
            line.learn(batch);
            if batch.seq % VERSION as u64 == 0 {
                line.publish();
            }
        }
        line
    }

    fn learn(&mut self, batch: &Batch) {
        let report = self.trainer.step(batch).unwrap();
        if let Some(BreakerEvent::Tripped(breach)) = self.breaker.observe(batch, &report.logits) {
            println!("false alarm: {breach}");
            self.n_alarms += 1;
        }
        self.probe.observe(batch);
        self.learned.add(batch);
    }

    fn publish(&mut self) {
        let weights = self.trainer.weights().unwrap();
        let measured = self.check(&weights);
        self.n_versions += 1;
        for breach in &measured.breaches {
            println!("false alarm: {breach}");
            self.n_alarms += 1;
        }
        if self.n_versions == 100 {
            self.earlier = Some(weights.clone());
        }
        self.gate.accept(weights, measured);
        self.learned = Learned::default();
    }

    fn check(&mut self, weights: &Weights) -> ouzel_learner::gates::Measured {
        let is_warm = self.breaker.is_warm();
        self.gate
            .check(weights, self.learned, &self.probe, is_warm)
            .unwrap()
    }

    fn draft(&mut self, parent: Option<SnapshotId>) -> Draft {
        let mut draft = Draft::new(parent, 0, Fingerprint::default(), CheckpointMeta::default());
        self.trainer.save(&mut draft).unwrap();
        self.probe.save(&mut self.trainer, &mut draft).unwrap();
        draft
    }

    /// The newest snapshot that is whole and passes the gates, as at a start; with the reasons against newer ones.
    fn restore(&self, store: &Store) -> (SnapshotId, Vec<String>) {
        let recovery = store.newest_valid().unwrap();
        let mut refused: Vec<String> = recovery.skipped.into_iter().map(|skipped| skipped.why).collect();
        let mut ids: Vec<SnapshotId> = store
            .list()
            .unwrap()
            .into_iter()
            .map(|listed| listed.id)
            .collect();
        ids.sort_unstable();
        for id in ids.into_iter().rev() {
            let Ok(snapshot) = store.read(id) else { continue };
            match self.passes(&snapshot) {
                Ok(()) => return (id, refused),
                Err(why) => refused.push(why),
            }
        }
        panic!("no snapshot passes: {refused:?}");
    }

    fn passes(&self, snapshot: &Snapshot) -> Result<(), String> {
        let trainer = Trainer::load(snapshot, &self.model, self.config.clone());
        let mut trainer = trainer.map_err(|error| error.to_string())?;
        let checked = check_restored(snapshot, &mut trainer).map_err(|error| error.to_string())?;
        checked.map(|_| ()).map_err(|breach| breach.to_string())
    }
}

/// Which gate refuses the version that a kind of damage makes of the next one.
fn refuses(line: &mut Line, seed: u64, kind: Poison) -> Result<String, String> {
    let before = line.learned;
    let damaged = kind.damage(line, seed);
    // The damage is in what the next batches would have made.
    line.learned.n_batches += damaged.n_batches;
    line.learned.n_rows += damaged.n_batches * 32 * 40;
    let measured = line.check(&damaged.weights);
    line.learned = before;
    match measured.breaches.first() {
        Some(breach) => Ok(breach.gate.clone()),
        None => Err(format!("{kind:?}, seed {seed}: it would serve")),
    }
}

#[test]
fn fourteen_kinds_of_bad_models_in_twenty_seeds_never_serve() {
    let (mut n_refused, mut n_versions, mut n_alarms, mut failed) = (0, 0, 0, Vec::new());
    let mut reasons = std::collections::BTreeMap::<String, usize>::new();
    for seed in 0..SEEDS {
        let mut line = Line::new(seed);
        (n_versions, n_alarms) = (n_versions + line.n_versions, n_alarms + line.n_alarms);
        for kind in Poison::VERSIONS {
            match refuses(&mut line, seed, kind) {
                Ok(why) => {
                    n_refused += 1;
                    *reasons.entry(format!("{kind:?}: {why}")).or_default() += 1;
                }
                Err(why) => failed.push(why),
            }
        }
        match adapters_refused(seed) {
            true => n_refused += 1,
            false => failed.push(format!("NaN in an adapter, seed {seed}")),
        }
        for (kind, damage) in [
            ("truncated", truncate as fn(&mut Vec<u8>, u64)),
            ("flipped bit", |bytes: &mut Vec<u8>, seed| flip_bit(bytes, seed)),
        ] {
            match damaged_file_is_passed_over(&mut line, seed, damage) {
                true => n_refused += 1,
                false => failed.push(format!("{kind} file, seed {seed}")),
            }
        }
        if seed < 4 {
            poisoned_snapshots_are_passed_over(&mut line, seed, &mut failed);
        }
    }
    println!("{reasons:#?}");
    println!("{n_refused} refused; {n_alarms} false alarms in {n_versions} clean versions");
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(n_refused, 14 * SEEDS);
    assert!(
        n_alarms * 1000 <= n_versions,
        "{n_alarms} false alarms in {n_versions} versions"
    );
}

/// NaN in an adapter of a frozen model.
fn adapters_refused(seed: u64) -> bool {
    let (model, config) = crate::blocks::em3(ouzel_learner::model::SequenceKind::Mean, 0);
    let device = config.device().unwrap();
    let mut trainer = Trainer::new(model, config).unwrap();
    trainer.freeze().unwrap();
    for batch in crate::world::batches_with_content(seed, 40) {
        trainer.step(&batch).unwrap();
    }
    let mut gate = VersionGate::new(GatesConfig::default(), device);
    let mut weights = trainer.weights().unwrap();
    let good = gate
        .check(&weights, Learned::default(), &Probe::default(), false)
        .unwrap();
    assert!(good.breaches.is_empty(), "{good:?}");
    gate.accept(weights.clone(), good);
    poison::adapter_nan(&mut weights, seed);
    let measured = gate
        .check(&weights, Learned::default(), &Probe::default(), false)
        .unwrap();
    !measured.breaches.is_empty()
}

fn truncate(bytes: &mut Vec<u8>, seed: u64) {
    let at = bytes.len() * usize::try_from(seed + 1).unwrap() / 32;
    bytes.truncate(at);
}

fn flip_bit(bytes: &mut [u8], seed: u64) {
    let at = bytes.len() * usize::try_from(seed + 1).unwrap() / 32;
    bytes[at] ^= 1 << (seed % 8);
}

fn damaged_file_is_passed_over(line: &mut Line, seed: u64, damage: fn(&mut Vec<u8>, u64)) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let good = store.write(&line.draft(None)).unwrap();
    let bad = store.write(&line.draft(Some(good))).unwrap();
    let files = [
        "dense.safetensors",
        "rows.safetensors",
        "wide.safetensors",
        "trainer.json",
        "probe.json",
    ];
    let name = files[usize::try_from(seed).unwrap() % files.len()];
    let path = store.read(bad).unwrap().dir().join(name);
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes, seed);
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false, reason = "a file of this test")]
    permissions.set_readonly(false);
    fs::set_permissions(&path, permissions).unwrap();
    fs::write(&path, bytes).unwrap();
    line.restore(&store).0 == good
}

/// Weights that are poisoned inside a snapshot whose hashes are right.
fn poisoned_snapshots_are_passed_over(line: &mut Line, seed: u64, failed: &mut Vec<String>) {
    for kind in Poison::STORED {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let good = store.write(&line.draft(None)).unwrap();
        let weights = kind.damage(line, seed).weights;
        let draft = poison::stored(&store.read(good).unwrap(), &weights);
        let bad = store.write(&draft).unwrap();
        assert!(store.read(bad).is_ok(), "its hashes are right");
        let (restored, refused) = line.restore(&store);
        if restored != good || refused.is_empty() {
            failed.push(format!("{kind:?} in a snapshot, seed {seed}: {refused:?}"));
        }
    }
}
