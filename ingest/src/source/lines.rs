//! Lines of a plain, gzip or zstd file; the first bytes of the file tell which.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// A longer line means a broken file. Far above every limit of the decoder, which counts and rejects large records.
const MAX_LINE_BYTES: u64 = 64 << 20;
const BUFFER_BYTES: usize = 1 << 16;

/// The byte order mark that some editors write at the start of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

pub(crate) struct LineReader {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    n_read: u64,
}

impl std::fmt::Debug for LineReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LineReader({}:{})", self.path.display(), self.n_read)
    }
}

impl LineReader {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_owned(),
            reader: open_unpacked(path)?,
            n_read: 0,
        })
    }

    /// The next line without its terminator, with its number from 0; `None` at the end of the file.
    pub(crate) fn read(&mut self) -> Result<Option<(u64, Vec<u8>)>, Error> {
        let mut line = Vec::new();
        let mut reader = (&mut self.reader).take(MAX_LINE_BYTES);
        let n = reader.read_until(b'\n', &mut line);
        if n.map_err(|error| Error::file("read", &self.path, error))? == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
        } else if line.len() as u64 == MAX_LINE_BYTES {
            return Err(self.error_at(self.n_read, format!("longer than {MAX_LINE_BYTES} bytes")));
        }
        if self.n_read == 0 && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        self.n_read += 1;
        Ok(Some((self.n_read - 1, line)))
    }

    /// An error about line `number`, counted from 0.
    pub(crate) fn error_at(&self, number: u64, detail: String) -> Error {
        Error::Line {
            path: self.path.clone(),
            line: number + 1,
            detail,
        }
    }
}

/// Opens a plain, gzip or zstd file for reading its contents.
pub(crate) fn open_unpacked(path: &Path) -> Result<Box<dyn BufRead + Send>, Error> {
    let failed = |error| Error::file("open", path, error);
    let file = File::open(path).map_err(failed)?;
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
    let first = file.fill_buf().map_err(failed)?;
    if first.starts_with(GZIP) {
        Ok(buffered(flate2::bufread::MultiGzDecoder::new(file)))
    } else if first.starts_with(ZSTD) {
        unpack_zstd(file, path)
    } else {
        Ok(Box::new(file))
    }
}

fn buffered(reader: impl Read + Send + 'static) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, reader))
}

#[cfg(feature = "zstd")]
fn unpack_zstd(file: BufReader<File>, path: &Path) -> Result<Box<dyn BufRead + Send>, Error> {
    let decoder = zstd::stream::read::Decoder::with_buffer(file);
    Ok(buffered(
        decoder.map_err(|error| Error::file("open", path, error))?,
    ))
}

#[cfg(not(feature = "zstd"))]
fn unpack_zstd(_: BufReader<File>, path: &Path) -> Result<Box<dyn BufRead + Send>, Error> {
    Err(Error::NotBuiltIn {
        what: format!("reading {}, which is compressed with zstd,", path.display()),
        feature: "zstd",
    })
}
