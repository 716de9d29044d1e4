//! Tests of request shapes and replies.

use serde_json::json;

use super::*;

fn request(items: &[&str]) -> RankRequest {
    RankRequest {
        user_id: "u".to_owned(),
        items: items.iter().map(|&item| item.to_owned().into()).collect(),
        ..RankRequest::default()
    }
}

fn context(value: Value) -> Option<Map<String, Value>> {
    value.as_object().cloned()
}

#[test]
fn each_violation_names_its_field() {
    let long = "x".repeat(MAX_ID_BYTES + 1);
    let wide: Map<String, Value> = (0..=MAX_CONTEXT).map(|i| (i.to_string(), json!(i))).collect();
    let cases = [
        (
            RankRequest {
                user_id: String::new(),
                ..request(&["a"])
            },
            "user_id is empty",
        ),
        (
            RankRequest {
                user_id: long.clone(),
                ..request(&["a"])
            },
            "user_id has 513 bytes",
        ),
        (
            RankRequest {
                request_id: Some(String::new()),
                ..request(&["a"])
            },
            "request_id is empty",
        ),
        (request(&[]), "nothing to rank"),
        (
            request(&["a", "b", "c", "d"]),
            "items has 4 entries, the limit is serving.max_candidates = 3",
        ),
        (request(&["a", ""]), "items[1] is empty"),
        (request(&["a", &long]), "items[1] has 513 bytes"),
        (request(&["a", "b", "a"]), "items[2] repeats \"a\""),
        (
            RankRequest {
                top_k: Some(0),
                ..request(&["a"])
            },
            "top_k is 0",
        ),
        (
            RankRequest {
                context: context(json!({"x": [[1]]})),
                ..request(&["a"])
            },
            "context.x must be",
        ),
        (
            RankRequest {
                context: context(json!({"x": {"y": 1}})),
                ..request(&["a"])
            },
            "context.x must be",
        ),
        (
            RankRequest {
                context: Some(wide),
                ..request(&["a"])
            },
            "context has 513 values",
        ),
        (
            RankRequest {
                context: context(json!({"x": 1e39})),
                ..request(&["a"])
            },
            "context.x does not fit",
        ),
        (
            RankRequest {
                items: vec![RankItem::Described(DescribedItem {
                    item_id: "a".to_owned(),
                    features: context(json!({"x": {}})),
                })],
                ..request(&[])
            },
            "items[0].features.x must be",
        ),
    ];
    for (request, expected) in cases {
        let error = request.check(3).expect_err(expected).to_string();
        assert!(
            error.contains(expected),
            "{error:?} does not contain {expected:?}"
        );
    }
}

#[test]
fn values_become_sorted_text_without_duplicates_and_numbers() {
    let values = json!({
        "tab": ["home", "new", "home"], "shelf_id": 7.0, "app": true, "a": null, "b": "", "c": [],
        "sizes": [0.5, 1e21], "user_id": u64::MAX, "below": -3, "hour": 7.5,
    });
    let described: RankItem = serde_json::from_value(json!({"item_id": "b", "features": values})).unwrap();
    let request = RankRequest {
        context: context(values),
        items: vec!["a".to_owned().into(), described],
        ..request(&[])
    };
    let request = request.check(3).unwrap();
    let text = request.context.categories.iter();
    let text: Vec<_> = text.map(|(name, value)| format!("{name}={value}")).collect();
    let expected = [
        "app=true",
        "shelf_id=7",
        "sizes=0.5",
        "sizes=1000000000000000000000",
        "tab=home",
        "tab=new",
        "user_id=18446744073709551615",
    ];
    assert_eq!(text, expected);
    let numbers = vec![("below".to_owned(), -3.0), ("hour".to_owned(), 7.5)];
    assert_eq!(request.context.numbers, numbers);
    assert_eq!(
        request.features,
        [NamedValues::default(), request.context.clone()]
    );
}

#[test]
fn items_come_best_first_and_ties_in_the_order_of_the_request() {
    let checked = |top_k| {
        RankRequest {
            top_k,
            ..request(&["a", "b", "c", "d"])
        }
        .check(9)
        .unwrap()
    };
    let ranked = Ranked {
        version: 7,
        snapshot: "s".into(),
        tasks: Arc::from([Arc::from("click"), Arc::from("order")]),
        scores: vec![0.1, 0.9, 0.1, 0.5],
        probabilities: vec![0.10, 0.01, 0.90, 0.09, 0.11, 0.02, 0.50, 0.05],
        ..Ranked::default()
    };
    let ids = |top_k| -> Vec<String> {
        let response = RankResponse::new(&checked(top_k), &ranked, None);
        response.items.into_iter().map(|item| item.item_id).collect()
    };
    assert_eq!(ids(None), ["b", "d", "a", "c"]);
    assert_eq!(ids(Some(2)), ["b", "d"]);
    assert_eq!(ids(Some(99)), ["b", "d", "a", "c"]);
    let response = RankResponse::new(&checked(None), &ranked, Some("r".to_owned()));
    let (last, order) = (&response.items[3], ranked.probabilities[5]);
    assert_eq!(last.item_id, "c");
    assert!((last.tasks["order"] - order).abs() < f32::EPSILON);
}

#[test]
fn candidates_of_the_fallback_come_last_the_most_popular_first_and_are_named() {
    let checked = request(&["a", "b", "c", "d"]).check(9).unwrap();
    let ranked = Ranked {
        version: 7,
        snapshot: "s".into(),
        tasks: Arc::from([Arc::from("click"), Arc::from("order")]),
        scores: vec![f32::MIN, 0.1, f32::MIN, 0.2],
        probabilities: vec![0.3, f32::NAN, 0.1, 0.1, 0.4, f32::NAN, 0.2, 0.1],
        fallback: [0, 2].into(),
        ..Ranked::default()
    };
    let response = RankResponse::new(&checked, &ranked.checked(4).unwrap(), None);
    let items: Vec<_> = response
        .items
        .iter()
        .map(|item| (&*item.item_id, item.model))
        .collect();
    let by = Some(ScoredBy::Fallback);
    assert_eq!(items, [("d", None), ("b", None), ("c", by), ("a", by)]);
    assert_eq!((response.model, response.items[2].tasks.len()), (None, 1));
    let json = serde_json::to_string(&response).unwrap();
    assert!(json.contains(r#""item_id":"c","model":"fallback""#), "{json}");
}
