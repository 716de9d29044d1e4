//! Tests of the search in the long past through [`FeatureState`].

use super::testing::{item, read};
use crate::{Action, Attribute, AttributeField, EventTime, FeatureConfig, FeatureState, Id, Item};

fn config() -> FeatureConfig {
    FeatureConfig {
        history_len: 2,
        history_capacity: 2,
        long_capacity: 30,
        long_len: 3,
        ..FeatureConfig::default()
    }
}

/// Items 0 to 8 in three categories, item 9 in none.
fn state(config: FeatureConfig) -> FeatureState {
    let state = FeatureState::new(config);
    for id in 0..10 {
        let category = Attribute {
            field: AttributeField::Category,
            value: Id(100 + id % 3),
        };
        state.put_item(Item {
            attributes: if id == 9 { vec![] } else { vec![category] },
            ..item(id)
        });
    }
    for ts in 0..40u64 {
        let action = Action {
            request: None,
            item: Id(ts % 10),
            user: Id(1),
            ts: EventTime(i64::try_from(ts).unwrap()),
            task: 0,
            value: None,
        };
        state.add_action(&action, &[], None);
    }
    state
}

#[test]
fn candidates_of_one_key_share_a_list_strictly_before_the_request() {
    let state = state(config());
    let (request, candidates) = read(&state, 1, &[0, 3, 1, 9], 36);
    let places: Vec<Option<u16>> = candidates.iter().map(|candidate| candidate.past).collect();
    assert_eq!(places, [Some(0), Some(0), Some(1), None]);
    let lists: Vec<Vec<i64>> = request
        .past
        .iter()
        .map(|list| list.iter().map(|entry| entry.ts.0).collect())
        .collect();
    // Items 0, 3 and 6 are of the category of items 0 and 3; 1, 4 and 7 of that of item 1. The history holds less.
    assert_eq!(lists, [[26, 30, 33], [27, 31, 34]]);
    assert!(request.past.iter().flatten().all(|entry| entry.ts < request.ts));
    assert_eq!(request.past[0][0].attribute, Id(100));
    assert_eq!(state.n_unlisted_actions(), 4);
    // Another user has no past.
    let (request, candidates) = read(&state, 2, &[0], 36);
    assert!(request.past.is_empty() && candidates[0].past.is_none());
}

#[test]
fn a_loaded_state_finds_the_same_and_a_migration_without_a_long_past_drops_it() {
    let state = state(config());
    let loaded = FeatureState::load(&state.dump(), config()).unwrap();
    assert_eq!(loaded.dump(), state.dump());
    assert_eq!(read(&loaded, 1, &[0, 1, 2], 50), read(&state, 1, &[0, 1, 2], 50));
    let off = FeatureConfig {
        long_len: 0,
        ..config()
    };
    let tasks = ["click".to_owned()];
    let same = crate::TaskMap::new(&tasks, &tasks);
    let (migrated, _) = FeatureState::migrate(&state.dump(), off.clone(), &same).unwrap();
    let (request, candidates) = read(&migrated, 1, &[0, 1, 2], 50);
    assert!(request.past.is_empty() && candidates.iter().all(|candidate| candidate.past.is_none()));
    assert_eq!(self::state(off).n_unlisted_actions(), 0);
}

#[test]
fn seeded_actions_are_found_whether_their_item_was_known_or_comes_later() {
    let state = FeatureState::new(config());
    let put = |id: u64| {
        let category = Attribute {
            field: AttributeField::Category,
            value: Id(100),
        };
        state.put_item(Item {
            attributes: vec![category],
            ..item(id)
        });
    };
    put(1);
    state.seed_history(Id(1), &[Id(1), Id(2)], EventTime(-5));
    let found = |state: &FeatureState| -> Vec<u64> {
        let (request, _) = read(state, 1, &[1], 0);
        request.past.iter().flatten().map(|entry| entry.item.0).collect()
    };
    assert_eq!(found(&state), [1]);
    put(2);
    assert_eq!(found(&state), [1, 2]);
}
