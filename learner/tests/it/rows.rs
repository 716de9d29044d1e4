//! Rows in a trainer: admission, expiry, deletion, widths and rates by feature, each also across a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ouzel_learner::model::{Dims, Feature, Fields, Inputs, Key, Model, ModelConfig};
use ouzel_learner::{FeatureRules, LearnerConfig, RowRules, StepReport, Trainer, UserRules};
use ouzel_sample::settings::Period;
use ouzel_sample::{Batch, EventTime, Id};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};
use tch::Device;

use crate::world::{batches, configs};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

fn learner(rows: RowRules) -> LearnerConfig {
    LearnerConfig { rows, ..configs().1 }
}

fn waiting(min_samples: u16, min_users: usize) -> FeatureRules {
    FeatureRules {
        min_samples,
        min_users,
        ..FeatureRules::default()
    }
}

fn waiting_users(min_samples: u16) -> UserRules {
    UserRules {
        min_samples,
        ..UserRules::default()
    }
}

/// The batches with ten minutes from each request to the next.
fn slow(mut batches: Vec<Batch>) -> Vec<Batch> {
    for sample in batches.iter_mut().flat_map(|batch| &mut batch.samples) {
        let mut request = (*sample.request).clone();
        request.ts = EventTime(request.ts.0 / 1000 * 10 * MINUTE_MS);
        sample.request = Arc::new(request);
    }
    batches
}

fn learn(trainer: &mut Trainer, batches: &[Batch]) -> Vec<StepReport> {
    batches.iter().map(|batch| trainer.step(batch).unwrap()).collect()
}

fn has(trainer: &mut Trainer, key: Key) -> bool {
    trainer.weights().unwrap().rows.find(key).is_some()
}

/// Learns half of the batches, goes on from a snapshot as well, and expects the same bits at the end of both.
fn across_a_restart(model: &ModelConfig, config: &LearnerConfig, batches: &[Batch]) -> Trainer {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (first, second) = batches.split_at(batches.len() / 2);
    let mut straight = Trainer::new(model.clone(), config.clone()).unwrap();
    learn(&mut straight, first);
    let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    straight.save(&mut draft).unwrap();
    let id = store.write(&draft).unwrap();
    let mut restored = Trainer::load(&store.read(id).unwrap(), model, config.clone()).unwrap();
    assert_eq!(straight.hash().unwrap(), restored.hash().unwrap());
    let reports = learn(&mut straight, second);
    assert_eq!(reports, learn(&mut restored, second));
    assert_eq!(straight.hash().unwrap(), restored.hash().unwrap());
    straight
}

#[test]
fn items_are_admitted_exactly_when_a_count_of_all_samples_says_so() {
    let (model, _) = configs();
    let config = learner(RowRules {
        item: waiting(12, 4),
        ..RowRules::default()
    });
    let mut trainer = Trainer::new(model, config).unwrap();
    let mut seen: BTreeMap<Id, (usize, BTreeSet<Id>)> = BTreeMap::new();
    let (mut n_admitted, mut n_waiting) = (0, 0);
    for batch in batches(3, 120) {
        let report = trainer.step(&batch).unwrap();
        for sample in &batch.samples {
            let (count, users) = seen.entry(sample.candidate.item).or_default();
            *count += 1;
            users.insert(sample.request.user);
        }
        let weights = trainer.weights().unwrap();
        for (item, (count, users)) in &seen {
            let is_admitted = *count >= 12 && users.len() >= 4;
            assert_eq!(
                weights.rows.find(Key::item(*item)).is_some(),
                is_admitted,
                "{item}"
            );
            // Its weight in the wide part comes with the row.
            let wide = weights.wide.find(Key::item(*item).id);
            assert_eq!(wide.is_some(), is_admitted, "{item}");
        }
        for sample in &batch.samples {
            assert!(weights.rows.find(Key::user(sample.request.user)).is_some());
        }
        (n_admitted, n_waiting) = (n_admitted + report.n_admitted, n_waiting + report.n_waiting);
    }
    assert!(
        (5..=30).contains(&n_admitted) && n_waiting > 100,
        "{n_admitted} {n_waiting}"
    );
    assert_eq!(trainer.n_waiting(), seen.len() - n_admitted);
}

#[test]
fn an_id_that_waits_reads_as_zeros_and_takes_no_gradient() {
    let (model, _) = configs();
    let config = learner(RowRules {
        user: waiting_users(u16::MAX),
        ..RowRules::default()
    });
    let mut trainer = Trainer::new(model, config).unwrap();
    let batches = batches(3, 60);
    learn(&mut trainer, &batches);
    let weights = trainer.weights().unwrap();
    let (users, n_wide) = (0..20).map(Id).fold((0, 0), |(n, wide), user| {
        let key = Key::user(user);
        let pair = |value| {
            let mut found = 0;
            let sample = batches
                .iter()
                .flat_map(|batch| &batch.samples)
                .find(|sample| sample.request.user == value);
            if let Some(sample) = sample {
                Fields::new(&sample.request, 0).wide(&sample.candidate, |id, of| {
                    found += usize::from(of == key && weights.wide.find(id).is_some());
                });
            }
            found
        };
        (
            n + usize::from(weights.rows.find(key).is_some()),
            wide + pair(user),
        )
    });
    assert_eq!((users, n_wide), (0, 0), "nor do its pairs");
    assert!(
        weights
            .rows
            .read_all(&[Key::user(Id(1))])
            .iter()
            .all(|value| *value == 0.0)
    );
    assert!(weights.wide.n_live() > 0 && weights.rows.find(Key::item(Id(1))).is_some());
}

#[test]
fn admission_continues_across_a_restart_bit_for_bit() {
    let (model, _) = configs();
    let mut trainer = across_a_restart(
        &model,
        &learner(RowRules {
            item: waiting(40, 5),
            user: waiting_users(3),
            attribute: waiting(2, 2),
            // So few that ids lose their places.
            admission_capacity: 16,
            ..RowRules::default()
        }),
        &batches(3, 120),
    );
    assert!(trainer.n_waiting() > 0);
    let mut open = Trainer::new(model, configs().1).unwrap();
    learn(&mut open, &batches(3, 120));
    assert!(trainer.n_rows().0 < open.n_rows().0);
    assert_ne!(trainer.hash().unwrap(), open.hash().unwrap());
}

#[test]
fn only_rows_not_seen_for_the_expiry_period_are_removed() {
    let (model, _) = configs();
    let config = learner(RowRules {
        expire_after: Period::from_ms(3 * HOUR_MS),
        ..RowRules::default()
    });
    let mut trainer = Trainer::new(model, config).unwrap();
    let batches = slow(batches(3, 400));
    let mut last: BTreeMap<Key, i64> = BTreeMap::new();
    let (mut now, mut swept, mut n_expired) = (0, None, 0);
    for batch in &batches {
        let report = trainer.step(batch).unwrap();
        now = batch
            .samples
            .iter()
            .map(|s| s.request.ts.0 / MINUTE_MS)
            .fold(now, i64::max);
        let inputs = Inputs::of_samples(trainer.model(), &batch.samples, &batch.vectors);
        last.extend(inputs.rows.iter().map(|key| (*key, now)));
        if *swept.get_or_insert(now / 60) < now / 60 {
            swept = Some(now / 60);
            last.retain(|_, seen| *seen >= now - 180);
        }
        let weights = trainer.weights().unwrap();
        assert!(last.keys().all(|key| weights.rows.find(*key).is_some()));
        assert_eq!(trainer.n_rows().0, last.len());
        n_expired += report.n_expired;
    }
    assert!(n_expired > 20, "{n_expired}");
}

#[test]
fn expiry_continues_across_a_restart_bit_for_bit_with_a_bound_as_well() {
    let (model, _) = configs();
    let config = LearnerConfig {
        max_rows: 45,
        ..learner(RowRules {
            expire_after: Period::from_ms(2 * HOUR_MS),
            item: waiting(2, 2),
            ..RowRules::default()
        })
    };
    let batches = slow(batches(5, 300));
    let mut trainer = across_a_restart(&model, &config, &batches);
    // Two runs evict alike.
    let mut again = Trainer::new(model, config).unwrap();
    let reports = learn(&mut again, &batches);
    let sum = |of: fn(&StepReport) -> usize| reports.iter().map(of).sum::<usize>();
    assert!(sum(|r| r.n_expired) > 0 && sum(|r| r.n_forgotten) > 0);
    assert_eq!(trainer.hash().unwrap(), again.hash().unwrap());
}

#[test]
fn expiry_may_be_turned_on_and_off_at_any_start() {
    let (model, learner) = configs();
    let batches = slow(batches(3, 200));
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut trainer = Trainer::new(model.clone(), learner.clone()).unwrap();
    for (part, expire_ms) in batches
        .chunks(batches.len() / 4 + 1)
        .zip([HOUR_MS, 0, HOUR_MS, 0])
    {
        learn(&mut trainer, part);
        let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
        trainer.save(&mut draft).unwrap();
        let id = store.write(&draft).unwrap();
        let config = LearnerConfig {
            rows: RowRules {
                expire_after: Period::from_ms(expire_ms),
                ..RowRules::default()
            },
            ..learner.clone()
        };
        let n_rows = trainer.n_rows();
        trainer = Trainer::load(&store.read(id).unwrap(), &model, config).unwrap();
        assert_eq!(trainer.n_rows(), n_rows, "what was there counts as seen now");
    }
}

#[test]
fn a_deleted_item_has_no_row_while_batches_list_it() {
    let (model, learner) = configs();
    let mut batches = batches(3, 120);
    let item = batches[6].samples[0].candidate.item;
    let names = |batch: &Batch| {
        let mut samples = batch.samples.iter();
        samples.any(|s| s.candidate.item == item || s.request.history.iter().any(|entry| entry.item == item))
    };
    for batch in &mut batches[4..8] {
        batch.deleted = vec![item];
    }
    let mut trainer = Trainer::new(model.clone(), learner.clone()).unwrap();
    learn(&mut trainer, &batches[..4]);
    assert!(has(&mut trainer, Key::item(item)));
    let before = trainer.weights().unwrap();
    let reports = learn(&mut trainer, &batches[4..8]);
    assert_eq!(
        reports.iter().map(|r| r.n_deleted).collect::<Vec<_>>(),
        [2, 0, 0, 0],
        "a row and a weight"
    );
    let after = trainer.weights().unwrap();
    assert_eq!(after.rows.find(Key::item(item)), None);
    assert_eq!(after.wide.find(Key::item(item).id), None);
    assert!(
        before.rows.find(Key::item(item)).is_some(),
        "a version made before has it still"
    );
    // A request for it still answers, by what a new item has.
    let request = &batches[6].samples[0];
    let inputs = Inputs::of_request(
        &model,
        &request.request,
        &[(*request.candidate).clone()],
        &batches[6].vectors,
    );
    let scores = Model::new(&after, Device::Cpu)
        .unwrap()
        .score(&inputs, &after)
        .unwrap();
    assert!(scores.iter().all(|score| score.is_finite()) && !scores.is_empty());
    learn(&mut trainer, &batches[8..]);
    assert!(
        batches[8..].iter().any(names) && has(&mut trainer, Key::item(item)),
        "shown again, it is new"
    );
    across_a_restart(&model, &learner, &batches[..12]);
}

#[test]
fn a_deleted_item_is_admitted_like_a_new_one() {
    let (model, _) = configs();
    let config = learner(RowRules {
        item: waiting(1000, 1),
        ..RowRules::default()
    });
    let mut trainer = Trainer::new(model, config).unwrap();
    let mut batches = batches(3, 16);
    learn(&mut trainer, &batches);
    let n_waiting = trainer.n_waiting();
    let last = batches.last_mut().unwrap();
    let seq = last.seq + 1;
    last.seq = seq;
    last.deleted = vec![last.samples[0].candidate.item];
    trainer.step(last).unwrap();
    assert_eq!(trainer.n_waiting(), n_waiting - 1);
}

#[test]
fn a_narrow_feature_learns_in_the_floats_it_has_and_beside_the_others() {
    let (model, learner) = configs();
    let model = ModelConfig {
        dims: Dims {
            item: 3,
            attribute: 5,
            ..Dims::default()
        },
        ..model
    };
    let trainer = across_a_restart(&model, &learner, &batches(3, 120));
    let tables: Vec<_> = trainer.tables().collect();
    assert_eq!(
        tables.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["rows", "item", "attribute", "wide"]
    );
    assert!(tables.iter().all(|(_, n_rows)| *n_rows > 0), "{tables:?}");
    let mut trainer = trainer;
    let weights = trainer.weights().unwrap();
    assert_eq!(Feature::ALL.map(|feature| weights.rows.width(feature)), [8, 3, 5]);
    let read = weights.rows.read_all(&[Key::item(Id(1))]);
    assert!(
        read[..3].iter().all(|value| *value != 0.0) && read[3..] == [0.0; 5],
        "{read:?}"
    );
}

#[test]
fn a_rate_of_one_feature_applies_to_its_rows_only() {
    let rows = |rules: RowRules| {
        let mut trainer = Trainer::new(configs().0, learner(rules)).unwrap();
        learn(&mut trainer, &batches(3, 400)[..1]);
        trainer.weights().unwrap().rows
    };
    let start = Trainer::new(configs().0, configs().1)
        .unwrap()
        .weights()
        .unwrap()
        .rows;
    let item = FeatureRules {
        rate: 0.1,
        ..FeatureRules::default()
    };
    let (plain, fast) = (
        rows(RowRules::default()),
        rows(RowRules {
            item,
            ..RowRules::default()
        }),
    );
    let sample = batches(3, 400)[0].samples[0].clone();
    let moved = |rows: &ouzel_learner::model::Rows, key| -> Vec<f32> {
        let (from, to) = (start.read_all(&[key]), rows.read_all(&[key]));
        to.iter().zip(from).map(|(to, from)| to - from).collect()
    };
    let (user, item) = (Key::user(sample.request.user), Key::item(sample.candidate.item));
    assert_eq!(moved(&plain, user), moved(&fast, user));
    for (plain, fast) in moved(&plain, item).iter().zip(moved(&fast, item)) {
        // Twice the rate of the others, .05.
        assert!(
            (2.0 * plain - fast).abs() < 1e-6 && *plain != 0.0,
            "{plain} {fast}"
        );
    }
}

#[test]
fn row_rules_out_of_range_are_refused_by_name() {
    let refused = |rows: RowRules| Trainer::new(configs().0, learner(rows)).unwrap_err().to_string();
    let user = RowRules {
        user: waiting_users(0),
        ..RowRules::default()
    };
    let least = "rows.user.min_samples must be from 1 to 65535, not 0";
    assert!(refused(user).contains(least));
    let item = RowRules {
        item: waiting(1, 8),
        ..RowRules::default()
    };
    assert!(refused(item).contains("rows.item.min_users must be from 1 to 7, not 8"));
    let soon = RowRules {
        expire_after: Period::from_ms(MINUTE_MS),
        ..RowRules::default()
    };
    assert!(refused(soon).contains("at least 1h"));
}
