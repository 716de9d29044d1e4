//! A segment: one file of vectors by one encoder version, a header and then frames of one size.
//!
//! A frame is `content hash [32] | values f32 x dim | checksum u64`, little-endian. It is located by its number, so a
//! damaged frame loses itself only, and the next write overwrites a torn one.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ouzel_sample::{ContentHash, EncoderVersion};

use crate::Error;
use crate::error::IoResultExt;
use crate::format::hashing::BUFFER_BYTES;
use crate::fs;

/// First bytes of a segment; the digit is the layout version.
const MAGIC: &[u8; 10] = b"ouzelvec1\n";
const HASH_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 8;
/// Longest encoder name, bytes: the longest folder name.
pub(super) const MAX_NAME_BYTES: usize = 255;
/// Largest dimension of a vector; encoders have hundreds to thousands.
pub(super) const MAX_DIM: u32 = 1 << 16;

#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    version: EncoderVersion,
    header_bytes: usize,
    n_frames: u32,
}

/// The result of reading a segment through.
#[derive(Debug, Default)]
pub(super) struct SegmentScan {
    /// Content and number of every sound frame.
    pub(super) sound: Vec<(ContentHash, u32)>,
    /// Number of frames with a wrong checksum.
    pub(super) n_damaged: u64,
    /// Bytes of a torn frame at the end.
    pub(super) torn_bytes: u64,
}

impl Segment {
    /// Creates a segment durably. It is written under another name and renamed, so no header is ever torn.
    pub(super) fn create(path: &Path, version: &EncoderVersion) -> Result<Self, Error> {
        let header = header(version);
        let tmp = path.with_extension("tmp");
        let write = || {
            let mut file = options().create(true).truncate(true).open(&tmp)?;
            file.write_all(&header)?;
            file.sync_all()?;
            std::fs::rename(&tmp, path)?;
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

    /// Opens a segment and reads it through; `None` when its header is unknown.
    pub(super) fn open(path: &Path) -> Result<Option<(Self, SegmentScan)>, Error> {
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
        let mut scan = SegmentScan::default();
        let frame_bytes = segment.frame_bytes();
        loop {
            let frame = read_up_to(&mut reader, frame_bytes).attempt("read", path)?;
            if frame.len() < frame_bytes {
                scan.torn_bytes = frame.len() as u64;
                return Ok(Some((segment, scan)));
            }
            match segment.parse(&frame) {
                Some((content, _)) => scan.sound.push((content, segment.n_frames)),
                None => scan.n_damaged += 1,
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

    /// Size of the header and the whole frames, bytes.
    pub(super) fn n_bytes(&self) -> u64 {
        self.offset(self.n_frames)
    }

    /// Appends vectors and returns the first one's frame number. An error leaves the number of frames unchanged.
    pub(super) fn append(&mut self, vectors: &[(ContentHash, &[f32])]) -> Result<u32, Error> {
        let first = self.n_frames;
        let n_frames = u32::try_from(vectors.len())
            .ok()
            .and_then(|n| first.checked_add(n));
        let n_frames = n_frames.expect("a segment is closed long before 2^32 frames");
        let mut bytes = Vec::with_capacity(vectors.len() * self.frame_bytes());
        for (content, values) in vectors {
            let start = bytes.len();
            bytes.extend_from_slice(&content.0);
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            let checksum = self.checksum(&bytes[start..]);
            bytes.extend_from_slice(&checksum);
        }
        self.file
            .write_all_at(&bytes, self.offset(first))
            .attempt("write", &self.path)?;
        self.n_frames = n_frames;
        Ok(first)
    }

    /// Reads a frame; `None` when it is damaged.
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
        HASH_BYTES + n_value_bytes(&self.version) + CHECKSUM_BYTES
    }

    fn offset(&self, frame: u32) -> u64 {
        self.header_bytes as u64 + u64::from(frame) * self.frame_bytes() as u64
    }

    fn parse(&self, frame: &[u8]) -> Option<(ContentHash, Vec<f32>)> {
        let (payload, found) = frame.split_at(frame.len() - CHECKSUM_BYTES);
        if found != self.checksum(payload) {
            return None;
        }
        let (content, values) = payload.split_first_chunk::<HASH_BYTES>()?;
        let (values, _) = values.as_chunks::<4>();
        Some((
            ContentHash(*content),
            values.iter().map(|value| f32::from_le_bytes(*value)).collect(),
        ))
    }

    /// The checksum of a frame. It covers the encoder, so no frame copied from another encoder's file matches.
    fn checksum(&self, payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
        checksum(&[&self.version.digest, payload])
    }
}

fn options() -> OpenOptions {
    let mut options = fs::options();
    options.read(true).write(true);
    options
}

fn n_value_bytes(version: &EncoderVersion) -> usize {
    usize::try_from(version.dim).unwrap_or(usize::MAX / 8) * size_of::<f32>()
}

fn checksum(parts: &[&[u8]]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut checksum = [0; CHECKSUM_BYTES];
    hasher.finalize_xof().fill(&mut checksum);
    checksum
}

/// `magic | dim u32 | digest [32] | name length u8 | name | checksum u64`
fn header(version: &EncoderVersion) -> Vec<u8> {
    let name = version.name.as_bytes();
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&version.dim.to_le_bytes());
    header.extend_from_slice(&version.digest);
    header.push(u8::try_from(name.len()).expect("the name's length was checked"));
    header.extend_from_slice(name);
    let check = checksum(&[&header]);
    header.extend_from_slice(&check);
    header
}

/// Reads a header; returns the version and the header's length, or `None` for an unknown header.
fn read_header(input: &mut impl Read) -> io::Result<Option<(EncoderVersion, usize)>> {
    let start = read_up_to(input, MAGIC.len() + 4 + 32 + 1)?;
    let name_bytes = usize::from(start.last().copied().unwrap_or(0));
    let tail = read_up_to(input, name_bytes + CHECKSUM_BYTES)?;
    Ok(parse_header(&start, &tail).map(|version| (version, start.len() + tail.len())))
}

/// Parses a header in two parts, split before the name.
fn parse_header(start: &[u8], tail: &[u8]) -> Option<EncoderVersion> {
    let (dim, after) = start.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let (digest, name_bytes) = after.split_first_chunk::<32>()?;
    let (name, check) = tail.split_at_checked(usize::from(*name_bytes.first()?))?;
    let version = EncoderVersion {
        name: String::from_utf8_lossy(name).into_owned(),
        digest: *digest,
        dim: u32::from_le_bytes(*dim),
    };
    let is_sound = check == checksum(&[start, name]) && (1..=MAX_DIM).contains(&version.dim);
    is_sound.then_some(version)
}

/// Reads `n` bytes, or less where the input ends.
fn read_up_to(input: &mut impl Read, n: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(n);
    input.take(n as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
