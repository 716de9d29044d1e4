//! Lines of a file that may be plain, gzip or zstd, told apart by their first bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::Error;

/// A line longer than this is no record but a broken file. Well above any limit of the decoder, which is to
/// count and reject large records itself.
const MAX_LINE_BYTES: u64 = 64 << 20;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// A file read line by line.
pub(crate) struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    n_read: u64,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines")
            .field("path", &self.path)
            .field("n_read", &self.n_read)
            .finish()
    }
}

impl Lines {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File {
            attempt: "open",
            path: path.to_owned(),
            source,
        };
        let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(failed)?);
        let first = file.fill_buf().map_err(failed)?;
        let reader: Box<dyn BufRead + Send> = if first.starts_with(GZIP) {
            Box::new(BufReader::with_capacity(
                1 << 16,
                flate2::bufread::MultiGzDecoder::new(file),
            ))
        } else if first.starts_with(ZSTD) {
            unpack_zstd(file, path)?
        } else {
            Box::new(file)
        };
        Ok(Self {
            path: path.to_owned(),
            reader,
            n_read: 0,
        })
    }

    /// The next line without its end, with its number from 0; `None` at the end of the file.
    pub(crate) fn read(&mut self) -> Result<Option<(u64, Vec<u8>)>, Error> {
        let mut line = Vec::new();
        let n = (&mut self.reader)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)
            .map_err(|source| Error::File {
                attempt: "read",
                path: self.path.clone(),
                source,
            })?;
        if n == 0 {
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

#[cfg(feature = "zstd")]
fn unpack_zstd(file: BufReader<File>, path: &Path) -> Result<Box<dyn BufRead + Send>, Error> {
    let decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(|source| Error::File {
        attempt: "open",
        path: path.to_owned(),
        source,
    })?;
    Ok(Box::new(BufReader::with_capacity(1 << 16, decoder)))
}

#[cfg(not(feature = "zstd"))]
fn unpack_zstd(_: BufReader<File>, path: &Path) -> Result<Box<dyn BufRead + Send>, Error> {
    Err(Error::NotBuiltIn {
        what: format!("reading {}, which is zstd,", path.display()),
        feature: "zstd",
    })
}
