//! Numbers of items, shown items and requests are learned, though every item is new.

use ouzel_learner::Trainer;
use ouzel_learner::model::{ModelConfig, uniform};
use ouzel_learner::validation::ScoreLog;
use ouzel_sample::{
    Batch, Batcher, EventTime, FeatureConfig, FeatureState, Id, Impression, Item, Number, ShownItem,
};

use crate::world::{configs, show, unpredicted};

/// The place of the number that decides.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Item,
    Shown,
    Request,
    Nowhere,
}

/// A price of one of two ranges: the cheap ones are clicked half of the time.
fn price(key: u64) -> (f32, bool) {
    let is_cheap = uniform(31, key, 0) < 0.5;
    let within = uniform(31, key, 1);
    (
        if is_cheap {
            1.0 + 8.0 * within
        } else {
            50.0 + 49.0 * within
        },
        is_cheap,
    )
}

/// 600 slates of six new items.
fn log(place: Place) -> Vec<Batch> {
    let features = FeatureState::new(FeatureConfig::default());
    let mut batcher = Batcher::new(64);
    let number = |key: u64| Number {
        name: Id(77),
        value: price(key).0,
    };
    let key = move |request: u64, lane: u64| match place {
        Place::Request => request,
        _ => request * 6 + lane,
    };
    let slates = (0..600u64).filter_map(|request| {
        let items = (0..6).map(|lane| {
            let mut shown = ShownItem::new(Id(1_000 + request * 6 + lane), None);
            let numbers = vec![number(key(request, lane))];
            match place {
                Place::Item => assert!(features.put_item(Item {
                    id: shown.item,
                    name: String::new(),
                    ts: EventTime(0),
                    attributes: vec![],
                    tag_names: vec![],
                    numbers,
                    texts: vec![],
                    has_title: false,
                    image: None,
                    vectors: vec![],
                })),
                Place::Shown => shown.features.numbers = numbers,
                Place::Request | Place::Nowhere => {}
            }
            shown
        });
        let of_request = (place == Place::Request).then(|| number(key(request, 0)));
        let slate = Impression {
            request: Id(100 + request),
            user: Id(request % 15),
            ts: EventTime(i64::try_from(request).unwrap() * 10_000 + 1),
            items: items.collect(),
            context: vec![],
            numbers: of_request.into_iter().collect(),
            known_actions: None,
        };
        let is_clicked = |lane: u64, _| {
            let (_, is_cheap) = price(key(request, lane));
            uniform(32, request * 6 + lane, 2) < if is_cheap { 0.5 } else { 0.02 }
        };
        batcher.push(show(&features, &slate, is_clicked))
    });
    slates.collect()
}

#[test]
fn a_number_that_decides_is_learned_wherever_it_stands() {
    for place in [Place::Item, Place::Shown, Place::Request, Place::Nowhere] {
        let batches = log(place);
        unpredicted(&batches);
        let (_, learner) = configs();
        let mut trainer = Trainer::new(ModelConfig::default(), learner).unwrap();
        let mut log = ScoreLog::default();
        for (at, batch) in batches.iter().enumerate() {
            let report = trainer.step(batch).unwrap();
            if at >= batches.len() / 2 {
                log.add(batch, &report.logits);
            }
        }
        let auc = log.figures(EventTime::MIN).auc.unwrap();
        println!("{place:?}: {auc}");
        match place {
            Place::Nowhere => assert!(auc < 0.6, "{auc}"),
            _ => assert!(auc > 0.78, "{place:?}: {auc}"),
        }
    }
}
