//! Checks the Markdown files: links, anchors, paths and test names in code font, the table of contents, the length of
//! the README.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::{read, report, repository, rust_files};

const MAX_README_LINES: usize = 200;
/// The pages of the book, and its table of contents.
const BOOK: &str = "docs";
const SUMMARY: &str = "docs/SUMMARY.md";
/// The document that says which test checks which promise.
const GUARANTEES: &str = "GUARANTEES.md";
/// A test name is a sentence; shorter names in code font are something else.
const MIN_UNDERSCORES: usize = 4;
/// Files whose code-font paths may name files of the past.
const HISTORICAL: &[&str] = &["CHANGELOG.md"];
/// Endings of the paths that are checked when they are in code font.
const CHECKED_ENDINGS: &[&str] = &[".rs", ".md", ".toml", ".py", ".sh"];

/// Every Markdown file of the repository, except hidden folders and build output, relative to its root.
fn documents() -> Vec<PathBuf> {
    fn walk(folder: &Path, documents: &mut Vec<PathBuf>) {
        let entries =
            fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
        for path in entries.map(|entry| entry.expect("a listed entry can be read").path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                walk(&path, documents);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    let root = repository();
    let mut documents = Vec::new();
    walk(&root, &mut documents);
    documents.sort();
    let relative = |path: &PathBuf| path.strip_prefix(&root).map(Path::to_owned);
    documents
        .iter()
        .map(|path| relative(path).expect("the walk starts at the root"))
        .collect()
}

/// The lines of a document that are not in a fenced code block.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The prose of a document as (text outside of code font, texts in code font).
fn split_code(text: &str) -> (String, Vec<String>) {
    let (mut outside, mut code) = (String::new(), Vec::new());
    let lines: Vec<&str> = prose(text).collect();
    // Per paragraph, so that a stray backtick cannot turn the rest of the document around.
    for paragraph in lines.join("\n").split("\n\n") {
        for (i, part) in paragraph.split('`').enumerate() {
            if i % 2 == 0 {
                outside.push_str(part);
            } else {
                code.push(part.to_owned());
            }
        }
        outside.push('\n');
    }
    (outside, code)
}

/// The targets of the inline links of a document.
fn links(text: &str) -> Vec<String> {
    let (outside, _) = split_code(text);
    let after = outside.split("](").skip(1);
    after
        .filter_map(|part| Some(part.split_once(')')?.0.trim().to_owned()))
        .collect()
}

/// The anchors of a document's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut n_of: HashMap<String, usize> = HashMap::new();
    let headings = prose(text).filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
            let n = n_of.entry(anchor.clone()).or_default();
            *n += 1;
            match *n {
                1 => anchor,
                n => format!("{anchor}-{}", n - 1),
            }
        })
        .collect()
}

/// Resolves `target` against the folder of `document`, without looking at the file system.
fn resolve(document: &Path, target: &str) -> PathBuf {
    let mut path = document.parent().unwrap_or(Path::new("")).to_owned();
    for component in Path::new(target).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path
}

/// Why a link of `document` is broken, or `None`. `read` returns the text of a file of the repository, if there is one.
fn broken_link(document: &Path, target: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() {
        document.to_owned()
    } else {
        resolve(document, file)
    };
    let shown = document.display();
    let Some(text) = read(&path) else {
        return Some(format!(
            "{shown} links to {target}: there is no {}",
            path.display()
        ));
    };
    let is_known = anchor.is_empty() || anchors(&text).contains(anchor);
    (!is_known).then(|| {
        format!(
            "{shown} links to {target}: {} has no such heading",
            path.display()
        )
    })
}

/// True for a text in code font that names a file of the repository by its path.
fn is_path(code: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    code.contains('/')
        && !code.starts_with(['.', '/'])
        && code.chars().all(is_plain)
        && CHECKED_ENDINGS.iter().any(|ending| code.ends_with(ending))
}

/// The text of a file of the repository, an empty one for a folder.
fn text_of(path: &Path) -> Option<String> {
    let path = repository().join(path);
    match path.is_dir() {
        true => Some(String::new()),
        false => fs::read_to_string(path).ok(),
    }
}

#[test]
fn every_link_and_anchor_exists() {
    let documents = documents();
    assert!(
        documents.len() > 3,
        "found only {documents:?}: the directory walk is broken"
    );
    let mut violations = Vec::new();
    for document in &documents {
        for target in links(&read(&repository().join(document))) {
            violations.extend(broken_link(document, &target, &text_of));
        }
    }
    report(&violations);
}

#[test]
fn every_path_in_code_font_exists() {
    let mut violations = Vec::new();
    for document in documents() {
        if HISTORICAL.iter().any(|name| document.ends_with(name)) {
            continue;
        }
        let (_, codes) = split_code(&read(&repository().join(&document)));
        for path in codes.iter().filter(|code| is_path(code)) {
            if !repository().join(path).exists() {
                violations.push(format!(
                    "{} names `{path}`, which does not exist",
                    document.display()
                ));
            }
        }
    }
    report(&violations);
}

#[test]
fn every_test_that_a_guarantee_names_exists() {
    let mut files = Vec::new();
    for folder in super::CRATES {
        rust_files(&repository().join(folder.folder), &mut files);
    }
    let sources: Vec<String> = files.iter().map(|path| read(path)).collect();
    let (_, codes) = split_code(&read(&repository().join(GUARANTEES)));
    let is_test = |code: &&String| {
        let is_plain = code.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
        is_plain && code.matches('_').count() >= MIN_UNDERSCORES
    };
    let names: Vec<&String> = codes.iter().filter(is_test).collect();
    assert!(
        names.len() > 10,
        "found only {names:?}: the names are not recognised"
    );
    let is_there = |name: &&String| {
        let definition = format!("fn {name}(");
        sources.iter().any(|source| source.contains(&definition))
    };
    let missing = names.into_iter().filter(|name| !is_there(name));
    report(
        &missing
            .map(|name| format!("{GUARANTEES} names the test `{name}`, which does not exist"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn the_table_of_contents_lists_every_page_of_the_book() {
    let summary = Path::new(SUMMARY);
    let listed: BTreeSet<PathBuf> = links(&read(&repository().join(summary)))
        .iter()
        .map(|target| resolve(summary, target))
        .collect();
    let pages: BTreeSet<PathBuf> = documents()
        .into_iter()
        .filter(|page| page.starts_with(BOOK) && page != summary)
        .collect();
    assert_eq!(listed, pages, "{SUMMARY} and the pages below {BOOK} differ");
}

#[test]
fn the_readme_is_short() {
    let n_lines = read(&repository().join("README.md")).lines().count();
    assert!(
        n_lines <= MAX_README_LINES,
        "README.md has {n_lines} lines, at most {MAX_README_LINES} are allowed: move reference material to {BOOK}/"
    );
}

#[test]
fn a_broken_link_is_detected() {
    let page = "# A page\n## Label `policies`, all six\n## Twice\n## Twice\n```\n# no heading\n```\n";
    let read = |path: &Path| (path == Path::new("docs/page.md")).then(|| page.to_owned());
    let cases = [
        ("docs/other.md", "page.md", true),
        ("docs/adr/other.md", "../page.md#a-page", true),
        ("README.md", "docs/page.md#label-policies-all-six", true),
        ("README.md", "docs/page.md#twice-1", true),
        ("docs/page.md", "#twice", true),
        ("README.md", "https://example.org/nothing", true),
        ("README.md", "page.md", false),
        ("README.md", "docs/page.md#no-heading", false),
        ("README.md", "docs/page.md#twice-2", false),
        ("docs/page.md", "#policies", false),
    ];
    for (document, target, is_good) in cases {
        let broken = broken_link(Path::new(document), target, &read);
        assert_eq!(broken.is_none(), is_good, "{document} {target}: {broken:?}");
    }
}

#[test]
fn links_and_paths_are_read_from_prose_only() {
    let text = "See [a](a.md) and `[b](b.md)`.\n```\n[c](c.md)\n```\nA [wrapped\nlink](d.md).\n";
    assert_eq!(links(text), ["a.md", "d.md"]);
    for (code, is_checked) in [
        ("ops/main.rs", true),
        ("main.rs", false),
        ("ops/<name>.rs", false),
        (".encoders/x.py", false),
        ("tests/it", false),
    ] {
        assert_eq!(is_path(code), is_checked, "{code}");
    }
}
