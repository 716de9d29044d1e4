//! Reads the rows of a Parquet file as JSON values.
//!
//! Nested groups are objects, lists and maps are what they are in JSON, and values become what the same logical types of
//! Avro become (`formats/values.rs`): times are ISO 8601 texts, decimals numbers, bytes base64.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ouzel_sample::Reject;
use parquet::basic::{ConvertedType, LogicalType, Repetition, TimeUnit};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::formats::values::{self, Fault};
use crate::mapping::text_of;

/// A row's number, from 1, and its value or why it has none.
pub(super) type NumberedRow = (u64, Result<Value, Reject>);

/// Reads one file.
pub(super) struct ParquetReader {
    path: PathBuf,
    schema: Arc<Type>,
    rows: RowIter<'static>,
    /// Rows read so far.
    n_rows: u64,
}

impl ParquetReader {
    /// Opens a file and reads its schema.
    ///
    /// # Errors
    /// When it is no Parquet file.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|error| Error::file("open", path, error))?;
        // The reader asserts what a sound file fulfils.
        let opened = catch_unwind(AssertUnwindSafe(|| -> Result<_, ParquetError> {
            let reader = SerializedFileReader::new(file)?;
            let schema = reader.metadata().file_metadata().schema_descr().root_schema_ptr();
            Ok((schema, RowIter::from_file_into(Box::new(reader))))
        }));
        let (schema, rows) = opened
            .unwrap_or_else(|_| Err(unsound()))
            .map_err(|error| Error::file("read", path, std::io::Error::other(error.to_string())))?;
        Ok(Self {
            path: path.to_owned(),
            schema,
            rows,
            n_rows: 0,
        })
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// When the file is damaged.
    pub(super) fn next(&mut self) -> Result<Option<NumberedRow>, Error> {
        let rows = AssertUnwindSafe(&mut self.rows);
        let next = catch_unwind(|| { rows }.0.next()).unwrap_or_else(|_| Some(Err(unsound())));
        let Some(row) = next else {
            return Ok(None);
        };
        self.n_rows += 1;
        let row = row.map_err(|error| Error::Line {
            path: self.path.clone(),
            line: self.n_rows,
            detail: error.to_string(),
        })?;
        Ok(Some((
            self.n_rows,
            object(&row, &self.schema).map_err(Reject::from),
        )))
    }
}

fn unsound() -> ParquetError {
    ParquetError::General("the file is damaged, or has a type that is not read".to_owned())
}

fn object(row: &Row, group: &Type) -> Result<Value, Fault> {
    let mut object = Map::new();
    for ((name, field), kind) in row.get_column_iter().zip(group.get_fields()) {
        let value = value(field, kind).map_err(|fault| fault.within(name))?;
        object.insert(name.clone(), value);
    }
    Ok(Value::Object(object))
}

fn value(field: &Field, kind: &Type) -> Result<Value, Fault> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(flag) => Value::Bool(*flag),
        Field::Byte(number) => Value::from(*number),
        Field::Short(number) => Value::from(*number),
        Field::Int(number) => Value::from(*number),
        Field::Long(number) => whole(*number, kind),
        Field::UByte(number) => Value::from(*number),
        Field::UShort(number) => Value::from(*number),
        Field::UInt(number) => Value::from(*number),
        Field::ULong(number) => Value::from(*number),
        Field::Float16(number) => values::float(number.to_f32())?,
        Field::Float(number) => values::float(*number)?,
        Field::Double(number) => values::double(*number)?,
        Field::Decimal(decimal) => values::decimal(decimal.data(), decimal.scale())?,
        Field::Str(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => binary(bytes.data(), kind)?,
        Field::Date(days) => values::date(i64::from(*days)),
        Field::TimeMillis(ticks) => Value::from(*ticks),
        Field::TimeMicros(ticks) => Value::from(*ticks),
        Field::TimestampMillis(ticks) => values::time(*ticks, 1000),
        Field::TimestampMicros(ticks) => values::time(*ticks, 1_000_000),
        Field::Group(row) => object(row, kind)?,
        Field::ListInternal(list) => {
            let kind = element(kind);
            let elements = list.elements().iter().map(|entry| value(entry, kind));
            Value::Array(elements.collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let entry = kind.get_fields().first().map(|entry| entry.get_fields());
            let (key_kind, value_kind) = match entry {
                Some([key, value]) => (&**key, &**value),
                _ => (kind, kind),
            };
            let mut object = Map::new();
            for (key, entry) in map.entries() {
                let key = value(key, key_kind)?;
                let name =
                    text_of(&key).ok_or_else(|| Fault::malformed("has a key that is no text or number"))?;
                let value = value(entry, value_kind).map_err(|fault| fault.within(&name))?;
                object.insert(name.into_owned(), value);
            }
            Value::Object(object)
        }
    })
}

/// The type of a list's elements. Lists have three levels, or two in files of old writers.
///
/// The rules are those of "Backward-compatibility rules" in the Parquet format's `LogicalTypes.md`.
fn element(list: &Type) -> &Type {
    let info = list.get_basic_info();
    let is_annotated = !list.is_primitive() && info.converted_type() == ConvertedType::LIST;
    let is_repeated = info.has_repetition() && info.repetition() == Repetition::REPEATED;
    let [repeated] = (if list.is_primitive() {
        &[]
    } else {
        list.get_fields()
    }) else {
        return list;
    };
    if is_repeated && !is_annotated {
        return list;
    }
    match repeated.is_primitive() {
        true => repeated,
        false => match repeated.get_fields() {
            [element] if repeated.name() != "array" && !repeated.name().ends_with("_tuple") => element,
            _ => repeated,
        },
    }
}

/// A 64-bit number; times of nanoseconds, and local ones of some writers, have no older name than their logical type.
fn whole(number: i64, kind: &Type) -> Value {
    match kind.get_basic_info().logical_type_ref() {
        Some(LogicalType::Timestamp(timestamp)) => {
            let per_second = match timestamp.unit {
                TimeUnit::MILLIS => 1000,
                TimeUnit::MICROS => 1_000_000,
                TimeUnit::NANOS => 1_000_000_000,
            };
            values::time(number, per_second)
        }
        _ => Value::from(number),
    }
}

fn binary(bytes: &[u8], kind: &Type) -> Result<Value, Fault> {
    match kind.get_basic_info().logical_type_ref() {
        Some(LogicalType::String | LogicalType::Enum | LogicalType::Json) => {
            let text = std::str::from_utf8(bytes);
            Ok(Value::from(
                text.map_err(|_| Fault::malformed("a text is not UTF-8"))?,
            ))
        }
        Some(LogicalType::Uuid) => Ok(values::uuid(bytes)),
        _ => Ok(values::bytes(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use serde_json::json;

    use super::*;
    use crate::data_dir::{DataDir, ReadOptions, first_rows};
    use crate::{Decoder, EventConfig};
    use ouzel_sample::{IdSpace, Stream};

    static FOLDER: LazyLock<PathBuf> =
        LazyLock::new(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("src/data_dir/tests"));

    fn rows(name: &str) -> Vec<(u64, Value)> {
        let mut reader = ParquetReader::open(&FOLDER.join(name)).unwrap();
        let mut rows = Vec::new();
        while let Some((number, row)) = reader.next().unwrap() {
            rows.push((number, row.unwrap()));
        }
        rows
    }

    #[test]
    fn every_type_is_read_as_another_library_wrote_it() {
        let expected: Vec<Value> = serde_json::from_str(include_str!("tests/rows.json")).unwrap();
        let expected: Vec<(u64, Value)> = (1..).zip(expected).collect();
        assert_eq!(rows("rows.parquet"), expected);
    }

    #[test]
    fn times_of_96_bits_and_the_codecs_of_other_writers_are_read() {
        for codec in ["gzip", "zstd", "lz4", "none"] {
            let at = json!({"at": "2024-05-01T08:00:01.500Z"});
            assert_eq!(rows(&format!("int96.{codec}.parquet")), [(1, at)], "{codec}");
        }
    }

    #[test]
    fn a_folder_is_read_with_a_reason_for_each_row_that_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("impressions.parquet");
        std::fs::copy(FOLDER.join("impressions.parquet"), &path).unwrap();
        let decoder = Decoder::new(IdSpace::new(0), vec!["click".to_owned()], EventConfig::default());
        let decoder = decoder.unwrap();
        let data = DataDir::open(dir.path(), &decoder, &mut ReadOptions::default()).unwrap();
        assert_eq!(data.summary().n_impressions, 2);
        assert_eq!(data.summary().first_ts, 1_714_550_401_500);
        let account = data.accounts().of(Stream::Impressions);
        assert_eq!((account.read, account.used), (3, 1));
        let first = |reason: &str| account.rejected[reason].first.as_str();
        assert_eq!(
            first("non_finite"),
            "impressions.parquet:2: `items.features.score`: NaN is not finite"
        );
        assert!(first("missing_field").starts_with("impressions.parquet:3: "));
        assert_eq!(first_rows(&path, 9).unwrap().len(), 3);
    }

    #[test]
    fn a_damaged_file_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("items.parquet");
        let whole = std::fs::read(FOLDER.join("rows.parquet")).unwrap();
        let mut n_refused = 0;
        for at in (0..whole.len()).step_by(97) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            std::fs::write(&path, damaged).unwrap();
            let read = ParquetReader::open(&path).and_then(|mut reader| {
                while reader.next()?.is_some() {}
                Ok(())
            });
            if let Err(error) = read {
                assert!(error.to_string().contains("items.parquet"), "{error}");
                n_refused += 1;
            }
        }
        assert!(n_refused > 5);
        std::fs::write(&path, "no parquet").unwrap();
        assert!(ParquetReader::open(&path).is_err());
    }
}
