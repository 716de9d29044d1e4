//! Avro schemas, compiled from their JSON for the decoder.
//!
//! The crate `apache-avro` is not used: its decoder recurses as deep as a payload says, so that a record of a recursive
//! schema can overflow the stack, and it brings some 20 further crates.
//!
//! Names are resolved as by the specification (Apache Avro 1.12, "Names"). Logical types that the decoder does not know are
//! those of their base type, as the specification asks.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Most nested schemas in one text, and most nested values in a record.
pub(super) const MAX_DEPTH: usize = 128;

/// A compiled schema: nodes that name each other by index, so that a record may contain itself.
#[derive(Debug)]
pub(crate) struct AvroSchema {
    pub(super) nodes: Vec<Node>,
    pub(super) root: usize,
}

/// How a value is encoded and what it stands for.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Null,
    Boolean,
    /// `int`, and `long` alike.
    Whole(Whole),
    Float,
    Double,
    Bytes(Binary),
    Text,
    Fixed(usize, Binary),
    Enum(Vec<String>),
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<(String, usize)>),
}

/// What a whole number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Number,
    /// Days since 1970.
    Date,
    /// Ticks since 1970, so many a second.
    Time(i64),
}

/// What bytes stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Bytes,
    Uuid,
    Decimal { scale: i32 },
}

impl AvroSchema {
    /// Compiles the schema `text`, which may name types that `references` define; those come in an order in which each
    /// names earlier ones only.
    ///
    /// # Errors
    /// A sentence that says what cannot be compiled.
    pub(crate) fn parse(text: &str, references: &[&str]) -> Result<Self, String> {
        let mut compiler = Compiler::default();
        for text in references {
            compiler.text(text)?;
        }
        let root = compiler.text(text)?;
        Ok(Self {
            nodes: compiler.nodes,
            root,
        })
    }
}

#[derive(Default)]
struct Compiler {
    nodes: Vec<Node>,
    /// Nodes of the named types by full name.
    names: HashMap<String, usize>,
}

impl Compiler {
    fn text(&mut self, text: &str) -> Result<usize, String> {
        let schema: Value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
        self.schema(&schema, "", 0)
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn schema(&mut self, schema: &Value, namespace: &str, depth: usize) -> Result<usize, String> {
        if depth > MAX_DEPTH {
            return Err(format!("nests more than {MAX_DEPTH} schemas"));
        }
        match schema {
            Value::String(name) => self.named(name, namespace),
            Value::Array(branches) => {
                let branches = branches
                    .iter()
                    .map(|branch| self.schema(branch, namespace, depth + 1));
                let branches = branches.collect::<Result<_, _>>()?;
                Ok(self.add(Node::Union(branches)))
            }
            Value::Object(object) => self.object(object, namespace, depth),
            other => Err(format!("has {other} where a schema should be")),
        }
    }

    /// A primitive type, or a type that was defined before.
    fn named(&mut self, name: &str, namespace: &str) -> Result<usize, String> {
        if let Some(node) = primitive(name) {
            return Ok(self.add(node));
        }
        let known = self
            .names
            .get(&full_name(name, namespace))
            .or_else(|| self.names.get(name));
        known
            .copied()
            .ok_or_else(|| format!("names the type {name}, which nothing defines"))
    }

    fn object(
        &mut self,
        object: &Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<usize, String> {
        let Some(Value::String(kind)) = object.get("type") else {
            // A schema may be wrapped: {"type": {"type": "array", ..}}.
            let inner = object.get("type").ok_or("has an object without a `type`")?;
            return self.schema(inner, namespace, depth + 1);
        };
        let below = |key: &str| {
            object
                .get(key)
                .ok_or_else(|| format!("has an {kind} without `{key}`"))
        };
        match kind.as_str() {
            "array" => {
                let items = self.schema(below("items")?, namespace, depth + 1)?;
                Ok(self.add(Node::Array(items)))
            }
            "map" => {
                let values = self.schema(below("values")?, namespace, depth + 1)?;
                Ok(self.add(Node::Map(values)))
            }
            "enum" => {
                let symbols = below("symbols")?.as_array().into_iter().flatten();
                let symbols = symbols.map(|symbol| symbol.as_str().map(str::to_owned));
                let symbols: Option<Vec<String>> = symbols.collect();
                let node = Node::Enum(symbols.ok_or("has a symbol of an enum that is no text")?);
                self.define(object, namespace, node).map(|(index, _)| index)
            }
            "fixed" => {
                let size = below("size")?
                    .as_u64()
                    .and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or("has a fixed whose `size` is no number")?;
                self.define(object, namespace, Node::Fixed(size, binary(object)))
                    .map(|(index, _)| index)
            }
            "record" | "error" => {
                // Defined first: a field may name the record itself.
                let (index, namespace) = self.define(object, namespace, Node::Null)?;
                let mut fields = Vec::new();
                for field in below("fields")?.as_array().into_iter().flatten() {
                    let name = field.get("name").and_then(Value::as_str);
                    let name = name.ok_or("has a field without a name")?;
                    let schema = field
                        .get("type")
                        .ok_or_else(|| format!("has the field {name} without a type"))?;
                    // Some producers put the logical type beside the field's type instead of into it.
                    let is_bare = schema.is_string() && field.get("logicalType").is_some();
                    let schema = if is_bare { field } else { schema };
                    fields.push((name.to_owned(), self.schema(schema, &namespace, depth + 1)?));
                }
                self.nodes[index] = Node::Record(fields);
                Ok(index)
            }
            "int" | "long" => Ok(self.add(Node::Whole(whole(object)))),
            "bytes" => Ok(self.add(Node::Bytes(binary(object)))),
            name => self.named(name, namespace),
        }
    }

    /// Adds a named type. Returns its node and the namespace of the types in it.
    fn define(
        &mut self,
        object: &Map<String, Value>,
        namespace: &str,
        node: Node,
    ) -> Result<(usize, String), String> {
        let name = object.get("name").and_then(Value::as_str);
        let name = name.ok_or("has a named type without a name")?;
        let stated = object.get("namespace").and_then(Value::as_str);
        let full = full_name(name, stated.unwrap_or(namespace));
        let own = full
            .rsplit_once('.')
            .map_or("", |(namespace, _)| namespace)
            .to_owned();
        let index = self.add(node);
        if self.names.insert(full.clone(), index).is_some() {
            return Err(format!("defines {full} twice"));
        }
        Ok((index, own))
    }
}

/// A name with its namespace; one with a point has its own.
fn full_name(name: &str, namespace: &str) -> String {
    match name.strip_prefix('.') {
        Some(name) => name.to_owned(),
        None if name.contains('.') || namespace.is_empty() => name.to_owned(),
        None => format!("{namespace}.{name}"),
    }
}

fn primitive(name: &str) -> Option<Node> {
    Some(match name {
        "null" => Node::Null,
        "boolean" => Node::Boolean,
        "int" | "long" => Node::Whole(Whole::Number),
        "float" => Node::Float,
        "double" => Node::Double,
        "bytes" => Node::Bytes(Binary::Bytes),
        "string" => Node::Text,
        _ => return None,
    })
}

fn text_of<'a>(object: &'a Map<String, Value>, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// What a whole number stands for, by its logical type or, as Debezium writes it, by its name in Kafka Connect.
fn whole(object: &Map<String, Value>) -> Whole {
    match text_of(object, "logicalType") {
        "date" => return Whole::Date,
        "timestamp-millis" | "local-timestamp-millis" => return Whole::Time(1000),
        "timestamp-micros" | "local-timestamp-micros" => return Whole::Time(1_000_000),
        "timestamp-nanos" | "local-timestamp-nanos" => return Whole::Time(1_000_000_000),
        _ => {}
    }
    match text_of(object, "connect.name") {
        "io.debezium.time.Date" => Whole::Date,
        "io.debezium.time.Timestamp" => Whole::Time(1000),
        "io.debezium.time.MicroTimestamp" => Whole::Time(1_000_000),
        "io.debezium.time.NanoTimestamp" => Whole::Time(1_000_000_000),
        _ => Whole::Number,
    }
}

fn binary(object: &Map<String, Value>) -> Binary {
    match text_of(object, "logicalType") {
        "uuid" => Binary::Uuid,
        "decimal" => {
            let scale = object.get("scale").and_then(Value::as_i64).unwrap_or(0);
            Binary::Decimal {
                scale: i32::try_from(scale).unwrap_or(i32::MAX),
            }
        }
        _ => Binary::Bytes,
    }
}
