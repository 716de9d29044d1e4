//! The rows of a data file, one JSON object each: JSON lines, CSV or Parquet.
//!
//! A CSV file has a header. An empty cell is absent. A cell that is written as a JSON number is a number, any other a text;
//! so `007` stays a text. A point in a column's name makes an object: `context.device` is the field `device` of `context`.

use std::io::{BufRead, Read};
use std::path::Path;

use ouzel_sample::Reject;
use serde_json::{Map, Number, Value};

use super::parquet::ParquetReader;
use crate::error::Error;
use crate::source::{LineReader, open_unpacked};

/// A row with its place in the file.
pub(super) struct Row {
    /// Line, or row of a Parquet file, from 1.
    pub(super) line: u64,
    /// The row as JSON.
    pub(super) text: Vec<u8>,
    /// Why the row cannot be written as JSON.
    pub(super) fault: Option<Reject>,
}

impl Row {
    fn new(line: u64, text: Vec<u8>) -> Self {
        Self {
            line,
            text,
            fault: None,
        }
    }
}

/// Reads the rows of one file.
pub(super) enum Table {
    Lines(LineReader),
    Csv(Box<CsvReader>),
    Parquet(Box<ParquetReader>),
}

impl Table {
    /// Opens a file; its name says whether it is CSV or Parquet.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name.ends_with(".parquet") {
            return Ok(Table::Parquet(Box::new(ParquetReader::open(path)?)));
        }
        match name.contains(".csv") {
            true => Ok(Table::Csv(Box::new(CsvReader::open(path)?))),
            false => Ok(Table::Lines(LineReader::open(path)?)),
        }
    }

    /// The next row that is not blank; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Row>, Error> {
        match self {
            Table::Csv(csv) => csv.next(),
            Table::Parquet(rows) => {
                let next = rows.next()?;
                Ok(next.map(|(number, value)| match value {
                    Ok(value) => Row::new(number, value.to_string().into_bytes()),
                    Err(reject) => Row {
                        fault: Some(reject),
                        ..Row::new(number, Vec::new())
                    },
                }))
            }
            Table::Lines(lines) => {
                while let Some((number, text)) = lines.read()? {
                    if !text.trim_ascii().is_empty() {
                        return Ok(Some(Row::new(number + 1, text)));
                    }
                }
                Ok(None)
            }
        }
    }
}

/// Reads a CSV file.
pub(super) struct CsvReader {
    path: std::path::PathBuf,
    reader: csv::Reader<Box<dyn Read + Send>>,
    columns: Vec<Vec<String>>,
    /// 1 where lines end with CR and LF: the reader then takes a row to begin on the line before.
    line_offset: u64,
}

impl CsvReader {
    fn open(path: &Path) -> Result<Self, Error> {
        let mut unpacked = open_unpacked(path)?;
        let first = unpacked
            .fill_buf()
            .map_err(|error| Error::file("read", path, error))?;
        if first.starts_with(b"\xef\xbb\xbf") {
            unpacked.consume(3);
        }
        let first = unpacked
            .fill_buf()
            .map_err(|error| Error::file("read", path, error))?;
        let newline = first.iter().position(|byte| *byte == b'\n');
        let is_crlf = newline.is_some_and(|at| at > 0 && first[at - 1] == b'\r');
        let unpacked: Box<dyn Read + Send> = Box::new(unpacked);
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(unpacked);
        let header = reader.headers().map_err(|error| failed(path, 1, &error))?;
        let columns = header
            .iter()
            .map(|name| name.trim().split('.').map(str::to_owned).collect())
            .collect();
        Ok(Self {
            path: path.to_owned(),
            reader,
            columns,
            line_offset: u64::from(is_crlf),
        })
    }

    fn next(&mut self) -> Result<Option<Row>, Error> {
        let mut cells = csv::ByteRecord::new();
        let is_row = self.reader.read_byte_record(&mut cells);
        let line = cells.position().map_or(0, csv::Position::line) + self.line_offset;
        if !is_row.map_err(|error| failed(&self.path, line, &error))? {
            return Ok(None);
        }
        let mut row = Map::new();
        for (path, cell) in self.columns.iter().zip(&cells) {
            if let Some(value) = cell_value(cell) {
                put(&mut row, path, value);
            }
        }
        // Cells beyond the header have no name: the row is refused as one that is no object.
        let row = match cells.len() > self.columns.len() {
            true => Value::Array(Vec::new()),
            false => Value::Object(row),
        };
        Ok(Some(Row::new(line, row.to_string().into_bytes())))
    }
}

fn failed(path: &Path, line: u64, error: &csv::Error) -> Error {
    Error::Line {
        path: path.to_owned(),
        line,
        detail: error.to_string(),
    }
}

/// The value of a cell; `None` for an empty one.
fn cell_value(cell: &[u8]) -> Option<Value> {
    let text = String::from_utf8_lossy(cell);
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    let number: Option<Number> = serde_json::from_str(text).ok();
    Some(number.map_or_else(|| Value::from(text), Value::Number))
}

/// Puts a value at the path of its column.
fn put(object: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [name] => {
            object.insert(name.clone(), value);
        }
        [name, rest @ ..] => {
            let below = object
                .entry(name.clone())
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(below) = below {
                put(below, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csv_file_is_read_as_objects_with_numbers_texts_and_places() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("items.csv");
        let text = "\u{feff}item_id,title,price,context.device,zip\r\n7,\"a \"\"b\"\",\r\nc\",2.50,tv,007\r\n8,,,,\r\n9,x\r\n1,2,3,4,5,6\r\n";
        std::fs::write(&path, text).unwrap();
        let mut table = Table::open(&path).unwrap();
        let mut rows = Vec::new();
        while let Some(row) = table.next().unwrap() {
            rows.push((row.line, serde_json::from_slice::<Value>(&row.text).unwrap()));
        }
        assert_eq!(
            rows,
            [
                (
                    2,
                    serde_json::json!({
                        "item_id": 7, "title": "a \"b\",\r\nc", "price": 2.5, "context": {"device": "tv"}, "zip": "007",
                    })
                ),
                (4, serde_json::json!({"item_id": 8})),
                (5, serde_json::json!({"item_id": 9, "title": "x"})),
                (6, serde_json::json!([])),
            ]
        );
    }
}
