//! Snapshots exported as Parquet, read back by the row reader and by pyarrow.

use std::path::Path;
use std::process::Command;

use parquet::file::reader::{FileReader, SerializedFileReader};

use super::draft;
use crate::{Array, Arrays, Element, Snapshot, Store};

/// Prints the types and rows of a file in the form that `rows` returns.
const READ: &str = r#"
import sys
import pyarrow.parquet
table = pyarrow.parquet.read_table(sys.argv[1])
for row in table.to_pylist():
    print("{" + ", ".join(f"{name}: {value!r}".replace("'", '"') for name, value in row.items()) + "}")
"#;

fn insert<T: Element>(arrays: &mut Arrays, name: &str, shape: &[usize], values: Vec<T>) {
    arrays.insert(name, Array::new(shape, values).unwrap()).unwrap();
}

/// A snapshot with two tables, one with a free row, and arrays of three types.
fn exported(dir: &Path) -> Snapshot {
    let store = Store::open(&dir.join("state")).unwrap();
    let mut draft = draft(None, 3);
    let mut rows = Arrays::new();
    insert(&mut rows, "ids", &[3], vec![u64::MAX, 7, 8]);
    insert(
        &mut rows,
        "values",
        &[3, 3],
        vec![0.5f32, 1.0, 2.0, 9.0, 9.0, 9.0, 1.5, 0.25, 4.0],
    );
    insert(&mut rows, "free", &[1], vec![1u32]);
    insert(&mut rows, "seen", &[3], vec![5u32, 6, u32::MAX]);
    insert(&mut rows, "user.ids", &[1], vec![1u64]);
    insert(&mut rows, "user.values", &[1, 1], vec![0.125f32]);
    draft.add_arrays("table.safetensors", rows).unwrap();
    let mut waiting = Arrays::new();
    insert(&mut waiting, "ids", &[2], vec![4u64, 5]);
    insert(&mut waiting, "users", &[2, 2], vec![1u16, 2, 3, u16::MAX]);
    draft.add_arrays("waiting.safetensors", waiting).unwrap();
    let mut dense = Arrays::new();
    insert(&mut dense, "head.weight", &[2, 2], vec![1.0f32, 2.0, 3.0, 4.0]);
    insert(&mut dense, "none", &[0, 3], Vec::<f32>::new());
    insert(&mut dense, "negative", &[1], vec![-7i16]);
    dense.insert("one", Array::scalar(0.1f64)).unwrap();
    draft.add_arrays("dense.safetensors", dense).unwrap();
    store.read(store.write(&draft).unwrap()).unwrap()
}

fn rows(path: &Path) -> Vec<String> {
    let file = std::fs::File::open(path).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    rows.map(|row| row.unwrap().to_string()).collect()
}

/// The files with their rows.
const EXPECTED: &[(&str, &[&str])] = &[
    (
        "table",
        &[
            "{id: 18446744073709551615, weights: [0.5, 1.0], accumulator: 2.0, seen: 5}",
            "{id: 8, weights: [1.5, 0.25], accumulator: 4.0, seen: 4294967295}",
        ],
    ),
    ("table.user", &["{id: 1, weights: [], accumulator: 0.125}"]),
    (
        "waiting",
        &["{id: 4, users: [1, 2]}", "{id: 5, users: [3, 65535]}"],
    ),
    (
        "dense.f32",
        &[
            "{name: \"head.weight\", shape: [2, 2], values: [1.0, 2.0, 3.0, 4.0]}",
            "{name: \"none\", shape: [0, 3], values: []}",
        ],
    ),
    ("dense.i16", &["{name: \"negative\", shape: [1], values: [-7]}"]),
    ("dense.f64", &["{name: \"one\", shape: [], values: [0.1]}"]),
];

fn state(file: &str) -> &'static [&'static str] {
    match file {
        "table.safetensors" => &["accumulator"],
        _ => &[],
    }
}

#[test]
fn an_exported_table_has_a_row_for_each_id() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = exported(dir.path());
    let folder = dir.path().join("parquet");
    snapshot.export_parquet(&folder, state).unwrap();
    for (name, expected) in EXPECTED {
        assert_eq!(rows(&folder.join(format!("{name}.parquet"))), *expected, "{name}");
    }
    // What is no array is exported as it is.
    assert_eq!(
        std::fs::read(folder.join("join.bin")).unwrap(),
        3u64.to_le_bytes()
    );
}

#[test]
fn pyarrow_reads_an_exported_table() {
    let imported = Command::new("python3")
        .args(["-c", "import pyarrow.parquet"])
        .output();
    if !imported.is_ok_and(|imported| imported.status.success()) {
        #[allow(
            clippy::print_stderr,
            reason = "the test runner shows a skipped test on request"
        )]
        {
            eprintln!("SKIPPED pyarrow_reads_an_exported_table: python3 has no pyarrow");
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("parquet");
    exported(dir.path()).export_parquet(&folder, state).unwrap();
    for (name, expected) in EXPECTED {
        let path = folder.join(format!("{name}.parquet"));
        let run = Command::new("python3")
            .args(["-c", READ])
            .arg(&path)
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let read = String::from_utf8(run.stdout).unwrap();
        assert_eq!(read.lines().collect::<Vec<_>>(), *expected, "{name}");
    }
}
