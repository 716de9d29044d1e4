//! Rules of the repository that no compiler checks: imports between crates, lengths of files, file headers, documents.
//!
//! The layers are those of ARCHITECTURE.md. A crate imports only crates of lower layers, so crates of one layer are
//! independent. A heavy external library (a broker client, tensors, an async runtime) is allowed in named crates only.
//! `tidy/documents.rs` checks the Markdown files.

#[path = "tidy/documents.rs"]
mod documents;

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Longest test file, and longest file with its inline tests, lines.
const MAX_FILE_LINES: usize = 500;
/// Longest file without its inline tests, lines.
const MAX_PRODUCTION_LINES: usize = 450;
/// Files that only tests compile, though their path does not say so.
const TEST_SUPPORT: &[&str] = &["join/oracle.rs", "join/world.rs", "snapshot/src/sim.rs"];

/// The rules of one crate.
struct CrateRules {
    name: &'static str,
    folder: &'static str,
    /// A crate imports crates with a lower number only.
    layer: u8,
    /// Crates of lower layers that it must not import either; `ouzel` passes it what it needs of them.
    must_not_import: &'static [&'static str],
    /// Words that its sources must not contain, beyond what the manifest forbids.
    forbidden_words: &'static [&'static str],
}

const CRATES: &[CrateRules] = &[
    CrateRules {
        name: "ouzel",
        folder: ".",
        layer: 4,
        must_not_import: &[],
        forbidden_words: &[],
    },
    CrateRules {
        name: "ouzel-learner",
        folder: "learner",
        layer: 3,
        must_not_import: &["ouzel-ingest"],
        forbidden_words: CLOCK,
    },
    CrateRules {
        name: "ouzel-serving",
        folder: "serving",
        layer: 3,
        must_not_import: &["ouzel-ingest"],
        forbidden_words: &[],
    },
    CrateRules {
        name: "ouzel-model",
        folder: "learner/model",
        layer: 2,
        must_not_import: &["ouzel-ingest"],
        // The manifest keeps optimizers and losses out.
        forbidden_words: UNTHREADED,
    },
    CrateRules {
        name: "ouzel-verify",
        folder: "ops/verify",
        layer: 2,
        must_not_import: &["ouzel-encoders"],
        forbidden_words: CLOCK,
    },
    CrateRules {
        name: "ouzel-encoders",
        folder: "learner/encoders",
        layer: 1,
        must_not_import: &[],
        forbidden_words: UNTHREADED,
    },
    CrateRules {
        name: "ouzel-ingest",
        folder: "ingest",
        layer: 1,
        must_not_import: &[],
        forbidden_words: CLOCK,
    },
    CrateRules {
        name: "ouzel-snapshot",
        folder: "snapshot",
        layer: 1,
        must_not_import: &[],
        forbidden_words: CLOCK,
    },
    CrateRules {
        name: "ouzel-sample",
        folder: "ingest/sample",
        layer: 0,
        must_not_import: &[],
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
/// Channels, threads and clocks.
const UNTHREADED: &[&str] = &[
    "std::thread",
    "std::sync::mpsc",
    "Instant::now",
    "SystemTime::now",
];
/// Reads of the wall clock, which would make a replay differ from the original run.
const CLOCK: &[&str] = &["SystemTime::now"];

/// External libraries, each with the only crates that may depend on it.
const RESTRICTED_LIBRARIES: &[(&str, &[&str])] = &[
    ("rdkafka", &["ouzel-ingest"]),
    ("rdkafka-sys", &["ouzel-ingest"]),
    (
        "tch",
        &["ouzel-encoders", "ouzel-model", "ouzel-learner", "ouzel-serving"],
    ),
    ("torch-sys", &[]),
    ("tokio", &["ouzel-serving", "ouzel", "ouzel-snapshot"]),
    ("object_store", &["ouzel-snapshot"]),
    ("reqwest", &["ouzel-snapshot"]),
    ("axum", &["ouzel-serving", "ouzel"]),
    ("hyper", &["ouzel-serving", "ouzel"]),
    ("ureq", &["ouzel-ingest"]),
    ("protox", &["ouzel-ingest"]),
    ("parquet", &["ouzel-ingest", "ouzel-snapshot"]),
    ("sled", &["ouzel-ingest", "ouzel-snapshot"]),
    ("safetensors", &["ouzel-snapshot", "ouzel-encoders"]),
    ("tokenizers", &["ouzel-encoders"]),
    ("image", &["ouzel-encoders"]),
    ("anyhow", &["ouzel", "ouzel-verify"]),
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

fn rules(name: &str) -> Option<&'static CrateRules> {
    CRATES.iter().find(|rules| rules.name == name)
}

/// The package names that a manifest depends on, of every section and target.
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

/// Violations of the import rules in one manifest, one line each.
fn import_violations(manifest: &Table) -> Vec<String> {
    let name = manifest["package"]["name"]
        .as_str()
        .expect("a package has a name");
    let Some(importer) = rules(name) else {
        return vec![format!(
            "{name} has no layer: add it to CRATES in tests/tidy.rs and to the table in ARCHITECTURE.md"
        )];
    };
    let imports = imports(manifest);
    let wrong_crates = imports.iter().filter_map(|import| {
        let imported = rules(import)?;
        if imported.layer >= importer.layer {
            Some(format!(
                "{name} (layer {}) imports {import} (layer {})",
                importer.layer, imported.layer
            ))
        } else {
            importer
                .must_not_import
                .contains(&imported.name)
                .then(|| format!("{name} must never import {import}"))
        }
    });
    let wrong_libraries = imports.iter().filter_map(|import| {
        let (_, allowed) = RESTRICTED_LIBRARIES
            .iter()
            .find(|(library, _)| library == import)?;
        (!allowed.contains(&name))
            .then(|| format!("{name} imports {import}, which only {allowed:?} may import"))
    });
    wrong_crates.chain(wrong_libraries).collect()
}

/// Returns true for tests and benchmarks: they may use any word and need no header.
fn is_test(path: &str) -> bool {
    path.split(['/', '.'])
        .any(|part| ["tests", "benches"].contains(&part))
}

/// Number of lines before the first inline test module.
fn production_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let is_test_module =
        |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].contains("mod ") && pair[1].ends_with('{');
    lines.windows(2).position(is_test_module).unwrap_or(lines.len())
}

/// Violations of the file rules in one Rust file, one line each; `forbidden` are the forbidden words of its crate.
fn file_violations(path: &str, text: &str, forbidden: &[&str]) -> Vec<String> {
    let mut violations = Vec::new();
    let is_test_support = TEST_SUPPORT.iter().any(|ending| path.ends_with(ending));
    let (n_lines, n_production) = (text.lines().count(), production_lines(text));
    if n_lines > MAX_FILE_LINES {
        violations.push(format!(
            "{path} has {n_lines} lines, over {MAX_FILE_LINES}: split it by idea"
        ));
    } else if n_production > MAX_PRODUCTION_LINES && !is_test(path) && !is_test_support {
        violations.push(format!(
            "{path} has {n_production} lines without its tests, over {MAX_PRODUCTION_LINES}: split it by idea"
        ));
    }
    if is_test(path) {
        return violations;
    }
    if !text.starts_with("//!") {
        violations.push(format!(
            "{path} does not start with a //! header that says what it is"
        ));
    }
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    for (word, line) in code.flat_map(|line| forbidden.iter().map(move |word| (word, line))) {
        if line.contains(word) {
            violations.push(format!(
                "{path} uses {word}, which is forbidden in its crate: {}",
                line.trim()
            ));
        }
    }
    violations
}

/// Appends all Rust files below a folder, except build output, hidden folders and the folders of other crates.
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
fn every_crate_imports_only_lower_layers() {
    report(
        &CRATES
            .iter()
            .flat_map(|rules| import_violations(&manifest(rules.folder)))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn the_rules_and_the_workspace_name_the_same_crates() {
    let mut members: Vec<String> = manifest(".")["workspace"]["members"]
        .as_array()
        .expect("the workspace lists its members")
        .iter()
        .map(|member| member.as_str().expect("a member is a path").to_owned())
        .chain([".".to_owned()])
        .collect();
    let mut folders: Vec<String> = CRATES.iter().map(|rules| rules.folder.to_owned()).collect();
    members.sort();
    folders.sort();
    assert_eq!(members, folders);
    for rules in CRATES {
        assert_eq!(
            manifest(rules.folder)["package"]["name"].as_str(),
            Some(rules.name)
        );
    }
}

#[test]
fn every_file_is_short_and_has_a_header() {
    let mut violations = Vec::new();
    let mut n_files = 0;
    for rules in CRATES {
        let mut files = Vec::new();
        rust_files(&repository().join(rules.folder), &mut files);
        n_files += files.len();
        for path in files {
            let relative = path
                .strip_prefix(repository())
                .unwrap_or(&path)
                .display()
                .to_string();
            violations.extend(file_violations(&relative, &read(&path), rules.forbidden_words));
        }
    }
    assert!(
        n_files >= CRATES.len(),
        "found only {n_files} Rust files: the directory walk is broken"
    );
    report(&violations);
}

#[test]
fn a_wrong_import_is_detected_in_any_section_and_under_any_name() {
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
            "[package]\nname='ouzel-ingest'\n[target.'cfg(unix)'.dependencies]\ntokio='1'",
            false,
        ),
        (
            "[package]\nname='ouzel-snapshot'\n[dependencies]\nsafetensors='0.8'",
            true,
        ),
        ("[package]\nname='ouzel-unknown'", false),
    ];
    for (text, allowed) in cases {
        let violations = import_violations(&text.parse().expect("the case is TOML"));
        assert_eq!(violations.is_empty(), allowed, "{text}\n{violations:?}");
    }
}

#[test]
fn a_file_that_is_long_or_without_header_or_with_a_forbidden_word_is_detected() {
    let long = format!("//! Long.\n{}", "\n".repeat(MAX_FILE_LINES));
    let long_code = format!("//! Long.\n{}", "\n".repeat(MAX_PRODUCTION_LINES));
    let long_tests = format!(
        "//! Long.\n#[cfg(test)]\nmod tests {{\n{}}}\n",
        "\n".repeat(MAX_FILE_LINES / 2)
    );
    let cases = [
        ("a/src/case.rs", "//! A file.\nfn f() {}\n", 0),
        ("a/src/case.rs", "fn f() {}\n", 1),
        ("a/src/case.rs", long.as_str(), 1),
        ("a/src/case.rs", "//! A file.\nlet now = SystemTime::now();\n", 1),
        ("a/src/case.rs", "//! A file.\n// Never SystemTime::now().\n", 0),
        ("a/src/contests.rs", "fn f() {}\n", 1),
        ("a/src/case/tests.rs", "let now = SystemTime::now();\n", 0),
        ("a/src/case.rs", long_code.as_str(), 1),
        ("a/src/case.rs", long_tests.as_str(), 0),
        ("tests/case.rs", long.as_str(), 1),
    ];
    for (path, text, n_expected) in cases {
        let violations = file_violations(path, text, CLOCK);
        assert_eq!(violations.len(), n_expected, "{path}: {violations:?}");
    }
}
