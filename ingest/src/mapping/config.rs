//! The sections `[events.<stream>]`: where a stream's records hold the fields of its events.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ouzel_sample::REQUEST_FIELDS;
use ouzel_sample::settings::KeyError;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::path::Path;
use super::time::TimeUnit;
use crate::formats::PayloadFormat;

/// Where a field is: a path, several of which the first that has a value counts, a constant, or a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FieldSource {
    /// A path.
    Path(String),
    /// Paths, tried in order; none when the records lack the field.
    Paths(Vec<String>),
    /// True where the first value at these paths is one of these texts.
    Comparison {
        /// The paths.
        path: Texts,
        /// The texts.
        equals: Texts,
    },
    /// The same value in every record.
    Constant {
        /// The value.
        value: Value,
    },
}

impl Default for FieldSource {
    fn default() -> Self {
        FieldSource::Paths(Vec::new())
    }
}

/// One text or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Texts {
    /// One.
    One(String),
    /// Any of several.
    Any(Vec<String>),
}

impl Texts {
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Texts::One(text) => std::slice::from_ref(text),
            Texts::Any(texts) => texts,
        }
    }
}

/// Values by name: paths, named by themselves, or paths by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NamedPaths {
    /// Paths, each with itself as name.
    List(Vec<String>),
    /// Paths by name.
    Named(BTreeMap<String, String>),
}

impl Default for NamedPaths {
    fn default() -> Self {
        NamedPaths::List(Vec::new())
    }
}

/// Conditions on a record: the texts that the value at each path may have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Conditions(pub BTreeMap<String, Texts>);

/// Task by the name of an action in the records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionNames(pub BTreeMap<String, String>);

/// Implements [`JsonSchema`] for a value that is written in several forms.
macro_rules! open_schema {
    ($($name:ident: $schema:tt,)*) => {
        $(impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        })*
    };
}

open_schema! {
    FieldSource: { "x-type": "path or list" },
    NamedPaths: { "x-type": "list or table" },
    Conditions: { "type": "object", "additionalProperties": true },
    ActionNames: { "type": "object", "additionalProperties": true },
}

/// When an event happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventTimeSource {
    /// Where the event time is.
    ///
    /// Set it to the field of your records.
    pub field: FieldSource,
    /// Unit of a number. Texts may be numbers of this unit or ISO 8601 times, which are UTC without an offset.
    ///
    /// Change it when records are refused because their times are not milliseconds.
    pub unit: TimeUnit,
}

impl Default for EventTimeSource {
    fn default() -> Self {
        Self {
            field: FieldSource::Path("ts_ms".to_owned()),
            unit: TimeUnit::Ms,
        }
    }
}

/// Declares the section of one stream: its fields with the paths that they have by default.
macro_rules! stream_section {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $field:ident: [$($default:literal),*],)*
    } more {
        $($(#[$more_doc:meta])* $more:ident: $more_type:ty = $more_default:expr,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            /// Format of the stream's records in Kafka: `json`, or, as Confluent's serializers write them, `avro`,
            /// `protobuf` and `json_schema`. The schemas of the first two come from `kafka.schema_registry`.
            ///
            /// Set it to what the producers write. Rows of files are not affected.
            pub format: PayloadFormat,
            /// Conditions that select the records of this stream: the text, or list of texts, that each path may have.
            /// Other records are counted as `not_selected`.
            ///
            /// Set them when one topic carries several streams.
            #[serde(rename = "where")]
            pub conditions: Conditions,
            /// Where the event is in the record; other paths start here, and at the record itself with `$.`.
            ///
            /// Set it when records wrap their event in an envelope.
            pub root: FieldSource,
            /// When the event happened.
            pub time: EventTimeSource,
            $($(#[$field_doc])* pub $field: FieldSource,)*
            $($(#[$more_doc])* pub $more: $more_type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    format: PayloadFormat::default(),
                    conditions: Conditions::default(),
                    root: FieldSource::default(),
                    time: EventTimeSource::default(),
                    $($field: default_paths(&[$($default),*]),)*
                    $($more: $more_default,)*
                }
            }
        }

        impl $name {
            /// The fields of the event by name.
            pub(super) fn fields(&self) -> Vec<(&'static str, &FieldSource)> {
                vec![$((stringify!($field), &self.$field),)*]
            }
        }
    };
}

stream_section! {
    /// Where the records of the impressions hold what was shown.
    ImpressionMapping {
        /// Where the request's id is.
        ///
        /// Set it to the field of your records.
        request_id: ["request_id"],
        /// Where the id of the user is who saw the items.
        ///
        /// Set it to the field of your records.
        user_id: ["user_id"],
        /// Where the list of shown items is; paths of an item's fields start at its entry. Without a list the record
        /// shows one item, whose fields are in the record.
        ///
        /// Set it to the field of your records.
        items: ["items"],
        /// Where the item's id is.
        ///
        /// Set it to the field of your records.
        item_id: ["item_id"],
        /// Where the item's place in the slate is, from 0.
        ///
        /// Set it to the field of your records.
        position: ["position"],
    } more {
        /// Values of the request to learn from: a list of paths besides the values in the record's `context`, or a table of
        /// paths by name in place of them. No other field is learned from, since it may tell the outcome.
        ///
        /// Name fields that say something about the request before its outcome is known, and that ranking requests send.
        context: NamedPaths = NamedPaths::List(REQUEST_FIELDS.map(str::to_owned).to_vec()),
        /// Values of the shown item in this request to learn from: a list of paths besides the values in its `features`, or a
        /// table of paths by name in place of them.
        ///
        /// Name fields that are known before the outcome, and that ranking requests send for each candidate.
        features: NamedPaths = NamedPaths::default(),
    }
}

stream_section! {
    /// Where the records of the actions hold what users did.
    ActionMapping {
        /// Where the id of the request that showed the item is.
        ///
        /// Set it to the field of your records.
        request_id: ["request_id"],
        /// Where the id of the user who acted is.
        ///
        /// Set it to the field of your records.
        user_id: ["user_id"],
        /// Where a list of the items acted on is, such as those of an order. Without a list the record has one item.
        ///
        /// Set it to the field of your records.
        items: [],
        /// Where the item's id is.
        ///
        /// Set it to the field of your records.
        item_id: ["item_id"],
        /// Where the name of the action is.
        ///
        /// Set it to the field of your records, or to a constant such as `{ value = "click" }`.
        action: ["action", "type"],
        /// Where the action's amount, duration or rating is.
        ///
        /// Set it to the field of your records.
        value: ["value", "dwell_ms", "rating"],
    } more {
        /// The task that each action of the records feeds, by the name of the action. An action that is not listed keeps
        /// its name.
        ///
        /// Set it when the records call an action otherwise than `join.tasks`.
        actions: ActionNames = ActionNames::default(),
    }
}

stream_section! {
    /// Where the records of the items hold the catalogue.
    ItemMapping {
        /// Where the item's id is.
        ///
        /// Set it to the field of your records.
        item_id: ["item_id"],
        /// Where the categories are, a list or a text in which `|` separates them.
        ///
        /// Set it to the field of your records.
        category: ["category"],
        /// Where the makers are: author, brand, seller, publisher.
        ///
        /// Set it to the field of your records.
        author: ["author", "author_id", "director"],
        /// Where the title is.
        ///
        /// Set it to the field of your records.
        title: ["title"],
        /// Where further texts are.
        ///
        /// Set it to the field of your records.
        text: ["text"],
        /// Where the path of the picture is.
        ///
        /// Set it to the field of your records.
        image: ["image"],
        /// Where content vectors are, lists of numbers by modality.
        ///
        /// Set it to the field of your records.
        vectors: ["vectors"],
        /// Where a record says that its item is deleted: a value that is true, or a comparison.
        ///
        /// Set it for changes of a table, such as `{ path = "$.payload.op", equals = "d" }`.
        deleted: ["deleted"],
    } more {
        /// Values of the item to learn from: a list of paths besides the values in its `features`, or a table of paths by
        /// name in place of them. In a list `*` stands for every field that is read by nothing else and is a text, a number,
        /// a boolean or a list of them.
        ///
        /// Name the fields instead when the catalogue holds some that must not be learned.
        features: NamedPaths = NamedPaths::List(vec!["*".to_owned()]),
    }
}

stream_section! {
    /// Where the records of the users hold their profiles.
    UserMapping {
        /// Where the id of the user is.
        ///
        /// Set it to the field of your records.
        user_id: ["user_id"],
        /// Where a record says that its profile is deleted: a value that is true, or a comparison.
        ///
        /// Set it for changes of a table, such as `{ path = "$.payload.op", equals = "d" }`.
        deleted: ["deleted"],
    } more {
        /// Values of the user to learn from: a list of paths besides the values in the record's `features`, or a table of paths
        /// by name in place of them. In a list `*` stands for every field that is read by nothing else and is a text, a number,
        /// a boolean or a list of them.
        ///
        /// Name the fields instead when the profiles hold some that must not be learned.
        features: NamedPaths = NamedPaths::List(vec!["*".to_owned()]),
    }
}

fn default_paths(paths: &[&str]) -> FieldSource {
    match paths {
        [path] => FieldSource::Path((*path).to_owned()),
        paths => FieldSource::Paths(paths.iter().map(|path| (*path).to_owned()).collect()),
    }
}

/// A compiled source of one field.
#[derive(Clone, Debug)]
pub(super) enum Field {
    Paths(Vec<Path>),
    Comparison(Vec<Path>, Vec<String>),
    Constant(Value),
}

impl FieldSource {
    /// The compiled form; an empty text is no path.
    pub(super) fn compile(&self, key: &str) -> Result<Field, KeyError> {
        let paths = |texts: &[String]| -> Result<Vec<Path>, KeyError> {
            texts.iter().map(|text| path(key, text)).collect()
        };
        match self {
            FieldSource::Path(text) if text.is_empty() => Ok(Field::Paths(Vec::new())),
            FieldSource::Path(text) => Ok(Field::Paths(paths(std::slice::from_ref(text))?)),
            FieldSource::Paths(texts) => Ok(Field::Paths(paths(texts)?)),
            FieldSource::Comparison { path, equals } => Ok(Field::Comparison(
                paths(path.as_slice())?,
                equals.as_slice().to_vec(),
            )),
            FieldSource::Constant { value } => Ok(Field::Constant(value.clone())),
        }
    }
}

impl NamedPaths {
    /// True of a list, whose values come beside those of the record's own object.
    pub(super) fn has_own(&self) -> bool {
        matches!(self, NamedPaths::List(_))
    }

    /// The compiled paths by name, without `*`; and whether `*` is among them.
    pub(super) fn compile(&self, key: &str) -> Result<(Vec<(String, Path)>, bool), KeyError> {
        match self {
            NamedPaths::List(texts) => {
                let named = texts.iter().filter(|text| *text != "*");
                let named = named.map(|text| Ok((text.clone(), path(key, text)?)));
                Ok((
                    named.collect::<Result<_, KeyError>>()?,
                    texts.iter().any(|text| text == "*"),
                ))
            }
            NamedPaths::Named(paths) => {
                let named = paths
                    .iter()
                    .map(|(name, text)| Ok((name.clone(), path(key, text)?)));
                Ok((named.collect::<Result<_, KeyError>>()?, false))
            }
        }
    }
}

/// Parses a path of a setting.
pub(super) fn path(key: &str, text: &str) -> Result<Path, KeyError> {
    Path::parse(text).map_err(|error| KeyError::new(key, format!("is no path: {error}")))
}
