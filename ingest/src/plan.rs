//! The plan log: the order in which records were read, on disk before anything learned from them is published.
//!
//! Following a durable plan reproduces a run bit for bit. Beyond its end a restart is still exactly-once; only the
//! order across partitions may differ, and nothing made in the first order was published. The log is a directory of
//! append-only segments, `plan-<first entry>.log`, a new one with each snapshot.
//!
//! A write or a sync may fail, as on a full disk. Nothing is lost: entries that are not durable yet stay in memory,
//! and the next call writes them again first. The caller may retry for any time, but must not learn from records that
//! are not in the log.
//!
//! A crash can tear the end of the last segment; opening drops the torn entry and says how much. Damage before the plan
//! position of the snapshot that is resumed from is an error, if it is in a segment that has later entries. Segments that
//! end before that position are kept for older snapshots and are not read.

mod entry;
mod error;
mod segment;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use entry::{Encoded, OffsetRun, PlanEntry};
pub use error::PlanError;

use error::io_error;
pub(crate) use segment::checksum;
use segment::{Chain, PlanSegment};

/// The state of a log when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanRecovery {
    /// Number of the oldest entry kept.
    pub first: u64,
    /// Number of the next entry.
    pub next: u64,
    /// Bytes of a torn entry that were dropped at the end.
    pub dropped_bytes: u64,
}

/// The log, open for appending.
#[derive(Debug)]
pub struct PlanLog {
    dir: PathBuf,
    /// First entry of each segment, ascending; the last is being written.
    segments: Vec<u64>,
    file: File,
    chain: Chain,
    next: u64,
    /// Bytes at the front of the file that are durable.
    synced_bytes: u64,
    /// The frames behind them: written, but not known to be durable.
    unsynced: Vec<u8>,
    /// A write or sync failed: the content of the file behind its durable bytes is not known.
    is_damaged: bool,
}

impl PlanLog {
    /// Opens the log in `dir`, or creates it. `needed` is the plan position of the snapshot to resume from.
    ///
    /// The segment that contains it and all later ones are read and checked. Earlier ones are not: damage to them stops
    /// no start, and is an error of [`PlanLog::read_from`] for whoever needs them.
    pub fn open(dir: &Path, needed: u64) -> Result<(Self, PlanRecovery), PlanError> {
        fs::create_dir_all(dir).map_err(|source| io_error("create", dir, source))?;
        let mut segments = list(dir)?;
        if segments.is_empty() {
            segment::create(dir, needed)?;
            segments.push(needed);
        }
        let start = segments
            .partition_point(|first| *first <= needed)
            .saturating_sub(1);
        let mut next = segments[start];
        let mut tail = None;
        for (index, first) in segments.iter().copied().enumerate().skip(start) {
            let path = segment::path(dir, first);
            if first != next {
                let detail = format!("it starts at entry {first}, the one before ends at {next}");
                return Err(PlanError::Corrupt { path, at: 0, detail });
            }
            let read = PlanSegment::read(&path, first)?;
            next = first + read.entries.len() as u64;
            if let Some(detail) = &read.damage
                && (index + 1 < segments.len() || next < needed)
            {
                let detail = detail.clone();
                return Err(PlanError::Corrupt {
                    path,
                    at: read.sound_bytes,
                    detail,
                });
            }
            tail = Some((path, read));
        }
        let first = segments[0];
        if !(first..=next).contains(&needed) {
            return Err(PlanError::Gap {
                dir: dir.to_owned(),
                first,
                next,
                wanted: needed,
            });
        }
        let (path, read) = tail.expect("there is at least one segment here");
        let dropped_bytes = read.total_bytes - read.sound_bytes;
        // A killed process may have left entries that only the page cache holds, and later entries depend on them.
        let file = segment::reopen(&path, read.sound_bytes)?;
        let log = Self {
            dir: dir.to_owned(),
            segments,
            file,
            chain: read.chain,
            next,
            synced_bytes: read.sound_bytes,
            unsynced: Vec::new(),
            is_damaged: false,
        };
        Ok((
            log,
            PlanRecovery {
                first,
                next,
                dropped_bytes,
            },
        ))
    }

    /// Number of the next entry: the plan position of a checkpoint taken now.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Appends the next entry. It is durable only after [`PlanLog::sync`]. After an error the entry is not there,
    /// and its number is still free.
    pub fn append(&mut self, entry: &PlanEntry) -> Result<(), PlanError> {
        if entry.seq != self.next {
            return Err(PlanError::Misnumbered {
                seq: entry.seq,
                next: self.next,
            });
        }
        self.repair()?;
        let mut chain = self.chain;
        let frame = chain.frame(entry)?;
        let end = self.synced_bytes + self.unsynced.len() as u64;
        if let Err(source) = self.file.write_all_at(&frame, end) {
            self.is_damaged = true;
            return Err(io_error("append to", &self.active(), source));
        }
        self.unsynced.extend_from_slice(&frame);
        self.chain = chain;
        self.next += 1;
        Ok(())
    }

    /// Makes everything appended durable. Call it before a snapshot that depends on it is published.
    pub fn sync(&mut self) -> Result<(), PlanError> {
        self.repair()?;
        if self.unsynced.is_empty() {
            return Ok(());
        }
        if let Err(source) = self.file.sync_data() {
            self.is_damaged = true;
            return Err(io_error("sync", &self.active(), source));
        }
        self.mark_synced();
        Ok(())
    }

    /// Starts a new segment, so that older ones can be pruned; once per snapshot.
    pub fn roll(&mut self) -> Result<(), PlanError> {
        self.sync()?;
        if self.segments.last() == Some(&self.next) {
            return Ok(());
        }
        let (file, chain) = segment::create(&self.dir, self.next)?;
        self.file = file;
        self.chain = chain;
        self.synced_bytes = segment::HEADER_BYTES as u64;
        self.segments.push(self.next);
        Ok(())
    }

    /// Deletes the segments that end at or before entry `keep_from`: the plan position of the oldest snapshot that a
    /// start may resume from.
    pub fn prune(&mut self, keep_from: u64) -> Result<(), PlanError> {
        while self.segments.len() > 1 && self.segments[1] <= keep_from {
            let path = segment::path(&self.dir, self.segments[0]);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path, source));
                }
                _ => self.segments.remove(0),
            };
        }
        Ok(())
    }

    /// Writes again every entry that is not known to be durable, after a failure.
    ///
    /// After a failed sync the kernel may take pages for clean that never reached the disk, and a second sync would
    /// succeed without writing them. Written again, they are dirty again.
    fn repair(&mut self) -> Result<(), PlanError> {
        if !self.is_damaged {
            return Ok(());
        }
        let end = self.synced_bytes + self.unsynced.len() as u64;
        self.file
            .write_all_at(&self.unsynced, self.synced_bytes)
            .and_then(|()| self.file.set_len(end))
            .and_then(|()| self.file.sync_all())
            .map_err(|source| io_error("repair", &self.active(), source))?;
        self.mark_synced();
        self.is_damaged = false;
        Ok(())
    }

    fn mark_synced(&mut self) {
        self.synced_bytes += self.unsynced.len() as u64;
        self.unsynced.clear();
    }

    /// The entries from `seq` on, in order, as they are on disk now.
    pub fn read_from(&self, seq: u64) -> Result<VecDeque<PlanEntry>, PlanError> {
        let first = self.segments[0];
        if !(first..=self.next).contains(&seq) {
            return Err(PlanError::Gap {
                dir: self.dir.clone(),
                first,
                next: self.next,
                wanted: seq,
            });
        }
        let start = self.segments.partition_point(|first| *first <= seq) - 1;
        let mut entries = VecDeque::new();
        for first in &self.segments[start..] {
            let path = segment::path(&self.dir, *first);
            let segment = PlanSegment::read(&path, *first)?;
            if let Some(detail) = segment.damage {
                let at = segment.sound_bytes;
                return Err(PlanError::Corrupt { path, at, detail });
            }
            entries.extend(segment.entries.into_iter().filter(|entry| entry.seq >= seq));
        }
        Ok(entries)
    }

    fn active(&self) -> PathBuf {
        segment::path(&self.dir, self.segments.last().copied().unwrap_or(0))
    }
}

/// First entries of the segments in `dir`, ascending.
fn list(dir: &Path) -> Result<Vec<u64>, PlanError> {
    let error = |source| io_error("list", dir, source);
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        segments.extend(name.to_str().and_then(segment::first_of));
    }
    segments.sort_unstable();
    Ok(segments)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
