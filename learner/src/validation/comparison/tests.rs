//! Tests of the comparison: coverage of the interval, items that are left out, state.

use ouzel_sample::{Id, Request, SampleKind};

use super::*;
use crate::testing::{again, batch, sample};

/// Runs of which 95 % of the intervals must cover the truth.
const N_RUNS: u64 = 400;

/// Uniform numbers in `[0, 1)`, a stream for each seed.
struct Uniform(u64);

impl Uniform {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = Id(self.0).pair(Id(1)).0 >> 11;
        #[allow(clippy::cast_precision_loss, reason = "53 bits")]
        let mixed = mixed as f64;
        mixed / 9_007_199_254_740_992.0
    }

    /// About normal, by the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

fn share(text: &str) -> UserShare {
    text.parse().unwrap()
}

fn shown(user: u64, request: u64, item: u64, kind: SampleKind, y: bool) -> Sample {
    let mut sample = sample(request, item, kind, y);
    sample.request = Arc::new(Request {
        user: Id(user),
        ts: EventTime(10),
        ..Request::clone(&sample.request)
    });
    sample
}

#[allow(clippy::cast_possible_truncation, reason = "logits")]
fn f32_of(z: f64) -> f32 {
    z as f32
}

/// A run of items whose true log-odds are known; each model adds an error of its own to them, a part of it by user. The
/// candidate's error is `scale` times as large.
fn simulated(seed: u64, scale: f64) -> [Difference; 3] {
    let mut random = Uniform(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let mut comparison = Comparison::new(share("100%"), EventTime(0), 1);
    for user in 0..300u64 {
        let n_items = 40.0 * random.next().powi(3);
        let (taste, bias, other_bias) = (random.normal(), 0.4 * random.normal(), 0.4 * random.normal());
        let (mut samples, mut serving, mut candidate) = (Vec::new(), Vec::new(), Vec::new());
        for item in (0..41u32).take_while(|item| f64::from(*item) <= n_items) {
            let truth = -1.5 + 0.7 * taste + 0.5 * random.normal();
            let y = random.next() < 1.0 / (1.0 + (-truth).exp());
            let user = Id(user).pair(Id(seed)).0;
            // Several requests of a user, as they are told from its items.
            let request = Id(user).pair(Id((item / 5).into())).0;
            samples.push(shown(user, request, item.into(), SampleKind::Final, y));
            serving.push(f32_of(truth + bias + 0.3 * random.normal()));
            candidate.push(f32_of(truth + scale * (other_bias + 0.3 * random.normal())));
        }
        let compared = comparison.select(&batch(samples), &serving).unwrap();
        assert_eq!(comparison.add(compared, candidate), 0);
    }
    let task = comparison.tasks()[0];
    let (serving, candidate) = (task.serving, task.candidate);
    let (auc, gauc) = (task.auc_difference.unwrap(), task.gauc_difference.unwrap());
    for (difference, candidate, serving) in [
        (auc, candidate.auc, serving.auc),
        (gauc, candidate.gauc, serving.gauc),
    ] {
        assert!((difference.mean - (candidate.unwrap() - serving.unwrap())).abs() < 1e-9);
    }
    [task.difference.unwrap(), auc, gauc]
}

#[test]
fn the_intervals_of_equal_models_cover_0_in_95_percent_of_runs() {
    let mut n_covered = [0; 3];
    for seed in 0..N_RUNS {
        for (n, Difference { low, high, .. }) in n_covered.iter_mut().zip(simulated(seed, 1.0)) {
            *n += u64::from(low <= 0.0 && 0.0 <= high);
        }
    }
    for (figure, n) in ["log-loss", "AUC", "GAUC"].iter().zip(n_covered) {
        assert!(
            (N_RUNS * 93 / 100..=N_RUNS * 97 / 100).contains(&n),
            "{figure}: {n} of {N_RUNS}"
        );
    }
}

/// Of 20 runs, those whose interval is above 0, and those whose interval is below, for log-loss, AUC and GAUC.
fn found(scale: f64) -> [(u64, u64); 3] {
    let mut n_found = [(0, 0); 3];
    for seed in 0..20 {
        for ((above, below), Difference { low, high, .. }) in n_found.iter_mut().zip(simulated(seed, scale)) {
            *above += u64::from(low > 0.0);
            *below += u64::from(high < 0.0);
        }
    }
    n_found
}

#[test]
fn a_known_difference_is_found() {
    // The order within a request tells least: most of the errors are of a whole user.
    let [loss, auc, gauc] = found(0.2);
    assert_eq!(loss, (0, 20));
    assert!(auc.0 >= 12 && auc.1 == 0 && gauc.0 > gauc.1, "{auc:?} {gauc:?}");
    let [loss, auc, gauc] = found(2.0);
    assert_eq!(loss, (20, 0));
    assert!(
        auc.1 >= 12 && auc.0 == 0 && gauc.1 >= 4 && gauc.0 <= 1,
        "{auc:?} {gauc:?}"
    );
}

#[test]
fn both_models_count_the_same_items_of_the_share_after_the_start() {
    let half = share("50%");
    let inside = (0..).find(|user| half.contains(Id(*user))).unwrap();
    let outside = (0..).find(|user| !half.contains(Id(*user))).unwrap();
    let mut comparison = Comparison::new(half, EventTime(5), 1);
    let item = |user, item, y| shown(user, user, item, SampleKind::Final, y);
    let mut early = item(inside, 9, true);
    early.request = Arc::new(Request {
        ts: EventTime(5),
        ..Request::clone(&early.request)
    });
    let samples = vec![
        item(inside, 0, true),
        item(outside, 0, true),
        item(inside, 1, false),
        early,
        item(inside, 2, false),
        item(inside, 3, false),
    ];
    // The prediction of the impression takes precedence over the logit.
    samples[0].candidate.predicted.set(&[2.0]);
    let compared = comparison.select(&batch(samples.clone()), &[0.0, 0.0, -2.0, 0.0, f32::NAN, 1.0]);
    let compared = compared.unwrap();
    assert_eq!(compared.batch().samples.len(), 4);
    assert_eq!(comparison.add(compared, vec![-1.0, 1.0, 0.5, f32::INFINITY]), 1);
    assert_eq!(comparison.n_not_finite(), 2);
    assert_eq!(samples[0].candidate.predicted.get(0), Some(2.0));
    let task = comparison.tasks()[0];
    assert_eq!((task.serving.judged, task.candidate.judged), (2, 2));
    assert_eq!((task.serving.positives, task.candidate.positives), (1, 1));
    assert_eq!((task.serving.auc, task.candidate.auc), (Some(1.0), Some(0.0)));
    assert!(task.serving.log_loss < task.candidate.log_loss);
    assert!(
        comparison
            .select(&batch(vec![item(outside, 4, true)]), &[0.0])
            .is_none()
    );
}

#[test]
fn a_late_positive_revises_the_difference_and_a_restored_comparison_goes_on() {
    let mut whole = Comparison::new(share("100%"), EventTime(0), 1);
    let mut revised = whole.clone();
    let add = |comparison: &mut Comparison, samples: Vec<Sample>| {
        let n = samples.len();
        let compared = comparison.select(&batch(samples), &vec![0.5; n]).unwrap();
        comparison.add(compared, vec![-0.25; n]);
    };
    for user in 0..40 {
        let presumed = shown(user, user, 1, SampleKind::EarlyNegative, false);
        let late = again(&presumed, SampleKind::LatePositive, true, true);
        add(&mut revised, vec![presumed]);
        if user == 20 {
            let restored = Comparison::restore(&revised.dump(), 1).unwrap();
            assert_eq!(restored.dump(), revised.dump());
            revised = restored;
        }
        add(&mut revised, vec![late]);
        add(&mut whole, vec![shown(user, user, 1, SampleKind::Final, true)]);
    }
    let (whole, revised) = (whole.tasks()[0], revised.tasks()[0]);
    let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
    let (a, b) = (whole.difference.unwrap(), revised.difference.unwrap());
    assert!(
        close(a.mean, b.mean) && close(a.low, b.low) && close(a.high, b.high),
        "{a:?} {b:?}"
    );
    assert_eq!(whole.serving.positives, revised.serving.positives);
    assert!(close(
        whole.candidate.log_loss.unwrap(),
        revised.candidate.log_loss.unwrap()
    ));
    assert!(Comparison::restore(b"{}", 1).is_err());
}
