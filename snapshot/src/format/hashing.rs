//! Reader and writer that hash the bytes passing through them.

use std::io::{self, Read, Write};

use crate::OutputFile;

/// Length of a blake3 hash in hexadecimal.
pub(crate) const N_HEX: usize = 64;

/// Size of the buffer between a file and arrays in memory.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;

/// An output file that hashes and counts the bytes written.
pub(crate) struct HashingOutput {
    inner: Box<dyn OutputFile>,
    hasher: blake3::Hasher,
    n_bytes: u64,
}

impl HashingOutput {
    pub(crate) fn new(inner: Box<dyn OutputFile>) -> Self {
        Self {
            inner,
            hasher: blake3::Hasher::new(),
            n_bytes: 0,
        }
    }

    /// Makes the file durable; returns its size and hash.
    pub(crate) fn finish(mut self) -> io::Result<(u64, String)> {
        self.inner.sync()?;
        Ok((self.n_bytes, self.hasher.finalize().to_hex().to_string()))
    }
}

impl Write for HashingOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.n_bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// An input that hashes the bytes read.
pub(crate) struct HashingInput<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R: Read> HashingInput<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: blake3::Hasher::new(),
        }
    }

    /// Reads to the end; returns the hash of the whole input.
    pub(crate) fn finish(mut self) -> io::Result<String> {
        let hasher = self.hasher.update_reader(&mut self.inner)?;
        Ok(hasher.finalize().to_hex().to_string())
    }
}

impl<R: Read> Read for HashingInput<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

pub(crate) fn hash_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// True for a hash in the one spelling that is written, lower-case hexadecimal.
pub(crate) fn is_hash(text: &str) -> bool {
    text.len() == N_HEX && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
