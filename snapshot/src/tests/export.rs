//! Export and import, and plain Python as a reader of exported arrays.

use std::process::Command;

use super::{check_content, draft, id};
use crate::{Array, Arrays, Error, FileKind, Snapshot, Store};

/// Reads an `.npz` file with the standard library of Python and prints each array as `name dtype shape values`.
const READ_NPZ: &str = r#"
import ast, struct, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    assert archive.testzip() is None
    for name in archive.namelist():
        raw = archive.read(name)
        assert raw[:8] == b"\x93NUMPY\x01\x00", raw[:8]
        length, = struct.unpack("<H", raw[8:10])
        assert (10 + length) % 64 == 0
        header = ast.literal_eval(raw[10:10 + length].decode("ascii"))
        assert header["fortran_order"] is False
        kind, size = header["descr"][1], int(header["descr"][2:])
        code = {"f4": "f", "f8": "d", "u1": "B", "i1": "b", "u2": "H", "i2": "h", "u4": "I", "i4": "i", "u8": "Q", "i8": "q"}
        n = (len(raw) - 10 - length) // size
        values = struct.unpack("<%d%s" % (n, code[kind + str(size)]), raw[10 + length:])
        print(name, header["descr"], header["shape"], list(values))
"#;

/// Reads a safetensors file with the standard library of Python.
const READ_SAFETENSORS: &str = r#"
import json, struct, sys
raw = open(sys.argv[1], "rb").read()
length, = struct.unpack("<Q", raw[:8])
for name, info in sorted(json.loads(raw[8:8 + length]).items()):
    begin, end = (8 + length + at for at in info["data_offsets"])
    code = {"F32": "f", "U64": "Q"}[info["dtype"]]
    values = struct.unpack("<%d%s" % ((end - begin) // struct.calcsize(code), code), raw[begin:end])
    print(name, info["dtype"], info["shape"], list(values))
"#;

fn python(script: &str, path: &std::path::Path) -> String {
    let run = Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

#[test]
fn plain_python_reads_an_exported_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state")).unwrap();
    let mut draft = draft(None, 3);
    let mut kinds = Arrays::new();
    kinds
        .insert("f64", Array::new(&[2], vec![0.1f64, -2.5]).unwrap())
        .unwrap();
    kinds
        .insert("i16/negative", Array::new(&[2, 1], vec![-7i16, 7]).unwrap())
        .unwrap();
    kinds
        .insert("u8", Array::new(&[0, 3], Vec::<u8>::new()).unwrap())
        .unwrap();
    kinds.insert("u64", Array::scalar(u64::MAX)).unwrap();
    draft.add_arrays("kinds.safetensors", kinds).unwrap();
    let snapshot = store.read(store.write(&draft).unwrap()).unwrap();

    let npz = dir.path().join("npz");
    snapshot.export_npz(&npz).unwrap();
    assert_eq!(
        python(READ_NPZ, &npz.join("kinds.npz")),
        "f64.npy <f8 (2,) [0.1, -2.5]\ni16/negative.npy <i2 (2, 1) [-7, 7]\nu64.npy <u8 () [18446744073709551615]\n\
         u8.npy <u1 (0, 3) []\n"
    );
    assert_eq!(std::fs::read(npz.join("join.bin")).unwrap(), 3u64.to_le_bytes());
    let plain = dir.path().join("plain");
    snapshot.export(&plain).unwrap();
    let sixteen = vec!["3.0"; 16].join(", ");
    assert_eq!(
        python(READ_SAFETENSORS, &plain.join("rows.safetensors")),
        format!("rows F32 [4, 4] [{sixteen}]\nseq U64 [] [3]\n")
    );
    assert!(
        matches!(snapshot.export(&plain), Err(Error::Io { .. })),
        "the folder exists"
    );
}

#[test]
fn an_exported_snapshot_is_imported_unless_a_byte_differs() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state")).unwrap();
    for tag in 0..2u64 {
        store.write(&draft(tag.checked_sub(1), tag)).unwrap();
    }
    let folder = dir.path().join("exported");
    store.read(id(1)).unwrap().export(&folder).unwrap();

    let other = Store::open(&dir.path().join("other")).unwrap();
    other.write(&draft(None, 7)).unwrap();
    let exported = Snapshot::open_exported(&folder).unwrap();
    let imported = other.import(&exported, "from the old machine", 5).unwrap();
    let snapshot = other.read(imported).unwrap();
    check_content(&snapshot);
    let manifest = snapshot.manifest();
    assert_eq!(manifest.checkpoint, exported.manifest().checkpoint);
    assert_eq!((imported, manifest.parent, manifest.branch), (id(1), None, 1));
    let note = manifest.note.as_deref().unwrap();
    assert_eq!(
        note,
        "imported snapshot 00000000000000000001 of another store: from the old machine"
    );

    for file in exported
        .manifest()
        .files
        .iter()
        .filter(|file| file.kind == FileKind::Blob)
    {
        std::fs::write(folder.join(&file.name), [9; 8]).unwrap();
    }
    assert!(matches!(
        Snapshot::open_exported(&folder),
        Err(Error::Damaged { .. })
    ));
}
