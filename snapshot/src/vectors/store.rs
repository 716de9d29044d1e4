//! The store: an index in memory over the segments on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use ouzel_sample::{ContentHash, EncoderVersion};

use super::segment::Segment;
use super::{VectorCount, VectorLimits, VectorRecovery, check};
use crate::error::Attempt;
use crate::{Error, Fs, FsKind, Lock, RealFs, metrics};

const LOCK_NAME: &str = ".lock";
const SUFFIX: &str = ".vec";
const N_DIGITS: usize = 10;

/// The store, open for reading and writing. One process at a time, one owner in it.
pub struct VectorStore {
    dir: PathBuf,
    limits: VectorLimits,
    _lock: Lock,
    /// By number: in the order of their creation.
    segments: BTreeMap<u32, Segment>,
    spaces: BTreeMap<EncoderVersion, Space>,
    /// Segments with vectors that may be in memory only.
    unsynced: BTreeSet<u32>,
    next: u32,
}

/// Where the vectors of one version are.
#[derive(Debug, Default)]
struct Space {
    places: BTreeMap<ContentHash, Place>,
    /// The segment that grows.
    open: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u32,
    frame: u32,
}

impl VectorStore {
    /// Opens the store in `dir`, creating it if need be, and reads it through.
    ///
    /// # Errors
    /// [`Error::Locked`] when it is open elsewhere, [`Error::Io`] when the file system refuses. Damage is none: it is in
    /// the [`VectorRecovery`].
    pub fn open(dir: &Path, limits: VectorLimits) -> Result<(Self, VectorRecovery), Error> {
        RealFs.create_dir_all(dir).attempt("create", dir)?;
        let path = dir.join(LOCK_NAME);
        let lock = match RealFs.lock(&path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Error::Locked { path }),
            lock => lock.attempt("lock", &path)?,
        };
        let mut store = Self {
            dir: dir.to_owned(),
            limits,
            _lock: lock,
            segments: BTreeMap::new(),
            spaces: BTreeMap::new(),
            unsynced: BTreeSet::new(),
            next: 0,
        };
        let mut recovery = VectorRecovery::default();
        for entry in RealFs.list(dir).attempt("list", dir)? {
            let Some(number) = number_of(&entry.name).filter(|_| entry.kind == FsKind::File) else {
                continue;
            };
            // Foreign or not, its number is taken.
            store.next = store.next.max(number.saturating_add(1));
            match Segment::open(&dir.join(&entry.name))? {
                Some((segment, contents)) => {
                    recovery.n_damaged += contents.n_damaged;
                    recovery.torn_bytes += contents.torn_bytes;
                    store.admit(number, segment, contents.sound);
                }
                None => recovery.n_foreign += 1,
            }
        }
        recovery.n_vectors = store.versions().iter().map(|of| of.n_vectors).sum();
        metrics::vectors_dropped("damaged", recovery.n_damaged);
        store.report();
        Ok((store, recovery))
    }

    /// Adds a segment that was found.
    fn admit(&mut self, number: u32, segment: Segment, sound: Vec<(ContentHash, u32)>) {
        let space = self.spaces.entry(segment.version().clone()).or_default();
        for (content, frame) in sound {
            let place = Place {
                segment: number,
                frame,
            };
            space.places.entry(content).or_insert(place);
        }
        // The last one found is the newest; earlier ones were full, or are small and stay so.
        space.open = (segment.n_bytes() < self.limits.segment_bytes).then_some(number);
        self.segments.insert(number, segment);
    }

    /// A content's vector by a version of an encoder.
    ///
    /// # Shapes
    /// `[version.dim]`
    ///
    /// # Errors
    /// [`Error::Io`] when it is there and cannot be read. One that is damaged is as if it had never been there.
    pub fn get(
        &mut self,
        version: &EncoderVersion,
        content: &ContentHash,
    ) -> Result<Option<Vec<f32>>, Error> {
        let Some(space) = self.spaces.get_mut(version) else {
            return Ok(None);
        };
        let Some(place) = space.places.get(content) else {
            return Ok(None);
        };
        let segment = &self.segments[&place.segment];
        match segment.read(place.frame)? {
            Some((found, vector)) if found == *content => Ok(Some(vector)),
            _ => {
                space.places.remove(content);
                metrics::vectors_dropped("damaged", 1);
                Ok(None)
            }
        }
    }

    /// Whether a content has a vector by a version.
    #[must_use]
    pub fn contains(&self, version: &EncoderVersion, content: &ContentHash) -> bool {
        self.spaces
            .get(version)
            .is_some_and(|space| space.places.contains_key(content))
    }

    /// Keeps vectors by one version and returns how many were new. They last a crash of the process at once, and one of
    /// the machine after [`VectorStore::sync`].
    ///
    /// # Shapes
    /// Every vector is `[version.dim]`.
    ///
    /// # Errors
    /// [`Error::InvalidVector`] when one is of another length or not finite, [`Error::Io`] when the disk refuses. None
    /// of the vectors is kept then.
    pub fn put_batch(
        &mut self,
        version: &EncoderVersion,
        vectors: &[(ContentHash, Vec<f32>)],
    ) -> Result<usize, Error> {
        let mut new: BTreeMap<ContentHash, &[f32]> = BTreeMap::new();
        for (content, vector) in vectors {
            check(version, content, vector)?;
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
        let space = self.spaces.entry(version.clone()).or_default();
        for (frame, (content, _)) in (first..).zip(&frames) {
            let place = Place {
                segment: number,
                frame,
            };
            space.places.insert(*content, place);
        }
        if is_full {
            space.open = None;
        }
        self.unsynced.insert(number);
        self.report();
        Ok(frames.len())
    }

    /// The number of the segment that vectors of a version go to.
    fn open_segment(&mut self, version: &EncoderVersion) -> Result<u32, Error> {
        if let Some(number) = self.spaces.get(version).and_then(|space| space.open) {
            return Ok(number);
        }
        self.evict()?;
        let number = self.next;
        let path = self.dir.join(format!("{number:0N_DIGITS$}{SUFFIX}"));
        let segment = Segment::create(&path, version)?;
        self.next = number.checked_add(1).expect("segments are numbered below 2^32");
        self.segments.insert(number, segment);
        self.spaces.entry(version.clone()).or_default().open = Some(number);
        Ok(number)
    }

    /// Removes the oldest segments that do not grow until there is room for one more.
    fn evict(&mut self) -> Result<(), Error> {
        while self.n_bytes() + self.limits.segment_bytes > self.limits.max_bytes {
            let growing: Vec<u32> = self.spaces.values().filter_map(|space| space.open).collect();
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

    /// Removes a segment and says how many vectors went with it.
    fn remove(&mut self, number: u32) -> Result<u64, Error> {
        let segment = &self.segments[&number];
        RealFs
            .remove_file(segment.path())
            .attempt("remove", segment.path())?;
        let mut n_removed = 0;
        if let Some(space) = self.spaces.get_mut(segment.version()) {
            let n_before = space.places.len();
            space.places.retain(|_, place| place.segment != number);
            n_removed = (n_before - space.places.len()) as u64;
            space.open = space.open.filter(|open| *open != number);
        }
        self.segments.remove(&number);
        self.unsynced.remove(&number);
        Ok(n_removed)
    }

    /// All vectors of a version, in the order of their contents' hashes. A damaged one is passed over.
    ///
    /// # Errors
    /// Each item is [`Error::Io`] when it cannot be read.
    pub fn iter(
        &self,
        version: &EncoderVersion,
    ) -> impl Iterator<Item = Result<(ContentHash, Vec<f32>), Error>> + '_ {
        let places = self.spaces.get(version).map(|space| &space.places);
        places.into_iter().flatten().filter_map(|(content, place)| {
            match self.segments[&place.segment].read(place.frame) {
                Ok(found) => found.filter(|(found, _)| found == content).map(Ok),
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// The versions that have vectors here, sorted.
    #[must_use]
    pub fn versions(&self) -> Vec<VectorCount> {
        let of = |version: &EncoderVersion| -> u64 {
            let segments = self.segments.values();
            segments
                .filter(|segment| segment.version() == version)
                .map(Segment::n_bytes)
                .sum()
        };
        self.spaces
            .iter()
            .map(|(version, space)| VectorCount {
                version: version.clone(),
                n_vectors: space.places.len() as u64,
                n_bytes: of(version),
            })
            .collect()
    }

    /// Size of all segments.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.segments.values().map(Segment::n_bytes).sum()
    }

    /// Removes the vectors of all versions but these and returns what was removed.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be removed; those removed before it are gone.
    pub fn gc(&mut self, keep: &[EncoderVersion]) -> Result<Vec<VectorCount>, Error> {
        let mut removed = self.versions();
        removed.retain(|of| !keep.contains(&of.version));
        for of in &removed {
            let segments = self.segments.iter();
            let numbers: Vec<u32> = segments
                .filter(|(_, segment)| *segment.version() == of.version)
                .map(|(number, _)| *number)
                .collect();
            for number in numbers {
                self.remove(number)?;
            }
            self.spaces.remove(&of.version);
            metrics::vectors_dropped("collected", of.n_vectors);
            metrics::vectors(&of.version.to_string(), 0);
        }
        RealFs.sync_dir(&self.dir).attempt("sync", &self.dir)?;
        Ok(removed)
    }

    /// Returns once everything put is on the disk.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be known to be.
    pub fn sync(&mut self) -> Result<(), Error> {
        while let Some(number) = self.unsynced.first().copied() {
            self.segments[&number].sync()?;
            self.unsynced.remove(&number);
        }
        Ok(())
    }

    fn report(&self) {
        for (version, space) in &self.spaces {
            metrics::vectors(&version.to_string(), space.places.len());
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

/// The number of the segment with this file name; `None` for other files.
fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SUFFIX)?;
    let is_plain = digits.len() == N_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_plain)
}
