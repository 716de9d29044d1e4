//! Reads a plan log while another process writes it.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::entry::PlanEntry;
use super::error::{PlanError, io_error};
use super::list;
use super::segment::{self, Chain, first_frame, parse_header};

/// Bytes of a segment read at once.
const READ_BYTES: u64 = 4 << 20;

/// What a plan log says next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The next entry.
    Entry(PlanEntry),
    /// A new segment begins with this entry: the writer has taken a checkpoint before it, or another writer has begun.
    Segment(u64),
}

/// The position in the segment that is being read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    first: u64,
    epoch: u64,
    /// Bytes up to the next frame.
    offset: u64,
    chain: Chain,
    /// Number of the entry in the next frame.
    next_frame: u64,
}

/// Follows a plan log from one entry on. It changes nothing.
#[derive(Debug)]
pub struct PlanFollower {
    dir: PathBuf,
    /// Number of the next entry to return.
    next: u64,
    reading: Option<Reading>,
}

impl PlanFollower {
    /// A follower of the log in `dir`, which need not exist yet, from entry `next` on.
    pub fn new(dir: PathBuf, next: u64) -> Self {
        Self {
            dir,
            next,
            reading: None,
        }
    }

    /// Number of the next entry.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// What was written since the last call, up to some megabytes.
    ///
    /// # Errors
    /// [`PlanError::Superseded`] when another writer has replaced entries that were returned already;
    /// [`PlanError::Gap`] when the next entry was removed; [`PlanError::Io`], [`PlanError::Corrupt`].
    pub fn poll(&mut self) -> Result<Vec<Followed>, PlanError> {
        let mut found = Vec::new();
        loop {
            let Some(reading) = self.reading.or(self.find_segment()?) else {
                return Ok(found);
            };
            self.reading = Some(reading);
            let n_before = found.len();
            self.read(&mut found)?;
            if found.len() > n_before {
                return Ok(found);
            }
            // Nothing more in this segment: the next one may have begun.
            let later = list(&self.dir)?.into_iter().find(|first| *first > reading.first);
            match later {
                Some(first) if first == self.next => {
                    self.reading = Some(self.start(first)?);
                    found.push(Followed::Segment(first));
                }
                Some(first) if first < self.next => return Err(self.superseded(first)),
                // The rest of this segment is not visible yet.
                Some(_) | None => return Ok(found),
            }
        }
    }

    /// The segment that has the next entry; `None` before the log is created.
    fn find_segment(&self) -> Result<Option<Reading>, PlanError> {
        let segments = match list(&self.dir) {
            Err(PlanError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
            segments => segments?,
        };
        let Some(oldest) = segments.first() else {
            return Ok(None);
        };
        match segments.iter().rev().find(|first| **first <= self.next) {
            Some(first) => self.start(*first).map(Some),
            None => Err(PlanError::Gap {
                dir: self.dir.clone(),
                first: *oldest,
                next: segments.last().copied().unwrap_or(*oldest),
                wanted: self.next,
            }),
        }
    }

    fn start(&self, first: u64) -> Result<Reading, PlanError> {
        let path = segment::path(&self.dir, first);
        let mut head = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(segment::MAX_HEADER_BYTES).read_to_end(&mut head))
            .map_err(|source| io_error("read", &path, source))?;
        let header = parse_header(&head, first).ok_or_else(|| segment::bad_header(&path))?;
        Ok(Reading {
            first,
            epoch: header.epoch,
            offset: header.n_bytes,
            chain: header.chain,
            next_frame: first,
        })
    }

    /// Reads the whole frames that the segment has gained.
    fn read(&mut self, found: &mut Vec<Followed>) -> Result<(), PlanError> {
        let Some(mut reading) = self.reading else {
            return Ok(());
        };
        if self.start(reading.first)?.epoch != reading.epoch {
            // Another writer has replaced a segment that had no entry when it began.
            if self.next > reading.first {
                return Err(self.superseded(reading.first));
            }
            reading = self.start(reading.first)?;
        }
        let path = segment::path(&self.dir, reading.first);
        let mut bytes = Vec::new();
        // Opened anew: a client of a file server then sees what was written meanwhile.
        File::open(&path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(reading.offset))?;
                file.take(READ_BYTES).read_to_end(&mut bytes)
            })
            .map_err(|source| io_error("read", &path, source))?;
        let later = list(&self.dir)?.into_iter().find(|first| *first > reading.first);
        let mut unread = bytes.as_slice();
        // A frame that is not whole is still being written.
        while let Ok((entry, chain, n_bytes)) = first_frame(unread, reading.chain, reading.next_frame) {
            if later.is_some_and(|later| entry.seq >= later) {
                break;
            }
            reading.chain = chain;
            reading.offset += n_bytes as u64;
            reading.next_frame += 1;
            unread = &unread[n_bytes..];
            if entry.seq >= self.next {
                self.next = entry.seq + 1;
                found.push(Followed::Entry(entry));
            }
        }
        self.reading = Some(reading);
        Ok(())
    }

    fn superseded(&self, first: u64) -> PlanError {
        PlanError::Superseded {
            dir: self.dir.clone(),
            first,
            next: self.next,
        }
    }
}

#[cfg(test)]
mod tests;
