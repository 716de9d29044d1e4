use proptest::prelude::*;

use super::*;
use crate::config::{Dims, ModelConfig};
use crate::fields::Feature;

const DIM: usize = 4;

/// An event between two versions.
#[derive(Clone, Debug)]
enum Event {
    /// A batch learns from these ids.
    Learn(Vec<u64>),
    /// These ids are removed.
    Forget(Vec<u64>),
    /// The tables are bounded to this many rows.
    Bound(usize),
    /// A version is made.
    Version,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let ids = || prop::collection::vec(0u64..30, 1..8);
    let event = prop_oneof![
        8 => ids().prop_map(Event::Learn),
        1 => ids().prop_map(Event::Forget),
        1 => (4usize..12).prop_map(Event::Bound),
        1 => Just(Event::Version),
    ];
    prop::collection::vec(event, 1..60)
}

/// Items have narrow rows in a table of their own.
fn rows() -> Rows {
    let config = ModelConfig {
        dim: DIM,
        dims: Dims {
            item: 2,
            ..Dims::default()
        },
        ..ModelConfig::default()
    };
    Rows::new(&config, 1, 0.5)
}

fn key(id: u64) -> Key {
    match id % 2 {
        0 => Key::user(Id(id)),
        _ => Key::item(Id(id)),
    }
}

fn unique(ids: &[u64]) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    for id in ids {
        if !keys.contains(&key(*id)) {
            keys.push(key(*id));
        }
    }
    keys
}

/// A step whose every product is exact: weights halve, the state grows by one.
fn step(rows: &mut Rows, keys: &[Key]) {
    for key in keys {
        let row = rows.insert(*key);
        let table = rows.table_mut(key.feature);
        let dim = table.dim();
        let row = table.row_mut(row);
        row[..dim].iter_mut().for_each(|weight| *weight *= 0.5);
        row[dim] += 1.0;
    }
}

fn step_cached(cache: &mut DeviceRows, rows: &mut Rows, keys: &[Key]) {
    let wanted: Vec<(Key, u32)> = keys.iter().map(|key| (*key, rows.insert(*key))).collect();
    let slots = cache.load(&wanted, rows).unwrap();
    cache
        .update(&slots, |values| {
            let dim = i64::try_from(DIM).unwrap();
            let weights = values.f_narrow(1, 0, dim)? * 0.5;
            let state = values.f_narrow(1, dim, 1)? + 1.0;
            Tensor::f_cat(&[weights, state], 1)
        })
        .unwrap();
}

proptest! {
    /// Whatever is read, updated and removed: the weights read and every version are those of tables without a cache, bit
    /// for bit, for any size of the cache.
    #[test]
    fn the_size_of_the_cache_changes_no_bit(events in events(), max in 1usize..40) {
        let (mut plain, mut cached) = (rows(), rows());
        let mut cache = DeviceRows::new(&cached, max, Device::Cpu).unwrap();
        let mut most = max;
        for event in events {
            match event {
                Event::Learn(ids) => {
                    let keys = unique(&ids);
                    let read = to_vec(&cache.read(&keys, &cached).unwrap()).unwrap();
                    prop_assert_eq!(read, plain.read_all(&keys));
                    step(&mut plain, &keys);
                    step_cached(&mut cache, &mut cached, &keys);
                    most = most.max(keys.len());
                    prop_assert!(cache.len() <= most, "{} of {}", cache.len(), most);
                }
                Event::Forget(ids) => {
                    let ids: Vec<Id> = ids.iter().map(|id| key(*id).id).collect();
                    cache.flush(&mut cached).unwrap();
                    for rows in [&mut plain, &mut cached] {
                        rows.tables_mut().for_each(|table| { table.forget(&ids); });
                    }
                    cache.forget(&cached);
                }
                Event::Bound(max) => {
                    cache.flush(&mut cached).unwrap();
                    for rows in [&mut plain, &mut cached] {
                        rows.tables_mut().for_each(|table| { table.bound(max); });
                    }
                    cache.forget(&cached);
                }
                Event::Version => {
                    cache.flush(&mut cached).unwrap();
                    prop_assert_eq!(plain.pages(), cached.pages());
                }
            }
        }
    }
}

#[test]
fn a_row_is_copied_to_the_device_once() {
    let mut rows = rows();
    let mut cache = DeviceRows::new(&rows, 100, Device::Cpu).unwrap();
    assert!(cache.is_empty());
    for _ in 0..5 {
        step_cached(&mut cache, &mut rows, &unique(&[1, 2, 3]));
    }
    assert_eq!(
        (cache.len(), cache.take_n_copied(), cache.take_n_copied()),
        (3, 3, 0)
    );
    // What it was before is in its table until a version is made.
    let at = rows.find(key(2)).unwrap();
    let state = |rows: &Rows| rows.table(Feature::User).row(at)[DIM];
    assert!((state(&rows) - 0.5).abs() < f32::EPSILON);
    cache.flush(&mut rows).unwrap();
    assert!((state(&rows) - 5.5).abs() < f32::EPSILON);
    // Nothing has moved since: a version made before keeps its pages to itself.
    let version = rows.clone();
    cache.flush(&mut rows).unwrap();
    assert!(std::sync::Arc::ptr_eq(
        &version.pages()[0].values[0],
        &rows.pages()[0].values[0]
    ));
}
