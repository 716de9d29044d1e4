//! The file system of a daemon under test: counts the write calls of each snapshot, and aborts at one of them.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ouzel_snapshot::{FileLock, Fs, FsEntry, OutputFile, RealFs};

use super::{ARMED, FailPoint, Visit, abort};

/// The file system for the store: the real one, which aborts if this process is armed for a write call.
#[must_use]
pub fn file_system() -> Arc<dyn Fs> {
    let armed = ARMED.get().map(|(visit, _)| *visit);
    if let Some(Visit {
        point: FailPoint::SnapshotCall(call),
        number,
    }) = armed
    {
        return Arc::new(CountingFs(Arc::new(CallCounter::new(call, number))));
    }
    Arc::new(RealFs)
}

/// Counts snapshots, and write calls since the start of the newest one.
#[derive(Debug, Default)]
struct CallCounter {
    target_call: u64,
    target_snapshot: u64,
    n_snapshots: AtomicU64,
    n_calls: AtomicU64,
}

impl CallCounter {
    fn new(target_call: u64, target_snapshot: u64) -> Self {
        Self {
            target_call,
            target_snapshot,
            ..Self::default()
        }
    }

    fn start_snapshot(&self) {
        self.n_snapshots.fetch_add(1, Ordering::SeqCst);
        self.n_calls.store(0, Ordering::SeqCst);
    }

    /// Counts a call. Returns true if the process must abort at it.
    fn is_target(&self) -> bool {
        let n_calls = self.n_calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.n_snapshots.load(Ordering::SeqCst) == self.target_snapshot && n_calls == self.target_call
    }

    fn count(&self) {
        if self.is_target() {
            abort();
        }
    }
}

/// The real file system with counted write calls.
#[derive(Debug)]
struct CountingFs(Arc<CallCounter>);

impl CountingFs {
    fn count_file(&self, file: Box<dyn OutputFile>) -> Box<dyn OutputFile> {
        let counter = Arc::clone(&self.0);
        Box::new(CountingFile { file, counter })
    }
}

impl Fs for CountingFs {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.count();
        RealFs.create_dir_all(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        // The store creates directories in its working directory for snapshots, and for nothing else.
        self.0.start_snapshot();
        self.0.count();
        RealFs.create_dir(path)
    }

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn OutputFile>> {
        self.0.count();
        Ok(self.count_file(RealFs.create_file(path)?))
    }

    fn append_file(&self, path: &Path) -> io::Result<Box<dyn OutputFile>> {
        self.0.count();
        Ok(self.count_file(RealFs.append_file(path)?))
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

/// An output file with counted writes and syncs.
struct CountingFile {
    file: Box<dyn OutputFile>,
    counter: Arc<CallCounter>,
}

impl Write for CountingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.counter.is_target() {
            // The process aborts whether or not half of the bytes were written.
            let _is_written = self.file.write_all(&bytes[..bytes.len() / 2]).is_ok();
            abort();
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl OutputFile for CountingFile {
    fn sync(&mut self) -> io::Result<()> {
        self.counter.count();
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_of_one_snapshot_is_the_target() {
        let counter = CallCounter::new(2, 2);
        let mut targets = Vec::new();
        for snapshot in 1..=3 {
            counter.start_snapshot();
            targets.extend(
                (1..=3)
                    .filter(|_| counter.is_target())
                    .map(|call| (snapshot, call)),
            );
        }
        assert_eq!(targets, [(2, 2)]);
    }

    #[test]
    fn calls_before_the_first_snapshot_do_not_count() {
        let counter = CallCounter::new(1, 1);
        assert!(!counter.is_target());
        counter.start_snapshot();
        assert!(counter.is_target());
    }
}
