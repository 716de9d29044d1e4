//! Streams that hash what passes through them.

use std::io::{self, Read, Write};

use crate::Output;

/// Length of a blake3 hash in hexadecimal.
pub(crate) const N_HEX: usize = 64;

/// Bytes moved at a time.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;

/// An output that hashes and counts what it wrote.
pub(crate) struct HashingOutput {
    inner: Box<dyn Output>,
    hasher: blake3::Hasher,
    n_bytes: u64,
}

impl HashingOutput {
    pub(crate) fn new(inner: Box<dyn Output>) -> Self {
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

/// An input that hashes what was read from it.
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

    /// Reads to the end; returns the hash of all.
    pub(crate) fn finish(mut self) -> io::Result<String> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(self.hasher.finalize().to_hex().to_string()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<R: Read> Read for HashingInput<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

/// The hash of `bytes` in hexadecimal.
pub(crate) fn hash_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// True for the only spelling of a hash that is written.
pub(crate) fn is_hash(text: &str) -> bool {
    text.len() == N_HEX && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
