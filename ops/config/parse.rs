//! From text to a checked configuration, with a position for everything that is wrong.
//!
//! Unknown keys are looked for against the schema before serde sees the file: serde stops at the first and
//! knows no neighbours.

use std::collections::BTreeMap;

use serde_json::Value as Schema;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, Model, Problem, validate};

/// How alike two names must be, by Jaro and Winkler, to be taken for a slip of the same one.
const ALIKE: f64 = 0.8;

/// Reads and checks `text`. The problems are in order of position.
pub(super) fn parse(text: &str, file: &str) -> Result<Config, Vec<Problem>> {
    let problem = |offset: Option<usize>, key: &str, message: String, hint| Problem {
        file: file.to_owned(),
        at: offset.map(|offset| line_and_column(text, offset)),
        key: key.to_owned(),
        message,
        hint,
    };
    let document = DeTable::parse(text).map_err(|error| {
        vec![problem(
            error.span().map(|span| span.start),
            "",
            one_line(error.message()),
            None,
        )]
    })?;
    let schema = Config::schema();
    let mut walk = Walk {
        root: &schema,
        places: BTreeMap::new(),
        unknown: Vec::new(),
    };
    walk.table("", document.get_ref(), &schema);
    if !walk.unknown.is_empty() {
        walk.unknown.sort_by_key(|unknown| unknown.offset);
        return Err(walk
            .unknown
            .into_iter()
            .map(|u| problem(Some(u.offset), &u.path, "unknown key".to_owned(), Some(u.hint)))
            .collect());
    }
    let places = walk.places;
    let deserializer = toml::Deserializer::parse(text).map_err(|error| {
        vec![problem(
            error.span().map(|span| span.start),
            "",
            one_line(error.message()),
            None,
        )]
    })?;
    let config: Config = serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let key = error.path().to_string();
        let offset = error
            .inner()
            .span()
            .map(|span| span.start)
            .or_else(|| places.get(&key).copied());
        let key = if key == "." { "" } else { &key };
        vec![problem(offset, key, one_line(error.inner().message()), None)]
    })?;
    let stated: toml::Table = toml::from_str(text).unwrap_or_default();
    let model = Model::resolve(stated.get("model").and_then(toml::Value::as_table))
        .map_err(|message| vec![problem(places.get("model.from").copied(), "model", message, None)])?;
    let config = Config { model, ..config };
    let mut faults: Vec<Problem> = validate::faults(&config)
        .into_iter()
        .map(|fault| {
            problem(
                places.get(&fault.key).copied(),
                &fault.key,
                fault.message,
                fault.hint,
            )
        })
        .collect();
    if faults.is_empty() {
        return Ok(config);
    }
    faults.sort_by_key(|fault| fault.at);
    Err(faults)
}

struct Unknown {
    offset: usize,
    path: String,
    hint: String,
}

struct Walk<'a> {
    root: &'a Schema,
    /// Byte offset of every key in the file, by path.
    places: BTreeMap<String, usize>,
    unknown: Vec<Unknown>,
}

impl Walk<'_> {
    fn table(&mut self, path: &str, table: &DeTable<'_>, schema: &Schema) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            let child = if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}.{name}")
            };
            self.places.insert(child.clone(), key.span().start);
            match schema["properties"].get(name) {
                Some(schema) => self.value(&child, value, schema),
                None if schema["additionalProperties"] == Schema::Bool(false) => {
                    let hint = hint(self.root, schema, path, name);
                    self.unknown.push(Unknown {
                        offset: key.span().start,
                        path: child,
                        hint,
                    });
                }
                None => self.value(&child, value, &Schema::Null),
            }
        }
    }

    fn value(&mut self, path: &str, value: &Spanned<DeValue<'_>>, schema: &Schema) {
        match value.get_ref() {
            DeValue::Table(table) => self.table(path, table, schema),
            DeValue::Array(elements) => {
                for (i, element) in elements.iter().enumerate() {
                    let path = format!("{path}[{i}]");
                    self.places.insert(path.clone(), element.span().start);
                    self.value(&path, element, &schema["items"]);
                }
            }
            _ => {}
        }
    }
}

/// What `name` was most likely meant to be: a neighbour, or a key of another section.
fn hint(root: &Schema, schema: &Schema, path: &str, name: &str) -> String {
    let siblings: Vec<&str> = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    if let Some(near) = nearest(name, siblings.iter().copied()) {
        return format!("the nearest known name is `{near}`");
    }
    let mut all = Vec::new();
    paths("", root, &mut all);
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    if let Some(elsewhere) = all.iter().find(|path| last(path) == name) {
        return format!("the nearest known name is `{elsewhere}`");
    }
    if let Some(near) = nearest(
        name,
        all.iter().map(|path| path.rsplit('.').next().unwrap_or_default()),
    ) && let Some(elsewhere) = all.iter().find(|path| last(path) == near)
    {
        return format!("the nearest known name is `{elsewhere}`");
    }
    let place = if path.is_empty() {
        "the file".to_owned()
    } else {
        format!("`{path}`")
    };
    format!("{place} knows {}", siblings.join(", "))
}

/// The name most like `name`, if any is alike enough.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase().replace('-', "_");
    known
        .map(|known| (strsim::jaro_winkler(&name, known), known))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// Every key of the schema by path, tables included.
fn paths(path: &str, schema: &Schema, all: &mut Vec<String>) {
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let child = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        all.push(child.clone());
        paths(&child, property, all);
    }
}

/// Line and column of a byte offset, both from 1, the column in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

fn one_line(message: &str) -> String {
    message
        .split('\n')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigError;

    /// `expected` is a part of the one problem's line and of its hint.
    fn check(text: &str, line: &str, hint: &str) {
        let Err(ConfigError::Invalid { problems }) = Config::parse(text, "o.toml") else {
            panic!("accepted: {text}");
        };
        let [problem] = problems.as_slice() else {
            panic!("{problems:?}")
        };
        assert!(problem.to_string().contains(line), "{problem}\nexpected {line}");
        let found = problem.hint.as_deref().unwrap_or_default();
        assert!(found.contains(hint), "hint {found:?}, expected {hint:?}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_name() {
        for (text, line, hint) in [
            (
                "[learner]\nbatch_min_sample = 64",
                "o.toml:2:1: learner.batch_min_sample: unknown key",
                "the nearest known name is `batch_min_samples`",
            ),
            ("[lerner]\n", "o.toml:1:2: lerner: unknown key", "`learner`"),
            (
                "[serving]\nmax-candidates = 5",
                "serving.max-candidates: unknown key",
                "`max_candidates`",
            ),
            (
                "[kafka.topics]\nclicks = \"c\"",
                "kafka.topics.clicks: unknown key",
                "knows ",
            ),
            (
                "[kafka]\nlateness = \"5s\"",
                "kafka.lateness: unknown key",
                "`join.lateness`",
            ),
            (
                "history_len = 5",
                "o.toml:1:1: history_len: unknown key",
                "`features.history_len`",
            ),
            (
                "join.tasks = [\n  { name = \"click\", windw = \"1m\" },\n]",
                "o.toml:2:21: join.tasks[0].windw: unknown key",
                "`window`",
            ),
            (
                "[[join.tasks]]\nname = \"a\"\nwindow = \"1m\"\nzzz = 1",
                ":4:1: join.tasks[0].zzz",
                "name, window",
            ),
        ] {
            check(text, line, hint);
        }
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_path_line_and_column() {
        for (text, line) in [
            ("[order]\nhold = 50", "o.toml:2:8: order.hold: "),
            ("[order]\nhold = 50", "a duration with its unit"),
            ("[order]\nhold = \"50\"", "\"50\" is not a duration"),
            ("[join]\ndedup = \"maybe\"", "\"auto\" or a duration"),
            ("[serving]\nlisten = \"8600\"", "o.toml:2:10: serving.listen: "),
            ("[serving]\nworkers = -1", "serving.workers: "),
            ("[serving]\nmax_body = \"1 meg\"", "is not a size with its unit"),
            ("[join]\npolicy = \"eagre\"", "expected one of `eager`, `wait`"),
            (
                "[join]\ntasks = [{ name = \"click\" }]",
                "o.toml:2:10: join.tasks[0]: missing field `window`",
            ),
            ("[learner", "o.toml:1:9: "),
            ("a = 1\na = 2", "o.toml:2:1: duplicate key"),
            ("[kafka]\nproperties = 3", "kafka.properties: expected a table"),
        ] {
            check(text, line, "");
        }
    }

    #[test]
    fn a_value_out_of_bounds_is_refused_where_it_stands() {
        for (text, line) in [
            (
                "[learner]\n\nthreads = 0",
                "o.toml:3:1: learner.threads: must be at least 1",
            ),
            ("join.tasks = []", "o.toml:1:6: join.tasks: "),
            ("[join]\ndedup = \"1m\"", "o.toml:2:1: join.dedup: "),
            (
                "[features]\nfast_rate = 1.5",
                "features.fast_rate: must be between 0 and 1",
            ),
            ("[learner]\ndevice = \"gpu\"", "learner.device: "),
            ("[log]\nlevel = \"loud=very\"", "log.level: "),
        ] {
            check(text, line, "");
        }
    }

    #[test]
    fn every_unknown_key_is_reported_at_once_in_order() {
        let text = "[serving]\nportt = 1\n[learner]\nthread = 1\n";
        let Err(ConfigError::Invalid { problems }) = Config::parse(text, "o.toml") else {
            panic!("accepted")
        };
        assert_eq!(
            problems
                .iter()
                .map(|p| (p.key.as_str(), p.at))
                .collect::<Vec<_>>(),
            [("serving.portt", Some((2, 1))), ("learner.thread", Some((4, 1)))]
        );
    }

    #[test]
    fn a_secret_in_the_file_is_refused_and_not_repeated() {
        let text = "[kafka.properties]\nsasl.password = \"hunter2\"";
        let error = Config::parse(text, "o.toml").unwrap_err();
        assert!(error.to_string().starts_with("o.toml:2:"), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
