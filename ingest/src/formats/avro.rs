//! Decodes records of Avro: a payload and its writer's schema in, a JSON value out.
//!
//! Depth and number of values are bounded, since a few bytes may stand for millions of them.

use serde_json::{Map, Value};

use super::avro_schema::{AvroSchema, Binary, MAX_DEPTH, Node, Whole};
use super::values::{self, Fault};

/// Values without a byte of their own, such as nulls in a list, that a record may have besides four for each byte.
const FREE_VALUES: usize = 4096;

impl AvroSchema {
    /// The value that `payload` encodes.
    ///
    /// Names of fields are those of the schema. A union has the value of its branch, an enum its symbol.
    ///
    /// # Errors
    /// When the payload does not fit the schema or is larger than its values.
    pub(crate) fn decode(&self, payload: &[u8]) -> Result<Value, Fault> {
        let mut reader = Reader {
            schema: self,
            rest: payload,
            values_left: payload.len().saturating_mul(4).saturating_add(FREE_VALUES),
        };
        let value = reader.value(self.root, 0)?;
        match reader.rest.len() {
            0 => Ok(value),
            n => Err(Fault::malformed(format!("{n} bytes follow the record"))),
        }
    }
}

struct Reader<'a> {
    schema: &'a AvroSchema,
    rest: &'a [u8],
    values_left: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, node: usize, depth: usize) -> Result<Value, Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::malformed(format!(
                "has more than {MAX_DEPTH} nested values"
            )));
        }
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or_else(|| Fault::malformed("has more values than bytes for them"))?;
        let schema = self.schema;
        match &schema.nodes[node] {
            Node::Null => Ok(Value::Null),
            Node::Boolean => match self.take(1)?[0] {
                0 => Ok(Value::Bool(false)),
                1 => Ok(Value::Bool(true)),
                other => Err(Fault::malformed(format!("{other} is no boolean"))),
            },
            Node::Whole(whole) => {
                let number = self.long()?;
                Ok(match whole {
                    Whole::Number => Value::from(number),
                    Whole::Date => values::date(number),
                    Whole::Time(per_second) => values::time(number, *per_second),
                })
            }
            Node::Float => values::float(f32::from_le_bytes(self.array()?)),
            Node::Double => values::double(f64::from_le_bytes(self.array()?)),
            Node::Bytes(binary) => {
                let bytes = self.sized()?;
                binary_value(bytes, *binary)
            }
            Node::Fixed(size, binary) => binary_value(self.take(*size)?, *binary),
            Node::Text => Ok(Value::String(self.text()?.to_owned())),
            Node::Enum(symbols) => {
                let symbol = self.index(symbols.len(), "symbols of the enum")?;
                Ok(Value::String(symbols[symbol].clone()))
            }
            Node::Union(branches) => {
                let branch = self.index(branches.len(), "branches of the union")?;
                self.value(branches[branch], depth + 1)
            }
            Node::Array(items) => {
                let mut list = Vec::new();
                self.blocks(|reader| {
                    list.push(reader.value(*items, depth + 1)?);
                    Ok(())
                })?;
                Ok(Value::Array(list))
            }
            Node::Map(values) => {
                let mut object = Map::new();
                self.blocks(|reader| {
                    let key = reader.text()?.to_owned();
                    let value = reader.value(*values, depth + 1);
                    object.insert(key.clone(), value.map_err(|fault| fault.within(&key))?);
                    Ok(())
                })?;
                Ok(Value::Object(object))
            }
            Node::Record(fields) => {
                let mut object = Map::new();
                for (name, node) in fields {
                    let value = self.value(*node, depth + 1).map_err(|fault| fault.within(name))?;
                    object.insert(name.clone(), value);
                }
                Ok(Value::Object(object))
            }
        }
    }

    /// Reads the entries of a list or a map, which come in blocks.
    fn blocks(&mut self, mut entry: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The size of the block in bytes follows; nothing here skips a block.
                self.long()?;
            }
            for _ in 0..count.unsigned_abs() {
                entry(self)?;
            }
        }
    }

    /// A zigzag variable-length number.
    fn long(&mut self) -> Result<i64, Fault> {
        let (number, rest) = super::framing::zigzag(self.rest)
            .ok_or_else(|| Fault::malformed("the payload ends within a number, or the number is too long"))?;
        self.rest = rest;
        Ok(number)
    }

    /// A number that counts `what`, below `n`.
    fn index(&mut self, n: usize, what: &str) -> Result<usize, Fault> {
        let number = self.long()?;
        let index = usize::try_from(number).ok().filter(|index| *index < n);
        index.ok_or_else(|| Fault::malformed(format!("{number} is none of the {n} {what}")))
    }

    fn sized(&mut self) -> Result<&'a [u8], Fault> {
        let size = self.long()?;
        let size = usize::try_from(size).map_err(|_| Fault::malformed(format!("{size} is no length")))?;
        self.take(size)
    }

    fn text(&mut self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.sized()?).map_err(|_| Fault::malformed("a text is not UTF-8"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or_else(|| {
            Fault::malformed(format!("the payload ends {} bytes early", n - self.rest.len()))
        })?;
        self.rest = rest;
        Ok(taken)
    }
}

fn binary_value(bytes: &[u8], binary: Binary) -> Result<Value, Fault> {
    match binary {
        Binary::Bytes => Ok(values::bytes(bytes)),
        Binary::Uuid => Ok(values::uuid(bytes)),
        Binary::Decimal { scale } => values::decimal(bytes, scale),
    }
}
