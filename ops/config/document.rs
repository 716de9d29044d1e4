//! One TOML file: its values, the position of every key, and its errors.
//!
//! Unknown keys are checked against the schema first, because serde stops at the first one and suggests no other name.

use std::collections::BTreeMap;

use ouzel_sample::settings::KeyError;
use serde::de::DeserializeOwned;
use serde_json::Value as Schema;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::problem::{Problem, nearest};
use super::renamed::renamed;

/// A file whose keys are all known, with their positions.
#[derive(Debug, Default)]
pub(super) struct Document {
    file: String,
    text: String,
    /// The values as written.
    pub(super) table: Table,
    /// Byte offsets of each key and of its value, by path.
    offsets: BTreeMap<String, (usize, usize)>,
    /// A sentence for each key that was written by its old name.
    pub(super) renamed: Vec<String>,
}

impl Document {
    /// Reads `text`. Its keys are those of `section`, a path in the configuration with this `schema`.
    pub(super) fn read(text: &str, file: &str, section: &str, schema: &Schema) -> Result<Self, Vec<Problem>> {
        let mut document = Self {
            file: file.to_owned(),
            text: text.to_owned(),
            ..Self::default()
        };
        let parsed = DeTable::parse(text).map_err(|error| {
            let at = error.span().map(|span| document.line_and_column(span.start));
            vec![document.problem(at, "", one_line(error.message()), None)]
        })?;
        let mut walk = Walk {
            document: &document,
            root: schema,
            section,
            offsets: BTreeMap::new(),
            unknown: Vec::new(),
            renamed: Vec::new(),
        };
        walk.table("", parsed.get_ref(), schema);
        let (offsets, mut unknown, renamed) = (walk.offsets, walk.unknown, walk.renamed);
        if !unknown.is_empty() {
            unknown.sort_by_key(|problem| problem.at);
            return Err(unknown);
        }
        document.offsets = offsets;
        document.table = toml::from_str(text).expect("the text was parsed before");
        let clashes: Vec<Problem> = renamed
            .iter()
            .filter_map(|(old, new)| document.rename(old, new))
            .collect();
        if clashes.is_empty() {
            Ok(document)
        } else {
            Err(clashes)
        }
    }

    /// Moves the value of an old key to its new name. A problem where both are written.
    fn rename(&mut self, old: &str, new: &str) -> Option<Problem> {
        let at = self.offsets.get(old).map(|(key, _)| self.line_and_column(*key));
        let value = remove(&mut self.table, old)?;
        if !insert(&mut self.table, new, value) {
            let message = format!("this key is now {new}, which is set too");
            return Some(self.problem(at, old, message, None));
        }
        if let Some(offsets) = self.offsets.get(old).copied() {
            self.offsets.insert(new.to_owned(), offsets);
        }
        let (file, line) = (&self.file, at.map_or(0, |(line, _)| line));
        self.renamed.push(format!(
            "{file}:{line}: {old} is now {new}; the old name still works"
        ));
        None
    }

    /// A document without text; problems name `file`.
    pub(super) fn empty(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            ..Self::default()
        }
    }

    /// `table` as a `T`; an error points at the value in this file.
    pub(super) fn deserialize<T: DeserializeOwned>(&self, table: Table) -> Result<T, Vec<Problem>> {
        serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
            let path = error.path().to_string();
            let key = if path == "." { "" } else { &path };
            let at = self
                .offsets
                .get(key)
                .map(|(_, value)| self.line_and_column(*value));
            vec![self.problem(at, key, one_line(error.inner().message()), None)]
        })
    }

    /// The problem of a value that a section refuses, with its position in this file.
    pub(super) fn refuse(&self, error: KeyError) -> Problem {
        let nearest = error
            .unknown
            .as_ref()
            .and_then(|(name, known)| nearest(name, known.iter().map(String::as_str)));
        let at = self
            .offsets
            .get(&error.key)
            .map(|(key, _)| self.line_and_column(*key));
        let hint = nearest.map(|name| format!("the nearest known name is `{name}`"));
        self.problem(at, &error.key, error.message, hint)
    }

    fn problem(
        &self,
        at: Option<(usize, usize)>,
        key: &str,
        message: String,
        hint: Option<String>,
    ) -> Problem {
        Problem {
            file: self.file.clone(),
            at,
            key: key.to_owned(),
            message,
            hint,
        }
    }

    /// Line and column of a byte offset, both from 1, the column in characters.
    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }
}

/// Collects the positions of all keys, and the problems of unknown ones.
struct Walk<'a> {
    document: &'a Document,
    root: &'a Schema,
    section: &'a str,
    offsets: BTreeMap<String, (usize, usize)>,
    unknown: Vec<Problem>,
    /// Old and new paths of the keys that were written by their old name.
    renamed: Vec<(String, String)>,
}

impl Walk<'_> {
    fn table(&mut self, path: &str, table: &DeTable<'_>, schema: &Schema) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            let child = join(path, name);
            let offset = key.span().start;
            self.offsets.insert(child.clone(), (offset, value.span().start));
            let known = &schema["properties"][name];
            if known.is_null() && schema["additionalProperties"] == Schema::Bool(false) {
                let new = renamed(&join(self.section, &child));
                // A model file has no place for a notice.
                if let (Some(new), "") = (new, self.section) {
                    self.renamed.push((child, new.to_owned()));
                    continue;
                }
                let (message, hint) = match new {
                    Some(new) => {
                        let new = new
                            .strip_prefix(self.section)
                            .unwrap_or(new)
                            .trim_start_matches('.');
                        (format!("this key is now {new}"), None)
                    }
                    None => (
                        "unknown key".to_owned(),
                        Some(hint(self.root, schema, path, name)),
                    ),
                };
                let at = Some(self.document.line_and_column(offset));
                let problem = self.document.problem(at, &child, message, hint);
                self.unknown.push(problem);
            } else {
                self.value(&child, value, known);
            }
        }
    }

    fn value(&mut self, path: &str, value: &Spanned<DeValue<'_>>, schema: &Schema) {
        match value.get_ref() {
            DeValue::Table(table) => self.table(path, table, schema),
            DeValue::Array(elements) => {
                for (i, element) in elements.iter().enumerate() {
                    let path = format!("{path}[{i}]");
                    let start = element.span().start;
                    self.offsets.insert(path.clone(), (start, start));
                    self.value(&path, element, &schema["items"]);
                }
            }
            _ => {}
        }
    }
}

/// Suggests a key for the unknown `name`: of the same table, or of another section.
fn hint(root: &Schema, schema: &Schema, path: &str, name: &str) -> String {
    let siblings: Vec<&str> = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    let mut all = Vec::new();
    paths("", root, &mut all);
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let lasts: Vec<String> = all.iter().map(|path| last(path)).collect();
    let elsewhere = |name: &str| all.iter().find(|path| last(path) == name).map(String::as_str);
    let near = nearest(name, siblings.iter().copied())
        .or_else(|| elsewhere(name))
        .or_else(|| elsewhere(nearest(name, lasts.iter().map(String::as_str))?));
    match (near, path) {
        (Some(near), _) => format!("the nearest known name is `{near}`"),
        (None, "") => format!("the file knows {}", siblings.join(", ")),
        (None, _) => format!("`{path}` knows {}", siblings.join(", ")),
    }
}

/// Every key of the schema by path, tables included.
fn paths(path: &str, schema: &Schema, all: &mut Vec<String>) {
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let child = join(path, key);
        all.push(child.clone());
        paths(&child, property, all);
    }
}

/// Removes the value at `path`.
fn remove(table: &mut Table, path: &str) -> Option<Value> {
    match path.split_once('.') {
        None => table.remove(path),
        Some((first, rest)) => remove(table.get_mut(first)?.as_table_mut()?, rest),
    }
}

/// Inserts a value at `path`. False where there is one.
fn insert(table: &mut Table, path: &str, value: Value) -> bool {
    let Some((first, rest)) = path.split_once('.') else {
        return !table.contains_key(path) && table.insert(path.to_owned(), value).is_none();
    };
    let below = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
    below
        .as_table_mut()
        .is_some_and(|below| insert(below, rest, value))
}

/// A key below a table; the root has an empty path.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A message of several lines as one.
fn one_line(message: &str) -> String {
    let parts = message.split('\n').map(str::trim).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(", ")
}
