use proptest::prelude::*;

use super::*;
use crate::decode::events::{EARLIEST_MS, LATEST_MS};

/// JSON of any shape, with field names of the event format among the keys.
fn any_json() -> impl Strategy<Value = Value> {
    let names = prop_oneof![
        prop::sample::select(vec![
            "request_id",
            "user_id",
            "item_id",
            "ts_ms",
            "items",
            "context",
            "features",
            "vectors",
            "text",
            "category",
            "position",
            "value",
            "action",
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((names.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn any_stream() -> impl Strategy<Value = (Stream, Value)> {
    prop::sample::select(vec![
        (Stream::Impressions, impression()),
        (Stream::Actions, action()),
        (Stream::Items, item()),
        (Stream::Users, user()),
    ])
}

/// Checks what holds for every decoded event.
fn check_event(event: &Event) {
    assert!((EARLIEST_MS..LATEST_MS).contains(&event.ts().0));
    match event {
        Event::Impression(impression) => {
            assert!(!impression.items.is_empty() && impression.items.len() <= 1000);
            assert!(impression.context.is_sorted_by(|a, b| a < b));
        }
        Event::Action(action) => {
            assert!(action.task < 2);
            assert!(action.value.is_none_or(f32::is_finite));
        }
        Event::Item(item) => {
            assert!(!item.name.is_empty());
            assert!(item.attributes.is_sorted_by(|a, b| a < b));
            assert_eq!(item.tag_names.len(), item.values(AttributeField::Tag).count());
            assert!(
                item.vectors
                    .iter()
                    .flat_map(|(_, vector)| vector)
                    .all(|value| value.is_finite())
            );
        }
        Event::ItemUpdate(update) => assert!(!update.name.is_empty()),
        Event::Profile(update) => assert!(!update.is_deletion || update.features.is_empty()),
        // Join records are covered by the tests of the tier, actions of several items by those of mappings.
        Event::Actions(_) | Event::Deletion(_) | Event::JoinRecord(_) => {}
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for stream in Stream::EVENTS {
            if let Ok(event) = decoder().decode(&record(stream, bytes.clone())).event {
                check_event(&event);
            }
        }
    }

    #[test]
    fn no_json_makes_the_decoder_panic(value in any_json()) {
        for stream in Stream::EVENTS {
            if let Ok(event) = decode(stream, &value) {
                check_event(&event);
            }
        }
    }

    #[test]
    fn an_event_with_one_field_replaced_is_an_event_or_is_rejected_for_that_field(
        (stream, event) in any_stream(),
        place in any::<prop::sample::Index>(),
        value in any_json(),
    ) {
        let fields: Vec<String> = event.as_object().unwrap().keys().cloned().collect();
        let field = place.get(&fields);
        match decode(stream, &with(event, field, value)) {
            Ok(event) => check_event(&event),
            // These reasons name what they count or found; all others name the field.
            Err(reject) => prop_assert!(
                matches!(
                    reject.reason,
                    RejectReason::TooMany | RejectReason::UnknownAction | RejectReason::MalformedJson
                ) || reject.detail.contains(field.as_str()),
                "{field}: {reject:?}"
            ),
        }
    }

    #[test]
    fn the_mapping_makes_the_event_of_the_contract(
        (stream, event) in any_stream(),
        place in any::<prop::sample::Index>(),
        value in any_json(),
    ) {
        let fields: Vec<String> = event.as_object().unwrap().keys().cloned().collect();
        let field: &String = place.get(&fields);
        let record = record(stream, with(event, field, value).to_string().into_bytes());
        let payload = record.payload.as_deref().unwrap();
        let decoder = decoder();
        if let Some(parsed) = decoder.contract(stream, payload, record.timestamp_ms) {
            let sorted = |parsed: Result<(Event, Vec<String>), Reject>| parsed.map(|(event, mut unread)| {
                unread.sort();
                (event, unread)
            });
            prop_assert_eq!(sorted(decoder.through_mapping(&record, payload)), sorted(parsed));
        }
    }

    #[test]
    fn an_event_with_damaged_bytes_does_not_panic(
        (stream, event) in any_stream(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = event.to_string().into_bytes();
        for (place, byte) in damage {
            let i = place.index(bytes.len());
            bytes[i] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Ok(event) = decoder().decode(&record(stream, bytes)).event {
            check_event(&event);
        }
    }
}
