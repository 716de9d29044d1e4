//! A file system in memory with injected faults; a power loss drops unsynced changes.
//!
//! Every directory keeps its changes since the last sync in order, and a power loss keeps a prefix of them, as a journaling
//! file system does; nothing has two names after it. Every file keeps what was synced and what was written; a power loss
//! leaves either, or a torn mix.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::{FileLock, Fs, FsEntry, FsKind, OutputFile};

/// The kind of an injected fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The operation fails with EIO; later ones work. A file whose sync failed never becomes durable.
    Eio,
    /// From then on operations that need space fail with ENOSPC; the first write stores half of its bytes.
    Full,
    /// The process dies before the operation; a write has stored half of its bytes.
    Kill,
}

#[derive(Clone)]
enum Inode {
    File {
        now: Vec<u8>,
        synced: Vec<u8>,
        is_lost: bool,
    },
    Dir {
        now: BTreeMap<String, usize>,
        synced: BTreeMap<String, usize>,
        pending: Vec<Change>,
    },
    Other,
}

/// Names set and removed by one operation, all or none.
type Change = Vec<(String, Option<usize>)>;

#[derive(Clone)]
struct World {
    inodes: Vec<Inode>,
    n_ops: usize,
    fault: Option<(usize, FaultKind)>,
    is_dead: bool,
    is_full: bool,
    locks: BTreeMap<PathBuf, Weak<()>>,
}

/// The file system; clones are the same one.
#[derive(Clone)]
pub(crate) struct SimFs(Arc<Mutex<World>>);

impl std::fmt::Debug for SimFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimFs")
    }
}

fn empty_dir() -> Inode {
    Inode::Dir {
        now: BTreeMap::new(),
        synced: BTreeMap::new(),
        pending: Vec::new(),
    }
}

impl SimFs {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(World {
            inodes: vec![empty_dir()],
            n_ops: 0,
            fault: None,
            is_dead: false,
            is_full: false,
            locks: BTreeMap::new(),
        })))
    }

    /// An independent copy that fails at operation `at`, counted from 1.
    pub(crate) fn fork(&self, at: usize, kind: FaultKind) -> Self {
        let world = World {
            n_ops: 0,
            fault: Some((at, kind)),
            locks: BTreeMap::new(),
            ..self.world().clone()
        };
        Self(Arc::new(Mutex::new(world)))
    }

    /// True when the fault has occurred.
    pub(crate) fn has_failed(&self) -> bool {
        let world = self.world();
        world.fault.is_some_and(|(at, _)| world.n_ops >= at)
    }

    /// The disk after a repair and the end of every process.
    pub(crate) fn restart(&self) -> Self {
        let world = World {
            fault: None,
            is_dead: false,
            is_full: false,
            locks: BTreeMap::new(),
            ..self.world().clone()
        };
        Self(Arc::new(Mutex::new(world)))
    }

    /// The disk after a power loss; `seed` selects the unsynced changes that survive.
    pub(crate) fn power_loss(&self, seed: u64) -> Self {
        let after = self.restart();
        let newest = after.world().names();
        let mut random = Random(seed);
        for inode in &mut after.world().inodes {
            match inode {
                Inode::File { now, synced, .. } => {
                    let survived = match random.below(4) {
                        0 | 1 => synced.clone(),
                        2 => now.clone(),
                        // The size reached the disk, the last blocks did not.
                        _ if now.starts_with(synced) => {
                            let n = synced.len() + random.below(now.len() - synced.len() + 1);
                            let mut torn = now[..n].to_vec();
                            torn.resize(now.len(), 0);
                            torn
                        }
                        _ => synced.clone(),
                    };
                    now.clone_from(&survived);
                    *synced = survived;
                }
                Inode::Dir { now, synced, pending } => {
                    for change in pending.drain(..).take(random.below(4)) {
                        apply(synced, &change);
                    }
                    pending.clear();
                    now.clone_from(synced);
                }
                Inode::Other => {}
            }
        }
        after.world().keep_one_name(&newest);
        after
    }

    /// Makes everything durable.
    pub(crate) fn sync_all(&self) {
        for inode in &mut self.world().inodes {
            match inode {
                Inode::File { now, synced, .. } => synced.clone_from(now),
                Inode::Dir { now, synced, pending } => {
                    synced.clone_from(now);
                    pending.clear();
                }
                Inode::Other => {}
            }
        }
    }

    /// The bytes of a file.
    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        let world = self.world();
        match &world.inodes[world.find(path).unwrap()] {
            Inode::File { now, .. } => now.clone(),
            _ => panic!("{path:?} is no file"),
        }
    }

    /// Replaces the bytes of a file without the store.
    pub(crate) fn overwrite(&self, path: &Path, bytes: &[u8]) {
        let mut world = self.world();
        let inode = world.find(path).unwrap();
        world.inodes[inode] = Inode::File {
            now: bytes.to_vec(),
            synced: bytes.to_vec(),
            is_lost: false,
        };
    }

    /// Makes an entry that is neither a file nor a directory, such as a fifo.
    pub(crate) fn make_other(&self, path: &Path) {
        self.world().add(path, Inode::Other).unwrap();
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// Counts an operation, and fails when the fault is due.
    fn gate(&self, needs_space: bool) -> io::Result<MutexGuard<'_, World>> {
        let mut world = self.world();
        world.n_ops += 1;
        if world.is_dead {
            return Err(io::Error::other("the process is dead"));
        }
        if let Some((at, kind)) = world.fault
            && at == world.n_ops
        {
            match kind {
                FaultKind::Eio => return Err(io::Error::from_raw_os_error(libc::EIO)),
                FaultKind::Full => world.is_full = true,
                FaultKind::Kill => {
                    world.is_dead = true;
                    return Err(io::Error::other("killed"));
                }
            }
        }
        if world.is_full && needs_space {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(world)
    }
}

impl World {
    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut inode = 0;
        for part in path.strip_prefix("/").expect("paths are absolute") {
            let Inode::Dir { now, .. } = &self.inodes[inode] else {
                return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
            };
            inode = *now
                .get(part.to_str().unwrap())
                .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        }
        Ok(inode)
    }

    fn change(&mut self, dir: &Path, change: Change) -> io::Result<()> {
        let inode = self.find(dir)?;
        let Inode::Dir { now, pending, .. } = &mut self.inodes[inode] else {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        };
        apply(now, &change);
        pending.push(change);
        Ok(())
    }

    fn add(&mut self, path: &Path, inode: Inode) -> io::Result<usize> {
        if self.find(path).is_ok() {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        self.inodes.push(inode);
        let number = self.inodes.len() - 1;
        self.change(path.parent().unwrap(), vec![(name(path), Some(number))])?;
        Ok(number)
    }

    fn entry(&self, name: String, inode: usize) -> FsEntry {
        let (kind, n_bytes) = match &self.inodes[inode] {
            Inode::File { now, .. } => (FsKind::File, now.len() as u64),
            Inode::Dir { .. } => (FsKind::Dir, 0),
            Inode::Other => (FsKind::Other, 0),
        };
        FsEntry { name, kind, n_bytes }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The names of each inode: a directory, and the name in it.
type Names = BTreeMap<usize, Vec<(usize, String)>>;
impl World {
    fn names(&self) -> Names {
        let mut names = Names::new();
        for (at, inode) in self.inodes.iter().enumerate() {
            if let Inode::Dir { now, .. } = inode {
                now.iter()
                    .for_each(|(name, child)| names.entry(*child).or_default().push((at, name.clone())));
            }
        }
        names
    }

    /// Removes the former names of what has its newest name: a rename to another directory happens as a whole or not at all.
    fn keep_one_name(&mut self, newest: &Names) {
        for (inode, names) in self.names() {
            let is_newest = |name: &&(usize, String)| newest.get(&inode).is_some_and(|of| of.contains(name));
            let has_newest = names.iter().any(|name| is_newest(&name));
            for (at, name) in names.iter().filter(|name| has_newest && !is_newest(name)) {
                if let Inode::Dir { now, synced, .. } = &mut self.inodes[*at] {
                    now.remove(name);
                    synced.remove(name);
                }
            }
        }
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &Change) {
    for (name, inode) in change {
        match inode {
            Some(inode) => names.insert(name.clone(), *inode),
            None => names.remove(name),
        };
    }
}

struct SimFile {
    fs: SimFs,
    inode: usize,
}

impl Write for SimFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let append = |world: &mut World, bytes: &[u8]| {
            if let Inode::File { now, .. } = &mut world.inodes[self.inode] {
                now.extend_from_slice(bytes);
            }
        };
        let was_dead = self.fs.world().is_dead;
        let was_full = self.fs.world().is_full;
        let gate = self.fs.gate(true);
        match gate {
            Ok(mut world) => {
                append(&mut world, bytes);
                Ok(bytes.len())
            }
            Err(error) => {
                let mut world = self.fs.world();
                if (world.is_dead && !was_dead) || (world.is_full && !was_full) {
                    append(&mut world, &bytes[..bytes.len() / 2]);
                    // A short write first; the error comes with the rest.
                    if world.is_full && bytes.len() > 1 {
                        return Ok(bytes.len() / 2);
                    }
                }
                Err(error)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl OutputFile for SimFile {
    fn sync(&mut self) -> io::Result<()> {
        let error = match self.fs.gate(true) {
            Ok(mut world) => {
                if let Inode::File {
                    now,
                    synced,
                    is_lost: false,
                } = &mut world.inodes[self.inode]
                {
                    synced.clone_from(now);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if let Inode::File { is_lost, .. } = &mut self.fs.world().inodes[self.inode] {
            *is_lost = true;
        }
        Err(error)
    }
}

impl Fs for SimFs {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        for dir in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            if self.world().find(dir).is_err() {
                self.create_dir(dir)?;
            }
        }
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.gate(true)?.add(path, empty_dir()).map(drop)
    }

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn OutputFile>> {
        let file = Inode::File {
            now: Vec::new(),
            synced: Vec::new(),
            is_lost: false,
        };
        let inode = self.gate(true)?.add(path, file)?;
        Ok(Box::new(SimFile {
            fs: self.clone(),
            inode,
        }))
    }

    fn append_file(&self, path: &Path) -> io::Result<Box<dyn OutputFile>> {
        let found = self.world().find(path);
        match found {
            Ok(inode) => {
                drop(self.gate(false)?);
                Ok(Box::new(SimFile {
                    fs: self.clone(),
                    inode,
                }))
            }
            Err(_) => self.create_file(path),
        }
    }

    fn open_file(&self, path: &Path) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let world = self.gate(false)?;
        match &world.inodes[world.find(path)?] {
            Inode::File { now, .. } => Ok((Box::new(Cursor::new(now.clone())), now.len() as u64)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn stat(&self, path: &Path) -> io::Result<FsEntry> {
        let world = self.gate(false)?;
        Ok(world.entry(name(path), world.find(path)?))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<FsEntry>> {
        let world = self.gate(false)?;
        match &world.inodes[world.find(path)?] {
            Inode::Dir { now, .. } => Ok(now
                .iter()
                .map(|(name, inode)| world.entry(name.clone(), *inode))
                .collect()),
            _ => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.gate(true)?;
        let inode = world.find(path)?;
        if let Inode::Dir { now, synced, pending } = &mut world.inodes[inode] {
            synced.clone_from(now);
            pending.clear();
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.gate(false)?;
        let inode = world.find(from)?;
        let replaced = world.find(to).map(|inode| &world.inodes[inode]);
        if matches!(replaced, Ok(Inode::Dir { .. })) {
            return Err(io::Error::from_raw_os_error(libc::ENOTEMPTY));
        }
        let (old, new) = ((name(from), None), (name(to), Some(inode)));
        let (from, to) = (from.parent().unwrap(), to.parent().unwrap());
        if from == to {
            return world.change(from, vec![old, new]);
        }
        // Each directory keeps its changes apart: after a power loss both names may be there, or none.
        world.find(to)?;
        world.change(from, vec![old])?;
        world.change(to, vec![new])
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut world = self.gate(false)?;
        world.find(path)?;
        world.change(path.parent().unwrap(), vec![(name(path), None)])
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        for entry in self.list(path)? {
            match entry.kind {
                FsKind::Dir => self.remove_dir_all(&path.join(entry.name))?,
                FsKind::File | FsKind::Other => self.remove_file(&path.join(entry.name))?,
            }
        }
        self.remove_file(path)
    }

    fn lock(&self, path: &Path) -> io::Result<FileLock> {
        let mut world = self.gate(true)?;
        if world.locks.get(path).is_some_and(|lock| lock.strong_count() > 0) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let lock = Arc::new(());
        world.locks.insert(path.to_owned(), Arc::downgrade(&lock));
        Ok(Box::new(lock))
    }
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % n as u64).unwrap()
    }
}
