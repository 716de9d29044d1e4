//! Writes arrays as Parquet: one file for each table of rows, and one for the other arrays of each element type.
//!
//! Values are stored plain and without compression, so any reader takes them and their bits are kept.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Encoding, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};

use super::array::Array;
use super::arrays::Arrays;
use super::element::{Dtype, Element, with_type};
use crate::Error;
use crate::error::IoResultExt;

/// Rows of a table that are written at once.
const ROWS_PER_GROUP: usize = 65_536;

/// How the values of an element type are stored.
trait Stored: Element {
    type Type: DataType;

    fn store(self) -> <Self::Type as DataType>::T;
}

macro_rules! stored {
    ($($from:ty, $to:ident, $value:ident => $stored:expr;)*) => {
        $(impl Stored for $from {
            type Type = $to;

            fn store(self) -> <$to as DataType>::T {
                let $value = self;
                $stored
            }
        })*
    };
}

// Parquet has no unsigned types: their bits are stored, and the annotation of the column says how to read them.
stored! {
    f32, FloatType, value => value;
    f64, DoubleType, value => value;
    u8, Int32Type, value => value.into();
    i8, Int32Type, value => value.into();
    u16, Int32Type, value => value.into();
    i16, Int32Type, value => value.into();
    u32, Int32Type, value => value.cast_signed();
    i32, Int32Type, value => value;
    u64, Int64Type, value => value.cast_signed();
    i64, Int64Type, value => value;
}

/// The physical type of an element type, with its annotation.
fn type_of(dtype: Dtype) -> (Physical, Option<LogicalType>) {
    let integer = |n_bits, is_signed| Some(LogicalType::integer(n_bits, is_signed));
    match dtype {
        Dtype::F32 => (Physical::FLOAT, None),
        Dtype::F64 => (Physical::DOUBLE, None),
        Dtype::U8 => (Physical::INT32, integer(8, false)),
        Dtype::I8 => (Physical::INT32, integer(8, true)),
        Dtype::U16 => (Physical::INT32, integer(16, false)),
        Dtype::I16 => (Physical::INT32, integer(16, true)),
        Dtype::U32 => (Physical::INT32, integer(32, false)),
        Dtype::I32 => (Physical::INT32, None),
        Dtype::U64 => (Physical::INT64, integer(64, false)),
        Dtype::I64 => (Physical::INT64, None),
    }
}

/// Writes the arrays of one file into `dir`, as files whose names start with `stem`.
///
/// `state` names the last values of the rows of a table, which are the optimizer's.
///
/// # Shapes
/// A table is an array `ids [n_rows]` with arrays `[n_rows, ..]` of the same prefix; `values [n_rows, stride]` are its
/// weights and optimizer state. Rows that the array `free` names have no id and are left out.
pub(crate) fn export(dir: &Path, stem: &str, arrays: &Arrays, state: &[&str]) -> Result<(), Error> {
    let mut rest: Vec<(&str, &Array)> = arrays.iter().collect();
    for prefix in table_prefixes(arrays) {
        let (table, others) = rest.into_iter().partition(|(name, array)| {
            let column = name.strip_prefix(prefix);
            column.is_some_and(|column| column == "free" || is_column(column, array, arrays, prefix))
        });
        rest = others;
        let dot = if prefix.is_empty() { "" } else { "." };
        let name = format!("{stem}{dot}{}", prefix.trim_end_matches('.'));
        write_table(dir, &name, prefix, &table, state)?;
    }
    let mut types: Vec<Dtype> = Vec::new();
    for (_, array) in &rest {
        if !types.contains(&array.dtype()) {
            types.push(array.dtype());
        }
    }
    for dtype in types {
        let of_type: Vec<_> = rest
            .iter()
            .filter(|(_, array)| array.dtype() == dtype)
            .copied()
            .collect();
        with_type!(dtype, T => write_arrays::<T>(dir, &format!("{stem}.{dtype}"), &of_type)?);
    }
    Ok(())
}

/// The prefixes of the tables, such as `user.`, or the empty one.
fn table_prefixes(arrays: &Arrays) -> Vec<&str> {
    let ids = arrays
        .iter()
        .filter(|(_, array)| array.dtype() == Dtype::U64 && array.shape().len() == 1);
    let prefixes = ids.filter_map(|(name, _)| name.strip_suffix("ids"));
    prefixes
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        .collect()
}

/// True for an array with a value, or some, for each row of the table.
fn is_column(column: &str, array: &Array, arrays: &Arrays, prefix: &str) -> bool {
    let ids = arrays.find(&format!("{prefix}ids"));
    let n_rows = ids.and_then(|ids| ids.shape().first());
    !column.contains('.') && n_rows.is_some() && array.shape().first() == n_rows
}

/// A column of a table: for each row, values of one array.
struct Column<'a> {
    name: &'a str,
    array: &'a Array,
    /// Values of a row in the array.
    stride: usize,
    /// Those that the column takes.
    first: usize,
    n_values: usize,
    is_list: bool,
}

impl<'a> Column<'a> {
    fn new(name: &'a str, array: &'a Array) -> Self {
        let stride = array.shape().iter().skip(1).product();
        Self {
            name,
            array,
            stride,
            first: 0,
            n_values: stride,
            is_list: array.shape().len() > 1,
        }
    }

    /// The weights and the optimizer's values of the rows of `values`.
    fn of_values(values: &'a Array, state: &'a [&'a str]) -> Vec<Self> {
        let whole = Self::new("weights", values);
        let n_weights = whole.stride.saturating_sub(state.len());
        let kept = state
            .iter()
            .zip(n_weights..whole.stride)
            .map(|(name, place)| Self {
                name,
                first: place,
                n_values: 1,
                is_list: false,
                ..Self::new(name, values)
            });
        let weights = Self {
            n_values: n_weights,
            is_list: true,
            ..Self::new("weights", values)
        };
        std::iter::once(weights).chain(kept).collect()
    }

    /// Writes the column of some rows.
    fn write<T: Stored>(&self, rows: &[usize], group: &mut Group<'_>) -> Result<(), ParquetError> {
        let values = self.array.values::<T>().expect("the type is that of the array");
        let mut stored = Vec::with_capacity(rows.len() * self.n_values);
        for row in rows {
            let start = row * self.stride + self.first;
            let values = values[start..start + self.n_values].iter();
            stored.extend(values.map(|value| value.store()));
        }
        match self.is_list {
            true => write_lists::<T::Type>(group, &[(&stored, rows.len())]),
            false => write_column::<T::Type>(group, &stored, None),
        }
    }
}

type Group<'a> = SerializedRowGroupWriter<'a, BufWriter<File>>;

fn write_table(
    dir: &Path,
    name: &str,
    prefix: &str,
    arrays: &[(&str, &Array)],
    state: &[&str],
) -> Result<(), Error> {
    let find = |wanted: &str| {
        let found = arrays
            .iter()
            .find(|(name, _)| name.strip_prefix(prefix) == Some(wanted));
        found.map(|(_, array)| *array)
    };
    let Some(ids) = find("ids") else {
        return Ok(());
    };
    let mut columns = vec![Column::new("id", ids)];
    if let Some(values) = find("values") {
        columns.extend(Column::of_values(values, state));
    }
    let others = arrays.iter().map(|(name, array)| (&name[prefix.len()..], *array));
    let others = others.filter(|(name, _)| !["ids", "values", "free"].contains(name));
    columns.extend(others.map(|(name, array)| Column::new(name, array)));

    let mut is_live = vec![true; ids.len()];
    let free = find("free").and_then(|free| free.values::<u32>());
    for row in free.iter().flat_map(|rows| rows.iter()) {
        if let Some(is_live) = usize::try_from(*row).ok().and_then(|row| is_live.get_mut(row)) {
            *is_live = false;
        }
    }
    let live: Vec<usize> = (0..ids.len()).filter(|row| is_live[*row]).collect();
    let fields = columns.iter().map(|column| match column.is_list {
        true => list(column.name, column.array.dtype()),
        false => plain(column.name, column.array.dtype()),
    });
    write_file(dir, name, fields.collect(), |file| {
        for rows in live.chunks(ROWS_PER_GROUP) {
            let mut group = file.next_row_group()?;
            for column in &columns {
                with_type!(column.array.dtype(), T => column.write::<T>(rows, &mut group)?);
            }
            group.close()?;
        }
        Ok(())
    })
}

/// Writes arrays of one type, a row each: `name`, `shape` and `values` in row-major order.
fn write_arrays<T: Stored>(dir: &Path, name: &str, arrays: &[(&str, &Array)]) -> Result<(), Error> {
    let name_type = Type::primitive_type_builder("name", Physical::BYTE_ARRAY)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(Some(LogicalType::String))
        .build();
    let fields = vec![name_type, list("shape", Dtype::I64), list("values", T::DTYPE)];
    write_file(dir, name, fields, |file| {
        let mut group = file.next_row_group()?;
        let names: Vec<ByteArray> = arrays.iter().map(|(name, _)| ByteArray::from(*name)).collect();
        write_column::<ByteArrayType>(&mut group, &names, None)?;
        let dims = |array: &Array| -> Vec<i64> {
            let dims = array.shape().iter();
            dims.map(|dim| i64::try_from(*dim).unwrap_or(i64::MAX)).collect()
        };
        let shapes: Vec<Vec<i64>> = arrays.iter().map(|(_, array)| dims(array)).collect();
        let shapes: Vec<(&[i64], usize)> = shapes.iter().map(|dims| (dims.as_slice(), 1)).collect();
        write_lists::<Int64Type>(&mut group, &shapes)?;
        let values: Vec<Vec<_>> = arrays
            .iter()
            .map(|(_, array)| {
                let values = array.values::<T>().expect("the arrays have this type");
                values.iter().map(|value| value.store()).collect()
            })
            .collect();
        let values: Vec<_> = values.iter().map(|values| (values.as_slice(), 1)).collect();
        write_lists::<T::Type>(&mut group, &values)?;
        group.close()?;
        Ok(())
    })
}

fn plain(name: &str, dtype: Dtype) -> Result<Type, ParquetError> {
    let (physical, logical) = type_of(dtype);
    Type::primitive_type_builder(name, physical)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(logical)
        .build()
}

/// A list as the format defines it: a group with a repeated group with the element.
fn list(name: &str, dtype: Dtype) -> Result<Type, ParquetError> {
    let repeated = Type::group_type_builder("list")
        .with_repetition(Repetition::REPEATED)
        .with_fields(vec![Arc::new(plain("element", dtype)?)])
        .build()?;
    Type::group_type_builder(name)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(Some(LogicalType::List))
        .with_fields(vec![Arc::new(repeated)])
        .build()
}

/// Writes a column of lists: runs of values with the number of lists of equal length that they make.
fn write_lists<D: DataType>(group: &mut Group<'_>, runs: &[(&[D::T], usize)]) -> Result<(), ParquetError>
where
    D::T: Clone,
{
    // The first value of a list has repetition 0, the others 1; a list without values has definition 0.
    let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
    for (run, n_lists) in runs {
        let length = run.len() / (*n_lists).max(1);
        for list in 0..*n_lists {
            repetitions.extend((0..length.max(1)).map(|place| i16::from(place > 0)));
            definitions.extend((0..length.max(1)).map(|_| i16::from(length > 0)));
            values.extend_from_slice(&run[list * length..(list + 1) * length]);
        }
    }
    write_column::<D>(group, &values, Some((&definitions, &repetitions)))
}

fn write_column<D: DataType>(
    group: &mut Group<'_>,
    values: &[D::T],
    levels: Option<(&[i16], &[i16])>,
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General(
            "there are more columns than the schema has".to_owned(),
        ));
    };
    let (definitions, repetitions) = levels.unzip();
    column
        .typed::<D>()
        .write_batch(values, definitions, repetitions)?;
    column.close()
}

fn write_file(
    dir: &Path,
    name: &str,
    fields: Vec<Result<Type, ParquetError>>,
    fill: impl FnOnce(&mut SerializedFileWriter<BufWriter<File>>) -> Result<(), ParquetError>,
) -> Result<(), Error> {
    let path = dir.join(format!("{name}.parquet"));
    let out = BufWriter::new(File::create_new(&path).attempt("create", &path)?);
    let written = || -> Result<(), ParquetError> {
        let fields: Vec<TypePtr> = fields
            .into_iter()
            .map(|field| field.map(Arc::new))
            .collect::<Result<_, _>>()?;
        let schema = Type::group_type_builder("snapshot").with_fields(fields).build()?;
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_encoding(Encoding::PLAIN)
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        let mut file = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))?;
        fill(&mut file)?;
        file.close().map(|_| ())
    };
    written()
        .map_err(|error| match error {
            ParquetError::External(error) => std::io::Error::other(error),
            error => std::io::Error::other(error),
        })
        .attempt("write", &path)
}
