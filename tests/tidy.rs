//! The house rules that no compiler checks: who may import whom, how long a file may be, that every file says what it is.
//!
//! The floors are those of ARCHITECTURE.md. A crate imports only crates of floors below its own, so neighbours never meet;
//! and each outside library with weight of its own (a broker, tensors, an async runtime) has its seat in named crates.

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

const LONGEST_FILE_LINES: usize = 500;

/// One crate's place in the house.
struct Room {
    name: &'static str,
    folder: &'static str,
    floor: u8,
    /// Lower crates that it must not import all the same: what it learns of them comes to it through `ouzel`.
    never: &'static [&'static str],
    /// Words that its sources never contain, beyond what the manifests forbid.
    forbidden_words: &'static [&'static str],
}

const HOUSE: &[Room] = &[
    Room {
        name: "ouzel",
        folder: ".",
        floor: 4,
        never: &[],
        forbidden_words: &[],
    },
    Room {
        name: "ouzel-learner",
        folder: "learner",
        floor: 3,
        never: &["ouzel-ingest"],
        forbidden_words: CLOCK,
    },
    Room {
        name: "ouzel-serving",
        folder: "serving",
        floor: 3,
        never: &["ouzel-ingest"],
        forbidden_words: &[],
    },
    Room {
        name: "ouzel-model",
        folder: "learner/model",
        floor: 2,
        never: &["ouzel-ingest"],
        // Optimizers and losses are a floor up; what would let channels, threads and clocks in is named here.
        forbidden_words: &[
            "std::thread",
            "std::sync::mpsc",
            "Instant::now",
            "SystemTime::now",
        ],
    },
    Room {
        name: "ouzel-ingest",
        folder: "ingest",
        floor: 1,
        never: &[],
        forbidden_words: CLOCK,
    },
    Room {
        name: "ouzel-snapshot",
        folder: "snapshot",
        floor: 1,
        never: &[],
        forbidden_words: CLOCK,
    },
    Room {
        name: "ouzel-sample",
        folder: "ingest/sample",
        floor: 0,
        never: &[],
        forbidden_words: &[
            "std::fs",
            "std::net",
            "std::process",
            "std::thread",
            "Instant::now",
            "SystemTime::now",
        ],
    },
];
/// The wall clock would make a replay differ from the run that it repeats.
const CLOCK: &[&str] = &["SystemTime::now"];

/// Outside libraries with a seat: a crate that is not named beside one never depends on it.
const SEATS: &[(&str, &[&str])] = &[
    ("rdkafka", &["ouzel-ingest"]),
    ("rdkafka-sys", &["ouzel-ingest"]),
    ("tch", &["ouzel-model", "ouzel-learner", "ouzel-serving"]),
    ("torch-sys", &[]),
    ("tokio", &["ouzel-serving", "ouzel"]),
    ("axum", &["ouzel-serving", "ouzel"]),
    ("hyper", &["ouzel-serving", "ouzel"]),
    ("sled", &["ouzel-ingest", "ouzel-snapshot"]),
    ("safetensors", &["ouzel-snapshot", "ouzel-model"]),
    ("tokenizers", &["ouzel-model"]),
    ("image", &["ouzel-model"]),
    ("anyhow", &["ouzel"]),
    ("clap", &["ouzel"]),
    ("metrics-exporter-prometheus", &["ouzel"]),
];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn manifest(folder: &str) -> Table {
    let path = repository().join(folder).join("Cargo.toml");
    read(&path)
        .parse()
        .unwrap_or_else(|error| panic!("cannot parse {}: {error}", path.display()))
}

fn room(name: &str) -> Option<&'static Room> {
    HOUSE.iter().find(|room| room.name == name)
}

/// The crates that a manifest imports, by the name of the package behind each key, in every section and for every target.
fn imports(manifest: &Table) -> Vec<String> {
    let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
    let targets = manifest
        .get("target")
        .and_then(Value::as_table)
        .into_iter()
        .flat_map(Table::values);
    let tables = std::iter::once(manifest).chain(targets.filter_map(Value::as_table));
    tables
        .flat_map(|table| {
            sections
                .iter()
                .filter_map(|section| table.get(*section)?.as_table())
        })
        .flatten()
        .map(|(key, value)| {
            value
                .get("package")
                .and_then(Value::as_str)
                .unwrap_or(key)
                .to_owned()
        })
        .collect()
}

/// What is wrong with one crate's imports, a line each.
fn import_violations(manifest: &Table) -> Vec<String> {
    let name = manifest["package"]["name"]
        .as_str()
        .expect("a package has a name");
    let Some(importer) = room(name) else {
        return vec![format!(
            "{name} has no floor: add it to HOUSE in tests/tidy.rs and to ARCHITECTURE.md"
        )];
    };
    let imports = imports(manifest);
    let unhoused = imports.iter().filter_map(|import| {
        let imported = room(import)?;
        if imported.floor >= importer.floor {
            Some(format!(
                "{name} (floor {}) imports {import} (floor {})",
                importer.floor, imported.floor
            ))
        } else {
            importer
                .never
                .contains(&imported.name)
                .then(|| format!("{name} must never import {import}"))
        }
    });
    let unseated = imports.iter().filter_map(|import| {
        let (_, seats) = SEATS.iter().find(|(library, _)| library == import)?;
        (!seats.contains(&name)).then(|| format!("{name} imports {import}, whose seats are {seats:?}"))
    });
    unhoused.chain(unseated).collect()
}

/// Whether a file tests or measures: it has to be short, but may use any word, and its test names say what it is.
fn is_test(path: &str) -> bool {
    path.split(['/', '.'])
        .any(|part| ["tests", "benches"].contains(&part))
}

/// What is wrong with one Rust file, a line each; `forbidden` are the words of the crate that it belongs to.
fn file_violations(path: &str, text: &str, forbidden: &[&str]) -> Vec<String> {
    let mut violations = Vec::new();
    let n_lines = text.lines().count();
    if n_lines > LONGEST_FILE_LINES {
        violations.push(format!(
            "{path} has {n_lines} lines, over {LONGEST_FILE_LINES}: split it by idea"
        ));
    }
    if is_test(path) {
        return violations;
    }
    if !text.starts_with("//!") {
        violations.push(format!(
            "{path} does not start with a //! header that says what it is and owns"
        ));
    }
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    for (word, line) in code.flat_map(|line| forbidden.iter().map(move |word| (word, line))) {
        if line.contains(word) {
            violations.push(format!(
                "{path} uses {word}, which its crate must not know: {}",
                line.trim()
            ));
        }
    }
    violations
}

/// All Rust files under a folder, without build output, hidden folders and the folders of other crates.
fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
    for path in entries.map(|entry| entry.expect("a listed entry can be read").path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_crate = path.join("Cargo.toml").exists();
        if path.is_dir() && !name.starts_with('.') && name != "target" && !is_crate {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn report(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn every_crate_imports_only_from_the_floors_below() {
    report(
        &HOUSE
            .iter()
            .flat_map(|room| import_violations(&manifest(room.folder)))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn the_house_and_the_workspace_name_the_same_crates() {
    let mut members: Vec<String> = manifest(".")["workspace"]["members"]
        .as_array()
        .expect("the workspace lists its members")
        .iter()
        .map(|member| member.as_str().expect("a member is a path").to_owned())
        .chain([".".to_owned()])
        .collect();
    let mut folders: Vec<String> = HOUSE.iter().map(|room| room.folder.to_owned()).collect();
    members.sort();
    folders.sort();
    assert_eq!(members, folders);
    for room in HOUSE {
        assert_eq!(manifest(room.folder)["package"]["name"].as_str(), Some(room.name));
    }
}

#[test]
fn every_file_is_short_and_says_what_it_is() {
    let mut violations = Vec::new();
    let mut n_files = 0;
    for room in HOUSE {
        let mut files = Vec::new();
        rust_files(&repository().join(room.folder), &mut files);
        n_files += files.len();
        for path in files {
            let shown = path
                .strip_prefix(repository())
                .unwrap_or(&path)
                .display()
                .to_string();
            violations.extend(file_violations(&shown, &read(&path), room.forbidden_words));
        }
    }
    assert!(
        n_files >= HOUSE.len(),
        "only {n_files} Rust files found: the walk is broken"
    );
    report(&violations);
}

#[test]
fn a_wrong_import_is_found_in_any_section_and_under_any_name() {
    let cases = [
        (
            "[package]\nname='ouzel-learner'\n[dependencies]\nouzel-ingest.workspace=true",
            false,
        ),
        (
            "[package]\nname='ouzel-learner'\n[dependencies]\nouzel-sample.workspace=true",
            true,
        ),
        (
            "[package]\nname='ouzel-learner'\n[dependencies]\nouzel-serving={path='../serving'}",
            false,
        ),
        (
            "[package]\nname='ouzel-ingest'\n[dev-dependencies]\nouzel-snapshot={path='../snapshot'}",
            false,
        ),
        (
            "[package]\nname='ouzel-model'\n[dependencies]\ncore={package='ouzel-learner',path='..'}",
            false,
        ),
        (
            "[package]\nname='ouzel-sample'\n[build-dependencies]\nouzel-ingest={path='..'}",
            false,
        ),
        ("[package]\nname='ouzel'\n[dependencies]\ntch='0.26'", false),
        ("[package]\nname='ouzel'\n[dependencies]\nrdkafka='0.39'", false),
        (
            "[package]\nname='ouzel'\n[dependencies]\ntokio='1'\nouzel-serving={path='serving'}",
            true,
        ),
        (
            "[package]\nname='ouzel-snapshot'\n[target.'cfg(unix)'.dependencies]\ntokio='1'",
            false,
        ),
        (
            "[package]\nname='ouzel-snapshot'\n[dependencies]\nsafetensors='0.8'",
            true,
        ),
        ("[package]\nname='ouzel-newcomer'", false),
    ];
    for (text, allowed) in cases {
        let violations = import_violations(&text.parse().expect("the case is TOML"));
        assert_eq!(violations.is_empty(), allowed, "{text}\n{violations:?}");
    }
}

#[test]
fn a_long_silent_or_forbidden_file_is_found() {
    let long = format!("//! Long.\n{}", "\n".repeat(LONGEST_FILE_LINES));
    let cases = [
        ("a/src/case.rs", "//! A file.\nfn f() {}\n", 0),
        ("a/src/case.rs", "fn f() {}\n", 1),
        ("a/src/case.rs", long.as_str(), 1),
        ("a/src/case.rs", "//! A file.\nlet now = SystemTime::now();\n", 1),
        ("a/src/case.rs", "//! A file.\n// Never SystemTime::now().\n", 0),
        ("a/src/contests.rs", "fn f() {}\n", 1),
        ("a/src/case/tests.rs", "let now = SystemTime::now();\n", 0),
        ("tests/case.rs", long.as_str(), 1),
    ];
    for (path, text, n_expected) in cases {
        let violations = file_violations(path, text, CLOCK);
        assert_eq!(violations.len(), n_expected, "{path}: {violations:?}");
    }
}
