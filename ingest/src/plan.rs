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
//!
//! Each writer that may be replaced by another one has a number, its epoch, and begins a segment of its own. A segment
//! counts up to the first entry of the next one, if that is of the same or a later writer: what a former writer still appends to its
//! open file is never read.

mod entry;
mod error;
mod follower;
mod segment;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use entry::{Encoded, OffsetRun, PlanEntry};
pub use error::PlanError;
pub use follower::{Followed, PlanFollower};

use error::io_error;
pub(crate) use segment::checksum;
use segment::{Chain, PlanSegment};

/// The right to write to a log, which another process may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanLease {
    /// Number of the writer, higher than that of every writer before and not 0.
    pub epoch: u64,
    /// A directory of the same file system that is removed before another process writes to the log.
    pub work_dir: PathBuf,
}

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
    /// `None` for a log that only one process can write.
    lease: Option<PlanLease>,
    /// Number of the writer in its segments.
    epoch: u64,
}

impl PlanLog {
    /// Opens the log in `dir`, or creates it. `needed` is the plan position of the snapshot to resume from.
    ///
    /// The segment that contains it and all later ones are read and checked. Earlier ones are not: damage to them stops
    /// no start, and is an error of [`PlanLog::read_from`] for whoever needs them.
    pub fn open(dir: &Path, needed: u64) -> Result<(Self, PlanRecovery), PlanError> {
        Self::open_as(None, dir, needed)
    }

    /// Opens the log as [`PlanLog::open`] does, for the writer that `lease` names, which begins a new segment.
    pub fn open_leased(lease: PlanLease, dir: &Path, needed: u64) -> Result<(Self, PlanRecovery), PlanError> {
        Self::open_as(Some(lease), dir, needed)
    }

    fn open_as(lease: Option<PlanLease>, dir: &Path, needed: u64) -> Result<(Self, PlanRecovery), PlanError> {
        fs::create_dir_all(dir).map_err(|source| io_error("create", dir, source))?;
        let mut segments = list(dir)?;
        let epoch = lease.as_ref().map_or(0, |lease| lease.epoch);
        let work = lease.as_ref().map_or(dir, |lease| &lease.work_dir).to_owned();
        if segments.is_empty() {
            segment::create(dir, &work, needed, epoch)?;
            segments.push(needed);
        }
        let start = segments
            .partition_point(|first| *first <= needed)
            .saturating_sub(1);
        let read = read_segments(dir, &segments[start..])?;
        let mut next = segments[start];
        for (index, (first, segment)) in read.iter().enumerate() {
            let path = segment::path(dir, *first);
            if *first != next {
                let detail = format!("it starts at entry {first}, the one before ends at {next}");
                return Err(PlanError::Corrupt { path, at: 0, detail });
            }
            next = first + segment.entries.len() as u64;
            if let Some(detail) = &segment.damage
                && (index + 1 < read.len() || next < needed)
            {
                let detail = detail.clone();
                return Err(PlanError::Corrupt {
                    path,
                    at: segment.sound_bytes,
                    detail,
                });
            }
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
        let (last, tail) = read.last().expect("there is at least one segment here");
        // The claims were lost, or the log is a copy: the order of its writers goes on above them.
        let epoch = match lease.is_some() && tail.epoch > epoch {
            true => tail.epoch.saturating_add(1),
            false => epoch,
        };
        let path = segment::path(dir, *last);
        let dropped_bytes = tail.total_bytes - tail.sound_bytes;
        let mut log = Self {
            dir: dir.to_owned(),
            segments,
            chain: tail.chain,
            next,
            synced_bytes: tail.sound_bytes,
            unsynced: Vec::new(),
            is_damaged: false,
            // A killed process may have left entries that only the page cache holds, and later entries depend on them.
            file: match &lease {
                // The file may be another writer's by now, so it is not changed.
                Some(_) => segment::sync(&path)?,
                None => segment::reopen(&path, tail.sound_bytes)?,
            },
            epoch,
            lease,
        };
        if log.lease.is_some() {
            log.begin_segment()?;
        }
        Ok((
            log,
            PlanRecovery {
                first,
                next,
                dropped_bytes,
            },
        ))
    }

    /// Begins a segment with the next entry.
    fn begin_segment(&mut self) -> Result<(), PlanError> {
        let work = self.lease.as_ref().map_or(&self.dir, |lease| &lease.work_dir);
        let created = segment::create(&self.dir, work, self.next, self.epoch);
        let (file, header) = created.map_err(|error| self.check_lease().err().unwrap_or(error))?;
        self.file = file;
        self.chain = header.chain;
        self.synced_bytes = header.n_bytes;
        if self.segments.last() != Some(&self.next) {
            self.segments.push(self.next);
        }
        Ok(())
    }

    /// Fails if another process writes to the log now.
    fn check_lease(&self) -> Result<(), PlanError> {
        let Some(lease) = &self.lease else { return Ok(()) };
        match fs::metadata(&lease.work_dir) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => Err(PlanError::TakenOver {
                dir: self.dir.clone(),
                epoch: lease.epoch,
            }),
            Err(source) => Err(io_error("look at", &lease.work_dir, source)),
            Ok(_) => Ok(()),
        }
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
        self.check_lease()?;
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
        self.begin_segment()
    }

    /// Deletes the segments that end at or before entry `keep_from`: the plan position of the oldest snapshot that a
    /// start may resume from.
    pub fn prune(&mut self, keep_from: u64) -> Result<(), PlanError> {
        while self.segments.len() > 1 && self.segments[1] <= keep_from {
            let path = segment::path(&self.dir, self.segments[0]);
            let removed = match &self.lease {
                None => fs::remove_file(&path),
                // By a rename, which a former writer cannot make.
                Some(lease) => {
                    let aside = lease.work_dir.join("plan-removed");
                    fs::rename(&path, &aside).and_then(|()| fs::remove_file(&aside))
                }
            };
            match removed {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path, source));
                }
                Err(_) => {
                    self.check_lease()?;
                    self.segments.remove(0);
                }
                Ok(()) => {
                    self.segments.remove(0);
                }
            }
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
        for (first, segment) in read_segments(&self.dir, &self.segments[start..])? {
            let path = segment::path(&self.dir, first);
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

/// Reads consecutive segments. Of each, what follows the entries that the writer of the next one has found is left out.
fn read_segments(dir: &Path, firsts: &[u64]) -> Result<Vec<(u64, PlanSegment)>, PlanError> {
    let mut read: Vec<(u64, PlanSegment)> = Vec::with_capacity(firsts.len());
    for first in firsts {
        let segment = PlanSegment::read(&segment::path(dir, *first), *first)?;
        if let Some((start, before)) = read.last_mut()
            && segment.epoch >= before.epoch.max(1)
        {
            let n = usize::try_from(first - *start).unwrap_or(usize::MAX);
            if n <= before.entries.len() {
                before.entries.truncate(n);
                before.damage = None;
            }
        }
        read.push((*first, segment));
    }
    Ok(read)
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
