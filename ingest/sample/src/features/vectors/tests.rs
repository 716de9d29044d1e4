use super::*;
use crate::features::testing::item;

fn item_with(vectors: &[(&str, &[f32])]) -> Item {
    let vectors = vectors.iter().map(|(name, v)| ((*name).to_owned(), v.to_vec()));
    Item {
        vectors: vectors.collect(),
        ..item(1)
    }
}

/// A table whose items have these text vectors, from item 1 on.
fn table(texts: &[&[f32]]) -> VectorTable {
    let table = VectorTable::default();
    for (item, values) in (1..).map(Id).zip(texts) {
        table.put(item, [Vector::provided(values), None]);
    }
    table
}

fn text(vectors: Option<&ItemVectors>) -> Option<Vec<f32>> {
    Some(vectors?[0].as_ref()?.values.to_vec())
}

#[test]
fn provided_vectors_have_length_one_and_useless_ones_are_left_out() {
    let vectors = provided_vectors(&item_with(&[("text", &[3.0, 4.0]), ("image", &[0.0, 0.0])]));
    assert_eq!(text(Some(&vectors)), Some(vec![0.6, 0.8]));
    assert_eq!(vectors[1], None);
    for useless in [
        ("text", [f32::MAX, f32::MAX].as_slice()),
        ("sound", [1.0].as_slice()),
    ] {
        assert_eq!(provided_vectors(&item_with(&[useless])), [None, None]);
    }
}

#[test]
fn an_id_keeps_its_vectors_when_the_item_gets_others() {
    let table = table(&[&[1.0, 0.0]]);
    let old = table.current(Id(1));
    table.put(Id(1), [Vector::provided(&[0.0, 1.0]), None]);
    table.put(Id(2), [Vector::provided(&[1.0, 0.0]), None]);
    table.put(Id(3), [None, None]);
    let vectors = table.read();
    assert_eq!(text(vectors.get(old)), Some(vec![1.0, 0.0]));
    assert_eq!(text(vectors.get(table.current(Id(1)))), Some(vec![0.0, 1.0]));
    assert_eq!(table.current(Id(2)), old, "equal content is stored once");
    assert_eq!(table.current(Id(3)), VectorId::NONE);
    assert!(vectors.get(VectorId::NONE).is_none());
}

#[test]
fn an_encoder_adds_what_the_event_did_not_provide() {
    let table = table(&[&[1.0]]);
    let encoded = |n: u8| Some(Vector::encoded(ContentHash([n; 32]), vec![f32::from(n)]));
    table.put(Id(1), [encoded(2), encoded(3)]);
    table.put(Id(1), [None, encoded(4)]);
    let guard = table.read();
    let vectors = guard.get(table.current(Id(1))).unwrap();
    assert_eq!(text(Some(vectors)), Some(vec![1.0]));
    assert_eq!(vectors[1], encoded(4));
}

#[test]
fn a_restored_table_forgets_unused_vectors_like_the_running_one() {
    let table = table(&[&[1.0, 1.0], &[2.0, 1.0], &[3.0, 1.0], &[4.0, 1.0]]);
    table.put(Id(1), [Vector::provided(&[9.0, 1.0]), None]);
    let before = table.n_bytes();
    table.retain(|item| item != Id(2));
    assert!(table.n_bytes() < before);
    assert_eq!(table.current(Id(2)), VectorId::NONE);
    let loaded = VectorTable::load(table.dump());
    assert_eq!(loaded.n_bytes(), table.n_bytes());
    for table in [&table, &loaded] {
        table.put(Id(5), [Vector::provided(&[2.0, 1.0]), None]);
        assert_eq!(text(table.read().get(table.current(Id(5)))).unwrap().len(), 2);
    }
    assert_eq!(loaded.current(Id(5)), table.current(Id(5)));
}

#[test]
fn a_restored_table_lacks_encoded_vectors_until_they_are_filled_in() {
    let table = VectorTable::default();
    let hash = ContentHash([7; 32]);
    let encoded = || Some(Vector::encoded(hash, vec![0.5]));
    table.put(Id(1), [Vector::provided(&[2.0]), encoded()]);
    table.put(Id(2), [None, encoded()]);
    let bytes = postcard::to_stdvec(&table.dump()).unwrap();
    let loaded = VectorTable::load(postcard::from_bytes(&bytes).unwrap());
    assert_eq!(loaded.missing(), [(1, hash)].into());
    loaded.fill(|_, content| (content == hash).then(|| vec![0.5].into()));
    assert!(loaded.missing().is_empty());
    for item in [Id(1), Id(2)] {
        let id = table.current(item);
        assert_eq!(loaded.current(item), id);
        assert_eq!(loaded.read().get(id), table.read().get(id));
    }
    for table in [&table, &loaded] {
        table.put(Id(3), [None, encoded()]);
    }
    assert_eq!(
        loaded.current(Id(3)),
        table.current(Id(3)),
        "new ids are the same"
    );
}

/// The means that the current vectors have, computed anew.
fn recomputed(table: &VectorTable) -> VectorMeans {
    means_of(&table.read().0, &table.current)
}

#[test]
fn means_are_those_of_the_current_vectors_whatever_came_before() {
    let table = table(&[&[1.0, 1.0], &[2.0, 1.0], &[3.0, 1.0], &[1.0, 2.0, 3.0]]);
    let mean = |table: &VectorTable, width| table.means().mean(0, width);
    assert_eq!(*table.means(), recomputed(&table));
    table.put(Id(1), [Vector::provided(&[9.0, 1.0]), None]);
    table.put(Id(1), [Vector::provided(&[9.0, 1.0]), Vector::provided(&[1.0])]);
    assert_eq!(*table.means(), recomputed(&table));
    table.forget(Id(2));
    table.forget(Id(2));
    table.retain(|item| item != Id(3));
    assert_eq!(*table.means(), recomputed(&table));
    let expected = Vector::provided(&[9.0, 1.0]).unwrap().values;
    for (mean, expected) in mean(&table, 2).unwrap().iter().zip(expected.iter()) {
        assert!((mean - expected).abs() < 1e-7, "{mean} {expected}");
    }
    table.retain(|item| item == Id(1));
    assert_eq!(mean(&table, 3), None);
}

#[test]
fn a_restored_table_has_the_same_means_once_encoded_vectors_are_filled_in() {
    let table = table(&[&[1.0, 1.0], &[2.0, 1.0]]);
    let hash = ContentHash([7; 32]);
    table.put(Id(3), [Some(Vector::encoded(hash, vec![0.6, 0.8])), None]);
    let loaded = VectorTable::load(table.dump());
    assert_ne!(*loaded.means(), *table.means());
    loaded.fill(|_, _| Some(vec![0.6, 0.8].into()));
    assert_eq!(*loaded.means(), *table.means());
    // A vector that is lost counts neither before nor after the item gets another.
    let lost = VectorTable::load(table.dump());
    for table in [&lost, &table] {
        table.put(Id(3), [Vector::provided(&[0.0, 1.0]), None]);
    }
    assert_eq!(*lost.means(), *table.means());
}
