//! A join state is carried over to another configuration, and joins on.

use ouzel_sample::Sample;
use proptest::prelude::*;

use super::*;
use crate::join::store::JoinStore;
use crate::join::world::{EmittedSample, World, WorldEvent, apply, config, emitted, world};
use crate::join::{LabelPolicy, TaskConfig};

/// The joiner after the first half of a world.
fn half(world: &World) -> (Joiner<MemStore>, usize) {
    let partitions = world.partitions.iter().copied();
    let mut joiner = Joiner::new(world.config.clone(), partitions, MemStore::default()).unwrap();
    let middle = world.events.len() / 2;
    for (offset, event) in world.events[..middle].iter().enumerate() {
        apply(&mut joiner, offset, event, &mut Vec::new()).unwrap();
    }
    (joiner, middle)
}

/// Applies the second half to a joiner, checks every identity, and lets it finish. Returns the samples.
fn finish(mut joiner: Joiner<MemStore>, world: &World, middle: usize) -> Vec<EmittedSample> {
    let n_tasks = u8::try_from(joiner.config().n_tasks()).unwrap();
    let mut out: Vec<Vec<Sample>> = Vec::new();
    for (offset, event) in world.events.iter().enumerate().skip(middle) {
        let mut event = event.clone();
        match &mut event {
            WorldEvent::Acted { task, .. } if *task >= n_tasks => continue,
            WorldEvent::Shown { known_actions, .. } => {
                known_actions
                    .iter_mut()
                    .for_each(|known| known.retain(|(_, task)| *task < n_tasks));
            }
            _ => {}
        }
        apply(&mut joiner, offset, &event, &mut out).unwrap();
        joiner.counters().check().unwrap();
    }
    joiner.audit().unwrap();
    out.append(&mut joiner.finish().unwrap().groups);
    joiner.audit().unwrap();
    assert!(joiner.store().is_empty());
    out.iter().flatten().map(emitted).collect()
}

fn migrated(joiner: &Joiner<MemStore>, config: &JoinConfig) -> (Joiner<MemStore>, JoinMigration) {
    let (bytes, _, migration) = migrate_join(&joiner.export().unwrap(), config).unwrap();
    let joiner = Joiner::import(config.clone(), MemStore::default(), &bytes).unwrap();
    (joiner, migration)
}

/// The labels of the first task, without its siblings.
fn of_first(samples: Vec<EmittedSample>) -> Vec<(u64, i64, u64, u8, bool)> {
    let mut labels: Vec<_> = samples
        .into_iter()
        .filter_map(|sample| {
            let (_, label) = *sample.labels.iter().find(|(task, _)| *task == 0)?;
            Some((sample.request, sample.shown_at, sample.item, sample.kind, label))
        })
        .collect();
    labels.sort_unstable();
    labels
}

/// A world with one task and no cap that is reached.
fn of_one_task(mut world: World) -> World {
    world.config.tasks.truncate(1);
    world.config.dedup_window = None;
    (world.config.max_pending_items, world.config.max_early_actions) = (1_000, 1_000);
    world.config.max_closed_requests = 1_000;
    for event in &mut world.events {
        match event {
            WorldEvent::Acted { task, .. } => *task = 0,
            WorldEvent::Shown { known_actions, .. } => {
                known_actions
                    .iter_mut()
                    .for_each(|known| known.retain(|(_, task)| *task == 0));
            }
            _ => {}
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_configuration_keeps_every_byte(world in world(40)) {
        let (joiner, _) = half(&world);
        let bytes = joiner.export().unwrap();
        let (same, tasks, migration) = migrate_join(&bytes, &world.config).unwrap();
        prop_assert!(migration.is_identity() && tasks.is_identity());
        prop_assert_eq!(same, bytes);
        prop_assert_eq!((migration.closed_items, migration.lost_waiting), (0, 0));
    }

    #[test]
    fn any_other_configuration_loses_count_of_nothing((world, other) in (world(60), config())) {
        let (joiner, middle) = half(&world);
        let (joiner, migration) = migrated(&joiner, &other);
        prop_assert_eq!(migration.open_items, joiner.counters().pending_items);
        let (again, second) = migrated(&joiner, &other);
        prop_assert!(second.is_identity());
        prop_assert_eq!(again.export().unwrap(), joiner.export().unwrap());
        finish(joiner, &world, middle);
    }

    #[test]
    fn a_task_that_is_added_or_removed_leaves_the_labels_of_the_other(world in world(60)) {
        let world = of_one_task(world);
        let (joiner, middle) = half(&world);
        let mut two = world.config.clone();
        two.tasks.push(TaskConfig { name: "new".to_owned(), ..two.tasks[0].clone() });
        let (longer, migration) = migrated(&joiner, &two);
        prop_assert_eq!(&migration.tasks, &[("new".to_owned(), TaskOutcome::Added)]);
        let (back, migration) = migrated(&longer, &world.config);
        prop_assert_eq!(&migration.tasks, &[("new".to_owned(), TaskOutcome::Removed)]);
        let expected = of_first(finish(joiner, &world, middle));
        prop_assert_eq!(&of_first(finish(back, &world, middle)), &expected);
        prop_assert_eq!(&of_first(finish(longer, &world, middle)), &expected);
    }
}

/// A joiner of clicks within 100 ms that has shown item 1 of request 9 at 1,000.
fn open() -> (Joiner<MemStore>, World) {
    let config = JoinConfig {
        tasks: vec![TaskConfig::new("click", 100)],
        label_policy: LabelPolicy::Wait,
        ..JoinConfig::default()
    };
    let partitions = [false, true].map(|actions| crate::join::world::partition_of(actions, false));
    let shown = WorldEvent::Shown {
        partition: partitions[0],
        request: 9,
        ts: 1_000,
        items: vec![1],
        known_actions: None,
    };
    let world = World {
        config,
        partitions: partitions.to_vec(),
        events: vec![shown.clone(), shown],
        restarts: vec![false; 2],
    };
    (half(&world).0, world)
}

#[test]
fn an_open_window_closes_by_the_new_length() {
    for (window, is_positive) in [(50, false), (100, true), (500, true)] {
        let (joiner, world) = open();
        let config = JoinConfig {
            tasks: vec![TaskConfig::new("click", window)],
            ..world.config.clone()
        };
        let (mut joiner, migration) = migrated(&joiner, &config);
        assert_eq!(migration.open_items, 1);
        assert_eq!(migration.tasks.is_empty(), window == 100);
        let acted = WorldEvent::Acted {
            partition: world.partitions[1],
            request: Some(9),
            user: crate::join::world::user_of(9),
            item: 1,
            task: 0,
            ts: 1_080,
            value: None,
        };
        let mut out = Vec::new();
        apply(&mut joiner, 1, &acted, &mut out).unwrap();
        out.append(&mut joiner.finish().unwrap().groups);
        let samples: Vec<EmittedSample> = out.iter().flatten().map(emitted).collect();
        assert_eq!(samples.len(), 1, "one outcome");
        assert_eq!(samples[0].labels, [(0, is_positive)], "{window}");
    }
}

#[test]
fn another_policy_closes_what_is_open_without_a_second_sample() {
    let (joiner, world) = open();
    let config = JoinConfig {
        label_policy: LabelPolicy::Fnw,
        ..world.config.clone()
    };
    let (joiner, migration) = migrated(&joiner, &config);
    assert_eq!((migration.open_items, migration.closed_items), (0, 1));
    assert!(migration.closes_open && migration.former_policy.is_some());
    assert_eq!(joiner.counters().closed_early, 1);
    assert_eq!(joiner.counters().tasks[0].negative, 1);
    // Its items are remembered: the impression is a duplicate, not a new one.
    assert!(finish(joiner, &world, 1).is_empty());
    // The samples of the two policies that sample at once are the same.
    let fnc = JoinConfig {
        label_policy: LabelPolicy::Fnc,
        ..config.clone()
    };
    assert!(continues(StoredPolicy::from(&config), fnc.label_policy));
}

#[test]
fn bytes_of_another_version_are_told_from_damage() {
    let (joiner, world) = open();
    let mut bytes = joiner.export().unwrap();
    assert!(!is_of_another_version(&bytes));
    bytes[MAGIC.len() - 1] = b'3';
    assert!(is_of_another_version(&bytes));
    assert!(migrate_join(&bytes, &world.config).is_err());
    bytes[0] = b'x';
    assert!(!is_of_another_version(&bytes) && !is_of_another_version(b"ouzel"));
}
