//! Compiles a section `[events.<stream>]` to a mapping.

use std::collections::{BTreeMap, BTreeSet};

use ouzel_sample::Stream;
use ouzel_sample::settings::KeyError;

use super::apply::Mapping;
use super::config::{
    ActionMapping, Conditions, EventTimeSource, Field, FieldSource, ImpressionMapping, ItemMapping,
    NamedPaths, UserMapping, path,
};
use super::fields::Named;
use super::path::Path;

/// The parts of a section that each stream has differently.
struct Parts<'a> {
    stream: Stream,
    conditions: &'a Conditions,
    root: &'a FieldSource,
    time: &'a EventTimeSource,
    fields: Vec<(&'static str, &'a FieldSource)>,
    /// Names of the fields that are an item's when the record has a list of items.
    of_items: &'static [&'static str],
    context: &'a NamedPaths,
    features: &'a NamedPaths,
    actions: BTreeMap<String, String>,
}

impl Mapping {
    /// The mapping of the impressions.
    ///
    /// # Errors
    /// The first path that cannot be parsed, by its key.
    pub fn impressions(section: &ImpressionMapping) -> Result<Self, KeyError> {
        Self::compile(Parts {
            stream: Stream::Impressions,
            conditions: &section.conditions,
            root: &section.root,
            time: &section.time,
            fields: section.fields(),
            of_items: &["item_id", "position"],
            context: &section.context,
            features: &section.features,
            actions: BTreeMap::new(),
        })
    }

    /// The mapping of the actions.
    ///
    /// # Errors
    /// The first path that cannot be parsed, by its key.
    pub fn actions(section: &ActionMapping) -> Result<Self, KeyError> {
        let none = NamedPaths::default();
        Self::compile(Parts {
            stream: Stream::Actions,
            conditions: &section.conditions,
            root: &section.root,
            time: &section.time,
            fields: section.fields(),
            of_items: &["item_id", "value"],
            context: &none,
            features: &none,
            actions: section.actions.0.clone(),
        })
    }

    /// The mapping of the items.
    ///
    /// # Errors
    /// The first path that cannot be parsed, by its key.
    pub fn items(section: &ItemMapping) -> Result<Self, KeyError> {
        Self::compile(Parts {
            stream: Stream::Items,
            conditions: &section.conditions,
            root: &section.root,
            time: &section.time,
            fields: section.fields(),
            of_items: &[],
            context: &NamedPaths::default(),
            features: &section.features,
            actions: BTreeMap::new(),
        })
    }

    /// The mapping of the users' profiles.
    ///
    /// # Errors
    /// The first path that cannot be parsed, by its key.
    pub fn users(section: &UserMapping) -> Result<Self, KeyError> {
        Self::compile(Parts {
            stream: Stream::Users,
            conditions: &section.conditions,
            root: &section.root,
            time: &section.time,
            fields: section.fields(),
            of_items: &[],
            context: &NamedPaths::default(),
            features: &section.features,
            actions: BTreeMap::new(),
        })
    }

    fn compile(parts: Parts<'_>) -> Result<Self, KeyError> {
        let conditions = parts.conditions.0.iter();
        let conditions =
            conditions.map(|(text, equals)| Ok((path("where", text)?, equals.as_slice().to_vec())));
        let conditions: Vec<_> = conditions.collect::<Result<_, KeyError>>()?;
        let (mut fields, mut item_fields, mut items) = (Vec::new(), Vec::new(), Field::Paths(Vec::new()));
        for (name, source) in parts.fields {
            let field = source.compile(name)?;
            if name == "items" {
                items = field;
            } else if parts.of_items.contains(&name) {
                item_fields.push((name, field));
            } else {
                fields.push((name, field));
            }
        }
        let (paths, all_context) = parts.context.compile("context")?;
        let context = Named {
            paths,
            has_own: parts.context.has_own(),
        };
        let (paths, has_all_features) = parts.features.compile("features")?;
        let features = Named {
            paths,
            has_own: parts.features.has_own(),
        };
        if all_context || (has_all_features && !parts.stream.is_catalog()) {
            let key = if all_context { "context" } else { "features" };
            return Err(KeyError::new(
                key,
                "must name each field: a field that is learned from without a name may tell the outcome",
            ));
        }
        let time = parts.time.field.compile("time.field")?;
        let time_name = match &time {
            Field::Paths(paths) if !paths.is_empty() => paths[0].text().to_owned(),
            _ => "ts_ms".to_owned(),
        };
        let root = parts.root.compile("root")?;
        let sources = || fields.iter().chain(&item_fields).map(|(_, field)| field);
        let paths = || {
            let named = context.paths.iter().chain(&features.paths).map(|(_, path)| path);
            let all = sources().chain([&time, &items]).flat_map(Field::paths);
            all.chain(named).chain(conditions.iter().map(|(path, _)| path))
        };
        let mut known: BTreeSet<String> = paths()
            .filter_map(|path| path.first_field().map(str::to_owned))
            .collect();
        if root.paths().next().is_none() {
            known.extend(paths().filter_map(|path| path.first_record_field().map(str::to_owned)));
        }
        if parts.stream == Stream::Impressions && context.has_own {
            known.insert("context".to_owned());
        }
        if parts.stream != Stream::Actions && features.has_own {
            known.insert("features".to_owned());
        }
        if parts.stream.is_catalog() {
            known.insert("partial".to_owned());
        }
        let reads_metadata = paths().chain(root.paths()).any(Path::reads_metadata);
        Ok(Self {
            stream: parts.stream,
            unit: parts.time.unit,
            conditions,
            root,
            time,
            time_name,
            items,
            fields,
            item_fields,
            context,
            features,
            has_all_features,
            actions: parts.actions,
            known,
            reads_metadata,
        })
    }
}
