//! Files in pieces: each piece is an object whose key ends with the hash of its bytes.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::bucket::Remote;
use crate::error::IoResultExt;
use crate::format::hashing::{N_HEX, hash_hex};
use crate::{Error, Fs, metrics};

/// Longest piece. A request of this size ends within seconds, and a file in memory takes no more.
pub(super) const PIECE_BYTES: usize = 8 << 20;

/// Begins the key of every piece.
pub(super) const DATA_PREFIX: &str = "data/";

/// A file in the copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredFile {
    /// Its size.
    pub(super) bytes: u64,
    /// The keys of its pieces, in order.
    pub(crate) pieces: Vec<String>,
}

/// Writes pieces, each content once.
#[derive(Debug)]
pub(super) struct Pieces {
    remote: Remote,
    generation: u64,
    /// Number of the next key.
    next: u64,
    /// The key of each content that is known to be there, by its hash.
    keys: HashMap<String, String>,
}

impl Pieces {
    pub(super) fn new(remote: Remote, generation: u64) -> Self {
        Self {
            remote,
            generation,
            next: 0,
            keys: HashMap::new(),
        }
    }

    /// Learns of pieces that are there.
    pub(super) fn know<'a>(&mut self, keys: impl IntoIterator<Item = &'a String>) {
        for key in keys {
            self.keys.insert(hash_of(key).to_owned(), key.clone());
        }
    }

    /// Forgets a piece that is about to be removed.
    pub(super) fn forget(&mut self, key: &str) {
        if self.keys.get(hash_of(key)).is_some_and(|known| known == key) {
            self.keys.remove(hash_of(key));
        }
    }

    /// True for the key of a piece of another claim.
    pub(super) fn is_of_another(&self, key: &str) -> bool {
        !key.starts_with(&format!("{DATA_PREFIX}{:020}/", self.generation))
    }

    /// Writes bytes, unless the copy has them.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<StoredFile, Error> {
        let pieces = bytes.chunks(PIECE_BYTES).map(|piece| self.put_piece(piece));
        Ok(StoredFile {
            bytes: bytes.len() as u64,
            pieces: pieces.collect::<Result<_, Error>>()?,
        })
    }

    /// Writes the first `limit` bytes of a file as it is on disk, unless the copy has them. Returns its hash, too.
    pub(super) fn put_file(
        &mut self,
        fs: &dyn Fs,
        path: &Path,
        limit: u64,
    ) -> Result<(StoredFile, String), Error> {
        let (input, _) = fs.open_file(path).attempt("open", path)?;
        let mut input = input.take(limit);
        let (mut hasher, mut stored) = (blake3::Hasher::new(), StoredFile::default());
        let mut piece = Vec::new();
        loop {
            piece.clear();
            let most = PIECE_BYTES as u64;
            input
                .by_ref()
                .take(most)
                .read_to_end(&mut piece)
                .attempt("read", path)?;
            if piece.is_empty() {
                return Ok((stored, hasher.finalize().to_hex().to_string()));
            }
            hasher.update(&piece);
            stored.bytes += piece.len() as u64;
            stored.pieces.push(self.put_piece(&piece)?);
        }
    }

    fn put_piece(&mut self, bytes: &[u8]) -> Result<String, Error> {
        let hash = hash_hex(bytes);
        if let Some(key) = self.keys.get(&hash) {
            return Ok(key.clone());
        }
        // The number keeps a removal of an earlier piece of this content, which the store carries out late, from this one.
        let key = format!("{DATA_PREFIX}{:020}/{:012}-{hash}", self.generation, self.next);
        self.next += 1;
        self.remote.put(&key, bytes)?;
        metrics::remote_sent(bytes.len() as u64);
        self.keys.insert(hash, key.clone());
        Ok(key)
    }
}

/// Reads a small file whole.
pub(super) fn read_file(remote: &Remote, file: &StoredFile, most: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    if file.bytes > most {
        let place = file.pieces.first().map_or("", String::as_str);
        let why = format!("it has {} bytes, at most {most} are read", file.bytes);
        return Err(remote.damaged(place, why));
    }
    copy_file(remote, file, &mut bytes)?.attempt("keep", Path::new(remote.url()))?;
    Ok(bytes)
}

/// Copies a file to `output`, piece by piece, each checked before it is written. The inner error is of `output`.
pub(super) fn copy_file(
    remote: &Remote,
    file: &StoredFile,
    output: &mut dyn Write,
) -> Result<std::io::Result<()>, Error> {
    let mut n_bytes = 0;
    for key in &file.pieces {
        let object = remote
            .get(key)?
            .ok_or_else(|| remote.damaged(key, "it is missing"))?;
        if hash_hex(&object.bytes) != hash_of(key) {
            return Err(remote.damaged(key, "its content differs from its hash"));
        }
        n_bytes += object.bytes.len() as u64;
        if let Err(error) = output.write_all(&object.bytes) {
            return Ok(Err(error));
        }
    }
    match n_bytes == file.bytes {
        true => Ok(Ok(())),
        false => {
            let place = file.pieces.first().map_or("", String::as_str);
            let why = format!("its pieces have {n_bytes} bytes, the file has {}", file.bytes);
            Err(remote.damaged(place, why))
        }
    }
}

/// The hash at the end of a key.
fn hash_of(key: &str) -> &str {
    key.len()
        .checked_sub(N_HEX)
        .and_then(|at| key.get(at..))
        .unwrap_or_default()
}
