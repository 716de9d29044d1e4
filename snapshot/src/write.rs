//! Writing a snapshot: the order of operations that makes it whole and lasting, or not there at all.

use std::io::Write;
use std::path::Path;

use crate::codec::{self, Fault};
use crate::draft::Content;
use crate::error::Attempt;
use crate::hashing::HashingOutput;
use crate::{Draft, Error, FORMAT, FileEntry, MANIFEST_NAME, Manifest, SnapshotId, Store, metrics};

impl Store {
    /// Writes a snapshot and returns its id. No alias moves: a snapshot that was never published is never
    /// resumed from while an older one was.
    ///
    /// Files are hashed while they are written and synced one by one, then the manifest, then the directory;
    /// only then it gets its name, and that is synced too. After any error nothing of it is left (a crash
    /// leaves a `.tmp-` directory for the next open), its id is not used again, and all other snapshots are as
    /// they were.
    ///
    /// # Errors
    /// [`Error::Io`], of which [`Error::is_transient`] tells a full disk from a failing one; [`Error::Invalid`]
    /// for a draft that must not be written; [`Error::ReadOnly`].
    pub fn write(&self, draft: &Draft) -> Result<SnapshotId, Error> {
        let result = self.try_write(draft);
        match &result {
            Ok((_, n_bytes)) => metrics::written(*n_bytes),
            Err(error) => metrics::failed(error),
        }
        Ok(result?.0)
    }

    fn try_write(&self, draft: &Draft) -> Result<(SnapshotId, u64), Error> {
        let id = self.take_id()?;
        let tmp = self.tmp_dir(id);
        let dir = self.snapshot_dir(id);
        let in_place = self.write_files(draft, id, &tmp).and_then(|n_bytes| {
            self.fs.rename(&tmp, &dir).attempt("rename to its id", &tmp)?;
            Ok(n_bytes)
        });
        let n_bytes = match in_place {
            Ok(n_bytes) => n_bytes,
            Err(error) => {
                self.abandon(&tmp);
                return Err(error);
            }
        };
        if let Err(error) = self.sync_dir(&self.snapshots_dir()) {
            // The name may not last, so nobody may build on it. A plain id is never seen half removed.
            if self.fs.rename(&dir, &tmp).is_ok() {
                self.abandon(&tmp);
            }
            return Err(error);
        }
        Ok((id, n_bytes))
    }

    fn take_id(&self) -> Result<SnapshotId, Error> {
        let mut next = self.next_number()?;
        let id = SnapshotId::new(*next);
        *next = next
            .checked_add(1)
            .ok_or_else(|| Error::invalid("a snapshot", "the ids are used up"))?;
        Ok(id)
    }

    fn write_files(&self, draft: &Draft, id: SnapshotId, tmp: &Path) -> Result<u64, Error> {
        self.fs.create_dir(tmp).attempt("create", tmp)?;
        let mut files = Vec::new();
        for (name, content) in draft.files() {
            let path = tmp.join(name);
            let (bytes, blake3) = self.write_file(&path, |output| match content {
                Content::Arrays(arrays) => codec::write(arrays, output),
                Content::Blob(bytes) => output.write_all(bytes).map_err(Fault::Io),
            })?;
            files.push(FileEntry {
                name: name.to_owned(),
                kind: content.kind(),
                bytes,
                blake3,
            });
        }
        let mut cut = draft.cut.clone();
        for value in cut.metrics.values_mut() {
            // JSON has no word for NaN, and "not defined" is what it means here.
            *value = value.filter(|value| value.is_finite());
        }
        let manifest = Manifest {
            format: FORMAT,
            id,
            parent: draft.parent,
            note: draft.note.clone(),
            created_ms: draft.created_ms,
            created_by: draft.created_by.clone(),
            cut,
            files,
        };
        let bytes = manifest.encode()?;
        self.write_file(&tmp.join(MANIFEST_NAME), |output| {
            output.write_all(&bytes).map_err(Fault::Io)
        })?;
        self.sync_dir(tmp)?;
        Ok(manifest.n_bytes())
    }

    fn write_file(
        &self,
        path: &Path,
        fill: impl FnOnce(&mut HashingOutput) -> Result<(), Fault>,
    ) -> Result<(u64, String), Error> {
        let mut output = HashingOutput::new(self.fs.create_file(path).attempt("create", path)?);
        match fill(&mut output) {
            Ok(()) => output.finish().attempt("sync", path),
            Err(Fault::Io(error)) => Err(error).attempt("write", path),
            Err(Fault::Malformed(why)) => Err(Error::invalid(
                path.file_name().unwrap_or_default().to_string_lossy(),
                why,
            )),
        }
    }

    /// Removes what was written. The error to report is the one that led here; what cannot be removed now goes
    /// at the next open.
    fn abandon(&self, tmp: &Path) {
        self.remove(tmp).ok();
    }
}
