//! Tests of the reactions: what serves after a version was found bad.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use ouzel_learner::Trainer;
use ouzel_learner::gates::{Breach, IntervalVerdict, OnBreach};
use ouzel_learner::validation::Progressive;
use ouzel_sample::{EventTime, FeatureState};
use ouzel_serving::{CheckedRequest, NamedValues, Published, Ranker, Scorer, Version};
use ouzel_snapshot::SnapshotId;

use super::{Gates, Until};
use crate::config::Config;
use crate::pipeline::checkpoint::CheckpointWriter;
use crate::pipeline::control::{Control, LearningState};
use crate::pipeline::learner::{Learner, Outputs};
use crate::pipeline::promoted::UsedConfig;
use crate::pipeline::provenance::{fingerprint, provenance};
use crate::pipeline::publisher::Publisher;
use crate::pipeline::second::SecondPlace;
use crate::pipeline::status::PipelineStatus;
use crate::telemetry::clock::SystemClock;

fn snapshot() -> SnapshotId {
    SnapshotId::new(1)
}

/// A learner with a published version that served over an interval of good data.
fn learner(on_breach: OnBreach) -> (Learner, Arc<Published<Version>>, Config) {
    let mut config = Config::default();
    config.gates.on_breach = on_breach;
    let trainer = Trainer::new(config.model_config(), config.learner_config()).unwrap();
    let published = Arc::new(Published::new());
    let (saver, _) = sync_channel(1);
    let outputs = Outputs {
        control: Control::new(Some(snapshot())).learner,
        publisher: Publisher::new(Arc::clone(&published), Arc::new(SystemClock)),
        checkpoints: CheckpointWriter {
            saver,
            fingerprint: fingerprint(&config),
            provenance: provenance(&config, None, Vec::new()),
            config: config.recorded().into(),
            used: UsedConfig::of_file(&config),
            interval_start: None,
            clock: Arc::new(SystemClock),
        },
        candidates: Arc::default(),
        second: SecondPlace::new(Arc::new(config.clone())).0,
    };
    let status = Arc::new(PipelineStatus::default());
    let mut learner = Learner::new(trainer, Progressive::new(10, 1), None, status)
        .with_gates(Gates::new(&config).unwrap())
        .with_outputs(outputs);
    learner.publish().unwrap();
    learner.outputs.as_mut().unwrap().publisher.mark_good(true);
    (learner, published, config)
}

/// Serves a version whose scores are not finite, behind the back of the gates, and asks it once.
fn serve_nan(learner: &mut Learner, published: &Arc<Published<Version>>, config: &Config) {
    let mut weights = learner.trainer.weights().unwrap();
    weights.prior.fill(f32::NAN);
    let outputs = learner.outputs.as_mut().unwrap();
    outputs.publisher.publish_snapshot(snapshot(), weights).unwrap();
    let features = Arc::new(FeatureState::new(config.feature_config()));
    let mut scorer = Scorer::new(
        Arc::clone(published),
        Arc::new(move || Arc::clone(&features)),
        config.id_space(),
        Arc::new(|| EventTime(1)),
        config.learner_config().device().unwrap(),
        config.score_expression().unwrap(),
    );
    let request = CheckedRequest {
        user_id: "u".to_owned(),
        items: vec!["a".to_owned()],
        features: vec![NamedValues::default()],
        context: NamedValues::default(),
        top_k: None,
    };
    assert!(scorer.rank(&request).unwrap().is_fallback());
}

fn serves_good(published: &Published<Version>) -> bool {
    published.load().unwrap().value.weights().prior[0].is_finite()
}

fn until(learner: &Learner) -> Option<Until> {
    learner
        .gates
        .as_ref()
        .unwrap()
        .hold
        .as_ref()
        .map(|hold| hold.until)
}

#[test]
fn a_version_that_serves_nan_is_swapped_back_and_a_second_one_waits_for_an_operator() {
    let (mut learner, published, config) = learner(OnBreach::Hold);
    serve_nan(&mut learner, &published, &config);
    assert!(!serves_good(&published));
    learner.watch().unwrap();
    assert!(serves_good(&published));
    assert_eq!(until(&learner), Some(Until::NextGoodVersion));
    learner.publish().unwrap();
    assert_eq!(until(&learner), None, "the next version passes");

    serve_nan(&mut learner, &published, &config);
    learner.watch().unwrap();
    assert!(serves_good(&published));
    assert_eq!(until(&learner), Some(Until::Resumed), "within ten minutes");
    let number = published.version();
    learner.publish().unwrap();
    assert_eq!(
        (published.version(), until(&learner)),
        (number, Some(Until::Resumed))
    );
    assert!(learner.is_running(), "hold stops no learning");
    assert!(learner.refuse_snapshot().unwrap().is_some());
    learner.resume().unwrap();
    assert_eq!((published.version(), until(&learner)), (number + 1, None));
}

#[test]
fn a_bad_version_does_not_serve_and_stops_learning_until_resumed() {
    let (mut learner, published, _) = learner(OnBreach::Stop);
    let number = published.version();
    let good = learner.trainer.weights().unwrap();
    let mut bad = good.clone();
    bad.prior.fill(f32::NAN);
    // The trainer's own weights stay good: the gate sees what would be published.
    let measured = learner.gates.as_mut().unwrap().check(&bad).unwrap();
    learner.version_breach(&measured.breaches[0]);
    assert_eq!(published.version(), number);
    assert!(
        learner.is_running(),
        "a version between two references is only not served"
    );
    learner.stop_if_held();
    assert!(!learner.is_running());
    let control = learner.outputs.as_ref().unwrap().control.state().clone();
    assert!(matches!(control.learning(), LearningState::Stopped(why) if why.contains("finite")));
    learner.publish().unwrap();
    assert_eq!(published.version(), number);
    learner.resume().unwrap();
    assert!(learner.is_running());
    assert_eq!(published.version(), number + 1);
}

#[test]
fn a_daemon_that_only_warns_serves_on() {
    let (mut learner, published, config) = learner(OnBreach::Warn);
    serve_nan(&mut learner, &published, &config);
    learner.watch().unwrap();
    assert!(!serves_good(&published), "the fallback answers for it");
    assert_eq!(until(&learner), None);
    assert!(learner.refuse_snapshot().unwrap().is_none());
}

#[test]
fn a_model_that_is_worse_than_the_last_good_version_is_swapped_back_until_it_is_not() {
    let verdict = IntervalVerdict::GoBack(Breach {
        gate: "previous_version".to_owned(),
        detail: None,
        value: 0.3,
        limits: (None, Some(0.1)),
    });
    let (mut held, published, _) = learner(OnBreach::Hold);
    held.publish().unwrap();
    let number = published.version();
    held.judge_interval(&verdict);
    assert_eq!(published.version(), number + 1, "the last good version serves");
    assert_eq!(until(&held), Some(Until::NotWorse));
    held.publish().unwrap();
    assert_eq!(published.version(), number + 1, "no newer version does");
    assert!(held.is_running());
    held.judge_interval(&IntervalVerdict::NotWorse);
    assert_eq!(until(&held), None);
    held.publish().unwrap();
    assert_eq!(published.version(), number + 2);

    let (mut stopped, published, _) = learner(OnBreach::Stop);
    stopped.publish().unwrap();
    let number = published.version();
    stopped.judge_interval(&verdict);
    assert_eq!(published.version(), number + 1);
    assert_eq!(until(&stopped), Some(Until::Resumed));
    assert!(!stopped.is_running());

    let (mut warned, published, _) = learner(OnBreach::Warn);
    warned.publish().unwrap();
    let number = published.version();
    warned.judge_interval(&verdict);
    assert_eq!((published.version(), until(&warned)), (number, None));
}
