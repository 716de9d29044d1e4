//! Formats of records: JSON, and Avro and Protobuf with their schemas in a registry.
//!
//! A [`RecordFormats`] turns a payload into the JSON value that the mapping of its stream reads. The value is a function of
//! the payload and its writer's schema alone: a field is found by its name, so that schemas may evolve as mappings allow.

mod avro;
mod avro_schema;
mod framing;
mod protobuf;
mod registry;
mod schemas;
#[cfg(test)]
mod tests;
pub(crate) mod values;

use std::borrow::Cow;
use std::fmt;

use ouzel_sample::{Record, Reject, RejectReason, Stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::mapping::text_of;
use registry::Registry;
pub use registry::RegistryConfig;
use schemas::{Schema, Schemas};
use values::Fault;

/// The format of the records of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PayloadFormat {
    /// A JSON object.
    #[default]
    Json,
    /// A JSON object behind the id of its schema, which is not looked up.
    JsonSchema,
    /// Avro behind the id of its schema.
    Avro,
    /// Protobuf behind the id of its schema and the path to its message.
    Protobuf,
}

impl PayloadFormat {
    /// True of formats whose schemas come from a registry.
    #[must_use]
    pub fn needs_registry(self) -> bool {
        matches!(self, PayloadFormat::Avro | PayloadFormat::Protobuf)
    }

    fn name(self) -> &'static str {
        match self {
            PayloadFormat::Json => "json",
            PayloadFormat::JsonSchema => "json_schema",
            PayloadFormat::Avro => "avro",
            PayloadFormat::Protobuf => "protobuf",
        }
    }
}

/// Decodes payloads of every stream by its format.
#[derive(Default)]
pub struct RecordFormats {
    impressions: PayloadFormat,
    actions: PayloadFormat,
    items: PayloadFormat,
    users: PayloadFormat,
    schemas: Option<Schemas>,
}

impl fmt::Debug for RecordFormats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordFormats")
            .field("impressions", &self.impressions)
            .field("actions", &self.actions)
            .field("items", &self.items)
            .field("users", &self.users)
            .finish_non_exhaustive()
    }
}

impl RecordFormats {
    /// The formats that `format` gives for each stream, with schemas of `registry`. Nothing is requested yet.
    ///
    /// # Errors
    /// When this build cannot reach the registry, or its certificates cannot be read.
    pub fn new(
        format: impl Fn(Stream) -> PayloadFormat,
        registry: Option<&RegistryConfig>,
    ) -> Result<Self, Error> {
        let schemas = registry.map(|registry| Registry::new(registry).map(Schemas::new));
        Ok(Self {
            impressions: format(Stream::Impressions),
            actions: format(Stream::Actions),
            items: format(Stream::Items),
            users: format(Stream::Users),
            schemas: schemas.transpose()?,
        })
    }

    /// The format of a stream. Join records have one of their own.
    fn of(&self, stream: Stream) -> PayloadFormat {
        match stream {
            Stream::Impressions => self.impressions,
            Stream::Actions => self.actions,
            Stream::Items => self.items,
            Stream::Users => self.users,
            Stream::Samples => PayloadFormat::Json,
        }
    }

    /// Fetches the schemas that `records` name. False while the registry has not answered: their source must wait.
    pub(crate) fn are_readable(&self, records: &[Record]) -> bool {
        let Some(schemas) = &self.schemas else { return true };
        let framed = records
            .iter()
            .filter(|record| self.of(record.position.partition.stream).needs_registry());
        let ids = framed.flat_map(|record| {
            let key = record
                .metadata
                .as_ref()
                .and_then(|brought| brought.key.as_deref());
            [record.payload.as_deref(), key]
        });
        schemas.fetch(ids.flatten().filter_map(framing::frame).map(|(id, _)| id))
    }

    /// True if the payloads of `stream` are JSON text.
    pub(crate) fn is_json(&self, stream: Stream) -> bool {
        self.of(stream) == PayloadFormat::Json
    }

    /// The value of a payload that is not [`PayloadFormat::Json`]. Waits for a schema that was not fetched.
    ///
    /// # Errors
    /// When the payload has no frame, the registry does not have its schema, or it does not fit its schema.
    pub(crate) fn value(&self, stream: Stream, payload: &[u8]) -> Result<Value, Reject> {
        let format = self.of(stream);
        let Some((id, framed)) = framing::frame(payload) else {
            let first = payload.first().map_or("is empty".to_owned(), |byte| {
                format!("begins with the byte {byte}, not with a byte 0 and the id of a schema")
            });
            return Err(Fault::malformed(format!("the record {first}")).into());
        };
        if !format.needs_registry() {
            return serde_json::from_slice(framed)
                .map_err(|error| Reject::new(RejectReason::MalformedJson, error.to_string()));
        }
        let Some(schemas) = &self.schemas else {
            return Err(Reject::new(
                RejectReason::UnknownSchema,
                format!(
                    "schema {id} is in a registry, and none is configured: set kafka.schema_registry.url"
                ),
            ));
        };
        let schema = schemas.get(id)?;
        let decoded = match (&*schema, format) {
            (Schema::Avro(schema), PayloadFormat::Avro) => schema.decode(framed),
            (Schema::Protobuf(schema), PayloadFormat::Protobuf) => schema.decode(framed),
            (Schema::Avro(_), _) => return Err(other_format(id, "AVRO", stream, format)),
            (Schema::Protobuf(_), _) => return Err(other_format(id, "PROTOBUF", stream, format)),
        };
        decoded.map_err(Reject::from)
    }

    /// The key of a record: as it is, or the text or JSON object that a framed key stands for.
    ///
    /// # Errors
    /// As [`RecordFormats::value`].
    pub(crate) fn key<'a>(&self, record: &'a Record) -> Result<Option<Cow<'a, [u8]>>, Reject> {
        let key = record
            .metadata
            .as_ref()
            .and_then(|brought| brought.key.as_deref());
        let stream = record.position.partition.stream;
        match key {
            Some(key) if !self.is_json(stream) && framing::frame(key).is_some() => {
                let value = self.value(stream, key)?;
                let text = text_of(&value).map_or_else(|| value.to_string(), Cow::into_owned);
                Ok(Some(Cow::Owned(text.into_bytes())))
            }
            key => Ok(key.map(Cow::Borrowed)),
        }
    }

    /// Why the registry does not answer; `None` where it does, or where none is configured.
    #[must_use]
    pub fn registry_complaint(&self) -> Option<String> {
        self.schemas.as_ref().and_then(Schemas::complaint)
    }
}

fn other_format(id: u32, kind: &str, stream: Stream, format: PayloadFormat) -> Reject {
    let detail = format!(
        "schema {id} is of type {kind}, and events.{stream}.format is \"{}\"",
        format.name()
    );
    Reject::new(RejectReason::UnknownSchema, detail)
}
