//! Tests of the stream `users`.

use ouzel_sample::{Id, ProfileUpdate};

use super::*;

fn update(payload: &Value) -> ProfileUpdate {
    match decode(Stream::Users, payload) {
        Ok(Event::Profile(update)) => *update,
        other => panic!("{other:?}"),
    }
}

/// The change of each name.
fn changes(update: &ProfileUpdate) -> Vec<(Id, FeatureChange)> {
    let mut features = update.features.clone();
    features.sort_by_key(|(name, _)| *name);
    features
}

#[test]
fn a_profile_has_categories_of_its_own_and_numbers_of_its_requests() {
    let ids = IdSpace::new(7);
    let decoded = update(&user());
    assert_eq!(decoded.user, ids.id(IdKind::User, "u1"));
    assert_eq!(decoded.ts, EventTime(TS));
    assert!(decoded.clears_features && !decoded.is_deletion);
    let values = |name: &str, values: &[&str]| {
        let mut hashed: Vec<Id> = values
            .iter()
            .map(|value| ids.profile_attribute(name, value))
            .collect();
        hashed.sort_unstable();
        (
            ids.number(NumberScope::Context, name),
            FeatureChange::Values(hashed),
        )
    };
    let mut expected = vec![
        values("country", &["FR"]),
        values("plans", &["a", "b"]),
        // Numbers of this name count nothing.
        values("city_id", &["7"]),
        values("none", &[]),
        (
            ids.number(NumberScope::Context, "age"),
            FeatureChange::Number(30.0),
        ),
    ];
    expected.sort_by_key(|(name, _)| *name);
    assert_eq!(changes(&decoded), expected);
    // No name of a request's context makes the same value.
    let shown = decode(
        Stream::Impressions,
        &with(
            impression(),
            "context",
            json!({"country": "FR", "user.country": "FR"}),
        ),
    );
    let Ok(Event::Impression(shown)) = shown else {
        panic!()
    };
    let of_user = ids.profile_attribute("country", "FR");
    assert!(shown.context.len() == 2 && !shown.context.contains(&of_user));
}

#[test]
fn fields_beside_the_features_are_features_too() {
    let flat = json!({
        "user_id": "u1", "ts_ms": TS, "country": "FR", "plans": ["a", "b"], "features": {"age": 30, "city_id": 7},
        "none": null,
    });
    let nested = with(
        user(),
        "features",
        json!({"country": "FR", "plans": ["a", "b"], "age": 30, "city_id": 7}),
    );
    assert_eq!(changes(&update(&flat)), changes(&update(&nested)));
    let (_, unread) = decoder()
        .parse(&record(
            Stream::Users,
            with(flat, "address", json!({"street": "x"})).to_string(),
        ))
        .unwrap();
    assert_eq!(unread, ["address"]);
}

#[test]
fn a_partial_event_keeps_what_it_does_not_name_and_a_deletion_names_nothing() {
    let partial = with(user(), "partial", json!(true));
    assert!(!update(&partial).clears_features);
    let cleared = with(partial.clone(), "features", Value::Null);
    assert!(update(&cleared).clears_features && update(&cleared).features.is_empty());
    let deletion = update(&with(partial, "deleted", json!(true)));
    assert!(deletion.is_deletion && deletion.clears_features && deletion.features.is_empty());
}

#[test]
fn a_null_value_deletes_the_profile_of_its_key() {
    let tombstone = Record {
        payload: None,
        metadata: Some(Box::new(RecordMetadata {
            key: Some(b"u1".to_vec()),
            headers: Vec::new(),
        })),
        ..record(Stream::Users, "")
    };
    let Ok(Event::Profile(deletion)) = decoder().decode(&tombstone).event else {
        panic!()
    };
    assert_eq!(deletion.user, IdSpace::new(7).id(IdKind::User, "u1"));
    assert!(deletion.is_deletion && deletion.ts == EventTime(TS));
}
