//! Properties of the feature state on random logs.

use proptest::prelude::*;

use super::oracle::{LogEvent, Oracle, assert_agree};
use super::testing::{item, read};
use crate::{
    Action, Attribute, AttributeField, EventTime, FeatureChange, FeatureConfig, FeatureQuery, FeatureState,
    Id, Impression, Item, Number, ProfileUpdate, ShownFeatures, ShownItem,
};

const N_ITEMS: u64 = 12;
const MINUTE: i64 = 60_000;

fn catalog_item(id: u64, variant: u64) -> Item {
    let attribute = |field, value| Attribute {
        field,
        value: Id(crate::id::mix(value)),
    };
    let mut attributes = vec![attribute(AttributeField::Category, 100 + id % 3)];
    if !variant.is_multiple_of(3) {
        attributes.push(attribute(AttributeField::Category, 104 + variant % 2));
        attributes.push(attribute(AttributeField::Tag, 300 + id % 2));
    }
    if !id.is_multiple_of(4) {
        attributes.push(attribute(AttributeField::Author, 200 + id % 5));
    }
    let mut vectors = vec![];
    if !variant.is_multiple_of(5) {
        let value = |at: u64| (crate::id::mix(variant ^ at) % 1000) as f32 / 500.0 - 0.7;
        vectors.push(("text".to_owned(), (0..11).map(value).collect()));
    }
    let words = ["alpha", "beta", "of", "gamma", "Delta", "epsilon", "zeta"];
    let (first, n_words) = (
        usize::try_from(variant % 97).unwrap(),
        usize::try_from(variant % 6).unwrap(),
    );
    let title: Vec<&str> = words
        .into_iter()
        .cycle()
        .skip(first)
        .step_by(3)
        .take(n_words)
        .collect();
    // A number of few values, one of many, and one that most items lack.
    let number = |name, value: u64| Number {
        name: Id(name),
        value: (value % 1_000) as f32 / 8.0 - 20.0,
    };
    let mut numbers = vec![number(900, variant % 5), number(901, variant)];
    if variant.is_multiple_of(7) {
        numbers.push(number(902, variant));
    }
    numbers.truncate(usize::try_from(variant % 4).unwrap());
    Item {
        attributes,
        numbers,
        texts: vec![title.join(" ")],
        vectors,
        ..item(id)
    }
}

/// An item as request `number` shows it, in some requests with features of its own.
fn shown(id: u64, number: u64) -> ShownItem {
    let mut shown = ShownItem::new(Id(id), None);
    if number.is_multiple_of(2) {
        shown.features = ShownFeatures {
            values: vec![Id(700 + id % 3)],
            numbers: (900..900 + (id + number) % 4)
                .map(|name| of_request(name, number))
                .collect(),
        };
    }
    shown
}

fn context_numbers(number: u64) -> Vec<Number> {
    (903..903 + number % 3)
        .map(|name| of_request(name, number))
        .collect()
}

/// A version of a user's profile: whole, partial or deleted. Some of its numbers are those of requests, too.
fn profile(user: u64, variant: u64, now: i64) -> ProfileUpdate {
    let is_deletion = variant.is_multiple_of(7);
    let features = (903..907)
        .filter(|name| !(variant >> (name - 903)).is_multiple_of(3))
        .map(|name| {
            let change = match name {
                903..905 => FeatureChange::Number(of_request(name, variant).value),
                // Without a value, the feature is removed.
                _ => FeatureChange::Values((0..variant % 3).map(|n| Id(name * 10 + n)).collect()),
            };
            (Id(name), change)
        });
    ProfileUpdate {
        user: Id(user),
        // One in five is older than others may be.
        ts: EventTime(if variant.is_multiple_of(5) {
            now - 20 * MINUTE
        } else {
            now
        }),
        clears_features: is_deletion || variant.is_multiple_of(2),
        features: features.filter(|_| !is_deletion).collect(),
        is_deletion,
    }
}

fn of_request(name: u64, number: u64) -> Number {
    Number {
        name: Id(name),
        value: (crate::id::mix(name ^ number) % 200) as f32,
    }
}

/// A step of a random log: minutes since the step before, and what happens.
#[derive(Clone, Debug)]
enum Step {
    Item(u64, u64),
    Profile(u64, u64),
    Seed(u64, Vec<u64>),
    Shown {
        user: u64,
        first: u64,
        size: u64,
        wait: i64,
    },
    /// An action on an item shown `back` items ago.
    Acted {
        back: usize,
        wait: i64,
        task: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let wait = || prop_oneof![4 => 0..3 * MINUTE, 1 => 25 * MINUTE..40 * MINUTE];
    prop_oneof![
        2 => (0..N_ITEMS, any::<u64>()).prop_map(|(id, variant)| Step::Item(id, variant)),
        2 => (0..4u64, any::<u64>()).prop_map(|(user, variant)| Step::Profile(user, variant)),
        1 => (0..3u64, prop::collection::vec(0..N_ITEMS, 1..5)).prop_map(|(user, ids)| Step::Seed(user, ids)),
        6 => (0..3u64, 0..N_ITEMS, 1..9u64, wait())
            .prop_map(|(user, first, size, wait)| Step::Shown { user, first, size, wait }),
        5 => (0..30usize, wait(), 0..5u8).prop_map(|(back, wait, task)| Step::Acted { back, wait, task: task / 4 }),
    ]
}

/// The log of some steps: times do not fall, and no item is acted on twice.
fn log(steps: Vec<Step>) -> Vec<LogEvent> {
    let mut now = 0;
    let mut open: Vec<(Id, Id, Id)> = Vec::new();
    let mut events = Vec::new();
    for (number, step) in (1000..).zip(steps) {
        match step {
            Step::Item(id, variant) => events.push(LogEvent::Item(catalog_item(id, variant))),
            Step::Profile(user, variant) => events.push(LogEvent::Profile(profile(user, variant, now))),
            Step::Seed(user, ids) => {
                events.push(LogEvent::Seed(Id(user), ids.into_iter().map(Id).collect()));
            }
            Step::Shown {
                user,
                first,
                size,
                wait,
            } => {
                now += wait;
                let items: Vec<ShownItem> = (first..first + size)
                    .map(|id| shown(id % N_ITEMS, number))
                    .collect();
                open.extend(items.iter().map(|shown| (Id(number), Id(user), shown.item)));
                events.push(LogEvent::Shown(Impression {
                    request: Id(number),
                    user: Id(user),
                    ts: EventTime(now),
                    items,
                    context: vec![],
                    numbers: context_numbers(number),
                    known_actions: None,
                }));
            }
            Step::Acted { back, wait, task } => {
                let Some(at) = open.len().checked_sub(back + 1) else {
                    continue;
                };
                now += wait;
                let (request, user, item) = open.remove(at);
                let ts = EventTime(now);
                events.push(LogEvent::Acted(Action {
                    request: Some(request),
                    item,
                    user,
                    ts,
                    task,
                    value: None,
                }));
            }
        }
    }
    events
}

fn end(events: &[LogEvent]) -> EventTime {
    let ts = events.iter().rev().find_map(|event| match event {
        LogEvent::Shown(slate) => Some(slate.ts),
        LogEvent::Acted(action) => Some(action.ts),
        _ => None,
    });
    ts.unwrap_or(EventTime(0)).plus_ms(MINUTE)
}

/// The slates that are compared: users known and unknown, items known and unknown, several sizes.
const QUERIES: [(u64, &[u64]); 4] = [
    (0, &[0, 1, 2, 3, 4, 5]),
    (1, &[11, 10, 7]),
    (2, &[5, 99]),
    (9, &[6]),
];

fn shown_items(items: &[u64], number: u64) -> Vec<ShownItem> {
    items.iter().map(|id| shown(*id, number)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn features_are_those_of_the_plain_formulas(steps in prop::collection::vec(step(), 0..60)) {
        let events = log(steps);
        let state = FeatureState::new(FeatureConfig::default());
        let mut oracle = Oracle::default();
        for event in &events {
            oracle.write(event, &state);
        }
        let now = end(&events);
        for (user, items) in QUERIES {
            let (numbers, shown) = (context_numbers(user), shown_items(items, user));
            let (request, candidates) = state.read(&FeatureQuery {
                request: Id(9),
                user: Id(user),
                ts: now,
                context: &[Id(77)],
                numbers: &numbers,
                items: &shown,
                slate_size: None,
            });
            prop_assert_eq!(request.context, oracle.context(Id(user), &[Id(77)], &numbers));
            for (candidate, shown) in candidates.iter().zip(&shown) {
                let expected = oracle.features(Id(user), candidate.item, now, items.len());
                assert_agree(&expected, &candidate.dense);
                prop_assert_eq!(&candidate.attributes, &oracle.values(shown));
            }
        }
    }

    #[test]
    fn a_restored_state_reads_and_dumps_the_same_after_more_events(
        steps in prop::collection::vec(step(), 0..60),
        cut in 0..60usize,
    ) {
        let events = log(steps);
        let config = FeatureConfig { value_capacity: 3, word_capacity: 4, ..FeatureConfig::default() };
        let straight = FeatureState::new(config.clone());
        let mut restored = FeatureState::new(config.clone());
        let (mut oracle, mut again) = (Oracle::default(), Oracle::default());
        for (at, event) in events.iter().enumerate() {
            if at == cut {
                restored = FeatureState::load(&restored.dump(), config.clone()).unwrap();
            }
            oracle.write(event, &straight);
            again.write(event, &restored);
        }
        prop_assert_eq!(straight.dump(), restored.dump());
        for (user, items) in QUERIES {
            let now = end(&events).0;
            prop_assert_eq!(read(&straight, user, items, now), read(&restored, user, items, now));
        }
    }

    #[test]
    fn captured_features_contain_nothing_of_later_events(
        before in prop::collection::vec(step(), 1..40),
        first in prop::collection::vec(step(), 0..20),
        second in prop::collection::vec(step(), 0..20),
    ) {
        let captured = [first, second].map(|after| {
            let state = FeatureState::new(FeatureConfig::default());
            let mut oracle = Oracle::default();
            let mut captured = Vec::new();
            for event in &log([before.clone(), after].concat()) {
                if let LogEvent::Shown(slate) = event {
                    captured.push(state.read(&FeatureQuery::of(slate)));
                }
                oracle.write(event, &state);
            }
            captured
        });
        let n_before = before.iter().filter(|step| matches!(step, Step::Shown { .. })).count();
        prop_assert_eq!(&captured[0][..n_before], &captured[1][..n_before]);
    }
}
