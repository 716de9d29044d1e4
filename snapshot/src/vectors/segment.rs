//! One file of vectors, all by one encoder: a header that says which, then frames of one size,
//! `content hash [32] | values f32 x dim | check u64`, little-endian.
//!
//! A frame is found by its number, so a damaged one costs itself alone, and a write that was cut short is written over
//! by the next.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ouzel_sample::{ContentHash, EncoderVersion};

use crate::Error;
use crate::error::Attempt;
use crate::hashing::BUFFER_BYTES;

/// First bytes of a segment; the digit is the version of the layout.
const MAGIC: &[u8; 10] = b"ouzelvec1\n";
const HASH_BYTES: usize = 32;
const CHECK_BYTES: usize = 8;
/// Longest name of an encoder; that of a folder is no longer.
pub(super) const MAX_NAME_BYTES: usize = 255;
/// Most numbers in a vector. Encoders have some hundreds to some thousands.
pub(super) const MAX_DIM: u32 = 1 << 16;

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    version: EncoderVersion,
    header_bytes: usize,
    n_frames: u32,
}

/// What a segment holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// The content of every sound frame with the frame's number.
    pub(super) sound: Vec<(ContentHash, u32)>,
    /// Frames whose check does not match.
    pub(super) n_damaged: u64,
    /// Bytes of a frame that was cut short at the end.
    pub(super) torn_bytes: u64,
}

impl Segment {
    /// Creates a segment, durably and at once: it is written aside and renamed, so no header is ever torn.
    pub(super) fn create(path: &Path, version: &EncoderVersion) -> Result<Self, Error> {
        let header = header(version);
        let aside = path.with_extension("tmp");
        let write = || {
            let mut file = options().create(true).truncate(true).open(&aside)?;
            file.write_all(&header)?;
            file.sync_all()?;
            std::fs::rename(&aside, path)?;
            File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
            Ok(file)
        };
        Ok(Self {
            path: path.to_owned(),
            file: write().attempt("create", path)?,
            version: version.clone(),
            header_bytes: header.len(),
            n_frames: 0,
        })
    }

    /// Opens a segment and reads it through. `None` when its header is not one of ours.
    pub(super) fn open(path: &Path) -> Result<Option<(Self, Contents)>, Error> {
        let file = options().open(path).attempt("open", path)?;
        let reader = file.try_clone().attempt("open", path)?;
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
        let Some((version, header_bytes)) = read_header(&mut reader).attempt("read", path)? else {
            return Ok(None);
        };
        let mut segment = Self {
            path: path.to_owned(),
            file,
            version,
            header_bytes,
            n_frames: 0,
        };
        let mut contents = Contents::default();
        let mut frame = vec![0; segment.frame_bytes()];
        loop {
            let n = read_full(&mut reader, &mut frame).attempt("read", path)?;
            if n < frame.len() {
                contents.torn_bytes = n as u64;
                return Ok(Some((segment, contents)));
            }
            match segment.parse(&frame) {
                Some((content, _)) => contents.sound.push((content, segment.n_frames)),
                None => contents.n_damaged += 1,
            }
            segment.n_frames += 1;
        }
    }

    pub(super) fn version(&self) -> &EncoderVersion {
        &self.version
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its size, without what a cut write left behind.
    pub(super) fn n_bytes(&self) -> u64 {
        self.offset(self.n_frames)
    }

    /// Appends vectors, returning the number of the first one's frame. After an error there are as many as before.
    pub(super) fn append(&mut self, vectors: &[(ContentHash, &[f32])]) -> Result<u32, Error> {
        let first = self.n_frames;
        let n_frames = u32::try_from(vectors.len())
            .ok()
            .and_then(|n| first.checked_add(n));
        let n_frames = n_frames.expect("a segment is closed long before it has 2^32 frames");
        let mut bytes = Vec::with_capacity(vectors.len() * self.frame_bytes());
        for (content, values) in vectors {
            let start = bytes.len();
            bytes.extend_from_slice(&content.0);
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            let check = self.check(&bytes[start..]);
            bytes.extend_from_slice(&check);
        }
        self.file
            .write_all_at(&bytes, self.offset(first))
            .attempt("write", &self.path)?;
        self.n_frames = n_frames;
        Ok(first)
    }

    /// The vector in a frame; `None` when it is damaged.
    pub(super) fn read(&self, frame: u32) -> Result<Option<(ContentHash, Vec<f32>)>, Error> {
        let mut bytes = vec![0; self.frame_bytes()];
        match self.file.read_exact_at(&mut bytes, self.offset(frame)) {
            Ok(()) => Ok(self.parse(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error).attempt("read", &self.path),
        }
    }

    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().attempt("sync", &self.path)
    }

    fn frame_bytes(&self) -> usize {
        HASH_BYTES + n_value_bytes(&self.version) + CHECK_BYTES
    }

    fn offset(&self, frame: u32) -> u64 {
        self.header_bytes as u64 + u64::from(frame) * self.frame_bytes() as u64
    }

    fn parse(&self, frame: &[u8]) -> Option<(ContentHash, Vec<f32>)> {
        let (payload, check) = frame.split_at(frame.len() - CHECK_BYTES);
        if check != self.check(payload) {
            return None;
        }
        let (content, values) = payload.split_first_chunk::<HASH_BYTES>()?;
        let (values, _) = values.as_chunks::<4>();
        Some((
            ContentHash(*content),
            values.iter().map(|value| f32::from_le_bytes(*value)).collect(),
        ))
    }

    /// Covers the encoder too, so that no frame passes for another's in a file that was put together by hand.
    fn check(&self, payload: &[u8]) -> [u8; CHECK_BYTES] {
        short(&[&self.version.digest, payload])
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW);
    options
}

fn n_value_bytes(version: &EncoderVersion) -> usize {
    usize::try_from(version.dim).unwrap_or(usize::MAX / 8) * size_of::<f32>()
}

fn short(parts: &[&[u8]]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut check = [0; CHECK_BYTES];
    hasher.finalize_xof().fill(&mut check);
    check
}

/// `magic | dim u32 | digest [32] | length of the name u8 | name | check u64`
fn header(version: &EncoderVersion) -> Vec<u8> {
    let name = version.name.as_bytes();
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&version.dim.to_le_bytes());
    header.extend_from_slice(&version.digest);
    header.push(u8::try_from(name.len()).expect("names were checked"));
    header.extend_from_slice(name);
    let check = short(&[&header]);
    header.extend_from_slice(&check);
    header
}

/// The version in a header, with the header's length.
fn read_header(input: &mut impl Read) -> io::Result<Option<(EncoderVersion, usize)>> {
    let mut start = [0; MAGIC.len() + 4 + 32 + 1];
    let n = read_full(input, &mut start)?;
    let name_bytes = usize::from(start[start.len() - 1]);
    let mut rest = vec![0; name_bytes + CHECK_BYTES];
    let is_whole = n == start.len() && read_full(input, &mut rest)? == rest.len();
    let (name, check) = rest.split_at(name_bytes);
    if !is_whole || !start.starts_with(MAGIC) || check != short(&[&start, name]) {
        return Ok(None);
    }
    let after = &start[MAGIC.len()..];
    let (dim, after) = after.split_first_chunk::<4>().expect("the start has a dim");
    let digest = after.first_chunk::<32>().expect("the start has a digest");
    let version = EncoderVersion {
        name: String::from_utf8_lossy(name).into_owned(),
        digest: *digest,
        dim: u32::from_le_bytes(*dim),
    };
    let is_sound = (1..=MAX_DIM).contains(&version.dim);
    Ok(is_sound.then_some((version, start.len() + rest.len())))
}

/// Reads until the buffer is full or the input ends.
fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match input.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n)
}
