//! Decodes records of Protobuf: a payload and its writer's `.proto` text in, a JSON value out.
//!
//! The form is that of Protobuf's JSON mapping with three exceptions: fields have the names of the schema, 64-bit numbers
//! are numbers, and a field without presence has its default value, because a `position` of 0 is not on the wire.

use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage,
    Value as Protobuf,
};
use serde_json::{Map, Value};

use super::framing::message_indexes;
use super::values::{self, Fault};

/// The name of the schema's own text among the files that it imports.
const SCHEMA: &str = "ouzel/record.proto";

/// Files that schemas import without naming them as references: Confluent's options of fields, and its decimal.
const CONFLUENT: [(&str, &str); 2] = [
    (
        "confluent/meta.proto",
        include_str!("protobuf/confluent_meta.proto"),
    ),
    (
        "confluent/type/decimal.proto",
        include_str!("protobuf/confluent_decimal.proto"),
    ),
];

/// A compiled schema.
#[derive(Debug)]
pub(crate) struct ProtobufSchema {
    pool: DescriptorPool,
}

/// The texts that a schema may import, by name.
struct Texts(Vec<(String, String)>);

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let own = self.0.iter().map(|(known, text)| (known.as_str(), text.as_str()));
        match own.chain(CONFLUENT).find(|(known, _)| *known == name) {
            Some((_, text)) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

impl ProtobufSchema {
    /// Compiles the schema `text`, which may import `references` by name.
    ///
    /// # Errors
    /// A sentence that says what cannot be compiled.
    pub(crate) fn parse(text: &str, references: &[(String, String)]) -> Result<Self, String> {
        let mut texts = references.to_vec();
        texts.push((SCHEMA.to_owned(), text.to_owned()));
        let mut resolver = ChainFileResolver::new();
        resolver.add(Texts(texts));
        resolver.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler.open_file(SCHEMA).map_err(|error| error.to_string())?;
        Ok(Self {
            pool: compiler.descriptor_pool(),
        })
    }

    /// The value of a payload, which begins with the path to its message.
    ///
    /// # Errors
    /// When the schema has no such message or the payload does not fit it.
    pub(crate) fn decode(&self, payload: &[u8]) -> Result<Value, Fault> {
        let (indexes, payload) = message_indexes(payload)?;
        let message = self
            .message(&indexes)
            .ok_or_else(|| Fault::malformed(format!("the schema has no message at the path {indexes:?}")))?;
        let message =
            DynamicMessage::decode(message, payload).map_err(|error| Fault::malformed(error.to_string()))?;
        json(&message)
    }

    /// The descriptors of the schema and of what it imports.
    #[cfg(test)]
    pub(super) fn pool(&self) -> &DescriptorPool {
        &self.pool
    }

    fn message(&self, indexes: &[usize]) -> Option<MessageDescriptor> {
        let (first, below) = indexes.split_first()?;
        let mut message = self.pool.get_file_by_name(SCHEMA)?.messages().nth(*first)?;
        for index in below {
            let inner = message.child_messages().nth(*index)?;
            message = inner;
        }
        Some(message)
    }
}

/// A message as a JSON value: an object, or what a well-known type stands for.
fn json(message: &DynamicMessage) -> Result<Value, Fault> {
    let descriptor = message.descriptor();
    let number = |name: &str| {
        let field = message.get_field_by_name(name);
        field.and_then(|field| field.as_i64().or_else(|| field.as_i32().map(i64::from)))
    };
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => {
            let nanos = (number("seconds").unwrap_or(0))
                .checked_mul(1_000_000_000)
                .and_then(|nanos| nanos.checked_add(number("nanos").unwrap_or(0)));
            return match nanos {
                Some(nanos) => Ok(values::time(nanos, 1_000_000_000)),
                // Beyond the years that nanoseconds can count.
                None => Ok(values::time(number("seconds").unwrap_or(0), 1)),
            };
        }
        "google.protobuf.Duration" => {
            #[allow(
                clippy::cast_precision_loss,
                reason = "an interval of 2^53 seconds is longer than any"
            )]
            let seconds = number("seconds").unwrap_or(0) as f64 + number("nanos").unwrap_or(0) as f64 / 1e9;
            return values::double(seconds);
        }
        "google.protobuf.Struct" | "google.protobuf.ListValue" => {
            let field = descriptor.fields().next();
            return match field {
                Some(field) => field_json(&field, &message.get_field(&field)),
                None => Ok(Value::Null),
            };
        }
        "google.protobuf.Value" => {
            return match message.fields().next() {
                Some((field, _)) if field.name() == "null_value" => Ok(Value::Null),
                Some((field, value)) => field_json(&field, value),
                None => Ok(Value::Null),
            };
        }
        "confluent.type.Decimal" => {
            let unscaled = message.get_field_by_name("value");
            let unscaled = unscaled
                .as_ref()
                .and_then(|value| value.as_bytes())
                .map(|bytes| &bytes[..]);
            let scale = number("scale").and_then(|scale| i32::try_from(scale).ok());
            return values::decimal(unscaled.unwrap_or_default(), scale.unwrap_or(0));
        }
        name if is_wrapper(name) => {
            return match descriptor.fields().next() {
                Some(field) => field_json(&field, &message.get_field(&field)),
                None => Ok(Value::Null),
            };
        }
        _ => {}
    }
    let mut object = Map::new();
    for field in descriptor.fields() {
        // An empty list is not on the wire and cannot be told from an absent one.
        let is_optional = field.supports_presence() || field.is_list() || field.is_map();
        if is_optional && !message.has_field(&field) {
            continue;
        }
        let value = field_json(&field, &message.get_field(&field));
        object.insert(
            field.name().to_owned(),
            value.map_err(|fault| fault.within(field.name()))?,
        );
    }
    Ok(Value::Object(object))
}

/// True of the messages of `google/protobuf/wrappers.proto`, which hold one scalar.
fn is_wrapper(name: &str) -> bool {
    let kind = name
        .strip_prefix("google.protobuf.")
        .and_then(|name| name.strip_suffix("Value"));
    matches!(
        kind,
        Some("Double" | "Float" | "Int64" | "UInt64" | "Int32" | "UInt32" | "Bool" | "String" | "Bytes")
    )
}

/// The value of a field: a list, an object for a map, or one value.
fn field_json(field: &FieldDescriptor, value: &Protobuf) -> Result<Value, Fault> {
    let kind = field.kind();
    match value {
        Protobuf::List(list) => list.iter().map(|value| value_json(&kind, value)).collect(),
        Protobuf::Map(map) => {
            let Kind::Message(entry) = &kind else {
                return Err(Fault::malformed("is a map without entries"));
            };
            let kind = entry.map_entry_value_field().kind();
            let mut entries: Vec<(String, &Protobuf)> =
                map.iter().map(|(key, value)| (key_text(key), value)).collect();
            // The map has no order of its own.
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            let entry = |(key, value): (String, &Protobuf)| Ok((key, value_json(&kind, value)?));
            let object: Result<Map<String, Value>, Fault> = entries.into_iter().map(entry).collect();
            object.map(Value::Object)
        }
        other => value_json(&kind, other),
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn value_json(kind: &Kind, value: &Protobuf) -> Result<Value, Fault> {
    match value {
        Protobuf::Bool(value) => Ok(Value::Bool(*value)),
        Protobuf::I32(value) => Ok(Value::from(*value)),
        Protobuf::I64(value) => Ok(Value::from(*value)),
        Protobuf::U32(value) => Ok(Value::from(*value)),
        Protobuf::U64(value) => Ok(Value::from(*value)),
        Protobuf::F32(value) => values::float(*value),
        Protobuf::F64(value) => values::double(*value),
        Protobuf::String(text) => Ok(Value::String(text.clone())),
        Protobuf::Bytes(bytes) => Ok(values::bytes(bytes)),
        Protobuf::EnumNumber(number) => {
            let known = kind.as_enum().and_then(|symbols| symbols.get_value(*number));
            // A number that the schema does not name stays one.
            Ok(known.map_or_else(|| Value::from(*number), |symbol| Value::from(symbol.name())))
        }
        Protobuf::Message(message) => json(message),
        Protobuf::List(list) => list.iter().map(|value| value_json(kind, value)).collect(),
        Protobuf::Map(_) => Err(Fault::malformed("is a map within a list")),
    }
}
