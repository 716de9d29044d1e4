//! Tests of the scorer.

use ouzel_model::ModelConfig;
use ouzel_sample::{
    Action, Attribute, AttributeField, FeatureChange, FeatureConfig, Impression, Item, ProfileUpdate,
};

use super::*;
use crate::RankRequest;

const NOW: EventTime = EventTime(1_000_000);

pub(super) fn weights(prior: f32) -> Weights {
    let config = ModelConfig {
        tasks: vec!["click".into(), "order".into()],
        ..ModelConfig::default()
    };
    let mut weights = Weights::new(config, 0, 0.0, 0);
    weights.prior = vec![prior, prior - 1.0];
    weights
}

pub(super) fn publish(published: &Published<Version>, snapshot: &str, weights: Weights) -> u64 {
    published.publish(Arc::new(Version::new(snapshot, weights).unwrap()))
}

pub(super) fn scorer(published: &Arc<Published<Version>>) -> Scorer {
    scorer_by("", published)
}

fn scorer_by(score: &str, published: &Arc<Published<Version>>) -> Scorer {
    let features = FeatureState::new(FeatureConfig::default());
    let ids = IdSpace::new(7);
    let shown = ShownItem::new(ids.id(IdKind::Item, "b"), Some(0));
    features.add_impression(&Impression {
        request: Id(1),
        user: ids.id(IdKind::User, "u"),
        ts: EventTime(10),
        items: vec![shown],
        context: Vec::new(),
        numbers: Vec::new(),
        known_actions: None,
    });
    scorer_over(Arc::new(features), score, published)
}

fn scorer_over(features: Arc<FeatureState>, score: &str, published: &Arc<Published<Version>>) -> Scorer {
    let tasks = ["click".to_owned(), "order".to_owned()];
    Scorer::new(
        Arc::clone(published),
        Arc::new(move || Arc::clone(&features)),
        IdSpace::new(7),
        Arc::new(|| NOW),
        Device::Cpu,
        ScoreExpression::parse(score, &tasks).unwrap(),
    )
}

pub(super) fn request(items: &[&str]) -> CheckedRequest {
    CheckedRequest {
        user_id: "u".to_owned(),
        items: items.iter().map(|&item| item.to_owned()).collect(),
        features: vec![NamedValues::default(); items.len()],
        context: NamedValues {
            categories: vec![("tab".to_owned(), "home".to_owned())],
            numbers: vec![("hour".to_owned(), 7.0)],
        },
        top_k: None,
    }
}

#[test]
fn the_fallback_ranks_by_popularity_before_the_first_version() {
    let mut scorer = scorer(&Arc::new(Published::new()));
    scorer.refresh();
    // Item b was shown and not clicked.
    let request = request(&["b", "a"]);
    let ranked = scorer.rank(&request).unwrap().checked(2).unwrap();
    assert!(ranked.is_fallback());
    let response = crate::RankResponse::new(&request, &ranked, None);
    let found: Vec<_> = response
        .items
        .iter()
        .map(|item| (&*item.item_id, item.tasks.len()))
        .collect();
    assert_eq!(found, [("a", 1), ("b", 1)]);
    let json = serde_json::to_value(&response).unwrap();
    assert_eq!(
        (&json["model"], json.get("snapshot")),
        (&"fallback".into(), None),
        "{json}"
    );
}

#[test]
fn a_score_is_the_probability_of_the_models_forward_pass() {
    let published = Arc::new(Published::new());
    publish(&published, "s1", weights(-2.0));
    let mut scorer = scorer(&published);
    let request = request(&["a", "b", "c"]);
    let ranked = scorer.rank(&request).unwrap().checked(3).unwrap();
    assert_eq!((ranked.version, &*ranked.snapshot), (1, "s1"));

    let weights = published.load().unwrap().value;
    let weights = weights.weights();
    let logits = Model::new(weights, Device::Cpu)
        .unwrap()
        .score(&scorer.inputs(&request, weights), weights)
        .unwrap();
    let expected: Vec<u32> = logits.into_iter().map(|logit| sigmoid(logit).to_bits()).collect();
    let found: Vec<u32> = ranked.probabilities.iter().map(|p| p.to_bits()).collect();
    assert_eq!(found, expected);
    let primary: Vec<u32> = ranked.scores.iter().map(|p| p.to_bits()).collect();
    assert_eq!(primary, [expected[0], expected[2], expected[4]]);
    assert!(
        ranked.scores[0] < 0.3 && ranked.scores[0] > 0.05,
        "near the prior: {ranked:?}"
    );
}

#[test]
fn the_long_past_is_searched_as_in_training() {
    let (ids, user) = (IdSpace::new(7), IdSpace::new(7).id(IdKind::User, "u"));
    let features = Arc::new(FeatureState::new(FeatureConfig {
        history_len: 1,
        long_len: 3,
        ..FeatureConfig::default()
    }));
    for (name, category) in [("a", 1), ("b", 2), ("c", 1)] {
        assert!(features.put_item(Item {
            id: ids.id(IdKind::Item, name),
            name: name.to_owned(),
            ts: EventTime(0),
            attributes: vec![Attribute {
                field: AttributeField::Category,
                value: Id(category),
            }],
            tag_names: vec![],
            numbers: vec![],
            texts: vec![],
            has_title: false,
            image: None,
            vectors: vec![],
        }));
        for n in 0..4 {
            let action = Action {
                request: None,
                item: ids.id(IdKind::Item, name),
                user,
                ts: EventTime(NOW.0 - 100_000 * n),
                task: 0,
                value: None,
            };
            features.add_action(&action, &[], None);
        }
    }
    let mut model = weights(-2.0);
    model.config.long_history.enabled = true;
    let published = Arc::new(Published::new());
    publish(&published, "s1", Weights::new(model.config, 0, 0.0, 0));
    let mut scorer = scorer_over(Arc::clone(&features), "", &published);
    let weights = published.load().unwrap().value;
    let served = scorer.inputs(&request(&["a", "b", "c"]), weights.weights());
    let items = ["a", "b", "c"].map(|name| ShownItem::new(ids.id(IdKind::Item, name), None));
    let (shown, candidates) = features.read(&FeatureQuery {
        request: Id::default(),
        user,
        ts: NOW,
        context: &[ids.attribute("tab", "home")],
        numbers: &[],
        items: &items,
        slate_size: None,
    });
    // What happens at the time of the request is not before it.
    let lens: Vec<usize> = shown.past.iter().map(Vec::len).collect();
    assert_eq!((lens, shown.history.len()), (vec![3, 3], 1));
    let config = &weights.weights().config;
    let trained = Inputs::of_request(config, &shown, &candidates, &Default::default());
    let [served, trained] = [served, trained].map(|inputs| inputs.long.unwrap());
    assert_eq!(served.list_of, [1, 2, 1]);
    assert_eq!(served.list_of, trained.list_of);
    assert_eq!(served.lists.ages, trained.lists.ages);
    assert_eq!(served.lists.valid, trained.lists.valid);
    let ranked = scorer.rank(&request(&["a", "b", "c"])).unwrap();
    assert!(ranked.checked(3).is_ok());
}

#[test]
fn numbers_and_features_of_candidates_are_read_as_in_training() {
    let published = Arc::new(Published::new());
    publish(&published, "s1", weights(-2.0));
    let scorer = scorer(&published);
    let ids = scorer.ids;
    let number = |scope, name: &str, value: f32| Number {
        name: ids.number(scope, name),
        value,
    };
    let described = |score: f32| ShownItem {
        features: ShownFeatures {
            values: vec![ids.attribute("label", "exact")],
            numbers: vec![number(NumberScope::Item, "score", score)],
        },
        ..ShownItem::new(ids.id(IdKind::Item, "b"), None)
    };
    for n in 0..40u8 {
        (scorer.features)().add_impression(&Impression {
            request: Id(2 + u64::from(n)),
            user: Id(1),
            ts: EventTime(20),
            items: vec![described(f32::from(n))],
            context: vec![],
            numbers: vec![number(NumberScope::Context, "hour", f32::from(n % 24))],
            known_actions: None,
        });
    }
    let country = ids.profile_attribute("country", "FR");
    let profile = vec![
        (Id(60), FeatureChange::Values(vec![country])),
        // The request has its own.
        (
            ids.number(NumberScope::Context, "hour"),
            FeatureChange::Number(23.0),
        ),
    ];
    assert!((scorer.features)().update_profile(ProfileUpdate {
        user: ids.id(IdKind::User, "u"),
        features: profile,
        ..ProfileUpdate::default()
    }));
    let text = r#"{"user_id": "u", "items": ["a", {"item_id": "b", "features": {"label": "exact", "score": 30.5}}],
                   "context": {"hour": 7, "tab": "home"}}"#;
    let request: RankRequest = serde_json::from_str(text).unwrap();
    let request = request.check(3).unwrap();
    let items = [ShownItem::new(ids.id(IdKind::Item, "a"), None), described(30.5)];
    let weights = published.load().unwrap().value;
    let weights = weights.weights();
    let (read, candidates) = weights.norm.read_candidates(
        &(scorer.features)(),
        &FeatureQuery {
            request: Id::default(),
            user: ids.id(IdKind::User, "u"),
            ts: NOW,
            context: &[ids.attribute("tab", "home")],
            numbers: &[number(NumberScope::Context, "hour", 7.0)],
            items: &items,
            slate_size: None,
        },
        None,
    );
    // Two buckets of the hour beside the tab and the user's country; the missing bucket of item a; label and two buckets of item b.
    assert!(read.context.len() == 4 && read.context[1] == country);
    assert_eq!(
        read.context[2..],
        (scorer.features)().context(Id(1), &[], &[number(NumberScope::Context, "hour", 7.0)])
    );
    assert_eq!(candidates[0].attributes.len(), 1);
    assert_eq!(candidates[1].attributes.len(), 3);
    let expected = Inputs::of_request(&weights.config, &read, &candidates, &Default::default());
    let found = scorer.inputs(&request, weights);
    assert_eq!((&found.rows, &found.wide), (&expected.rows, &expected.wide));
    let bits = |inputs: &Inputs| inputs.dense.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    assert_eq!(bits(&found), bits(&expected));
}

#[test]
fn one_score_of_several_tasks_orders_the_items() {
    let published = Arc::new(Published::new());
    let mut weights = weights(-2.0);
    for array in weights.dense.values_mut() {
        let moved = array.values.iter().zip((0u8..251).cycle());
        let moved = moved.map(|(weight, at)| weight + f32::from(at % 7) * 0.01 - 0.03);
        array.values = moved.collect();
    }
    publish(&published, "s1", weights);
    let request = request(&["a", "b", "c"]);
    let ranked = scorer_by("order - 2 * click", &published).rank(&request).unwrap();
    let ranked = ranked.checked(3).unwrap();
    for (score, tasks) in ranked.scores.iter().zip(ranked.probabilities.chunks_exact(2)) {
        assert!((score - (tasks[1] - 2.0 * tasks[0])).abs() < 1e-6, "{ranked:?}");
    }
    let response = crate::RankResponse::new(&request, &ranked, None);
    let clicks: Vec<f32> = response.items.iter().map(|item| item.tasks["click"]).collect();
    assert!(clicks.is_sorted() && clicks[0] < clicks[2], "{clicks:?}");
}

#[test]
fn a_score_that_is_not_finite_ranks_last_and_is_counted() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    let published = Arc::new(Published::new());
    publish(&published, "s1", weights(-2.0));
    let recorder = DebuggingRecorder::new();
    let request = request(&["a", "b"]);
    let ranked = metrics::with_local_recorder(&recorder, || {
        scorer_by("log(click - click)", &published).rank(&request)
    });
    let ranked = ranked.unwrap().checked(2).unwrap();
    assert_eq!(ranked.scores, [LEAST_SCORE; 2]);
    let json = serde_json::to_string(&crate::RankResponse::new(&request, &ranked, None)).unwrap();
    let read: crate::RankResponse = serde_json::from_str(&json).unwrap();
    assert_eq!(read.items[1].score.to_bits(), LEAST_SCORE.to_bits(), "{json}");
    let counted = recorder.snapshotter().snapshot().into_vec();
    let value = counted
        .iter()
        .find(|(key, ..)| key.key().name() == SCORES_NOT_FINITE_TOTAL);
    assert_eq!(value.unwrap().3, DebugValue::Counter(2));
}

#[test]
fn a_version_of_other_tasks_than_the_expression_is_not_served() {
    let published = Arc::new(Published::new());
    let config = ModelConfig {
        tasks: vec!["order".into(), "click".into()],
        ..ModelConfig::default()
    };
    publish(&published, "s1", Weights::new(config, 0, 0.0, 0));
    let mut scorer = scorer(&published);
    let error = scorer.score(&request(&["a"])).unwrap_err();
    assert!(
        error.to_string().contains("has the tasks order, click"),
        "{error}"
    );
    assert!(scorer.rank(&request(&["a"])).unwrap().is_fallback());
}

#[test]
fn a_worker_loads_the_newest_version_and_drops_the_old_one() {
    let published = Arc::new(Published::new());
    publish(&published, "s1", weights(-2.0));
    let mut scorer = scorer(&published);
    let before = scorer.rank(&request(&["a"])).unwrap();
    assert_eq!(publish(&published, "s2", weights(2.0)), 2);
    assert_eq!(published.sweep(), 2, "the idle worker still holds the first");
    scorer.refresh();
    assert_eq!(published.sweep(), 1);
    let after = scorer.rank(&request(&["a"])).unwrap();
    assert_eq!((after.version, &*after.snapshot), (2, "s2"));
    assert!(after.scores[0] > before.scores[0] + 0.5);
    let served = published.served().unwrap();
    assert_eq!(
        (served.version, &*served.snapshot, served.tasks.len()),
        (2, "s2", 2)
    );
}

#[test]
fn of_more_candidates_than_are_shown_each_is_scored_without_regard_to_the_others() {
    let published = Arc::new(Published::new());
    let mut weights = weights(-2.0);
    // The output starts at 0; other weights make the score depend on the features.
    for array in weights.dense.values_mut() {
        let moved = array.values.iter().zip((0u8..251).cycle());
        let moved = moved.map(|(weight, at)| weight + f32::from(at % 7) * 0.01 - 0.03);
        array.values = moved.collect();
    }
    weights.norm.n_samples = 100;
    publish(&published, "s1", weights);
    let mut scorer = scorer(&published);
    let mut score = |items: &[&str], top_k: Option<usize>| {
        let request = CheckedRequest {
            top_k,
            ..request(items)
        };
        scorer.rank(&request).unwrap().scores
    };
    let alone = score(&["b", "c"], Some(1));
    let among = score(&["b", "c", "d", "e"], Some(1));
    assert_eq!(alone, among[..2]);
    let shown = score(&["b", "c", "d", "e"], Some(4));
    assert_ne!(among, shown, "all four are one slate, which the model compares");
    // The only slate so far had one item: a request for four does not show them all.
    assert_eq!(among, score(&["b", "c", "d", "e"], None));
}

#[test]
fn weights_that_do_not_fit_are_refused_before_they_are_published() {
    let mut broken = weights(0.0);
    broken.dense.remove("out.bias");
    assert!(Version::new("s", broken).is_err());
}

#[test]
fn weights_that_are_not_finite_never_reach_a_reply() {
    let published = Arc::new(Published::new());
    publish(&published, "s1", weights(f32::NAN));
    let ranked = scorer(&published).rank(&request(&["a", "b"])).unwrap();
    assert!(ranked.checked(2).unwrap().is_fallback());
    assert_eq!(published.load().unwrap().value.n_not_finite(), 2);
}

#[test]
fn a_row_that_is_not_finite_costs_its_candidate_and_not_the_request() {
    let published = Arc::new(Published::new());
    let mut weights = weights(-2.0);
    let item = ouzel_model::Key::item(IdSpace::new(7).id(IdKind::Item, "b"));
    let row = weights.rows.insert(item);
    weights.rows.table_mut(item.feature).row_mut(row).fill(f32::NAN);
    publish(&published, "s1", weights);
    let request = request(&["b", "a", "c"]);
    let ranked = scorer(&published).rank(&request).unwrap().checked(3).unwrap();
    assert_eq!((ranked.version, &ranked.fallback), (1, &[0].into()));
    let response = crate::RankResponse::new(&request, &ranked, None);
    let found: Vec<_> = response
        .items
        .iter()
        .map(|item| (&*item.item_id, item.model.is_some()))
        .collect();
    assert!(!found[0].1 && !found[1].1, "{found:?}");
    assert_eq!(found[2], ("b", true));
    assert_eq!(published.load().unwrap().value.n_not_finite(), 1);
}
