//! The vector store: an index in memory over segments on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use ouzel_sample::{ContentHash, EncoderVersion};

use super::segment::Segment;
use super::{VectorCount, VectorLimits, VectorRecovery, check_vector};
use crate::error::IoResultExt;
use crate::fs::lock;
use crate::{Error, FileLock, Fs, FsKind, RealFs, metrics};

const LOCK_NAME: &str = ".lock";
const SUFFIX: &str = ".vec";
const N_DIGITS: usize = 10;

/// A vector store, open for reading and writing by one owner in one process.
pub struct VectorStore {
    dir: PathBuf,
    limits: VectorLimits,
    _lock: FileLock,
    /// By number, which is the order of creation.
    segments: BTreeMap<u32, Segment>,
    indexes: BTreeMap<EncoderVersion, VersionIndex>,
    /// Segments with frames that may not be on disk yet.
    unsynced: BTreeSet<u32>,
    next: u32,
}

#[derive(Debug, Default)]
struct VersionIndex {
    frames: BTreeMap<ContentHash, FrameLocation>,
    /// The segment that new vectors go to.
    open: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct FrameLocation {
    segment: u32,
    frame: u32,
}

impl VectorStore {
    /// Opens the store in `dir`, creates it if needed, and reads it through.
    ///
    /// # Errors
    /// [`Error::Locked`] when it is open elsewhere, [`Error::Io`]. Damage is no error; the [`VectorRecovery`] counts it.
    pub fn open(dir: &Path, limits: VectorLimits) -> Result<(Self, VectorRecovery), Error> {
        RealFs.create_dir_all(dir).attempt("create", dir)?;
        let mut store = Self {
            dir: dir.to_owned(),
            limits,
            _lock: lock(&RealFs, &dir.join(LOCK_NAME))?,
            segments: BTreeMap::new(),
            indexes: BTreeMap::new(),
            unsynced: BTreeSet::new(),
            next: 0,
        };
        let mut recovery = VectorRecovery::default();
        for entry in RealFs.list(dir).attempt("list", dir)? {
            let Some(number) = segment_number(&entry.name).filter(|_| entry.kind == FsKind::File) else {
                continue;
            };
            // The number of a foreign file is taken too.
            store.next = store.next.max(number.saturating_add(1));
            match Segment::open(&dir.join(&entry.name))? {
                Some((segment, scan)) => {
                    recovery.n_damaged += scan.n_damaged;
                    recovery.torn_bytes += scan.torn_bytes;
                    store.index_segment(number, segment, scan.sound);
                }
                None => recovery.n_foreign += 1,
            }
        }
        recovery.n_vectors = store.versions().iter().map(|count| count.n_vectors).sum();
        metrics::vectors_dropped("damaged", recovery.n_damaged);
        store.update_gauges();
        Ok((store, recovery))
    }

    /// Adds a segment found on disk.
    fn index_segment(&mut self, number: u32, segment: Segment, sound: Vec<(ContentHash, u32)>) {
        let index = self.indexes.entry(segment.version().clone()).or_default();
        for (content, frame) in sound {
            let location = FrameLocation {
                segment: number,
                frame,
            };
            index.frames.entry(content).or_insert(location);
        }
        // Segments come in order, so the last one found is the newest; earlier ones do not grow again.
        index.open = (segment.n_bytes() < self.limits.segment_bytes).then_some(number);
        self.segments.insert(number, segment);
    }

    /// The vector of a content by an encoder version.
    ///
    /// # Shapes
    /// `[version.dim]`
    ///
    /// # Errors
    /// [`Error::Io`] when the vector exists and cannot be read. A damaged vector is dropped and counts as missing.
    pub fn get(
        &mut self,
        version: &EncoderVersion,
        content: &ContentHash,
    ) -> Result<Option<Vec<f32>>, Error> {
        let Some(index) = self.indexes.get_mut(version) else {
            return Ok(None);
        };
        let Some(location) = index.frames.get(content) else {
            return Ok(None);
        };
        let segment = &self.segments[&location.segment];
        match segment.read(location.frame)? {
            Some((found, vector)) if found == *content => Ok(Some(vector)),
            _ => {
                index.frames.remove(content);
                metrics::vectors_dropped("damaged", 1);
                Ok(None)
            }
        }
    }

    /// True when the content has a vector by this version.
    pub fn contains(&self, version: &EncoderVersion, content: &ContentHash) -> bool {
        self.indexes
            .get(version)
            .is_some_and(|index| index.frames.contains_key(content))
    }

    /// Stores vectors of one version and returns the number of new ones.
    ///
    /// They survive a crash of the process at once, and a crash of the machine after [`VectorStore::sync`].
    ///
    /// # Shapes
    /// Every vector is `[version.dim]`.
    ///
    /// # Errors
    /// [`Error::InvalidVector`] when one has another length or is not finite, [`Error::Io`]; then none is stored.
    pub fn put_batch(
        &mut self,
        version: &EncoderVersion,
        vectors: &[(ContentHash, Vec<f32>)],
    ) -> Result<usize, Error> {
        let mut new: BTreeMap<ContentHash, &[f32]> = BTreeMap::new();
        for (content, vector) in vectors {
            check_vector(version, content, vector)?;
            if !self.contains(version, content) {
                new.entry(*content).or_insert(vector);
            }
        }
        if new.is_empty() {
            return Ok(0);
        }
        let number = self.open_segment(version)?;
        let segment = self.segments.get_mut(&number).expect("the segment was opened");
        let frames: Vec<(ContentHash, &[f32])> = new.into_iter().collect();
        let first = segment.append(&frames)?;
        let is_full = segment.n_bytes() >= self.limits.segment_bytes;
        let index = self.indexes.entry(version.clone()).or_default();
        for (frame, (content, _)) in (first..).zip(&frames) {
            let location = FrameLocation {
                segment: number,
                frame,
            };
            index.frames.insert(*content, location);
        }
        if is_full {
            index.open = None;
        }
        self.unsynced.insert(number);
        self.update_gauges();
        Ok(frames.len())
    }

    /// The number of the segment that new vectors of a version go to.
    fn open_segment(&mut self, version: &EncoderVersion) -> Result<u32, Error> {
        if let Some(number) = self.indexes.get(version).and_then(|index| index.open) {
            return Ok(number);
        }
        self.evict()?;
        let number = self.next;
        let path = self.dir.join(format!("{number:0N_DIGITS$}{SUFFIX}"));
        let segment = Segment::create(&path, version)?;
        self.next = number.checked_add(1).expect("there are fewer than 2^32 segments");
        self.segments.insert(number, segment);
        self.indexes.entry(version.clone()).or_default().open = Some(number);
        Ok(number)
    }

    /// Removes the oldest closed segments until one more fits.
    fn evict(&mut self) -> Result<(), Error> {
        while self.n_bytes() + self.limits.segment_bytes > self.limits.max_bytes {
            let growing: Vec<u32> = self.indexes.values().filter_map(|index| index.open).collect();
            let Some(oldest) = self
                .segments
                .keys()
                .find(|number| !growing.contains(number))
                .copied()
            else {
                break;
            };
            let n_removed = self.remove(oldest)?;
            metrics::vectors_dropped("evicted", n_removed);
        }
        Ok(())
    }

    /// Removes a segment and returns the number of vectors it held.
    fn remove(&mut self, number: u32) -> Result<u64, Error> {
        let segment = &self.segments[&number];
        RealFs
            .remove_file(segment.path())
            .attempt("remove", segment.path())?;
        let mut n_removed = 0;
        if let Some(index) = self.indexes.get_mut(segment.version()) {
            let n_before = index.frames.len();
            index.frames.retain(|_, location| location.segment != number);
            n_removed = (n_before - index.frames.len()) as u64;
            index.open = index.open.filter(|open| *open != number);
        }
        self.segments.remove(&number);
        self.unsynced.remove(&number);
        Ok(n_removed)
    }

    /// All vectors of a version in the order of their content hashes, without damaged ones.
    ///
    /// # Errors
    /// An item is [`Error::Io`] when its vector cannot be read.
    pub fn iter(
        &self,
        version: &EncoderVersion,
    ) -> impl Iterator<Item = Result<(ContentHash, Vec<f32>), Error>> + '_ {
        let frames = self.indexes.get(version).map(|index| &index.frames);
        frames.into_iter().flatten().filter_map(|(content, location)| {
            match self.segments[&location.segment].read(location.frame) {
                Ok(found) => found.filter(|(found, _)| found == content).map(Ok),
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// The versions with vectors in the store, sorted.
    pub fn versions(&self) -> Vec<VectorCount> {
        let n_bytes = |version: &EncoderVersion| -> u64 {
            let segments = self.segments.values();
            segments
                .filter(|segment| segment.version() == version)
                .map(Segment::n_bytes)
                .sum()
        };
        self.indexes
            .iter()
            .map(|(version, index)| VectorCount {
                version: version.clone(),
                n_vectors: index.frames.len() as u64,
                n_bytes: n_bytes(version),
            })
            .collect()
    }

    /// Size of all segments, bytes.
    pub fn n_bytes(&self) -> u64 {
        self.segments.values().map(Segment::n_bytes).sum()
    }

    /// Removes the vectors of all versions but those in `keep`; returns the removed ones.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be removed; files removed before it are gone.
    pub fn gc(&mut self, keep: &[EncoderVersion]) -> Result<Vec<VectorCount>, Error> {
        let mut removed = self.versions();
        removed.retain(|count| !keep.contains(&count.version));
        for count in &removed {
            let segments = self.segments.iter();
            let numbers: Vec<u32> = segments
                .filter(|(_, segment)| *segment.version() == count.version)
                .map(|(number, _)| *number)
                .collect();
            for number in numbers {
                self.remove(number)?;
            }
            self.indexes.remove(&count.version);
            metrics::vectors_dropped("collected", count.n_vectors);
            metrics::vectors(&count.version.to_string(), 0);
        }
        RealFs.sync_dir(&self.dir).attempt("sync", &self.dir)?;
        Ok(removed)
    }

    /// Returns once all stored vectors are on disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&mut self) -> Result<(), Error> {
        while let Some(number) = self.unsynced.first().copied() {
            self.segments[&number].sync()?;
            self.unsynced.remove(&number);
        }
        Ok(())
    }

    fn update_gauges(&self) {
        for (version, index) in &self.indexes {
            metrics::vectors(&version.to_string(), index.frames.len());
        }
    }
}

impl fmt::Debug for VectorStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VectorStore")
            .field("dir", &self.dir)
            .field("versions", &self.versions())
            .finish_non_exhaustive()
    }
}

/// The segment number in a file name; `None` for other files.
fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SUFFIX)?;
    let is_plain = digits.len() == N_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_plain)
}
