//! One file of the plan log: a header, then frames `length u32 | check u64 | postcard`, little-endian.
//!
//! A frame's check covers the check before it, so a lost, repeated or moved entry is found like a flipped bit.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::entry::PlanEntry;
use super::error::{PlanError, io_error};

/// First bytes of a segment; the digit is the version of the layout. Version 1 is of a writer without an epoch.
const MAGIC: &[u8; 10] = b"ouzelplan1";
const MAGIC_2: &[u8; 10] = b"ouzelplan2";
const HEADER_BYTES: usize = MAGIC.len() + 16;
/// Bytes of the longest header.
pub(super) const MAX_HEADER_BYTES: u64 = HEADER_BYTES as u64 + 8;
const FRAME_BYTES: usize = 12;
/// A batch's runs take kilobytes; a longer length is damage.
const MAX_ENTRY_BYTES: usize = 16 << 20;

/// The check of the last frame, which the next one continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain(u64);

impl Chain {
    fn start(first: u64, epoch: u64) -> Self {
        match epoch {
            0 => Self(checksum(MAGIC, &first.to_le_bytes())),
            _ => Self(checksum(
                MAGIC_2,
                &[first.to_le_bytes(), epoch.to_le_bytes()].concat(),
            )),
        }
    }

    fn next(self, payload: &[u8]) -> Self {
        Self(checksum(&self.0.to_le_bytes(), payload))
    }

    /// The bytes of `entry` as the next frame.
    pub(super) fn frame(&mut self, entry: &PlanEntry) -> Result<Vec<u8>, PlanError> {
        let payload = postcard::to_stdvec(entry).expect("a plan entry has no type that postcard refuses");
        let (seq, bytes) = (entry.seq, payload.len());
        let too_large = || PlanError::TooLarge {
            seq,
            bytes,
            most: MAX_ENTRY_BYTES,
        };
        let len = u32::try_from(bytes).map_err(|_| too_large())?;
        if bytes > MAX_ENTRY_BYTES {
            return Err(too_large());
        }
        *self = self.next(&payload);
        Ok([&len.to_le_bytes()[..], &self.0.to_le_bytes(), &payload].concat())
    }
}

/// The header of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Number of the writer, see [`PlanLease`](super::PlanLease).
    pub(super) epoch: u64,
    /// Chain before the first frame.
    pub(super) chain: Chain,
    pub(super) n_bytes: u64,
}

/// The content of a segment.
#[derive(Debug)]
pub(super) struct PlanSegment {
    /// Number of the writer.
    pub(super) epoch: u64,
    pub(super) entries: Vec<PlanEntry>,
    /// The chain after the last entry.
    pub(super) chain: Chain,
    /// Bytes up to the end of the last sound frame.
    pub(super) sound_bytes: u64,
    pub(super) total_bytes: u64,
    /// Why the segment was not read to its end.
    pub(super) damage: Option<String>,
}

impl PlanSegment {
    pub(super) fn read(path: &Path, first: u64) -> Result<Self, PlanError> {
        let bytes = fs::read(path).map_err(|source| io_error("read", path, source))?;
        let Some(header) = parse_header(&bytes, first) else {
            return Err(bad_header(path));
        };
        let mut segment = Self {
            epoch: header.epoch,
            entries: Vec::new(),
            chain: header.chain,
            sound_bytes: header.n_bytes,
            total_bytes: bytes.len() as u64,
            damage: None,
        };
        let header_bytes = usize::try_from(header.n_bytes).unwrap_or(bytes.len());
        let mut unread = &bytes[header_bytes..];
        while !unread.is_empty() {
            match first_frame(unread, segment.chain, first + segment.entries.len() as u64) {
                Ok((entry, chain, n_bytes)) => {
                    segment.entries.push(entry);
                    segment.chain = chain;
                    segment.sound_bytes += n_bytes as u64;
                    unread = &unread[n_bytes..];
                }
                Err(damage) => {
                    segment.damage = Some(damage);
                    break;
                }
            }
        }
        Ok(segment)
    }
}

/// The first frame of `bytes`, with the chain after it and its length.
pub(super) fn first_frame(bytes: &[u8], chain: Chain, seq: u64) -> Result<(PlanEntry, Chain, usize), String> {
    let head: &[u8; FRAME_BYTES] = bytes
        .first_chunk()
        .ok_or_else(|| format!("entry {seq} is cut off in its frame"))?;
    let [l0, l1, l2, l3, check @ ..] = *head;
    let len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    let end = FRAME_BYTES.saturating_add(len);
    if len > MAX_ENTRY_BYTES {
        return Err(format!("entry {seq} claims {len} bytes"));
    }
    let payload = bytes
        .get(FRAME_BYTES..end)
        .ok_or_else(|| format!("entry {seq} is cut off"))?;
    let after = chain.next(payload);
    if after.0 != u64::from_le_bytes(check) {
        return Err(format!("the checksum of entry {seq} does not match"));
    }
    let entry: PlanEntry =
        postcard::from_bytes(payload).map_err(|error| format!("entry {seq} cannot be decoded: {error}"))?;
    if entry.seq != seq {
        return Err(format!("entry {} stands in place of {seq}", entry.seq));
    }
    Ok((entry, after, end))
}

/// The file of the segment that starts with entry `first`.
pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("plan-{first:020}.log"))
}

/// The first entry of the segment with this file name; `None` for other files.
pub(super) fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("plan-")?.strip_suffix(".log")?;
    digits.parse().ok().filter(|_| digits.len() == 20)
}

/// Creates a segment, durably and at once: it is written in the directory `work` and renamed, so no header is ever torn. An
/// empty segment of that name is replaced.
pub(super) fn create(dir: &Path, work: &Path, first: u64, epoch: u64) -> Result<(File, Header), PlanError> {
    let path = path(dir, first);
    let aside = work.join(format!("plan-{first:020}.tmp"));
    let bytes = header(first, epoch);
    let write = || {
        let mut file = File::create(&aside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        sync_dir(dir)?;
        // The file itself, whatever another writer puts in its place.
        Ok(file)
    };
    let file = write().map_err(|source| io_error("create", &path, source))?;
    let header = Header {
        epoch,
        chain: Chain::start(first, epoch),
        n_bytes: bytes.len() as u64,
    };
    Ok((file, header))
}

/// Opens a segment for writing after its sound bytes, which it makes durable, cutting off what follows them.
pub(super) fn reopen(path: &Path, sound_bytes: u64) -> Result<File, PlanError> {
    let file = open(path)?;
    file.set_len(sound_bytes)
        .and_then(|()| file.sync_all())
        .map_err(|source| io_error("truncate", path, source))?;
    Ok(file)
}

/// Makes what a segment holds durable, and changes nothing.
pub(super) fn sync(path: &Path) -> Result<File, PlanError> {
    let file = open(path)?;
    file.sync_all().map_err(|source| io_error("sync", path, source))?;
    Ok(file)
}

fn open(path: &Path) -> Result<File, PlanError> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|source| io_error("open", path, source))
}

fn header(first: u64, epoch: u64) -> Vec<u8> {
    let chain = Chain::start(first, epoch).0.to_le_bytes();
    let (first, number) = (first.to_le_bytes(), epoch.to_le_bytes());
    match epoch {
        0 => [MAGIC.as_slice(), &first, &chain].concat(),
        _ => [MAGIC_2.as_slice(), &first, &number, &chain].concat(),
    }
}

/// The header at the front of `bytes`, if it is that of the segment that starts with entry `first`.
pub(super) fn parse_header(bytes: &[u8], first: u64) -> Option<Header> {
    let epoch = match bytes.starts_with(MAGIC_2) {
        true => u64::from_le_bytes(*bytes.get(MAGIC_2.len() + 8..)?.first_chunk()?),
        false => 0,
    };
    let expected = header(first, epoch);
    bytes.starts_with(&expected).then_some(Header {
        epoch,
        chain: Chain::start(first, epoch),
        n_bytes: expected.len() as u64,
    })
}

pub(super) fn bad_header(path: &Path) -> PlanError {
    PlanError::Corrupt {
        path: path.to_owned(),
        at: 0,
        detail: "its header is not that of a plan segment".to_owned(),
    }
}

/// The first 8 bytes of the blake3 of both parts.
pub(crate) fn checksum(head: &[u8], tail: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    blake3::Hasher::new()
        .update(head)
        .update(tail)
        .finalize_xof()
        .fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Makes the names in `dir` durable.
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}
