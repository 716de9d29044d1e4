//! The write-side calls of a snapshot, counted one by one.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ouzel_snapshot::{FileLock, Fs, FsEntry, OutputFile, RealFs};

use super::{ARMED, FailPoint, die};

/// The file system of a store: the real one, which counts its calls if this process is to die of one.
#[must_use]
pub fn file_system() -> Arc<dyn Fs> {
    match ARMED.get() {
        Some((visit, _)) => match visit.point {
            FailPoint::Call(call) => Arc::new(Counting(Arc::new(Calls::new(call, visit.number)))),
            _ => Arc::new(RealFs),
        },
        None => Arc::new(RealFs),
    }
}

/// How far the process is.
#[derive(Debug)]
struct Calls {
    call: u64,
    snapshot: u64,
    n_snapshots: AtomicU64,
    n_calls: AtomicU64,
}

impl Calls {
    fn new(call: u64, snapshot: u64) -> Self {
        Self {
            call,
            snapshot,
            n_snapshots: AtomicU64::new(0),
            n_calls: AtomicU64::new(0),
        }
    }

    /// The first call of a snapshot.
    fn begin(&self) {
        self.n_snapshots.fetch_add(1, Ordering::SeqCst);
        self.n_calls.store(0, Ordering::SeqCst);
    }

    /// Counts a call; true when it is the last one.
    fn is_last(&self) -> bool {
        let n_calls = self.n_calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.n_snapshots.load(Ordering::SeqCst) == self.snapshot && n_calls == self.call
    }

    fn count(&self) {
        if self.is_last() {
            die();
        }
    }
}

/// The real file system, counted.
#[derive(Debug)]
struct Counting(Arc<Calls>);

impl Fs for Counting {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.count();
        RealFs.create_dir_all(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        // Nothing but a snapshot has a directory of its own.
        self.0.begin();
        self.0.count();
        RealFs.create_dir(path)
    }

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn OutputFile>> {
        self.0.count();
        let inner = RealFs.create_file(path)?;
        let calls = Arc::clone(&self.0);
        Ok(Box::new(CountingOutput { inner, calls }))
    }

    fn append_file(&self, path: &Path) -> io::Result<Box<dyn OutputFile>> {
        self.0.count();
        let inner = RealFs.append_file(path)?;
        let calls = Arc::clone(&self.0);
        Ok(Box::new(CountingOutput { inner, calls }))
    }

    fn open_file(&self, path: &Path) -> io::Result<(Box<dyn Read + Send>, u64)> {
        RealFs.open_file(path)
    }

    fn stat(&self, path: &Path) -> io::Result<FsEntry> {
        RealFs.stat(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<FsEntry>> {
        RealFs.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.count();
        RealFs.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.count();
        RealFs.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.count();
        RealFs.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.count();
        RealFs.remove_dir_all(path)
    }

    fn lock(&self, path: &Path) -> io::Result<FileLock> {
        RealFs.lock(path)
    }
}

/// A file whose writes and syncs are counted.
struct CountingOutput {
    inner: Box<dyn OutputFile>,
    calls: Arc<Calls>,
}

impl Write for CountingOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.calls.is_last() {
            // Whether half of it arrives is not waited for: the process is dead either way.
            let _half = self.inner.write_all(&bytes[..bytes.len() / 2]).is_ok();
            die();
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl OutputFile for CountingOutput {
    fn sync(&mut self) -> io::Result<()> {
        self.calls.count();
        self.inner.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_call_of_the_snapshot_is_the_last() {
        let calls = Calls::new(2, 2);
        let mut told = Vec::new();
        for _ in 0..3 {
            calls.begin();
            told.extend([calls.is_last(), calls.is_last(), calls.is_last()]);
        }
        let last: Vec<usize> = (0..told.len()).filter(|at| told[*at]).collect();
        assert_eq!(last, [4]);
    }

    #[test]
    fn calls_before_the_first_snapshot_are_of_none() {
        let calls = Calls::new(1, 1);
        assert!(!calls.is_last());
        calls.begin();
        assert!(calls.is_last());
    }
}
